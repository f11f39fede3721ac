"""In which settings two records differ, in words."""

from jaxdd.ground.differences import Difference, between, told

STORED = {
    "ipc": 1,
    "recipe": {"imager": {"name": "recover", "steps": 10, "rate": float("nan")}, "summarizer": {"name": "none"}},
    "teacher": None,
    "mean": [0.5, 0.25],
    "old": 3,
}
ASKED = {
    "recipe": {"imager": {"name": "nearest", "count": 4}, "summarizer": {"name": "none", "space": "pixels"}},
    "ipc": 10,
    "mean": [0.5, 0.125],
    "teacher": "runs/t",
}


def test_a_record_does_not_differ_from_itself():
    assert between(STORED, STORED) == [] and told([]) == ""


def test_only_the_choice_differs_where_another_one_is_made():
    found = between(STORED, ASKED)
    assert found == [
        Difference("ipc", 1, 10),
        Difference("mean", [0.5, 0.25], [0.5, 0.125]),
        Difference("teacher", None, "runs/t"),
        Difference("old", 3, "absent"),
        Difference("recipe.imager", "recover", "nearest"),
        Difference("recipe.summarizer.space", "absent", "pixels"),
    ]


def test_the_first_are_told_and_the_others_counted():
    found = between(STORED, ASKED)
    assert told(found[:1]) == "`ipc` was 1 and is 10 now"
    assert told(found[4:], "recipe.") == (
        "`imager` was recover and is nearest now, `summarizer.space` was absent and is pixels now"
    )
    assert told(found[:4]) == (
        "`ipc` was 1 and is 10 now, `mean` was 0.5 0.25 and is 0.5 0.125 now, `teacher` was not given and is runs/t "
        "now, and 1 more differs"
    )
    assert told(found).endswith("and 3 more differ")


def test_what_is_too_long_to_be_told_is_another_one():
    found = between({"images": "0" * 64, "x": {"a": 1}}, {"images": "1" * 64, "x": None})
    assert told(found) == "`images` was another one, `x` was another one"


def test_names_of_a_hostile_file_stay_in_the_line():
    line = told(between({"a\nb": "c" * 500, "`x`": 1}, {}))
    assert line.isprintable() and "`" not in line.replace("`x`", "") and len(line) < 300


def test_values_that_are_equal_but_of_another_type_differ():
    assert between({"a": True, "b": 1}, {"a": 1, "b": 1.0}) == [Difference("a", True, 1), Difference("b", 1, 1.0)]
