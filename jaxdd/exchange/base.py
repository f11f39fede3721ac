"""What a form of an export is, and the registry to which modules add theirs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.registry import Registry


class Form(NamedTuple):
    """A layout that loaders of other libraries read.

    Attributes:
      title: what the layout is called.
      write: (a new folder, dataset, soft labels [n, K] or None) writes the images into the folder.
      use: a few lines of Python that read it back, from the folder of the export; None: the card's own.
      hub: (dataset, whether there are soft labels) -> the entries of the card by which the Hugging Face hub reads the
        folder, see `hub_files` and `class_label`; None if it does not.
    """

    title: str
    write: Callable[[Path, DistilledDataset, np.ndarray | None], None]
    use: str
    hub: Callable[[DistilledDataset, bool], dict[str, Any]] | None = None


def hub_files(pattern: str, **more: Any) -> dict[str, Any]:
    """The entry of a card that says which files are the train images; ``more`` is told to their reader."""
    files = [{"split": "train", "path": pattern}]
    return {"configs": [{"config_name": "default", "data_files": files, **more}]}


def class_label(column: str, names: Sequence[str]) -> dict[str, Any]:
    """A column of classes, as cards describe it. Without that, `datasets` takes numbers in files for mere integers."""
    return {"name": column, "dtype": {"class_label": {"names": {str(k): name for k, name in enumerate(names)}}}}


FORMS = Registry("form of an export", Form)
