"""Names that anybody may have chosen, in every form of a table, in plots and on pages."""

import csv
import io
import re

import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports import grid_tables, html, plots, preview, tables
from jaxdd.students import rows as results
from jaxdd.students.rows import row
from jaxdd.workspace.grid_file import Grid, GridConfig, Sweep

GRID = Grid("g", "", "T | <b> & *x* [a](b) 5 %", "ipc", "a <i> | b", "", Sweep(), (), (), GridConfig())
NAMES = ["=1+2", "+1", "-1", "@a", "\ta", "\ra", "＝a", "[5pt]", "*", "a|b", "<script>alert(1)</script>", "a\nb",
         "\\end{tabular}",
         "%", "$x_1$", "a&b", "#", "~^", "{", '"', "\udcff", "\x1b[31m", "ü", "_a", "$\\frac$", "a" * 500]  # fmt: skip
FEW = examples(max_examples=100, deadline=None)
ANY = st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=12))


def some(name):
    return [row(name, "digits", 1, "net", "hard", [0.5]), row("full", "digits", None, "net", "hard", [0.75])]


@FEW
@given(ANY)
def test_no_cell_of_a_sheet_is_a_formula(name):
    (_, ours, full), *more = [list(csv.reader(io.StringIO(grid_tables.as_csv(GRID, some(name)))))]
    assert not more and full[0] == "full"
    assert not ours[0].startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"))
    # Numbers stay numbers.
    assert [float(cell) for cell in ours[5:7]] == [0.5, 0.0] and ours[7] == "0.5"


def test_a_harmless_cell_stays_as_it_is():
    negative = [row("a-b", "digits", 1, "net", "hard", [0.5], epochs=-3)]
    _, ours = csv.reader(io.StringIO(grid_tables.as_csv(GRID, negative)))
    assert ours[0] == "a-b" and ours[8] == "-3"


@FEW
@given(ANY)
def test_a_row_of_latex_is_a_row(name):
    latex = grid_tables.as_latex(GRID, some(name))
    lines = latex.splitlines()
    first, second = lines.index(r"\midrule") + 1, lines.index(r"\bottomrule")
    assert second - first == 2 and lines[-1] == r"\end{tabular}"
    text = lines[first].removesuffix(r" & 50.0 \\")
    assert text != lines[first] and not text.startswith(("[", "*"))
    # What is left without the known commands is no special character.
    commands = r"\\(textbackslash|textless|textgreater|textbar|textquotedbl|\^|~)\{\}|\$\\pm\$|\\[&%$#_{}]|^\{\}"
    assert not set(re.sub(commands, "", text)) & set('\\&%$#_{}^~<>|"')
    assert text.isprintable()


@FEW
@given(ANY)
def test_markdown_and_text_keep_their_lines(name):
    text = grid_tables.text(GRID, some(name)).splitlines()
    assert len(text) == 4 + (GRID.columns == "ipc") and all(line.isprintable() for line in text)
    markdown = grid_tables.as_markdown(GRID, some(name), f"python {name}", f"{name}; cpu.")
    outside = [line for line in markdown.splitlines() if not line.startswith("    ")]
    assert not re.search(r"(?<!\\)[<|*\[`]", "\n".join(outside)) and outside[0].startswith("## ")
    assert "\n    python" in markdown and tables.table(some(name)).count("\n") == 3


@FEW
@given(ANY)
def test_pages_escape_every_name(name):
    blocks = [
        html.heading(name),
        html.facts({name: name}),
        html.code(name),
        html.figure(b"<svg/>", name, name),
        html.bars([(name, [1.0], name)], name),
        html.curve([0, 1], {name: [1, 2]}, name, name),
    ]
    page = html.document(name, blocks, name)
    assert "<script" not in page and "\x1b" not in page
    page.encode("utf-8")
    # Every attribute ends where it should: no quotation mark of a name is left.
    assert page.count('"') % 2 == 0


@pytest.mark.parametrize("name", NAMES)
def test_plots_and_pictures_draw_any_name(name, tmp_path):
    both = [*some(name), row(name, "digits", 2, "net", "hard", [0.25, 0.5])]
    plots.accuracy_by_ipc(both, {name: {1: 50.0}}, path=tmp_path / "a.png")
    # A dataset has no such class, but a table may have such a method.
    of_class = name if name.isprintable() else "a"
    dataset = DistilledDataset(
        np.zeros((2, 8, 8, 1), np.float32), np.arange(2), np.ones(2, np.float32), (of_class, "b"),
        Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32)), {},
    )  # fmt: skip
    preview.preview(dataset, tmp_path / "p.png")
    plots.per_class_sheet({name: dataset, "x": dataset}, 0, tmp_path / "s.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "p.png", "s.png"]


def test_plots_refuse_what_is_not_finite():
    for bad in (np.nan, np.inf):
        wrong = [some("a")[0] | {"mean": bad}]
        assert "a row of a has an accuracy that is not finite" in message(
            lambda wrong=wrong: plots.accuracy_by_ipc(wrong)
        )


def test_rows_are_checked():
    good = row("a", "b", 1, "c", "hard", [0.5, 0.25], key="k", epochs=3)
    results.check(good, "here")
    results.check(good | {"ipc": None}, "here")
    for bad in ({"mean": np.nan}, {"accuracies": []}, {"accuracies": [1.5]}, {"ipc": 0}, {"method": ""}, {"std": -1}):
        assert "here" in message(lambda bad=bad: results.check(good | bad, "here"))
