"""Plots: what is drawn is what was given."""

import numpy as np
import pytest
from helpers import message
from matplotlib.colors import same_color
from PIL import Image

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports import plots
from jaxdd.students.rows import row

PAPER = {"wmdd": {10: 64.8, 1: 40.2, 100: 87.1, 50: 83.5}}
SCORES = {1: [0.3, 0.34], 10: [0.5, 0.56]}
ROWS = [
    row(method, "imagenette", ipc, "resnet18", kind, scores)
    for method in ("random", "wmdd", "a new one")
    for ipc, scores in sorted(SCORES.items(), reverse=True)
    for kind in ("hard", "soft")
] + [row("full", "imagenette", None, "resnet18", "hard", [0.9])]


def labelled(axes):
    """Label -> the line, or the line with its error bars."""
    return dict(reversed(pair) for pair in zip(*axes.get_legend_handles_labels()))


@pytest.mark.slow
def test_accuracy_by_ipc_draws_means_deviations_and_the_paper(tmp_path):
    figure = plots.accuracy_by_ipc(ROWS, PAPER, path=tmp_path / "plot.png")
    hard, soft = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["hard labels", "soft labels"]
    line, _, (bars,) = labelled(soft)["wmdd"]
    np.testing.assert_allclose(line.get_xydata(), [[1, 32], [10, 53]])
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, [2 * 100 * np.std(s, ddof=1) for s in SCORES.values()])
    published = labelled(soft)["wmdd, published"]
    np.testing.assert_allclose(published.get_xydata(), sorted(PAPER["wmdd"].items()))
    assert same_color(published.get_color(), line.get_color()) and published.is_dashed()
    assert "wmdd, published" not in labelled(hard)
    for axes in figure.axes:
        assert set(labelled(axes)["all real data"].get_ydata()) == {90}
    assert Image.open(tmp_path / "plot.png").size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_accuracy_by_labels_draws_each_protocol_at_its_bytes(tmp_path):
    make = lambda method, score, size, steps: row(
        method, "digits", 10, "convnet3", f"{size}", [score], label_bytes=size, steps=steps
    )
    rows = [make(method, score + size / 10**5, size, steps) for method, score in (("random", 0.3), ("wmdd", 0.4))
            for size, steps in ((0, 2000), (1200, 2000), (12_000, 2000), (1200, 100))]  # fmt: skip
    rows.append(make("wmdd", 0.2, 1200, 2000))  # a worse protocol of the same bytes
    rows.append(row("teacher", "digits", None, "convnet3", "8 bits", [0.9], bits=8, label_bytes=32_000))
    figure = plots.accuracy_by_labels(rows, tmp_path / "plot.png")
    equal, once = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["2,000 steps for all", "as many steps as there are labels"]
    line = labelled(equal)["wmdd"][0].get_xydata()
    assert 0 < line[0, 0] < 1200 and [text.get_text() for text in equal.get_xticklabels()][0] == "0"
    np.testing.assert_allclose(line[1:], [[1200, 41.2], [12_000, 52]])
    marks = [tuple(line.get_xydata()[0]) for line in equal.lines if line.get_alpha() == 0.4]
    np.testing.assert_allclose(marks, [(1200, 20)])
    np.testing.assert_allclose(labelled(once)["random"][0].get_xydata(), [[1200, 31.2]])
    for axes in figure.axes:
        np.testing.assert_allclose(labelled(axes)["the teacher itself"].get_xydata(), [[32_000, 90]])
    assert Image.open(tmp_path / "plot.png").size[0] > 1000
    assert "students" in message(lambda: plots.accuracy_by_labels([*rows, rows[0] | {"student": "vit"}]))
    assert "0 datasets" in message(lambda: plots.accuracy_by_labels(ROWS))


def test_hard_labels_alone_are_drawn_beside_the_paper():
    (axes,) = plots.accuracy_by_ipc(ROWS, PAPER, labels=("hard",)).axes
    assert "wmdd, published" in labelled(axes)


def test_a_method_looks_the_same_in_every_plot():
    some = [row for row in ROWS if row["method"] in ("a new one", "full")]
    colors = {
        labelled(figure.axes[0])["a new one"][0].get_color()
        for figure in (plots.accuracy_by_ipc(ROWS), plots.accuracy_by_ipc(some))
    }
    few = [row for row in some if row["ipc"] in (10, None)]
    assert colors == {labelled(plots.architectures(few).axes[0])["a new one"][0].get_color()}
    known = [*plots._METHODS, *plots._FIXED]
    assert len({tuple(look.values()) for look in plots.styles(known).values()}) == len(known)


def test_methods_of_any_name_look_different():
    # Of these, two wish for one colour.
    names = ["random", "ddoq, uniform", "ddoq, roots", "ddoq, masses", "random, through the VAE"]
    assert plots.styles(names[2:3])[names[2]] == plots.styles(names[4:])[names[4]]
    looks = plots.styles(names)
    assert len({look["color"] for look in looks.values()}) == len(names)
    assert looks["random"] == plots.styles(["random"])["random"]
    # As many as there are colours, known ones among them; beyond, they are used again.
    looks = plots.styles(["wmdd", *map(str, range(20))])
    assert len(looks) == 21 and len({look["color"] for look in looks.values()}) == len(plots._PALETTE)


def test_sensitivity_has_a_place_for_zero():
    weights = (0.0, 0.1, 1.0)
    rows = [
        row("wmdd", dataset, 10, "convnet3", "soft", [0.5 + weight / 10], moment_weight=weight)
        for dataset in ("digits", "cifar10")
        for weight in reversed(weights)
    ]
    (axes,) = plots.sensitivity(rows).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.1", "1"]
    assert set(labelled(axes)) == {"digits", "cifar10"}
    points = labelled(axes)["digits"][0].get_xydata()
    np.testing.assert_allclose(points, [[0.01, 50], [0.1, 51], [1, 60]])
    assert "'moment_weight'" in message(lambda: plots.sensitivity(ROWS))


def test_architectures_keep_the_students_apart():
    students = ("convnet3", "resnet18", "vit")
    rows = [
        row(method, "digits", 10, student, "hard", [0.1 * (k + 1), 0.1 * (k + 1)])
        for method in ("wmdd", "random")
        for k, student in enumerate(students)
        if (method, student) != ("random", "vit")
    ]
    (axes,) = plots.architectures(rows).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == list(students)
    x, y = labelled(axes)["wmdd"][0].get_xydata().T
    assert list(x.round()) == [0, 1, 2] and np.allclose(y, [10, 20, 30])
    other = labelled(axes)["random"][0].get_xydata()
    assert len(other) == 2 and (other[:, 0] > x[:2]).all()


@pytest.mark.parametrize("name", ["dataset", "student"])
def test_rows_that_do_not_belong_together(name):
    mixed = [*ROWS, {**ROWS[0], name: "another"}]
    assert "another" in message(lambda: plots.accuracy_by_ipc(mixed))
    assert "soft:plain" in message(lambda: plots.accuracy_by_ipc(ROWS, labels=("soft:plain",)))


def dataset(side, ipc, names=("a", "b")):
    rng = np.random.default_rng(side)
    return DistilledDataset(
        images=rng.normal(size=(2 * ipc, side, side, 1)).astype(np.float32),
        labels=np.repeat(np.arange(2, dtype=np.int32), ipc),
        weights=rng.dirichlet(np.ones(ipc), 2).astype(np.float32).reshape(-1),
        class_names=names,
        norm=Normalisation(np.array([0.5], np.float32), np.array([0.2], np.float32)),
        provenance={},
    )


@pytest.mark.slow
def test_the_sheet_of_a_class(tmp_path):
    small, large = dataset(8, 3), dataset(48, 2)
    sheet = np.asarray(plots.per_class_sheet({"one": small, "other": large}, 1, tmp_path / "sheet.png", most=2))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)
    # From below and from the right: the rows of 96 pixels, six between.
    heaviest = {name: np.argsort(-d.weights[d.labels == 1])[:2] + d.ipc for name, d in (("s", small), ("l", large))}
    for column, (i, j) in enumerate(zip(heaviest["s"], heaviest["l"])):
        right = sheet.shape[1] - 6 - 102 * (1 - column)
        lower = sheet[-6 - 96 : -6, right - 96 : right, 0]
        upper = sheet[-6 - 96 - 102 : -6 - 102, right - 96 : right, 0]
        np.testing.assert_array_equal(upper, small.pixels()[i, :, :, 0].repeat(12, 0).repeat(12, 1))
        np.testing.assert_array_equal(lower, large.pixels()[j, :, :, 0].repeat(2, 0).repeat(2, 1))


def test_a_sheet_that_cannot_be():
    one = dataset(8, 2)
    assert "class 2" in message(lambda: plots.per_class_sheet({"one": one}, [0, 2]))
    assert "other" in message(lambda: plots.per_class_sheet({"one": one, "other": dataset(8, 2, ("a", "c"))}, 0))
    assert "no dataset" in message(lambda: plots.per_class_sheet({}, 0))
