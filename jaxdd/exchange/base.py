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
      use: a few lines of Python that read it back, from the folder of the export.
      hub: (dataset, whether there are soft labels, the name of the configuration) -> the entries of the card by which
        the Hugging Face hub reads the folder, see `hub_files` and `class_label`; None if it does not.
      libraries: imports what ``write`` needs besides jaxdd, see `items.needed`; None if that is nothing.
    """

    title: str
    write: Callable[[Path, DistilledDataset, np.ndarray | None], None]
    use: str
    hub: Callable[[DistilledDataset, bool, str], dict[str, Any]] | None = None
    libraries: Callable[[], Any] | None = None


def hub_files(name: str, pattern: str, **more: Any) -> dict[str, Any]:
    """The entry of a card that says which files are the train images; ``more`` is told to their reader.

    `datasets` caches what it reads under the name of the folder and that of the configuration, and looks at no content.
    So ``name`` must be another one for other images, see `items.configuration`.
    """
    files = [{"split": "train", "path": pattern}]
    return {"configs": [{"config_name": name, "default": True, "data_files": files, **more}]}


def class_label(column: str, names: Sequence[str]) -> dict[str, Any]:
    """A column of classes, as cards describe it. Without that, `datasets` takes numbers in files for mere integers."""
    return {"name": column, "dtype": {"class_label": {"names": {str(k): name for k, name in enumerate(names)}}}}


FORMS = Registry("form of an export", Form, few=True)
