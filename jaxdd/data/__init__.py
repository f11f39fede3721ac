"""Labelled image datasets with random access: digits, folders, arrays, NumPy's files, the hub, WebDataset and TFDS."""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxdd.data.arrays import from_arrays
from jaxdd.data.digits import load_digits
from jaxdd.data.folder import has_classes, is_plain, load_folder
from jaxdd.data.hub import is_hub, load_hub
from jaxdd.data.numpy_files import is_numpy, load_numpy
from jaxdd.data.places import HUB, parsed
from jaxdd.data.shards import is_shards, load_shards
from jaxdd.data.source import (
    Source,
    batches,
    checked,
    class_indices,
    hold_out,
    in_memory,
    names_of,
    permutations,
    shuffled,
    statistics,
    without_damaged,
)
from jaxdd.data.tfds import is_builder, load_tfds
from jaxdd.ground.registry import Registry

__all__ = [
    "SOURCES",
    "Source",
    "batches",
    "checked",
    "class_indices",
    "from_arrays",
    "hold_out",
    "in_memory",
    "load",
    "load_digits",
    "load_folder",
    "load_hub",
    "load_numpy",
    "load_shards",
    "load_tfds",
    "names_of",
    "permutations",
    "shuffled",
    "statistics",
    "without_damaged",
]


SOURCES = Registry("dataset", Callable)
"""Functions (image_size, channels) -> `Source`, by the name of a dataset."""
SOURCES.register("digits", load_digits)

_IMPORT_PATH = re.compile(rf"(?!{HUB})[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Format(NamedTuple):
    """A way in which datasets are stored."""

    fits: Callable[[str], bool]
    """Whether a path or name, without choices, is of this format."""
    load: Callable[..., Source]
    """(name, image_size, channels, skip_corrupt, needs_test) -> the dataset."""


def _is_path(name: str) -> bool:
    return name.startswith((os.sep, ".", "~")) or os.path.isdir(name) or (os.sep in name and not is_builder(name))


FORMATS = {
    # First, as an archive that was unpacked is often left beside its folders.
    "class folders": Format(has_classes, load_folder),
    "hub": Format(is_hub, load_hub),
    "numpy": Format(is_numpy, load_numpy),
    "class folders alone": Format(is_plain, load_folder),
    "shards": Format(is_shards, load_shards),
    "folder": Format(_is_path, load_folder),
}
"""The formats of datasets in the order in which they are tried; what fits none is a TFDS name."""


def load(
    name: str | os.PathLike,
    image_size: int | None = None,
    channels: int | None = None,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open a dataset by name or path.

    Args:
      name: one of `SOURCES`, such as "digits" (see `load_digits`); "hf:owner/name" of the Hugging Face hub, or a folder
        of its parquet or arrow files (`load_hub`); an .npz file or a folder of .npy files (`load_numpy`); tar archives
        of WebDataset (`load_shards`); any other path to a folder (`load_folder`); or a TFDS name (`load_tfds`). A name
        is a path if it is absolute, starts with "." or "~", exists as a folder, or contains a separator and is not a
        TFDS name with a config ("imagenette/160px"). For a folder named digits, write "./digits".
      image_size: the side of the images, uint8 [image_size, image_size, channels]; None is the default of the dataset.
      channels: 1 or 3; None is the default of the dataset.
      data_dir: the folder of the TFDS datasets; None is the default of TFDS.
      skip_corrupt: decode all images once and leave out the damaged ones, see `without_damaged`.
      needs_test: whether the dataset must have test images; otherwise the split "test" may be empty, as is enough for
        `hold_out`.

    Raises:
      InputError: an unknown name, or see the function that opens the dataset.
    """
    name = os.fspath(name)
    if name in SOURCES or _IMPORT_PATH.fullmatch(name):
        source = SOURCES.find(name)(image_size, channels)
    else:
        open_named = next((kind.load for kind in FORMATS.values() if kind.fits(parsed(name).path)),
                          partial(load_tfds, data_dir=data_dir))  # fmt: skip
        source = open_named(name, image_size, channels, skip_corrupt=skip_corrupt, needs_test=needs_test)
    return without_damaged(source) if skip_corrupt else source
