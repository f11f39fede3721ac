"""The rows of a grid as a table in text, CSV, LaTeX or Markdown for docs/results, and a check of its claims."""

import csv
import io
import re
from itertools import groupby, product
from typing import Any, NamedTuple

import numpy as np

from jaxdd.ground.errors import one_line
from jaxdd.reports import tables
from jaxdd.students import scores
from jaxdd.students.rows import cell, standard_error
from jaxdd.workspace.grid_file import BASELINE, Claim, Grid


class Column(NamedTuple):
    """One column of a table, under the heading of its group."""

    group: str
    name: str
    cells: dict[str, str]  # method -> text


class Accuracies:
    """The accuracies of a grid, by method, IPC, student and protocol."""

    def __init__(self, rows: list[dict]):
        rows = [row for row in rows if "bits" not in row]
        self.at = {(row["method"], row["ipc"], row["student"], row["labels"]): row for row in rows}
        one_of_each = lambda name: list(dict.fromkeys(row[name] for row in rows))
        self.methods, self.students, self.kinds = (one_of_each(name) for name in ("method", "student", "labels"))
        self.methods.sort(key="full".__eq__)
        self.sizes = [ipc for ipc in one_of_each("ipc") if ipc is not None]

    def row(self, method: str, ipc: int | None, student: str, kind: str) -> dict | None:
        """The row of a cell, if there is one. The method "full" has no IPC."""
        return self.at.get((method, None if method == "full" else ipc, student, kind))

    def get(self, method: str, ipc: int | None, student: str, kind: str) -> list[float] | None:
        """The accuracies of a cell; None if it has no row."""
        row = self.row(method, ipc, student, kind)
        return None if row is None else row["accuracies"]


def columns(grid: Grid, rows: list[dict]) -> tuple[list[str], list[Column]]:
    """The methods and the columns: for each size or student the protocols, the scores and the published figure."""
    accuracies = Accuracies(rows)
    table: list[Column] = []
    groups = [(ipc, student) for student in accuracies.students for ipc in accuracies.sizes]
    for ipc, student in groups:
        names = [f"IPC {ipc}"] if len(accuracies.sizes) > 1 or grid.columns == "ipc" else []
        names += [student] if len(accuracies.students) > 1 or grid.columns == "student" else []
        group = ", ".join(names)
        for kind in accuracies.kinds:
            cells = {method: accuracies.get(method, ipc, student, kind) for method in accuracies.methods}
            table.append(Column(group, kind, {name: cell(values) for name, values in cells.items() if values}))
        if grid.scores:
            table += _scores(grid.scores, accuracies, group, ipc, student)
        published = {entry.name: f"{entry.published[ipc]:g}" for entry in grid.entries if ipc in entry.published}
        if published and grid.columns == "ipc" and student == accuracies.students[0]:
            table.append(Column(group, "published", published))
    return accuracies.methods, [column for column in table if column.cells]


def _scores(base: str, accuracies: Accuracies, group: str, ipc: int, student: str) -> list[Column]:
    """Label- and augmentation-robust scores in percent, from means over the seeds."""
    mean = lambda method, kind: _mean(accuracies.get(method, ipc, student, kind))
    full = _mean(accuracies.get("full", None, student, "hard"))

    def over_random(method: str, kind: str) -> float | None:
        ours, random = mean(method, kind), mean(BASELINE, kind)
        return None if ours is None or random is None else scores.improvement_over_random(ours, random)

    cells: dict[str, dict[str, str]] = {name: {} for name in ("HLR", "IOR", "LRS", "ARS")}
    for method in accuracies.methods:
        hard, gained, plain = mean(method, "hard"), over_random(method, base), over_random(method, f"{base}:plain")
        if method == "full" or full is None or hard is None or gained is None or plain is None:
            continue
        lost = scores.hard_label_recovery(full, hard)
        values = (lost, gained, scores.label_robust(gained, lost), scores.augmentation_robust(gained, plain))
        for name, value in zip(cells, values):
            cells[name][method] = f"{100 * value:.1f}"
    return [Column(group, name, texts) for name, texts in cells.items()]


def _mean(accuracies: list[float] | None) -> float | None:
    return None if accuracies is None else float(np.mean(accuracies))


def text(grid: Grid, rows: list[dict]) -> str:
    """An aligned text table, with a line of group headings above it and the claims below it."""
    tail = [*teachers(rows), *([""] if grid.claims else []), *claims(grid, rows)]
    if grid.columns == "method":
        head, body = by_protocol(rows)
        return "\n".join([tables.columns(head, body, left=1), *tail]) if body else "nothing yet"
    methods, parts = columns(grid, rows)
    if not parts:
        return "nothing yet"
    head, over = ["method", *(column.name for column in parts)], ""
    if len({column.group for column in parts}) > 1:
        widths = [max(len(column.name), *map(len, column.cells.values())) for column in parts]
        over = " " * max(map(len, [*methods, "method"]))
        for name, members in groupby(range(len(parts)), lambda i: parts[i].group):
            places = list(members)
            span = sum(widths[i] for i in places) + 2 * (len(places) - 1)
            # The heading spans the whole group. If it is longer, the first column of the group is widened.
            head[places[0] + 1] = head[places[0] + 1].rjust(widths[places[0]] + max(0, len(name) - span))
            over += "  " + name.ljust(span)
    elif parts[0].group:
        over = parts[0].group
    body = [[method, *(column.cells.get(method, "") for column in parts)] for method in methods]
    lines = [*([over.rstrip()] if over else []), tables.columns(head, body, left=1)]
    return "\n".join([*lines, *tail])


def by_protocol(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table with a line for each protocol, and size and student if there are several.

    Besides the accuracies of the methods, a line has the bytes of the labels of a class and the steps of a student.
    """
    accuracies = Accuracies(rows)
    methods = [method for method in accuracies.methods if method != "full"]
    body = []
    for ipc, student, kind in product(accuracies.sizes, accuracies.students, accuracies.kinds):
        found = {method: accuracies.row(method, ipc, student, kind) for method in methods}
        first = next((row for row in found.values() if row), None)
        if first:
            counts = [f"{first[name]:,}" if name in first else "" for name in ("label_bytes", "steps")]
            cells = [cell(row["accuracies"]) if row else "" for row in found.values()]
            body.append([_where(accuracies, ipc, student, kind), *counts, *cells])
    return ["labels", "bytes a class", "steps", *methods], body


def _where(accuracies: Accuracies, ipc: int, student: str, kind: str) -> str:
    """The name of a place of the table: size and student, if there are several, and the protocol."""
    names = [f"IPC {ipc}"] * (len(accuracies.sizes) > 1) + [student] * (len(accuracies.students) > 1)
    return " ".join([*names, kind])


def teachers(rows: list[dict]) -> list[str]:
    """A line for each teacher that is sent itself, with weights of a few bits."""
    return [
        f"the teacher itself, {row['bits']} bits a weight, {row['label_bytes']:,} bytes a class: "
        f"{cell(row['accuracies'])} %"
        for row in rows
        if "bits" in row
    ]


class Difference(NamedTuple):
    """By how much one method is better than another in one place of the table."""

    where: str  # the size and the student, if there are several, and the protocol
    points: str  # the difference of the means in percentage points, with its standard error
    verdict: str  # "holds", "does not hold", "undecided" within two standard errors; empty for single runs


def differences(grid: Grid, rows: list[dict]) -> list[tuple[Claim, list[Difference]]]:
    """For each claim that has rows: by how much one method is better than the other, everywhere in the table."""
    accuracies = Accuracies(rows)
    claims_with_rows = []
    for claim in grid.claims:
        parts = []
        for ipc in accuracies.sizes:
            for student in accuracies.students:
                for kind in accuracies.kinds:
                    better, worse = (accuracies.row(name, ipc, student, kind) for name in (claim.better, claim.worse))
                    if better and worse:
                        parts.append(Difference(_where(accuracies, ipc, student, kind), *_passes(better, worse)))
        if parts:
            claims_with_rows.append((claim, parts))
    return claims_with_rows


def _passes(better: dict, worse: dict) -> tuple[str, str]:
    """The difference of two rows in percentage points, and the verdict on it."""
    gap = 100 * (better["mean"] - worse["mean"])
    error = 100 * np.hypot(standard_error(better), standard_error(worse))
    if np.isnan(error):
        return f"{gap:+.1f}", ""
    verdict = "undecided" if abs(gap) <= 2 * error else "holds" if gap > 0 else "does not hold"
    return f"{gap:+.1f} ± {error:.1f}", verdict


def claims(grid: Grid, rows: list[dict]) -> list[str]:
    """The `differences` as text, one line per claim."""
    return [
        f"{claim.what} ({claim.better} over {claim.worse}): "
        + "; ".join(f"{where} {points}" + (f", {verdict}" if verdict else "") for where, points, verdict in parts)
        for claim, parts in differences(grid, rows)
    ]


def as_csv(grid: Grid, rows: list[dict]) -> str:
    """One CSV line per row, and one with the protocol "published" per published figure; accuracies in [0, 1]."""
    sheet = io.StringIO()
    names = ["method", "dataset", "ipc", "student", "protocol", "mean", "std", "accuracies", "epochs",
             "label_bytes"]  # fmt: skip
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        shown = [row["method"], row["dataset"], row["ipc"], row["student"], row["labels"], row["mean"], row["std"]]
        seeds = " ".join(map(str, row["accuracies"]))
        writer.writerow(map(_cell, [*shown, seeds, row.get("epochs"), row.get("label_bytes")]))
    for entry in grid.entries:
        for ipc, figure in entry.published.items():
            writer.writerow([_cell(entry.name), None, ipc, None, "published", figure / 100, *[None] * 4])
    return sheet.getvalue()


def _cell(value: Any) -> Any:
    """A cell of a spreadsheet that is no formula: a text that would be read as one gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(tuple("=+-@＝＋－＠")) else text


_LATEX = {
    "\\": r"\textbackslash{}", "±": r"$\pm$", "^": r"\^{}", "~": r"\~{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", **{c: "\\" + c for c in "&%$#_{}"},
}  # fmt: skip


def _latex(words: str) -> str:
    """A text as LaTeX. At the start of a row a bracket or a star would be an argument of the line break before it."""
    return ("{}" if words.startswith(("[", "*")) else "") + "".join(_LATEX.get(c, c) for c in one_line(words))


def as_latex(grid: Grid, rows: list[dict]) -> str:
    """A LaTeX tabular with booktabs rules, and groups as spanning headings."""
    if grid.columns == "method":
        return _latex_table(grid, *by_protocol(rows))
    methods, parts = columns(grid, rows)
    groups = [(name, len(list(columns))) for name, columns in groupby(column.group for column in parts)]
    over = " & ".join(["", *(rf"\multicolumn{{{span}}}{{c}}{{{_latex(name)}}}" for name, span in groups)])
    body = [[name, *(column.cells.get(name, "") for column in parts)] for name in methods]
    return _latex_table(grid, ["method", *(column.name for column in parts)], body, rf"{over} \\")


def _latex_table(grid: Grid, head: list[str], body: list[list[str]], *over: str) -> str:
    """Cells as a tabular, with lines of headings that are LaTeX above its head."""
    first, *lines = [rf"{' & '.join(map(_latex, line))} \\" for line in [head, *body]]
    return "\n".join([
        rf"% {one_line(grid.title)}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", *over, first,
        r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def as_markdown(grid: Grid, rows: list[dict], command: str, record: str) -> str:
    """The block for docs/results: title, record of data and machine, command, and the table that it prints."""
    table = "\n".join("    " + line if line else "" for line in text(grid, rows).splitlines())
    note = f"\nPublished figures: {_markdown(grid.published)}\n" if grid.published else ""
    head = f"## {_markdown(grid.title)}\n\n{_markdown(record)}\n\n    {one_line(command)}\n"
    return f"{head}{note}\n{table}\n"


def _markdown(words: str) -> str:
    """A text without markup or HTML."""
    return re.sub(r"([\\`*<>\[\]|&])", r"\\\1", one_line(words))
