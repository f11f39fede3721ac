"""Soft labels on disk: the teacher's logits are stored, so that students can be trained without the teacher.

A *label stream* is the sequence of augmented batches that a student sees; it does not depend on the student's weights.
Step t takes batch t of `data.permutations(n, B, seed)` and augments it with fold_in(fold_in(key(seed), 1), t). So the
images, the augmentation, the batch size B and the seed determine the stream. Only the labels of the first steps are
stored, one record per image; boxes, flips and mixes are drawn again from the key. FKD (Shen and Xing 2022, section 3)
stores those on disk as well.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import settings as fields
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import map_array
from jaxdd.ground.reading import check_regular, read_json
from jaxdd.ground.settings import EPOCHS, REQUIRED, SEED, Bounds, bounded
from jaxdd.stages.relabel.forms import LabelForm, record

_AGAIN = "make them with: jaxdd relabel"


class Stream(NamedTuple):
    """The settings of a label stream: how images are augmented and batched.

    Attributes:
      augment: the augmentation of the images before the teacher sees them.
      batch_size: B, at most the number of images.
      temperature: T of the KL divergence, which only the form "topk" needs; None if the labels have none.
      batch_statistics: whether BatchNorm of the teacher uses the moments of the batch.
    """

    augment: Augment
    batch_size: int
    temperature: float | None
    batch_statistics: bool = False


@dataclass(frozen=True)
class LabelSettings(LabelForm):
    """The form in which soft labels are stored, and for how many epochs."""

    form: str = "int8"
    """float32, float16, topk or int8: 4 K, 2 K, 3 or 4 times ``top``, or K + 2 bytes per image and epoch."""
    epochs: int = bounded(300, EPOCHS)
    """The number of epochs to store. A student that is trained for longer sees them again from the first."""

    def steps(self, images: int, batch_size: int) -> int:
        """The number of steps to store: each image ``epochs`` times, up to the last partial batch.

        Raises:
          InputError: no epoch.
        """
        if self.epochs < 1:
            raise InputError(f"labels for {self.epochs} epochs cannot be stored; use 1 epoch or more")
        return -(-self.epochs * images // min(batch_size, images))


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of the first steps of a stream, on disk; read only when needed.

    Attributes:
      settings: the form of the labels.
      seed: the seed of the stream.
      batch_size: B, at most the number of images.
      steps: the number of stored steps; step t of a student reads step t mod ``steps``.
      num_classes: K.
      temperature: T of topk; None for the other forms, which do not depend on it.
      augment: the augmentation of the images before the teacher saw them.
      images: `fingerprint` of the images and their normalisation.
      batch_statistics: as of a `Stream`.
      shards: memory-mapped records, [at most S, B] each; all but the last hold the same number S of steps.
    """

    settings: LabelSettings
    seed: int
    batch_size: int
    steps: int
    num_classes: int
    temperature: float | None
    augment: Augment
    images: str
    batch_statistics: bool
    shards: tuple[np.ndarray, ...]

    @property
    def stream(self) -> Stream:
        """The stream that the labels belong to."""
        return Stream(self.augment, self.batch_size, self.temperature, self.batch_statistics)

    @property
    def nbytes(self) -> int:
        """The size of all records in bytes."""
        return sum(shard.nbytes for shard in self.shards)

    def read(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """The labels of these steps: every field of `record`, [len(steps), B, ...].

        Raises:
          InputError: values that are not finite, or classes that there are not.
        """
        size = len(self.shards[0])
        records = np.stack([self.shards[t // size][t % size] for t in steps])
        for name in fields_of(records.dtype):
            good = records[name] < self.num_classes if name == "classes" else np.isfinite(records[name])
            if not good.all():
                bad = steps[int(np.argmin(good.reshape(len(steps), -1).all(1)))]
                raise InputError(f"stored labels of step {bad}: {name} are not finite, or no classes; {_AGAIN}")
        return {name: np.ascontiguousarray(records[name]) for name in fields_of(records.dtype)}


def fields_of(kind: np.dtype) -> tuple[str, ...]:
    """The field names of a structured dtype."""
    return kind.names or ()


def open_labels(folder: Path | str) -> Labels:
    """Memory-map the labels that `materialise` wrote; ``folder`` may also be the run folder that contains them.

    Raises:
      InputError: the folder has no labels, incomplete labels or damaged ones.
    """
    folder = Path(folder)
    if not (folder / "labels.json").is_file() and (folder / "labels" / "labels.json").is_file():
        folder = folder / "labels"
    if not (folder / "labels.json").is_file():
        raise InputError(f"no stored labels in {folder}; {_AGAIN}")
    header = fields.parsed(_Header, read_json(folder / "labels.json"), str(folder / "labels.json"))
    kind, steps, each = record(header.settings, header.num_classes), header.steps, header.steps_a_shard
    shards: list[np.ndarray] = []
    for k, first in enumerate(range(0, steps, each)):
        if not shard_place(folder, k).exists():
            raise InputError(f"labels in {folder} were cut off at step {first} of {steps}; {_AGAIN}")
        shards.append(_opened(shard_place(folder, k), (min(each, steps - first), header.batch_size), kind))
    known = {item.name: getattr(header, item.name) for item in dataclasses.fields(header)}
    return Labels(**{name: value for name, value in known.items() if name != "steps_a_shard"}, shards=tuple(shards))


@dataclass(frozen=True)
class _Header:
    """What is read of a labels.json; see `Labels`."""

    settings: LabelSettings
    augment: Augment
    images: str
    temperature: float | None
    seed: int = bounded(REQUIRED, SEED)
    batch_size: int = bounded(REQUIRED, Bounds(1, 10**6))
    steps: int = bounded(REQUIRED, Bounds(1, 10**9))
    num_classes: int = bounded(REQUIRED, Bounds(1, 10**5))
    steps_a_shard: int = bounded(REQUIRED, Bounds(1, 10**9))
    batch_statistics: bool = False


def _opened(place: Path, shape: tuple[int, int], kind: np.dtype) -> np.ndarray:
    """The memory-mapped records of a shard; InputError unless it is one of this shape and dtype."""
    remedy = f"remove it, and {_AGAIN}"
    check_regular(place, remedy)
    try:
        shard = map_array(place, records=True)
    except InputError as error:
        raise InputError(f"{place} is damaged; {remedy}") from error
    if (shard.shape, shard.dtype) != (shape, kind):
        raise InputError(f"{place} is not what labels.json in its folder says; remove {place.parent}")
    return shard


def check_fits(labels: Labels, dataset: DistilledDataset, stream: Stream) -> None:
    """Raise InputError unless the labels are those of this dataset's images in this stream."""
    if labels.images != fingerprint_images(dataset):
        raise InputError(f"stored labels belong to other images; {_AGAIN}")
    names = ("augment", "batch_size", "batch_statistics")
    pairs = {name.replace("_", " "): (getattr(stream, name), getattr(labels, name)) for name in names}
    if labels.settings.form == "topk":
        pairs["temperature"] = stream.temperature, labels.temperature
    for name, (wanted, stored) in pairs.items():
        if wanted != stored:
            raise InputError(f"stored labels are for {name} {stored}, but the protocol has {wanted}; use their "
                             f"protocol, or {_AGAIN}")  # fmt: skip


def fingerprint(tree: Any) -> str:
    """The SHA-256 of a pytree of arrays: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(leaf.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint_images(dataset: DistilledDataset) -> str:
    """The `fingerprint` of a dataset's images and their normalisation."""
    floats = partial(np.asarray, dtype=np.float32)
    return fingerprint([floats(dataset.images), floats(dataset.norm.mean), floats(dataset.norm.std)])


def shard_place(folder: Path, k: int) -> Path:
    return folder / f"{k:05d}.npy"
