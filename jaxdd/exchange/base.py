"""What a form of an export is, and the registry to which modules add theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.registry import Registry


class Form(NamedTuple):
    """A layout that loaders of other libraries read.

    Attributes:
      title: what the layout is called.
      write: (a new folder, dataset, soft labels [n, K] or None) writes the images into the folder.
      use: a few lines of Python that read it back, from the folder of the export; None: the card's own.
      data: for a Hugging Face hub that reads the folder: the pattern of its files; None if it does not.
    """

    title: str
    write: Callable[[Path, DistilledDataset, np.ndarray | None], None]
    use: str
    data: str | None = None


FORMS = Registry("form of an export", Form)
