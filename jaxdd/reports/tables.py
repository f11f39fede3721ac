"""Results as plain-text tables."""

from collections.abc import Sequence
from pathlib import Path

from jaxdd.ground.errors import one_line
from jaxdd.stages.relabel.stored import Labels
from jaxdd.students.rows import caption, cell


def by_line(rows: Sequence[dict]) -> dict[tuple, dict[str, list[float]]]:
    """Group rows into the lines of a table: (dataset, student, method, IPC) -> {protocol: accuracies}."""
    lines: dict[tuple, dict[str, list[float]]] = {}
    for row in rows:
        line = lines.setdefault((row["dataset"], row["student"], row["method"], row["ipc"]), {})
        line[row["labels"]] = row["accuracies"]
    return lines


def table(rows: list[dict]) -> str:
    """Rows of evaluation.json as an aligned text table: one line per method and student, one column per protocol.

    Cells are "mean ± standard deviation" over the seeds in percent; a single run has no deviation.
    """
    kinds = list(dict.fromkeys(row["labels"] for row in rows))
    head = [
        "dataset",
        "student",
        "method",
        "IPC",
        *map(caption, kinds),
    ]
    body = [
        [
            dataset,
            student,
            method,
            "all" if ipc is None else str(ipc),
            *(cell(cells[kind]) if kind in cells else "" for kind in kinds),
        ]
        for (dataset, student, method, ipc), cells in by_line(rows).items()
    ]
    return columns(head, body, left=3)


def columns(head: list[str], body: list[list[str]], left: int = 0) -> str:
    """Cells as aligned text: the first ``left`` columns are flush left, the others flush right.

    What a terminal or a text file cannot hold is escaped, such as a line break in a name.
    """
    head, body = [one_line(cell) for cell in head], [[one_line(cell) for cell in line] for line in body]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]

    def text(line):
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        return "  ".join(cells).rstrip()

    return "\n".join([text(head), "  ".join("-" * w for w in widths), *map(text, body)])


def label_sizes(labels: Labels, run: Path, drawn: int) -> str:
    """The sizes on disk of stored labels and of the images of a run folder, as a table.

    Args:
      drawn: the bytes of boxes, flips and mixes, which only an export holds.
    """
    folder = run / "distilled" if (run / "distilled").is_dir() else run
    pictures = sum(place.stat().st_size for place in folder.glob("train/*/*.png"))
    exact, kept = (folder / "distilled.npz").stat().st_size, labels.settings
    form = f"top {kept.top}" if kept.form == "topk" else kept.form
    rows = [(f"labels, {form}, {kept.epochs} epochs", labels.nbytes), ("images, PNG", pictures)]
    rows += [("images, exact (npz)", exact), ("crops and mixes, in an export", drawn)]
    return "\n".join(f"{name:32} {size:14,d} bytes {size / max(1, pictures):9.2f} x PNG" for name, size in rows)
