"""Real images to show beside distilled ones: the nearest of the same class, and a few random ones of each class."""

from functools import partial
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxdd.data.distilled import DistilledDataset, heaviest
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, read_arrays
from jaxdd.ground.normalise import denormalise
from jaxdd.stages.context import Classes, Teacher
from jaxdd.stages.encode import SPACES, featuring
from jaxdd.workspace.real_data import pass_size
from jaxdd.workspace.workspace import Workspace

FILE = "real.npz"
"""The file of a run folder with these images."""
CLASSES, IMAGES, RANDOM = 50, 20, 4
"""The largest numbers of classes, of distilled images of a class, and of random real images of a class."""
_SIDE, _PIXELS = 128, 2_560_000
# Where features are not known, so many images of a class are compared.
_COMPARED = 200


class Beside(NamedTuple):
    """Small pictures of real images.

    Attributes:
      places: the rows of the distilled images that have a neighbour, [k]; the heaviest of each class.
      nearest: the nearest real image of the same class, uint8 [k, h, w, ch].
      distances: float32 [k], see ``by``.
      random: random real images of the first classes, uint8 [C, r, h, w, ch].
      by: "teacher": Euclidean distances of the teacher's features, in units of their standard deviation over all train
        images. "pixels": root mean square differences of grey levels, which are 0 to 255, among at most 200 images of a
        class.
    """

    places: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    random: np.ndarray
    by: str


def beside(workspace: Workspace, space: str, dataset: DistilledDataset, seed: int) -> Beside:
    """The real images beside a dataset, which was distilled in ``space`` by this process alone.

    The distances are those of features if the run has encoded them. Otherwise they are of pixels.
    """
    classes, by_features = workspace.classes(space), "teacher" in SPACES.find(space).needs
    shown = range(min(CLASSES, len(dataset.class_names)))
    count = min(IMAGES, dataset.ipc)
    places = np.concatenate([heaviest(dataset, c, count) for c in shown])
    if by_features:
        points = _features(workspace.teacher, dataset.images[places])
        found = [_nearest_features(classes, dataset.labels[i], point) for i, point in zip(places, points)]
    else:
        pixels = dataset.pixels()
        own = [pixels[places[dataset.labels[places] == c]] for c in shown]
        found = [one for c in shown for one in _nearest_pixels(workspace, classes, c, own[c])]
    rows, distances = zip(*found)
    drawn = [_random(classes.groups.rows(c), np.random.default_rng([seed, c])) for c in shown]
    read = partial(_pictures, workspace, classes, len(places) + RANDOM * len(shown))
    fewest = min(map(len, drawn))
    random = read(np.concatenate([some[:fewest] for some in drawn]))
    random = random.reshape(len(shown), fewest, *random.shape[1:])
    measured = np.array(distances, np.float32)
    return Beside(places, read(np.array(rows)), measured, random, "teacher" if by_features else "pixels")


def _features(teacher: Teacher, images: np.ndarray) -> np.ndarray:
    """The teacher's features of normalised images, [k, d]."""
    size, one = min(pass_size(), len(images)), featuring(teacher.apply)
    starts = range(0, len(images), size)
    rows = [np.minimum(np.arange(first, first + size), len(images) - 1) for first in starts]
    return np.concatenate([np.asarray(one(teacher.variables, images[some]), np.float32) for some in rows])[
        : len(images)
    ]


def _nearest_features(classes: Classes, label: int, point: np.ndarray) -> tuple[int, float]:
    """The encoded row of a class whose features are nearest to a point [d], and how far that is."""
    rows, encoded = classes.groups.rows(label), classes.encoded
    squares = np.square(encoded.features[rows] - point, dtype=np.float64).sum(1)
    k = int(np.argmin(squares))
    return int(rows[k]), float(np.sqrt(squares[k] / encoded.variance))


def _nearest_pixels(workspace: Workspace, classes: Classes, label: int, pixels: np.ndarray) -> list[tuple[int, float]]:
    """The same for each of some images of a class, uint8 [k, H, W, ch], by their pixels."""
    rows = classes.groups.rows(label)
    rows = rows[np.linspace(0, len(rows) - 1, min(_COMPARED, len(rows))).astype(int)]
    real = np.asarray(denormalise(workspace.teacher.norm, classes.images(rows)), np.float32)
    errors = [np.square(real - one).mean((1, 2, 3)) for one in pixels.astype(np.float32)]
    return [(int(rows[k]), float(np.sqrt(error[k]))) for error in errors for k in [int(np.argmin(error))]]


def _random(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(RANDOM, len(rows)), replace=False)


def _pictures(workspace: Workspace, classes: Classes, total: int, rows: np.ndarray) -> np.ndarray:
    """Encoded rows as small pictures, of which there are ``total`` in all."""
    pixels = np.asarray(denormalise(workspace.teacher.norm, classes.images(rows)))
    height, width = pixels.shape[1:3]
    scale = min(1.0, _SIDE / max(height, width), isqrt(_PIXELS // total) / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.stack([shrunk(one, size) for one in pixels])


def shrunk(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture, uint8 [H, W, ch], of another width and height."""
    if pixels.shape[1::-1] == size:
        return pixels
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], pixels.shape[-1])


def save(place: Path, images: Beside) -> None:
    """Write them into a file."""
    with atomic(place) as partial_file, open(partial_file, "wb") as file:
        np.savez_compressed(file, **images._asdict())


def load(place: Path, dataset: DistilledDataset) -> Beside:
    """Read what `save` wrote beside this dataset.

    Raises:
      InputError: the file is damaged, or belongs to another dataset.
    """
    arrays = read_arrays(place, Beside._fields)
    places, nearest, distances, random, by = (arrays[name] for name in Beside._fields)
    count, channels = len(dataset.labels), dataset.images.shape[-1]
    is_right = (
        (places.ndim, nearest.ndim, distances.ndim, random.ndim, by.ndim) == (1, 4, 1, 5, 0)
        and places.dtype.kind in "iu"
        and (nearest.dtype, random.dtype, distances.dtype) == (np.uint8, np.uint8, np.float32)
        and 0 < len(places) == len(nearest) == len(distances)
        and 0 <= places.min() <= places.max() < count
        and bool(np.isfinite(distances).all())
        and nearest.shape[3] == random.shape[4] == channels
        and 0 < len(random) <= len(dataset.class_names)
        and 0 not in (*nearest.shape, *random.shape)
        and str(by) in ("teacher", "pixels")
    )
    if not is_right:
        raise InputError(f"{place} holds no real images beside these; remove it, or make the run again")
    return Beside(places, nearest, distances, random, str(by))
