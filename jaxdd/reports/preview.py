"""A distilled dataset as a picture, and which of its images to show."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import one_line
from jaxdd.ground.files import atomic


def heaviest(dataset: DistilledDataset, label: int, most: int) -> np.ndarray:
    """The indices of at most ``most`` images of a class, by falling weight."""
    rows = np.flatnonzero(dataset.labels == label)
    return rows[np.argsort(-dataset.weights[rows], kind="stable")][:most]


def preview(dataset: DistilledDataset, path: Path | str, most: int = 20) -> None:
    """Write a PNG grid: one row per class, with its name and at most ``most`` images; small images are magnified.

    At most fifty classes are shown. With one image per class, five classes share a row.
    """
    pixels = dataset.pixels()
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, -1)
    side = pixels.shape[1]
    zoom = max(1, 96 // side) if dataset.ipc == 1 else max(1, 64 // side)
    cell_side, pad = side * zoom, 4
    text_size = max(13, cell_side // 9)
    font = ImageFont.load_default(text_size)
    shown = [one_line(name, 100) for name in dataset.class_names[:50]]
    if dataset.ipc == 1:
        columns, label = min(5, len(shown)), text_size + 5
        cells = [(i // columns, i % columns, i) for i in range(len(shown))]
        width, height = cell_side + pad, cell_side + label + pad
        size = (columns * width + pad, -(-len(shown) // columns) * height + pad)
    else:
        columns, label = min(most, dataset.ipc), 0
        left = max(int(font.getlength(name)) for name in shown) + 2 * pad
        cells = []
        width, height = cell_side + pad, cell_side + pad
        size = (left + columns * width + pad, len(shown) * height + pad)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)

    def paste(image, x, y):
        tile = Image.fromarray(image).resize((cell_side, cell_side), Image.Resampling.NEAREST)
        sheet.paste(tile, (x, y))

    for row, column, c in cells:
        x, y = pad + column * width, pad + row * height
        draw.text((x, y), _fitted(shown[c], font, cell_side), fill="black", font=font)
        paste(pixels[np.flatnonzero(dataset.labels == c)[0]], x, y + label)
    if not cells:
        for c, name in enumerate(shown):
            y = pad + c * height
            draw.text((pad, y + (cell_side - text_size) // 2 - 2), name, fill="black", font=font)
            for column, i in enumerate(np.flatnonzero(dataset.labels == c)[:columns]):
                paste(pixels[i], left + column * width, y)
    with atomic(Path(path)) as place:
        sheet.save(place, "PNG")


def _fitted(name: str, font: Any, width: int) -> str:
    """The longest beginning of a name that is at most ``width`` pixels wide."""
    while name and font.getlength(name) > width:
        name = name[:-1]
    return name
