"""Images as they grow: a picture of snapshots, one row per class and one column per snapshot."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdd.ground.errors import InputError, one_line
from jaxdd.reports.names import readable
from jaxdd.stages.context import Snapshot

_SMALL, _LARGE = 64, 128
"""The sides in pixels up to which images are magnified, and down to which they are reduced."""


class Film:
    """Keeps one image of each class from every snapshot that it is given; it is itself an ``on_snapshot``.

        film = Film(class_names)
        jaxdd.workspace.distill(config, on_snapshot=film)
        film.picture().save("film.png")

    Args:
      class_names: the names of all classes, which are the titles of the rows.
      image: the index of the image that is kept, among those of its class.
      most: the largest number of columns. Of more snapshots, the first, the last and as many evenly spaced ones are
        drawn.
      classes: the largest number of rows.

    Raises:
      InputError: no class, or fewer than two columns.
    """

    def __init__(self, class_names: Sequence[str], image: int = 0, most: int = 10, classes: int = 20):
        if not len(class_names) or most < 2 or classes < 1:
            raise InputError(f"{len(class_names)} classes, {most} columns, {classes} rows; give 1, 2, 1 or more")
        self.class_names, self.image, self.most = tuple(class_names[:classes]), image, most
        self.frames: dict[int, dict[int, np.ndarray]] = {}
        """Step -> label -> uint8 [H, W, ch]."""

    def __call__(self, snapshot: Snapshot) -> None:
        """Keep the image of each class in a snapshot."""
        pixels = snapshot.pixels()
        at = self.image - snapshot.first
        for row in np.flatnonzero((at >= 0) & (at < pixels.shape[1])):
            self.frames.setdefault(snapshot.step, {})[int(snapshot.classes[row])] = pixels[row, at[row]]

    def steps(self) -> list[int]:
        """The steps that are drawn, ascending."""
        steps = sorted(self.frames)
        chosen = np.linspace(0, len(steps) - 1, min(self.most, len(steps))).round().astype(int)
        return [steps[k] for k in chosen]

    def picture(self) -> Image.Image:
        """The images of all classes, one column per step; small images are magnified, and large ones are reduced."""
        steps, names = self.steps(), [one_line(readable(name), 40) for name in self.class_names]
        height, width = next((image.shape[:2] for frame in self.frames.values() for image in frame.values()), (8, 8))
        largest = max(height, width)
        zoom = max(1, _SMALL // largest) if largest <= _LARGE else _LARGE / largest
        height, width, gap, text = max(1, int(height * zoom)), max(1, int(width * zoom)), 4, 14
        font = ImageFont.load_default(text)
        left = max(int(font.getlength(name)) for name in [*names, "step"]) + 3 * gap
        top = text + 3 * gap
        columns = max(1, len(steps))
        sheet = Image.new("RGB", (left + columns * (width + gap), top + len(names) * (height + gap)), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((gap, gap), "step", fill="#444c53", font=font)
        for column, step in enumerate(steps):
            draw.text((left + column * (width + gap) + width // 2, gap), str(step), "#444c53", font, "ma")
        for row, name in enumerate(names):
            y = top + row * (height + gap)
            draw.text((gap, y + height // 2), name, fill="black", font=font, anchor="lm")
            for column, step in enumerate(steps):
                if row in self.frames[step]:
                    sheet.paste(_tile(self.frames[step][row], (width, height)), (left + column * (width + gap), y))
        return sheet


def _tile(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture [H, W, ch] in colour, magnified to ``size`` without smoothing, or reduced to it."""
    colour = Image.fromarray(np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels)
    return colour.resize(size, Image.Resampling.NEAREST if size[0] >= colour.width else Image.Resampling.LANCZOS)
