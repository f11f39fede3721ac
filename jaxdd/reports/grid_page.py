"""The plots and the HTML page of a table: accuracies, the images of each method, and the command to make it again."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jaxdd.ground import manifest
from jaxdd.ground.files import write_text
from jaxdd.reports import gallery, grid_tables, html, plots
from jaxdd.reports.run_page import arrays
from jaxdd.students.rows import judged_on
from jaxdd.workspace.grid_file import Grid
from jaxdd.workspace.grid_runner import Work, datasets, folder

# The number of classes on the sheet that compares the images of all methods.
_CLASSES = 2


def write(out: Path, work: Work, rows: list[dict], command: str) -> Path:
    """Write the plots and report.html into the folder of a table."""
    grid, config = work.grid, work.config
    # Show the middle size: one image per class hides variety, and the largest size makes a long page.
    ipc = sorted(config.ipc)[len(config.ipc) // 2]
    drawn = list(_plots(out, grid, config.ipc, rows))
    distilled = {entry.name: dataset for entry, dataset in datasets(work, ipc)}
    classes = list(range(min(_CLASSES, len(work.workspace.real.source.class_names))))
    if distilled:
        plots.per_class_sheet(distilled, classes, out / "classes.png")
        named = " and ".join(work.workspace.real.source.class_names[c] for c in classes)
        text = f"The images of the classes {named} from each method at IPC {ipc}, heaviest first."
        drawn.append((out / "classes.png", text))

    blocks = [
        html.facts(_facts(work)),
        html.heading("Accuracy"),
        *_table(grid, rows),
        *(html.figure(path.read_bytes(), caption, caption) for path, caption in drawn),
        *_differences(grid, rows),
        html.heading("Images"),
        *(html.details(f"{name}, IPC {ipc}", [gallery.grid(dataset)]) for name, dataset in distilled.items()),
        *_distances(work, ipc),
        html.heading("How to make it again"),
        *(html.paragraph(part) for part in grid.head.split("\n\n") if not part.startswith("Command:")),
        html.code(command),
    ]
    text = html.document(grid.title, blocks, f"{len(work.entries)} methods, {config.seeds} seeds")
    write_text(out / "report.html", text)
    return out / "report.html"


def _plots(out: Path, grid: Grid, sizes: tuple[int, ...], rows: list[dict]) -> Iterator[tuple[Path, str]]:
    """Draw the plots that the rows allow, and yield each path with its caption."""
    sent = [row for row in rows if "bits" in row]
    rows = [row for row in rows if "bits" not in row]
    if grid.columns == "method":
        cases = dict.fromkeys((row["student"], row["ipc"]) for row in rows if "label_bytes" in row)
        for number, case in enumerate(cases, 1):
            some = [row for row in rows if (row["student"], row["ipc"]) == case]
            plots.accuracy_by_labels([*some, *sent], out / f"labels-{number}.png")
            yield out / f"labels-{number}.png", f"Accuracy over the bytes of labels: {case[0]}, IPC {case[1]}."
        return
    kinds = list(dict.fromkeys(row["labels"] for row in rows))
    students = list(dict.fromkeys(row["student"] for row in rows))
    values = {entry.name: entry.swept for entry in grid.entries if entry.swept}
    fixed = [row for row in rows if row["method"] not in values]
    if len(sizes) > 1 and len(students) == 1:
        # The published figures of random real images are for hard labels, those of all other methods for soft labels.
        papers = [entry for entry in grid.entries if entry.published and not entry.recipe.is_redrawn]
        published = {entry.name: entry.published for entry in papers}
        plots.accuracy_by_ipc(fixed, published, kinds, out / "accuracy.png")
        shown = f" Dashed: {grid.published}." if published and grid.published else ""
        yield out / "accuracy.png", f"Accuracy over the number of images per class.{shown}"
    if len(students) > 1:
        plots.architectures(fixed, out / "architectures.png", kinds)
        yield out / "architectures.png", "Accuracy of each student; the images are the same for all."
    swept = [row for row in rows if row["method"] in values]
    if swept:
        name = grid.sweep.field.split(".")[-1]
        # Rename the entries of the sweep to their common method, so that they form one line.
        swept = [row | dict(zip(("method", name), values[row["method"]])) for row in swept]
        words = "λ, weight of the moments" if name == "moment_weight" else name
        plots.sensitivity(swept, out / "sensitivity.png", name, words)
        yield out / "sensitivity.png", f"Accuracy over {grid.sweep.field}."


def _facts(work: Work) -> dict[str, str]:
    info, source = work.workspace.teacher.info, work.workspace.real.source
    height, width, channels = source.image_shape
    return {
        "Dataset": f"{work.workspace.real.name}, {len(source.labels['train'])} images",
        "Image": f"{width} × {height} × {channels}",
        "Tested on": f"{len(source.labels['test'])} real images",
        "Teacher": f"{info['model']}, accuracy {100 * info['accuracy']:.1f} %",
        "Students": ", ".join(work.config.students),
        "Seeds": str(work.config.seeds),
        "Recoveries": str(work.config.recoveries),
        "Device": jax.devices()[0].device_kind,
        "JAX": jax.__version__,
    }


def _table(grid: Grid, rows: list[dict]) -> list[str]:
    note = f"Top-1 accuracy on {judged_on(rows)} in percent, mean and standard deviation over the seeds."
    if grid.columns == "method":
        head, body = grid_tables.by_protocol(rows)
        sent = [html.paragraph(f"{text[0].upper()}{text[1:]}", note=True) for text in grid_tables.teachers(rows)]
        return [html.table(head, body, best=_best(body, 3)), html.paragraph(note, note=True), *sent]
    methods, parts = grid_tables.columns(grid, rows)
    several = len({column.group for column in parts}) > 1
    head = ["method", *(f"{column.group} {column.name}" if several else column.name for column in parts)]
    body = [[method, *(column.cells.get(method, "") for column in parts)] for method in methods]
    best = []
    for j, column in enumerate(parts, 1):
        values = {i: float(column.cells[method].split(" ")[0]) for i, method in enumerate(methods)
                  if method in column.cells and method != "full"}  # fmt: skip
        if len(values) > 1 and column.name not in ("published", "HLR"):
            best += [(i, j) for i, value in values.items() if value == max(values.values())]
    if any(column.name == "published" for column in parts):
        note += f" Published: {grid.published}."
    if grid.scores:
        note += (
            " In percent: HLR, the loss of hard-label students against the full data; IOR, the gain of soft-label "
            "students over random real images; LRS and ARS, the label- and augmentation-robust scores, which are 26.9 "
            "if there is neither loss nor gain."
        )
    return [html.table(head, body, best=best), html.paragraph(note, note=True)]


def _best(body: list[list[str]], first: int) -> list[tuple[int, int]]:
    """The places of the largest accuracies of each line, whose cells from ``first`` on are accuracies."""
    values = [{j: float(text.split(" ")[0]) for j, text in enumerate(line) if j >= first and text} for line in body]
    return [(i, j) for i, line in enumerate(values) for j, value in line.items()
            if len(line) > 1 and value == max(line.values())]  # fmt: skip


def _differences(grid: Grid, rows: list[dict]) -> list[str]:
    """The claims of the grid as a table: one column per claim, one line per size, student and protocol."""
    differences = grid_tables.differences(grid, rows)
    if not differences:
        return []
    head = ["", *(f"{claim.what} ({claim.better} − {claim.worse})" for claim, _ in differences)]
    places = list(dict.fromkeys(part.where for _, parts in differences for part in parts))
    cells = [{part.where: part for part in parts} for _, parts in differences]
    shown = lambda part: f"not so: {part.points}" if part.verdict == "does not hold" else part.points
    body = [[where, *(shown(row[where]) if where in row else "" for row in cells)] for where in places]
    best = [(i, j) for i, where in enumerate(places) for j, row in enumerate(cells, 1)
            if where in row and row[where].verdict == "holds"]  # fmt: skip
    note = (
        "Percentage points, with the standard error of the difference. Bold: the claim holds by more than two standard "
        "errors. Not so: the opposite holds by more than two. All others are undecided, or single runs."
    )
    return [html.heading("Claims"), html.table(head, body, best=best), html.paragraph(note, note=True)]


def _distances(work: Work, ipc: int) -> list[str]:
    """W2^2 between each class and its atoms, for the methods with a solver."""
    body = []
    for entry in work.entries:
        place = folder(work, entry, ipc) / "atoms.npz"
        if entry.swept or not place.is_file():
            continue
        manifest.verify(place.parent, place.name)
        costs, weights = arrays(place, len(work.workspace.real.class_names), "costs", "weights")
        if costs.size:
            effective = float((1 / np.square(weights / weights.sum(1, keepdims=True)).sum(1)).mean())
            body.append([entry.name, entry.recipe.summarizer.space, f"{costs[:, -1].mean():.4g}", f"{effective:.1f}"])
    if not body:
        return []
    note = (
        "W2² between a class and its atoms with the masses of the solver, before tempering; mean over the classes, "
        "comparable only within one space."
    )
    return [
        html.heading("Distances"),
        html.table(["method", "space", "W2² of the atoms", "effective images"], body, left=2),
        html.paragraph(f"At IPC {ipc}: {note} Effective images: 1/Σw² of the weights used for students.", note=True),
    ]
