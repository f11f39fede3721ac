"""The images of a distilled dataset as HTML, alone or beside real ones; a click enlarges an image, without a script."""

import io
from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdd.data.distilled import DistilledDataset, file_names, heaviest
from jaxdd.ground.normalise import denormalise
from jaxdd.reports.html import data, escape, paragraph
from jaxdd.reports.names import readable
from jaxdd.workspace.beside import CLASSES, Beside, shrunk

# The largest number of pixels of all distilled images on a page.
_PIXELS = 2_560_000
# The side from which on images are not magnified with visible pixels; enlarged ones have more of them.
_FINE, _ENLARGED = 64, 256


def grid(dataset: DistilledDataset, most: int = 20, real: Beside | None = None, folder: str = "") -> str:
    """The images of a dataset: one row per class with its name, the heaviest images first, weights below the images.

    Shows at most ``most`` images per class and fifty classes. Small images are magnified without smoothing. Large ones
    are shrunk if all of them together exceed 2.56 million pixels. A note says what is left out or shrunk.

    Args:
      real: real images to show beside them: the nearest to each, and some random ones at the end of each row.
      folder: where the class folders with the images are, so that the file of each is named below it.
    """
    shown, count = dataset.class_names[:CLASSES], min(most, dataset.ipc)
    size = _size(dataset, len(shown) * count)
    zoom = max(1, (96 if dataset.ipc == 1 else 64) // max(size))
    single, side = dataset.ipc == 1 and real is None, zoom * size[0]
    box = side, zoom * size[1]
    weighted, largest = uneven(dataset), float(dataset.weights.max())
    beside = _beside(real, box) if real else {}
    rows, files = [], file_names(dataset) if folder else None
    for c, name in enumerate(shown):
        chosen = heaviest(dataset, c, count)
        tiles = []
        for i, pixels in zip(chosen, np.asarray(denormalise(dataset.norm, dataset.images[chosen]))):
            percent = f"{100 * dataset.weights[i]:.1f}"
            alt = f"class {readable(name)}" + (f", weight {percent} %" if weighted else "")
            bar = f'<i style="width:{100 * dataset.weights[i] / largest:.0f}%"></i>{percent}' if weighted else ""
            below = bar + (_file(folder, files[i]) if files else "")
            tiles.append(
                f"<li><div>{_picture(shrunk(pixels, size), box, alt)}{below}</div>{beside.get(int(i), '')}</li>"
            )
        if real is not None and c < len(real.random):
            alt = f"a real image of class {readable(name)}"
            part = box if dataset.ipc == 1 else (side * 3 // 4, box[1] * 3 // 4)
            tiles.append(f'<li class="some">{"".join(_picture(one, part, alt) for one in real.random[c])}</li>')
        widths = (f' style="width:{side}px"', "") if single else ("", f' style="max-width:{10 * (side + 8) + 180}px"')
        title = f' title="{escape(name)}"' if readable(name) != name else ""
        label = f'<span class="name"{title}>{escape(readable(name))}</span>'
        rows.append(f"<div{widths[0]}>{label}<ul{widths[1]}>{''.join(tiles)}</ul></div>")
    # A few classes with one image each are laid out five to a row.
    few = f' style="max-width:{5 * side + 80}px"' if single and len(shown) <= 10 else ""
    kinds = " single" if single else "" if real is None else " real pairs" if dataset.ipc == 1 else " real"
    return f'<div class="grid{kinds}"{few}>\n' + "\n".join(rows) + f"\n</div>{_notes(dataset, count, size, folder)}"


def _file(folder: str, name: str) -> str:
    """The file of an image, whose path shows below the pointer."""
    return f'<div title="{escape(f"{folder}/{name}.png")}">{escape(Path(name).name)}.png</div>'


def _size(dataset: DistilledDataset, count: int) -> tuple[int, int]:
    """The width and height of the ``count`` images on a page."""
    height, width = dataset.images.shape[1:3]
    scale = min(1.0, 160 / max(height, width), isqrt(_PIXELS // count) / max(height, width))
    return max(1, round(scale * width)), max(1, round(scale * height))


def _notes(dataset: DistilledDataset, count: int, size: tuple[int, int], folder: str) -> str:
    """What to know about the images that are shown."""
    notes, shown = [], min(CLASSES, len(dataset.class_names))
    height, width = dataset.images.shape[1:3]
    if uneven(dataset):
        notes.append("The heaviest image of each class comes first; below each is its share of the class in percent.")
    if folder:
        notes.append(f"Its file is in the folder of its class in {folder}; the pointer shows the path.")
    if shown < len(dataset.class_names):
        notes.append(f"The first {shown} of {len(dataset.class_names)} classes.")
    if count < dataset.ipc:
        notes.append(f"{count} of the {dataset.ipc} images of each class.")
    if size != (width, height):
        notes.append(f"Shown at {size[0]} × {size[1]} pixels; the images have {width} × {height}.")
    return paragraph(" ".join(notes), note=True) if notes else ""


def _beside(real: Beside, box: tuple[int, int]) -> dict[int, str]:
    """The nearest real image of each row of the dataset that has one, with its distance."""
    form = ".2f" if real.by == "teacher" else ".0f"
    texts = [format(distance, form) for distance in real.distances]
    return {
        int(i): f'<div class="near">{_picture(one, box, f"the nearest real image, distance {text}")}real {text}</div>'
        for i, one, text in zip(real.places, real.nearest, texts)
    }


def _picture(pixels: np.ndarray, box: tuple[int, int], alt: str) -> str:
    """A picture, uint8 [H, W, ch], in a box of pixels, which a click enlarges and another one makes small again."""
    fine = max(pixels.shape[:2])
    kind = ' class="pixels"' if fine < _FINE else ' class="large pixels"' if fine < _ENLARGED else ""
    image = f'<img src="{data(_png(pixels))}" width="{box[0]}" height="{box[1]}"{kind} alt="{escape(alt)}">'
    size = f"--w:{box[0]}px;--h:{box[1]}px"
    switch = '<input type="checkbox" aria-label="enlarge"><span></span>'
    return f'<label class="zoom" style="{size}">{switch}{image}</label>'


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def uneven(dataset: DistilledDataset) -> bool:
    """Whether the weights within some class differ."""
    return not np.allclose(dataset.weights, 1 / dataset.ipc, rtol=1e-4)
