"""A distilled dataset as a picture, and which of its images to show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdd.data.distilled import DistilledDataset, heaviest
from jaxdd.ground.errors import one_line
from jaxdd.ground.files import atomic
from jaxdd.reports.names import readable
from jaxdd.workspace.beside import CLASSES


def preview(dataset: DistilledDataset, path: Path | str, most: int = 20) -> None:
    """Write a PNG grid: one row per class, with its name and at most ``most`` images, the heaviest first.

    Small images are magnified. At most fifty classes are shown. With one image per class, five classes share a row.
    """
    pixels, names = dataset.pixels(), dataset.class_names[:CLASSES]
    picture = sheet([pixels[heaviest(dataset, c, most)] for c in range(len(names))], names)
    with atomic(Path(path)) as place:
        picture.save(place, "PNG")


def sheet(images: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """The picture of a `preview`.

    Args:
      images: those of each class, uint8 [m, H, W, ch].
      names: of these classes.
    """
    count, side = len(images[0]), images[0].shape[1]
    zoom = max(1, 96 // side) if count == 1 else max(1, 64 // side)
    cell_side, pad = side * zoom, 4
    text_size = max(13, cell_side // 9)
    font = ImageFont.load_default(text_size)
    shown = [one_line(readable(name), 100) for name in names]
    width = cell_side + pad
    if count == 1:
        columns, label, left = min(5, len(shown)), text_size + 5, 0
        height = cell_side + label + pad
        size = (columns * width + pad, -(-len(shown) // columns) * height + pad)
    else:
        columns, label, left = 1, 0, max(int(font.getlength(name)) for name in shown) + 2 * pad
        height = cell_side + pad
        size = (left + count * width + pad, len(shown) * height + pad)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for c, (name, some) in enumerate(zip(shown, images)):
        x, y = (pad if count == 1 else left) + c % columns * width, pad + c // columns * height
        if count == 1:
            draw.text((x, y), _fitted(name, font, cell_side), fill="black", font=font)
        else:
            draw.text((pad, y + (cell_side - text_size) // 2 - 2), name, fill="black", font=font)
        for k, one in enumerate(some):
            colour = Image.fromarray(np.repeat(one, 3, -1) if one.shape[-1] == 1 else one)
            picture.paste(colour.resize((cell_side, cell_side), Image.Resampling.NEAREST), (x + k * width, y + label))
    return picture


def _fitted(name: str, font: Any, width: int) -> str:
    """The longest beginning of a name that is at most ``width`` pixels wide."""
    while name and font.getlength(name) > width:
        name = name[:-1]
    return name
