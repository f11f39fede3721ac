"""Labelled image datasets with random access: the digits of scikit-learn, folders of images, arrays and TFDS."""

import os
import re
from collections.abc import Callable

from jaxdd.data.arrays import from_arrays
from jaxdd.data.digits import load_digits
from jaxdd.data.folder import load_folder
from jaxdd.data.source import (
    Source,
    batches,
    checked,
    class_indices,
    hold_out,
    in_memory,
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
    "load_tfds",
    "permutations",
    "shuffled",
    "statistics",
    "without_damaged",
]


SOURCES = Registry("dataset", Callable)
"""Functions (image_size, channels) -> `Source`, by the name of a dataset."""
SOURCES.register("digits", load_digits)

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


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
      name: one of `SOURCES`, such as "digits" (see `load_digits`), a path to a folder (see `load_folder`), or a TFDS
        name (see `load_tfds`). A name is a path if it is absolute, starts with "." or "~", exists as a folder, or
        contains a separator and is not a TFDS name with a config ("imagenette/160px"). For a folder named digits, write
        "./digits".
      image_size: the side of the images, uint8 [image_size, image_size, channels]; None is the default of the dataset.
      channels: 1 or 3; None is the default of the dataset.
      data_dir: the folder of the TFDS datasets; None is the default of TFDS.
      skip_corrupt: decode all images once and leave out the damaged ones, see `without_damaged`.
      needs_test: whether a folder or TFDS dataset must have test images; otherwise their split "test" is empty, as is
        enough for `hold_out`.

    Raises:
      InputError: an unknown name, or see the function that opens the dataset.
    """
    name = os.fspath(name)
    if name in SOURCES or _IMPORT_PATH.fullmatch(name):
        source = SOURCES.find(name)(image_size, channels)
    elif name.startswith((os.sep, ".", "~")) or os.path.isdir(name) or (os.sep in name and not is_builder(name)):
        source = load_folder(name, image_size, channels, skip_corrupt, needs_test)
    else:
        source = load_tfds(name, image_size, channels, data_dir, skip_corrupt, needs_test)
    return without_damaged(source) if skip_corrupt else source
