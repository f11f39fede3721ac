"""The real images of a dataset: their size, their normalisation, and whether they may be mirrored."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxdd import data
from jaxdd.data import Source, places
from jaxdd.ground import hosts, settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import note

# Datasets of characters: a mirrored character is not the same character, so mirroring is off by default.
_HANDED = ("digits", "mnist", "kmnist", "emnist", "svhn_cropped", "omniglot")
# Of larger splits only some images are read to tell whether they are the same as before.
_COMPARED_BYTES = 2**30
_PROBES = 16
_LISTED = 20


@dataclass(frozen=True)
class DataConfig:
    """Which images, and at what size."""

    dataset: str = "digits"
    """"digits", a folder with train/<class>/* and val|test/<class>/* (or <class>/* alone, with --holdout),
    hf:owner/name of the Hugging Face hub or a folder of its parquet files, an .npz file, train-{000000..000009}.tar of
    WebDataset, any TFDS name, or your own dataset as package.module:Name.
    Columns and splits: hf:owner/name?image=img&label=fine_label&train=train&test=validation."""
    image_size: int | None = settings.bounded(None, settings.SIDE)
    """Side of the images in pixels; default: 8 for digits, the size on disk if all are equal squares, else 224."""
    channels: int | None = settings.bounded(None, settings.CHANNELS)
    """1 or 3; default: 1 if all images are grey, else 3."""
    data_dir: str | None = None
    """Where TFDS keeps its datasets; those of the hub lie in the cache of Hugging Face, see HF_HOME."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the images in [0, 1]; default: measured."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation; default: measured."""
    flip: bool | None = None
    """Mirror images at random in all stages; default: yes, except for datasets of characters."""
    holdout: float = 0.0
    """Share of the train images of each class that replace the test images: for data that have none, and to choose
    settings without the test images."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and list them, instead of stopping at the first one."""
    memory_gib: float = settings.bounded(4.0, settings.Bounds(0, 2**20))
    """Memory for decoded images, and as much again for the pixels that are optimised at a time."""

    @property
    def memory_bytes(self) -> int:
        """`memory_gib` in bytes."""
        return int(self.memory_gib * 2**30)


class RealData(NamedTuple):
    """Real images, with what is needed to show them to a network.

    Attributes:
      source: the images and their labels.
      norm: their normalisation.
      flip: whether a mirrored image still belongs to its class.
      content: what identifies these images beside the name of the dataset: the `content` of images that the caller
        passed, or a digest of the damaged images that were left out; else empty.
      passed: whether the caller passed these images, so that they cannot be opened again.
    """

    source: Source
    norm: Normalisation
    flip: bool
    content: str = ""
    passed: bool = False

    @property
    def name(self) -> str:
        """The name of the dataset in tables and file names: that of its folder or file, or its name without slashes."""
        return places.title(self.source.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.source.class_names


def open_data(config: DataConfig, source: Source | None = None) -> RealData:
    """Open the dataset that a config names, or prepare ``source`` in the same way.

    Images are kept in memory if they fit. In a run of several processes, each reads only the images of a named dataset
    that it needs, or all of them to find the damaged ones.

    Raises:
      InputError: no such dataset, damaged images, a source that `data.checked` refuses, or a mean or std that does not
        fit.
    """
    passed = source is not None
    if source is None:
        shape = config.image_size, config.channels
        source = data.load(config.dataset, *shape, config.data_dir, config.skip_corrupt, not config.holdout)
    elif config.skip_corrupt:
        source = data.without_damaged(source)
    source = data.checked(source, needs_test=not config.holdout)
    _list([damage.line for damage in source.skipped])
    if hosts.count() == 1:
        source = data.in_memory(source, config.memory_bytes)
    contents = ""
    if passed:
        contents = " ".join(content(source, split) for split in sorted(source.labels))
    elif source.skipped:
        contents = hashlib.sha256(repr([damage[:2] for damage in source.skipped]).encode()).hexdigest()
    if config.holdout:
        source = data.hold_out(source, config.holdout)
    for split in source.labels:
        # If a split fits in memory this decodes all of it, so a damaged image is reported before any other work.
        source.read(split, np.arange(1))
    real = RealData(source, _normalisation(config, source), True, contents, passed)
    flip = config.flip if config.flip is not None else real.name.split("-")[0] not in _HANDED
    return real._replace(flip=flip)


def _list(skipped: list[str]) -> None:
    """Say which images were left out."""
    for line in skipped[:_LISTED]:
        note(f"skipped {line}")
    if skipped:
        what = "1 damaged image" if len(skipped) == 1 else f"{len(skipped)} damaged images"
        note(f"skipped {what}" + (" (...)" if len(skipped) > _LISTED else ""))


def content(source: Source, split: str) -> str:
    """The SHA-256 of the labels and images of a split, the class names and the image shape.

    If the images take more than 1 GiB, 16 of them stand for all.
    """
    labels = source.labels[split]
    digest = hashlib.sha256(f"{source.class_names} {source.image_shape} ".encode() + labels.tobytes())
    rows = np.arange(len(labels))
    if len(rows) * int(np.prod(source.image_shape)) > _COMPARED_BYTES:
        rows = np.linspace(0, len(rows) - 1, _PROBES).astype(int)
    for first in range(0, len(rows), 1024):
        digest.update(np.ascontiguousarray(source.read(split, rows[first : first + 1024])).data)
    return digest.hexdigest()


def _normalisation(config: DataConfig, source: Source) -> Normalisation:
    if (config.mean is None) != (config.std is None):
        raise InputError("`mean` and `std` must be given together; give both or neither")
    if config.mean is None or config.std is None:
        return Normalisation(*data.statistics(source))
    for name, value in (("mean", config.mean), ("std", config.std)):
        if len(value) != source.image_shape[2] or (name == "std" and min(value) <= 0):
            raise InputError(f"`{name}` {value} does not fit images with {source.image_shape[2]} channels")
    return Normalisation(*(np.array(value, np.float32) for value in (config.mean, config.std)))


def pass_size() -> int:
    """The batch size of a pass without gradients; small on CPU, so that activations stay in the cache."""
    return 25 if jax.default_backend() == "cpu" else 250


def test_batches(source: Source) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The test images as batches (images, labels, valid) for one pass without gradients."""
    return data.batches(source, "test", min(pass_size(), len(source.labels["test"])))
