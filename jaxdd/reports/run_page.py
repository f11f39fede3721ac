"""The page of a run folder: its images, the accuracies of students, and how the images were made.

Sections for files that the folder lacks, such as the accuracies before `jaxdd evaluate`, are left out.
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import manifest, settings
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.files import read_arrays, write_text
from jaxdd.ground.reading import parse_json, read_text
from jaxdd.reports import gallery, html, tables
from jaxdd.reports.names import readable
from jaxdd.reports.preview import preview
from jaxdd.students.rows import caption, cell, judged_on, read
from jaxdd.workspace import beside, config_of, records

_AGAIN = "make the run again"
# Where the images lie in a run folder.
_FOLDER = "distilled/train"
# More steps than any run has.
STEPS = 10**9
# Flags that every command shows, even at their defaults.
_ALWAYS = ("method", "dataset", "ipc", "out")


def run_page(folder: Path) -> str:
    """The page of a run folder as HTML.

    Raises:
      InputError: a folder without config.json or without a distilled dataset, a method that is not registered, or a
        damaged file.
    """
    config = records.run(folder, ("method", "dataset", "recipe"))
    dataset = distilled.load(folder)
    manifest.verify(folder, "atoms.npz", "metrics.jsonl", beside.FILE)
    blocks = [
        html.facts(_facts(dataset)),
        html.heading("Images"),
        *_images(folder / beside.FILE, dataset),
        *_accuracies(folder / "evaluation.json"),
        *_weights(dataset),
        *_distances(folder / "atoms.npz", dataset, config),
        *_losses(folder / "metrics.jsonl", config),
        *_settings(config),
    ]
    title = f"{config['method']} on {_record(dataset).get('dataset', config['dataset'])}"
    each = "one image" if dataset.ipc == 1 else f"{dataset.ipc} images"
    return html.document(title, blocks, f"{len(dataset.class_names)} classes, {each} each")


def write(folder: Path) -> Path:
    """Write report.html and preview.png into a run folder, in place of earlier ones."""
    write_text(folder / "report.html", run_page(folder))
    preview(distilled.load(folder), folder / "preview.png")
    return folder / "report.html"


def _record(dataset: DistilledDataset) -> dict:
    """The provenance of a dataset, which a file from elsewhere may lack."""
    return dataset.provenance if isinstance(dataset.provenance, dict) else {}


def _facts(dataset: DistilledDataset) -> dict[str, str]:
    provenance = _record(dataset)
    height, width, channels = dataset.images.shape[1:]
    known = {"Images": f"{len(dataset.labels)} of {width} × {height} × {channels}"}
    if isinstance(provenance.get("teacher"), dict):
        known["Teacher"] = teacher(provenance["teacher"])
    if "recognised" in provenance:
        known["Recognised by the teacher"] = _percent(provenance["recognised"])
    for name, label in (
        ("latents", "Latent model"),
        ("seed", "Seed"),
        ("device", "Device"),
        ("jaxdd", "jaxdd"),
        ("jax", "JAX"),
    ):
        if name in provenance:
            known[label] = str(provenance[name])
    return known


def _images(place: Path, dataset: DistilledDataset) -> list[str]:
    """The distilled images, beside real ones if the folder has such."""
    if not place.exists():
        return [gallery.grid(dataset, folder=_FOLDER)]
    real = beside.load(place, dataset)
    where = "Beside" if dataset.ipc == 1 else "Below"
    unit = {
        "teacher": "by the teacher's features, with the distance in standard deviations of the features",
        "pixels": "by its pixels, among at most 200, with the root mean square difference of the grey levels",
    }[real.by]
    text = (
        f"{where} each distilled image is the nearest real train image of its class {unit}. Each class ends with "
        f"{real.random.shape[1]} random real images. A click enlarges an image."
    )
    return [html.paragraph(text), gallery.grid(dataset, real=real, folder=_FOLDER)]


def teacher(known: dict) -> str:
    """The teacher of a provenance in words."""
    held_out = " (held-out train images)" if known.get("holdout") else ""
    return f"{known.get('model')}, accuracy {_percent(known.get('accuracy'))}{held_out}"


def _percent(share: Any) -> str:
    return f"{100 * share:.1f} %" if type(share) in (int, float) and 0 <= share <= 1 else "unknown"


def accuracies(rows: list[dict]) -> list[str]:
    """Rows of evaluation.json as a table: one line per method and student, one column per kind of labels.

    The highest mean for a dataset, student and number of images per class is bold, ties included, if there are several
    methods. A dataset or student that is the same in all rows is named below the table instead of in a column.
    """
    present = dict.fromkeys(row["labels"] for row in rows)
    kinds = [kind for kind in dict.fromkeys(["hard", "soft", *present]) if kind in present]
    several = [name for name in ("dataset", "student") if len({row[name] for row in rows}) > 1]
    body: list[list[str]] = []
    contests: dict[tuple, list[tuple]] = {}  # the cells (line, column, mean) that compete for bold type
    left = len(several) + 1
    for i, ((dataset, student, method, ipc), cells) in enumerate(tables.by_line(rows).items()):
        where = {"dataset": dataset, "student": student}
        body.append([method, *(where[name] for name in several), "all" if ipc is None else str(ipc)])
        body[-1] += [cell(cells[kind]) if kind in cells else "" for kind in kinds]
        for j, kind in enumerate(kinds, left + 1):
            if kind in cells and ipc is not None:
                contests.setdefault((dataset, student, ipc, kind), []).append((i, j, np.mean(cells[kind])))
    best = []
    for contest in contests.values():
        highest = max(mean for *_, mean in contest)
        best += [(i, j) for i, j, mean in contest if len(contest) > 1 and mean == highest]
    named = [caption(kind) for kind in kinds]
    text = f"Top-1 accuracy on {judged_on(rows)} in percent, mean and standard deviation over the seeds."
    for name in ("dataset", "student"):
        if name not in several:
            text += f" The {name} is {rows[0][name]}."
    return [
        html.table(["method", *several, "IPC", *named], body, left=left, best=best),
        html.paragraph(text, note=True),
    ]


def _accuracies(place: Path) -> list[str]:
    rows = read(place) if place.exists() else []
    return [html.heading("Accuracy"), *accuracies(rows)] if rows else []


def _weights(dataset: DistilledDataset) -> list[str]:
    if dataset.ipc == 1:
        return []
    if not gallery.uneven(dataset):
        return [html.heading("Weights"), html.paragraph("All images have the same weight.")]
    shares = [np.sort(dataset.weights[dataset.labels == c])[::-1] for c in range(len(dataset.class_names))]
    counts = np.array([share.sum() ** 2 / (share**2).sum() for share in shares])
    text = (
        "The weights of the images of each class, heaviest first, and the effective number of images, 1/Σw²: "
        f"{counts.mean():.1f} of {dataset.ipc} on average, from {counts.min():.1f} to {counts.max():.1f}."
    )
    rows = _first((name, share, f"{count:.1f}") for name, share, count in zip(names_of(dataset), shares, counts))
    return [html.heading("Weights"), html.paragraph(text), html.bars(rows, "weights"), *_only(rows, dataset)]


def _distances(place: Path, dataset: DistilledDataset, config: dict) -> list[str]:
    if not place.exists():
        return []
    (costs,) = arrays(place, len(dataset.class_names), "costs")
    if not costs.size:
        return []
    last, summarizer = costs[:, -1], config["recipe"].get("summarizer", {})
    where = summarizer.get("space", "features")
    # The costs belong to the solver's masses, before these are tempered.
    text = (
        f"W2² between the real {where} of a class and its atoms, with the weights of the solver: "
        f"{_four(last.mean())} on average, from {_four(last.min())} to {_four(last.max())}."
    )
    rows = _first((name, [cost], _four(cost)) for name, cost in zip(names_of(dataset), last))
    blocks = [html.heading("Distances"), html.paragraph(text), html.bars(rows, "W2²"), *_only(rows, dataset)]
    if costs.shape[1] > 1:
        lines = {"mean of the classes": costs.mean(0), "largest": costs.max(0), "smallest": costs.min(0)}
        blocks += [
            html.heading("Along the rounds of the solver", 3),
            html.curve(np.arange(costs.shape[1]), lines, "round", "W2²"),
        ]
    return blocks


def _four(value: float) -> str:
    """A number with four digits."""
    return f"{value:#.4g}".removesuffix(".")


def names_of(dataset: DistilledDataset) -> list[str]:
    """What to call the classes."""
    return [readable(name) for name in dataset.class_names]


def _first(rows: Iterable[tuple]) -> list[tuple]:
    return list(rows)[: beside.CLASSES]


def _only(rows: list, dataset: DistilledDataset) -> list[str]:
    count = len(dataset.class_names)
    return [html.paragraph(f"The first {len(rows)} of {count} classes.", note=True)] if len(rows) < count else []


def _losses(place: Path, config: dict) -> list[str]:
    lines = _metrics(place) if place.exists() else []
    if not lines:
        return []
    weights = config["recipe"].get("imager", {})

    def title(term: str) -> str:
        watched = weights.get(f"{term}_weight") == 0
        return term.replace("_", " ") + (" (watched, not optimised)" if watched else "")

    terms = {title(term): [line[term] for line in lines] for term in lines[0] if term != "step"}
    text = "The unweighted terms of the loss, averaged over the classes."
    return [
        html.heading("Recovery"),
        html.paragraph(text),
        html.curve([line["step"] for line in lines], terms, "step", "loss", log=True),
    ]


def _metrics(place: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; InputError unless each holds the same numbers, among them the step."""
    texts = read_text(place, _AGAIN).splitlines()
    lines = [parse_json(text, f"{place}, line {number}", _AGAIN, finite=False) for number, text in enumerate(texts, 1)]
    for number, line in enumerate(lines, 1):
        numbers = isinstance(line, dict) and all(map(_is_number, line.values()))
        if not numbers or line.keys() != lines[0].keys() or not 0 <= line.get("step", -1) <= STEPS:
            raise InputError(f"{place}, line {number}: {shown(line)} are no losses of a step; {_AGAIN}")
    return lines


def _is_number(value: object) -> bool:
    """Whether a value of JSON is a float, or an integer that is no larger than floats are."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def arrays(place: Path, classes: int, *names: str) -> list[np.ndarray]:
    """Arrays of an atoms.npz: the costs [C, rounds], the weights [C, m].

    Raises:
      InputError: the file is damaged, or does not fit the number of classes.
    """
    read = read_arrays(place, names)
    found = [read[name] for name in names]
    for name, array in zip(names, found):
        if array.ndim != 2 or len(array) != classes or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{place}: {name} are no finite numbers of {classes} classes; {_AGAIN}")
    return found


def _settings(config: dict) -> list[str]:
    now, usual = _flat(config), _flat(_usual(config))
    method = _flat(settings.record(config_of(config["method"])))
    rows = [[_flag(name), _text(value), _text(method.get(name, usual[name]))] for name, value in now.items()
            if name in usual]  # fmt: skip
    changed = [(i, 1) for i, (_, value, other) in enumerate(rows) if value != other]
    blocks = [html.heading("How to make it again"), html.code(command(config))]
    unknown = [name for name in now if name not in usual]
    if unknown:
        text = f"This version does not have these settings, so the command leaves them out: {', '.join(unknown)}."
        blocks.append(html.paragraph(text, note=True))
    whole = html.table(["flag", "value", f"default of {config['method']}"], rows, left=3, best=changed)
    return [*blocks, html.details(f"All {len(rows)} settings", [whole])]


def command(config: dict, width: int = 88) -> str:
    """The command line for a config.json, with the flags that differ from the defaults of the method.

    It is split into lines of about ``width`` characters that end in a backslash.

    Raises:
      InputError: a method or a choice that is not registered.
    """
    usual, now = _flat(_usual(config)), _flat(config)
    method = _flat(settings.record(config_of(config["method"])))
    parts = ["jaxdd distill"]
    for name, normal in usual.items():
        value = now.get(name, normal)
        if name in _CHOICES:
            normal = method[name]
        if name not in _ALWAYS and value == normal:
            continue
        if isinstance(normal, bool):
            # A switch is turned off by no- before the last part of its dotted name.
            before, _, last = _flag(name).removeprefix("--").rpartition(".")
            parts.append(f"--{before}{'.' if before else ''}{'' if value else 'no-'}{last}")
        else:
            values = value if isinstance(value, list) else [value]
            parts.append(shlex.join([_flag(name), *map(str, values)]))
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) > width:
            lines.append("   ")
        lines[-1] += f" {part}"
    return " \\\n".join(lines)


# Flags whose values choose the function of a stage.
_CHOICES = ("summarizer", "imager")


def _usual(config: dict) -> dict:
    """The default settings of the config's method, with the functions that the config chooses for each stage."""
    default, recipe = config_of(config["method"]), config["recipe"]
    names = {stage: recipe[stage]["name"] for stage in _CHOICES if isinstance(recipe.get(stage), dict)}
    return settings.record(dataclasses.replace(default, recipe=settings.changed(default.recipe, names, "config.json")))


def _flat(config: dict, before: str = "") -> dict:
    """Nested settings by the names of their flags; the fields of the recipe have no prefix."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, before if name == "recipe" else f"{before}{name}.")
        elif name == "name" and before:
            flat[before.removesuffix(".")] = value
        elif before or name != "config":
            flat[before + name] = value
    return flat


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
