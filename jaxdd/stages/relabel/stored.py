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
import jax.numpy as jnp
import numpy as np

from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import settings as fields
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import map_array
from jaxdd.ground.reading import check_regular, read_json
from jaxdd.ground.settings import EPOCHS, REQUIRED, SEED, Bounds, bounded

_AGAIN = "make them with: jaxdd relabel"
FORMS = ("float32", "float16", "topk", "int8")


class Stream(NamedTuple):
    """The settings of a label stream: how images are augmented and batched.

    Attributes:
      augment: the augmentation of the images before the teacher sees them.
      batch_size: B, at most the number of images.
      temperature: T of the KL divergence, which only the form "topk" needs; None if the labels have none.
    """

    augment: Augment
    batch_size: int
    temperature: float | None


@dataclass(frozen=True)
class LabelSettings:
    """The form in which soft labels are stored, see `encode`, and for how many epochs."""

    form: str = "int8"
    """float32, float16, topk or int8: 4 K, 2 K, 3 or 4 times ``top``, or K + 2 bytes per image and epoch."""
    top: int = 10
    """For topk: the number of classes whose probabilities are stored."""
    epochs: int = bounded(300, EPOCHS)
    """The number of epochs to store. A student that is trained for longer sees them again from the first."""

    def steps(self, images: int, batch_size: int) -> int:
        """The number of steps to store: each image ``epochs`` times, up to the last partial batch."""
        return -(-self.epochs * images // min(batch_size, images))


def record(settings: LabelSettings, num_classes: int) -> np.dtype:
    """The structured dtype of an image's label, with the fields of `encode`.

    Raises:
      InputError: an unknown form, no epoch, or ``top`` not in 1 .. K.
    """
    if settings.form not in FORMS or settings.epochs < 1:
        raise InputError(f"labels of `form` {settings.form!r} for {settings.epochs} epochs cannot be stored; use "
                         f"{', '.join(FORMS)}, and 1 epoch or more")  # fmt: skip
    if settings.form == "topk":
        if not 1 <= settings.top <= num_classes:
            raise InputError(f"`top` {settings.top} of {num_classes} classes cannot be stored; use 1 to {num_classes}")
        place = np.min_scalar_type(num_classes - 1).newbyteorder("<")
        return np.dtype([("above", "<f2", (settings.top,)), ("classes", place, (settings.top,))])
    if settings.form == "int8":
        return np.dtype([("codes", "u1", (num_classes,)), ("scale", "<f2")])
    return np.dtype([("logits", {"float32": "<f4", "float16": "<f2"}[settings.form], (num_classes,))])


def encode(settings: LabelSettings, logits: jax.Array, temperature: float) -> dict[str, jax.Array]:
    r"""Encode logits z for storage. Adding a constant to z does not change the softmax, so constants are dropped.

    - float32: z itself.
    - float16: :math:`z_k - \bar z`, rounded with a relative error of at most 2^-11.
    - int8: :math:`q_k = \mathrm{round}((z_k - \min z) / s)` with
      :math:`s = \max((\max z - \min z) / 255, 2^{-14})` in float16 for each image; the error is at most s / 2 per
      logit.
    - topk: for the k = ``top`` largest logits, their distance above the level r of the other K - k, called the tail:

      .. math:: d_k = z_k - r, \quad e^{r / T} = \frac1{K - k} \sum_{j \text{ in the tail}} e^{z_j / T},

      in float16. With the logit 0 for the whole tail, every stored class has its exact probability at temperature T,
      and the remaining mass is spread evenly over the tail. If there is no tail, r is taken over all classes.

    Args:
      logits: [N, K].
      temperature: T, which only topk needs.

    Returns:
      The fields of `record`, [N] or [N, ...] each.
    """
    logits = logits.astype(jnp.float32)
    if settings.form == "float32":
        return {"logits": logits}
    if settings.form == "float16":
        return {"logits": (logits - logits.mean(-1, keepdims=True)).astype(jnp.float16)}
    if settings.form == "int8":
        low = logits.min(-1, keepdims=True)
        # 2^-14 is the smallest normal float16. A smaller scale could be rounded down so far that the codes overflow.
        scale = jnp.maximum((logits.max(-1, keepdims=True) - low) / 255, 2.0**-14).astype(jnp.float16)
        codes = jnp.round((logits - low) / scale.astype(jnp.float32)).astype(jnp.uint8)
        return {"codes": codes, "scale": scale[..., 0]}
    num_classes = logits.shape[-1]
    largest, classes = jax.lax.top_k(logits, settings.top)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), classes, True, -1, inplace=False)
    tail = (~kept | (settings.top == num_classes)).astype(jnp.float32)
    count = num_classes - settings.top or num_classes
    level = temperature * jax.nn.logsumexp(logits / temperature, -1, b=tail / count, keepdims=True)
    index_type = record(settings, num_classes)["classes"].base
    return {"above": (largest - level).astype(jnp.float16), "classes": classes.astype(index_type)}


def decode(kept: dict[str, jax.Array], num_classes: int) -> jax.Array:
    """The logits that `encode` stored, float32 [N, K], up to a constant per image; the fields determine the form."""
    if "codes" in kept:
        return kept["codes"].astype(jnp.float32) * kept["scale"].astype(jnp.float32)[..., None]
    if "classes" in kept:
        above, classes = kept["above"].astype(jnp.float32), kept["classes"].astype(jnp.int32)
        tail = jnp.zeros((*above.shape[:-1], num_classes), jnp.float32)
        return jnp.put_along_axis(tail, classes, above, -1, inplace=False)
    return kept["logits"].astype(jnp.float32)


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
    shards: tuple[np.ndarray, ...]

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
    pairs = {"augment": (stream.augment, labels.augment), "batch size": (stream.batch_size, labels.batch_size)}
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
