"""Plots and picture sheets of results: from rows of evaluation.json to a matplotlib figure or a picture.

Every plot returns its figure, and writes it as a PNG if there is a path. Nothing is shown, and no state is kept. A
method has the same colour and marker in all plots.
"""

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from jaxdd.data.distilled import DistilledDataset, heaviest
from jaxdd.ground.errors import InputError, one_line
from jaxdd.ground.files import atomic
from jaxdd.ground.normalise import denormalise
from jaxdd.students.protocol import named
from jaxdd.students.rows import caption

# Colours that readers with red-green blindness can distinguish; the markers differ as well.
_PALETTE = (
    "#20608f",
    "#d9722e",
    "#2f8f5b",
    "#8a5bb0",
    "#b8901a",
    "#c2487c",
    "#3aa6b9",
    "#7a5c43",
    "#a3394a",
    "#5f7f2a",
)
_MARKS = "osD^vPX<>*"
_METHODS = ("wmdd", "ddoq", "sre2l", "d4m", "ce-class", "dm", "rded", "mmd", "ce-global", "wmdd-global")
_GREY = "#7b858d"
_FULL, _PAPER, _SENT = "all real data", ", published", "the teacher itself"
# Looks that are not in the palette: real images, chosen, and what is to stand out.
_FIXED = {
    "wmdd-plus": ("#10131f", "p"),
    "random": (_GREY, "h"),
    "medoid": ("#444c53", "v"),
    "herding": ("#a3988a", "<"),
    "kcenter": ("#64707a", ">"),
}


def styles(methods: Sequence[str]) -> dict[str, dict]:
    """Colour and marker of each method: fixed for known methods, otherwise chosen by a hash of the name."""
    looks = {method: _FIXED[method] for method in methods if method in _FIXED}
    places = {method: _METHODS.index(method) for method in methods if method in _METHODS}
    for method in methods:
        if method not in looks and method not in places:
            wanted = [
                (zlib.crc32(method.encode("utf-8", "surrogatepass")) + step) % len(_PALETTE)
                for step in range(len(_PALETTE))
            ]
            places[method] = next((place for place in wanted if place not in places.values()), wanted[0])
    looks |= {method: (_PALETTE[place], _MARKS[place]) for method, place in places.items()}
    return {method: {"color": color, "marker": mark} for method, (color, mark) in looks.items()}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format="png")
    return file.getvalue()


def accuracy_by_ipc(
    rows: Sequence[dict],
    published: Mapping[str, Mapping[int, float]] | None = None,
    labels: Sequence[str] = ("hard", "soft"),
    path: Path | None = None,
) -> Figure:
    """Accuracy over the number of images per class: one panel per kind of labels, one line per method.

    Args:
      rows: rows of one dataset and student, accuracies in [0, 1]. Error bars are one standard deviation over the seeds.
        ``full``, all real data, is a horizontal line in every panel, whatever labels it was trained with.
      published: method -> {images per class: percent}, dashed in the colour of the method. Papers that report a single
        curve train with a teacher's labels, so if there are panels of soft labels, those of hard labels omit it.
      labels: the panels, in order; those without rows are left out.

    Raises:
      InputError: rows of several datasets or students, or no rows to draw.
    """
    _one(rows, "dataset")
    _one(rows, "student")
    figure, panels = _panels(rows, labels)
    looks = styles([*_methods(rows), *(published or {})])
    for kind, axes in panels.items():
        shown = [row for row in rows if row["labels"] == kind and row["ipc"] is not None]
        paper = {} if _hard(kind) and not all(map(_hard, panels)) else published or {}
        for method in _methods(shown):
            _line(axes, [row for row in shown if row["method"] == method], "ipc", looks[method], plain(method))
        for method, curve in paper.items():
            x = sorted(curve)
            look = looks[method] | {"markerfacecolor": "white", "linestyle": (0, (4, 3))}
            axes.plot(x, [curve[m] for m in x], linewidth=1.6, alpha=0.8, label=plain(method) + _PAPER, **look)
        full = [row for row in rows if row["method"] == "full"]
        if full:
            axes.axhline(100 * full[0]["mean"], color=_GREY, linewidth=1.2, linestyle=":", label=_FULL)
        counts = sorted({row["ipc"] for row in shown}.union(*paper.values()))
        _log_axis(axes, counts)
        axes.set_xlabel("images per class")
    return _finish(figure, panels, f"{rows[0]['dataset']}, {rows[0]['student']}", path)


def accuracy_by_labels(rows: Sequence[dict], path: Path | None = None) -> Figure:
    """Accuracy over the bytes of labels of a class that travel with its images, one line per method.

    The first panel has students that are trained equally long, whatever labels they have. The second has students that
    see each label once. No bytes, which is hard labels, is at the left end of the logarithmic axis. Where protocols
    have equal bytes the line goes through the best, and the others are lone marks.

    Args:
      rows: rows of one dataset, student and number of images per class, with ``label_bytes`` and ``steps``; accuracies
        in [0, 1]. Rows with ``bits``, of teachers that are sent themselves, are single points in every panel.

    Raises:
      InputError: rows of several datasets, students or sizes, or no rows to draw.
    """
    teachers = [row for row in rows if "bits" in row]
    rows = [row for row in rows if "label_bytes" in row and "steps" in row]
    for name in ("dataset", "student", "ipc"):
        _one(rows, name)
    longest = max(row["steps"] for row in rows)
    titles = f"{longest:,} steps for all", "as many steps as there are labels"
    rows = [row | {"labels": titles[row["steps"] < longest]} for row in rows]
    figure, panels = _panels(rows, titles)
    looks = styles(_methods(rows))
    counts = sorted({row["label_bytes"] for row in [*rows, *teachers]} - {0})
    zero = counts[0] / 4 if counts else 1
    for kind, axes in panels.items():
        for method in _methods(rows):
            shown = [row | {"label_bytes": row["label_bytes"] or zero} for row in rows
                     if (row["labels"], row["method"]) == (kind, method)]  # fmt: skip
            best = {row["label_bytes"]: row for row in sorted(shown, key=lambda row: row["mean"])}
            if best:
                _line(axes, list(best.values()), "label_bytes", looks[method], plain(method))
            for row in shown:
                if row is not best[row["label_bytes"]]:
                    axes.plot([row["label_bytes"]], [100 * row["mean"]], linestyle="none", alpha=0.4, **looks[method])
        for row in teachers:
            axes.plot([row["label_bytes"]], [100 * row["mean"]], "*", color="black", markersize=10, label=_SENT)
            axes.annotate(row["labels"], (row["label_bytes"], 100 * row["mean"]), xytext=(6, -10),
                          textcoords="offset points", fontsize="small")  # fmt: skip
        ticks = sorted({row["label_bytes"] for row in rows})
        _log_axis(axes, [tick or zero for tick in ticks], [f"{tick:,}" for tick in ticks])
        axes.set_xlim(zero / 1.5, 1.5 * max(counts, default=zero))
        axes.set_xlabel("bytes of labels per class")
    return _finish(figure, panels, f"{rows[0]['dataset']}, {rows[0]['student']}, {rows[0]['ipc']} IPC", path)


def sensitivity(
    rows: Sequence[dict], path: Path | None = None, setting: str = "moment_weight", name: str = "moment weight, λ"
) -> Figure:
    """Accuracy over one setting of a method: one panel per kind of labels, one line per dataset, student and IPC.

    Args:
      rows: rows with the value of the setting under ``setting``. The axis is logarithmic, and zero is drawn at its left
        end.
      name: the title of the axis.

    Raises:
      InputError: no rows, or rows without the setting.
    """
    missing = [row for row in rows if setting not in row]
    if missing or not rows:
        raise InputError(f"{len(missing)} of {len(rows)} rows have no {setting!r}; give only rows that have it")
    figure, panels = _panels(rows, list(dict.fromkeys(row["labels"] for row in rows)))
    series = list(dict.fromkeys(_case(row) for row in rows))
    words = _words(series)
    values = sorted({float(row[setting]) for row in rows})
    positive = [value for value in values if value > 0]
    zero = positive[0] / 10 if positive else 1.0
    for kind, axes in panels.items():
        for k, case in enumerate(series):
            shown = [
                {**row, setting: float(row[setting]) or zero}
                for row in rows
                if row["labels"] == kind and _case(row) == case
            ]
            if shown:
                look = {"color": _PALETTE[k % len(_PALETTE)], "marker": _MARKS[k % len(_MARKS)]}
                _line(axes, shown, setting, look, plain(words[case]))
        _log_axis(axes, [value or zero for value in values], [f"{value:g}" for value in values])
        axes.set_xlabel(name)
    return _finish(figure, panels, ", ".join(_methods(rows)), path)


def architectures(rows: Sequence[dict], path: Path | None = None, labels: Sequence[str] = ("hard", "soft")) -> Figure:
    """Accuracy of each method with each student, to compare architectures: one panel per kind of labels.

    Args:
      rows: rows of one dataset; a method with several numbers of images per class counts as several methods.

    Raises:
      InputError: rows of several datasets, or no rows to draw.
    """
    _one(rows, "dataset")
    figure, panels = _panels(rows, labels)
    students = list(dict.fromkeys(row["student"] for row in rows))
    counts = {row["ipc"] for row in rows if row["ipc"] is not None}
    entries = list(dict.fromkeys((row["method"], row["ipc"]) for row in rows if row["ipc"] is not None))
    looks = styles([method for method, _ in entries])
    for kind, axes in panels.items():
        for k, (method, ipc) in enumerate(entries):
            shown = {row["student"]: row for row in rows
                     if (row["labels"], row["method"], row["ipc"]) == (kind, method, ipc)}  # fmt: skip
            x = [students.index(student) + 0.7 * ((k + 0.5) / len(entries) - 0.5) for student in shown]
            look = looks[method] | {"linestyle": "none", "markersize": 7, "capsize": 3}
            fade = 1.0 if len(counts) == 1 else 0.45 + 0.55 * sorted(counts).index(ipc) / (len(counts) - 1)
            axes.errorbar(
                x,
                [100 * row["mean"] for row in shown.values()],
                [100 * row["std"] for row in shown.values()],
                label=plain(method if len(counts) == 1 else f"{method}, {ipc} IPC"),
                alpha=fade,
                **look,
            )
        for row in rows:
            if row["method"] == "full":
                at = students.index(row["student"])
                axes.hlines(100 * row["mean"], at - 0.4, at + 0.4, _GREY, ":", linewidth=1.2, label=_FULL)
        for edge in range(1, len(students)):
            axes.axvline(edge - 0.5, color="#e3e6e8", linewidth=1)
        crowded = sum(map(len, students)) > 40
        turned: dict[str, Any] = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(len(students)), map(plain, students), **turned)
        axes.set_xlim(-0.5, len(students) - 0.5)
        axes.grid(visible=False, axis="x")
    each = f", {min(counts)} images per class" if len(counts) == 1 else ""
    return _finish(figure, panels, f"{rows[0]['dataset']}{each}", path)


def per_class_sheet(
    datasets: Mapping[str, DistilledDataset], classes: int | Sequence[int], path: Path | None = None, most: int = 10
) -> Image.Image:
    """The images of some classes in several datasets: one block per class, one row per dataset, heaviest images first.

    Args:
      datasets: name -> dataset; all have the same classes, but image sizes may differ.
      classes: an index into the class names, or several.
      most: the largest number of images per row.

    Raises:
      InputError: no dataset, datasets of different classes, or an unknown class.
    """
    classes = [classes] if isinstance(classes, int) else list(classes)
    if not datasets or not classes:
        raise InputError("no dataset or no class to draw; give at least one of each")
    names = next(iter(datasets.values())).class_names
    for name, dataset in datasets.items():
        if dataset.class_names != names:
            raise InputError(f"{name} has other classes than {next(iter(datasets))}; draw datasets of the same classes")
    for c in classes:
        if not 0 <= c < len(names):
            raise InputError(f"there is no class {c}; give an index from 0 to {len(names) - 1}")
    # Draw all images at the side of the largest ones; small images are magnified.
    largest = max(dataset.images.shape[1] for dataset in datasets.values())
    side = largest * max(1, 96 // largest)
    gap, text, head = max(4, side // 16), max(14, side // 9), max(17, side // 7)
    font, bold = ImageFont.load_default(text), ImageFont.load_default(head)
    left = gap * 3 + max(int(font.getlength(one_line(name, 100))) for name in datasets)
    columns = min(most, max(dataset.ipc for dataset in datasets.values()))
    block = head + 2 * gap + len(datasets) * (side + gap)
    wide = max(
        left + columns * (side + gap), 2 * gap + max(int(bold.getlength(one_line(names[c], 100))) for c in classes)
    )
    sheet = Image.new("RGB", (wide, gap + len(classes) * block + (len(classes) - 1) * head), "white")
    draw = ImageDraw.Draw(sheet)
    for b, c in enumerate(classes):
        y = gap + b * (block + head)
        draw.text((gap, y), one_line(names[c], 100), fill="black", font=bold)
        y += head + 2 * gap
        for name, dataset in datasets.items():
            draw.text((gap, y + side // 2), one_line(name, 100), fill="#444c53", font=font, anchor="lm")
            for column, picture in enumerate(_pictures(dataset, heaviest(dataset, c, most))):
                small = side % picture.width == 0
                how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
                sheet.paste(picture.resize((side, side), how), (left + column * (side + gap), y))
            y += side + gap
    if path:
        with atomic(Path(path)) as place:
            sheet.save(place, "PNG")
    return sheet


def _pictures(dataset: DistilledDataset, rows: np.ndarray) -> Iterable[Image.Image]:
    """The images of some rows as RGB or grey pictures."""
    for pixels in np.asarray(denormalise(dataset.norm, dataset.images[rows])):
        yield Image.fromarray(np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels)


# Helpers of all plots


def _panels(rows: Sequence[dict], labels: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel per kind of labels that has rows; InputError if there is none, or for NaN."""
    for row in rows:
        if not np.isfinite([row["mean"], row["std"]]).all():
            raise InputError(f"a row of {row['method']} has an accuracy that is not finite; leave it out")
    kinds = [kind for kind in labels if any(row["labels"] == kind and row["ipc"] is not None for row in rows)]
    if not kinds:
        raise InputError(f"no row has labels {' or '.join(labels)}; give rows of evaluation.json that have them")
    figure = Figure(figsize=(1.2 + 4.4 * len(kinds), 4.4), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for kind, one in zip(kinds, axes):
        one.set_title(plain(caption(kind)), fontsize="medium")
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e3e6e8", linewidth=0.8)
        one.set_axisbelow(True)
    axes[0].set_ylabel("test accuracy, %")
    return figure, dict(zip(kinds, axes))


def _line(axes: Axes, rows: list[dict], x: str, look: dict, label: str) -> None:
    """Draw accuracies in percent, with error bars, over the field ``x`` of the rows."""
    rows = sorted(rows, key=lambda row: row[x])
    mean, spread = (100 * np.array([row[name] for row in rows]) for name in ("mean", "std"))
    axes.errorbar([row[x] for row in rows], mean, spread, label=label, linewidth=1.8, markersize=6, capsize=3, **look)


def _log_axis(axes: Axes, ticks: Sequence[float], texts: Sequence[str] | None = None) -> None:
    """Make the x axis logarithmic, with just these ticks."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, texts or [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _finish(figure: Figure, panels: Mapping[str, Axes], title: str, path: Path | None) -> Figure:
    """Add the legend and the title, and write the figure if there is a path."""
    handles: dict[str, Artist] = {}
    for axes in panels.values():
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    # Measured lines come first, then published ones, then the line of all real data.
    handles = dict(sorted(handles.items(), key=lambda item: (item[0] in (_FULL, _SENT), item[0].endswith(_PAPER))))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 2 + 2 * len(panels)),
        frameon=False, fontsize="small",
    )  # fmt: skip
    figure.suptitle(plain(title))
    if path:
        with atomic(Path(path)) as place:
            place.write_bytes(png(figure))
    return figure


def plain(text: str) -> str:
    """A text that matplotlib draws as it is: no formula between dollars, and no label that is hidden by its first _."""
    text = one_line(text, 100).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _methods(rows: Iterable[dict]) -> list[str]:
    """The methods of the rows in their order, without ``full``."""
    return list(dict.fromkeys(row["method"] for row in rows if row["method"] != "full"))


def _hard(kind: str) -> bool:
    """Whether a protocol has hard labels."""
    try:
        return not named(kind).labels.asks_teacher
    except InputError:  # rows of a protocol that is not registered here
        return False


def _one(rows: Sequence[dict], name: str) -> None:
    """Raise InputError unless the field ``name`` is the same in all rows."""
    values = list(dict.fromkeys(row[name] for row in rows))
    if len(values) != 1:
        raise InputError(f"rows of {len(values)} {name}s ({', '.join(map(str, values))}); draw one at a time")


def _case(row: dict) -> tuple:
    return row["method"], row["dataset"], row["student"], f"{row['ipc']} IPC"


def _words(cases: Sequence[tuple]) -> dict[tuple, str]:
    """A name for each case, made of the parts in which the cases differ."""
    kept = [i for i in range(4) if len({case[i] for case in cases}) > 1] or [1, 2]
    return {case: ", ".join(case[i] for i in kept) for case in cases}
