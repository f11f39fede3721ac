"""Rows of results: what a file keeps when others are added."""

from jaxdd.students.rows import joined, judged_on, row


def one(method, labels="hard", epochs=40, seeds=2, ipc=10, value=0.5):
    return row(method, "digits", ipc, "convnet3", labels, [value] * seeds) | {"epochs": epochs, "batch_size": 25}


def test_rows_of_other_columns_and_methods_stay():
    earlier = [
        one("random"),
        one("wmdd"),
        one("random", "soft"),
        row("full", "digits", None, "convnet3", "hard", [0.9]),
    ]
    new = [one("random", value=0.6), one("rded", value=0.7)]
    kept, aside = joined(earlier, new)
    assert kept == [*earlier[1:], *new] and aside == []
    assert joined([], new) == (new, []) and joined(earlier, []) == (earlier, [])


def test_rows_that_were_measured_otherwise_leave_the_column():
    earlier = [one("random"), one("wmdd"), one("wmdd", ipc=1), one("wmdd", "soft")]
    for change in ({"epochs": 20}, {"seeds": 1}):
        new = [one("random", **change)]
        kept, aside = joined(earlier, new)
        assert kept == [earlier[3], *new] and aside == earlier[:3]


def test_what_students_were_judged_on():
    assert judged_on([one("random")]) == "real test images"
    assert judged_on([one("random") | {"holdout": 0.2}]) == "held-out train images"
