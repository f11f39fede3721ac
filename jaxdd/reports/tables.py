"""Tables of results as text."""

from pathlib import Path

from jaxdd.stages.relabel.stored import Labels
from jaxdd.students.rows import caption, cell


def table(rows: list[dict]) -> str:
    """Rows of evaluation.json as one aligned text table: a line a method and student, protocols side by side.

    Cells are "mean ± standard deviation" in percent over the seeds, one number without a deviation for a single run.
    """
    kinds = list(dict.fromkeys(row["labels"] for row in rows))
    lines: dict[tuple, dict] = {}
    for row in rows:
        place = lines.setdefault((row["dataset"], row["student"], row["method"], row["ipc"]), {})
        place[row["labels"]] = cell(row["accuracies"])
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
            *(cells.get(kind, "") for kind in kinds),
        ]
        for (dataset, student, method, ipc), cells in lines.items()
    ]
    return columns(head, body, left=3)


def columns(head: list[str], body: list[list[str]], left: int = 0) -> str:
    """Cells as aligned text, the first ``left`` columns flush left and the others flush right."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]

    def text(line):
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        return "  ".join(cells).rstrip()

    return "\n".join([text(head), "  ".join("-" * w for w in widths), *map(text, body)])


def label_sizes(labels: Labels, run: Path) -> str:
    """What stored labels and the images of a run folder take on the disk, as a table."""
    folder = run / "distilled" if (run / "distilled").is_dir() else run
    pictures = sum(place.stat().st_size for place in folder.glob("train/*/*.png"))
    exact, kept = (folder / "distilled.npz").stat().st_size, labels.settings
    form = f"top {kept.top}" if kept.form == "topk" else kept.form
    rows = [(f"labels, {form}, {kept.epochs} epochs", labels.nbytes), ("images, PNG", pictures)]
    rows.append(("images, exact (npz)", exact))
    return "\n".join(f"{name:32} {size:14,d} bytes {size / pictures:9.2f} x PNG" for name, size in rows)
