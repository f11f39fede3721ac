"""Datasets in NumPy's files: one .npz with the arrays of all splits, or a folder of .npy files."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdd.data import image, places
from jaxdd.data.checks import layout, printable
from jaxdd.data.labels import classes, names_beside
from jaxdd.data.source import Source, make_source
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import map_array, read_arrays

IMAGES = ("x", "image", "images", "img", "imgs", "pixels", "data")
"""The names of arrays of images, besides that of the split."""
LABELS = ("y", "label", "labels", "target", "targets")
"""Those of arrays of labels."""
NAMES = ("class_names", "classes", "label_names")
"""Those of arrays of the names of classes."""
_LAYOUT = "x_train, y_train, x_test and y_test, or train_images, train_labels, test_images and test_labels"


class _Pair(NamedTuple):
    """The names of the arrays of a split; empty if there is none."""

    images: str = ""
    labels: str = ""


def load_numpy(
    name: str,
    image_size: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open an .npz file, or a folder of .npy files, which are mapped into memory. Nothing is unpickled.

    An array is called by its split and by what it holds, in any order: x_train, y_test, train_images, val_labels. Those
    without a split are train images and labels. The names of the classes are the array class_names, or in a folder the
    lines of classes.txt; default: the numbers.
    Images are uint8 [n, H, W] or [n, H, W, C], with C 1 or 3, and labels are integers [n] or [n, 1].

    Args:
      name: the path, then choices, see `places.parsed`: ``?image=pixels&label=fine_labels`` for arrays of other names
        (that of the split left out), ``?train=...&test=...`` for the splits. The split "test" is the first of test,
        val, valid and validation.
      image_size: the side of the images; default: that of the arrays if they are squares, else 224. `image.fit`
        converts.
      channels: 1 or 3; default: that of the arrays.
      skip_corrupt: of no effect, as arrays have no damaged images.
      needs_test: whether there must be test images; otherwise the split "test" is empty.

    Raises:
      InputError: no such file, a damaged one, no such arrays or several, or arrays of other dtypes or shapes.
    """
    image.check_request(image_size, channels)
    place = places.parsed(name)
    path = os.path.expanduser(place.path)
    if not os.path.lexists(path):
        near = places.meant(places.nearest(place.path))
        raise InputError(f"{printable(path)} does not exist{near}; give an .npz file or a folder of .npy files")
    arrays = read(path)
    pairs = _pairs(place, arrays)
    has_labels = lambda split: bool(pairs[split].images and pairs[split].labels)
    splits = places.splits_of(place, tuple(pairs), has_labels, needs_test, path)
    images = {split: pixels(arrays[pairs[part].images], f"{pairs[part].images} of {printable(path)}")
              for split, part in splits.items()}  # fmt: skip
    labels = {split: arrays[pairs[part].labels] for split, part in splits.items()}
    for split, part in images.items():
        if len(labels[split]) != len(part) or not len(part):
            raise InputError(f"{printable(path)} has {len(part)} {split} images and {len(labels[split])} labels; give "
                             "one label for each image")  # fmt: skip
    names = names_beside(path) if os.path.isdir(path) else class_names(arrays)
    known, labels = classes(labels, names, path)
    _, height, width, depth = images["train"].shape
    size = image_size or image.side_of([(width, height)], path)
    shape = (int(size), int(size), int(channels or depth))

    def read_rows(split: str, rows: np.ndarray) -> np.ndarray:
        return image.fit_arrays(images[split][rows], shape)

    return make_source(name.replace(place.path, path, 1), known, shape,
                       {"test": np.empty(0, np.int32)} | labels, read_rows)  # fmt: skip


def is_numpy(path: str) -> bool:
    """Whether a path is an .npz file, or a folder with .npy files of images."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return any(_parts(file.stem)[1] in IMAGES for file in Path(path).glob("*.npy"))
    return path.lower().endswith(".npz")


def read(path: str) -> dict[str, Any]:
    """The arrays of an .npz file, or those of a folder, mapped into memory, by their names."""
    if os.path.isdir(path):
        return {file.stem: map_array(file) for file in sorted(Path(path).glob("*.npy")) if file.stem not in NAMES}
    return read_arrays(path)


def class_names(arrays: dict[str, np.ndarray]) -> list[str] | None:
    """The names of the classes, if an array has them."""
    found = [arrays[name] for name in NAMES if name in arrays]
    return [str(name) for name in found[0].tolist()] if found and found[0].ndim == 1 else None


def pixels(images: np.ndarray, what: str) -> np.ndarray:
    """Images as uint8 [n, H, W, C], with C 1 or 3; InputError if they are anything else."""
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise InputError(f"{what} are {images.dtype} {list(images.shape)}; give uint8 [n, H, W] or [n, H, W, 1 or 3]"
                         f"{layout(images)}")  # fmt: skip
    return images


def _parts(name: str) -> tuple[str, str]:
    """The split in the name of an array, and the rest of it: ("train", "x") of x_train; no split is train."""
    words = [word for word in re.split(r"[_.-]+", name.lower()) if word]
    split = [word for word in words if word in ("train", *places.TEST_SPLITS)]
    return (split or ["train"])[0], "_".join(word for word in words if word not in split)


def _pairs(place: places.Place, names: Iterable[str]) -> dict[str, _Pair]:
    """The names of the arrays of each split that has images."""
    kinds = {kind: (place.choices[kind].lower(),) if kind in place.choices else known
             for kind, known in (("image", IMAGES), ("label", LABELS))}  # fmt: skip
    pairs: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        split, rest = _parts(name)
        for kind, known in kinds.items():
            if rest in known:
                pairs.setdefault(split, {}).setdefault(kind, []).append(name)
    for split, found in pairs.items():
        for kind, several in found.items():
            if len(several) > 1:
                raise InputError(f"{printable(place.path)} has {' and '.join(map(printable, several))} as the {kind}s "
                                 f"of {split}; choose one with ?{kind}=NAME")  # fmt: skip
    pairs = {split: found for split, found in pairs.items() if "image" in found}
    if not pairs:
        held = ", ".join(map(printable, sorted(names))) or "nothing"
        raise InputError(
            f"{printable(place.path)} has no array of images (it holds {held[:300]}); give {_LAYOUT}, or choose with "
            "?image=NAME&label=NAME"
        )
    return {split: _Pair(*(found.get(kind, [""])[0] for kind in kinds)) for split, found in pairs.items()}
