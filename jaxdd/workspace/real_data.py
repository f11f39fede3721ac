"""The real images of a dataset: which ones, at what size, how normalised, whether mirrored."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxdd import data
from jaxdd.data import Source
from jaxdd.ground import hosts
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation

# A mirrored 2 or 5 is another character, so mirroring is off for these unless asked for.
_HANDED = ("digits", "mnist", "kmnist", "emnist", "svhn_cropped", "omniglot")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and at what size."""

    dataset: str = "digits"
    """"digits", a folder with train/<class>/* and val|test/<class>/*, any TFDS name, or one of your own as
    package.module:Name."""
    image_size: int | None = None
    """Side of the images in pixels; default: 8 for digits, the images' own if they are equal squares, else 224."""
    channels: int | None = None
    """1 or 3; default: 1 if all images are grey, else 3."""
    data_dir: str | None = None
    """Where TFDS keeps its datasets."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the images in [0, 1]; default: measured."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation; default: measured."""
    flip: bool | None = None
    """Mirror images in all stages; default: yes, except for characters."""
    holdout: float = 0.0
    """Share of the train images that take the place of the test images: choose settings on these, not on the test."""
    memory_gib: float = 4.0
    """Memory that decoded images may take, and again the pixels being optimised at a time."""

    @property
    def memory_bytes(self) -> int:
        """`memory_gib` in bytes."""
        return int(self.memory_gib * 2**30)


class RealData(NamedTuple):
    """Real images as a network sees them.

    Attributes:
      source: the images and their labels.
      norm: their normalisation.
      flip: whether a mirrored image still belongs to its class.
    """

    source: Source
    norm: Normalisation
    flip: bool

    @property
    def name(self) -> str:
        """What tables and file names call the dataset: a folder's own name, or a TFDS name without its slashes."""
        name = self.source.name
        return Path(name).name if Path(name).is_dir() else name.replace("/", "-").replace(":", "-")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.source.class_names


def open_data(config: DataConfig, source: Source | None = None) -> RealData:
    """Open the dataset that a config names, or prepare a given source like it.

    It is kept in memory where it fits; one of several processes, which needs a share of it, reads what it needs.

    Raises:
      InputError: no such dataset, damaged images, or a mean or std that does not fit.
    """
    source = source or data.load(config.dataset, config.image_size, config.channels, config.data_dir)
    if hosts.count() == 1:
        source = data.in_memory(source, config.memory_bytes)
    if config.holdout:
        source = data.hold_out(source, config.holdout)
    for split, labels in source.labels.items():
        # Decodes all of a split that fits in memory, so that a damaged image is found before any work is done.
        source.read(split, np.arange(min(1, len(labels))))
    real = RealData(source, _normalisation(config, source), True)
    flip = config.flip if config.flip is not None else real.name.split("-")[0] not in _HANDED
    return real._replace(flip=flip)


def _normalisation(config: DataConfig, source: Source) -> Normalisation:
    if (config.mean is None) != (config.std is None):
        raise InputError("`mean` and `std` go together; give both or neither")
    if config.mean is None or config.std is None:
        return Normalisation(*data.statistics(source))
    for name, value in (("mean", config.mean), ("std", config.std)):
        if len(value) != source.image_shape[2] or (name == "std" and min(value) <= 0):
            raise InputError(f"`{name}` {value} does not fit images with {source.image_shape[2]} channels")
    return Normalisation(*(np.array(value, np.float32) for value in (config.mean, config.std)))


def pass_size() -> int:
    """Images that a pass without gradients takes at a time: on CPU few, whose activations stay in the cache."""
    return 25 if jax.default_backend() == "cpu" else 250


def test_batches(source: Source):
    """The test images in batches for one pass without gradients."""
    return data.batches(source, "test", min(pass_size(), len(source.labels["test"])))
