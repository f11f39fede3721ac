"""Soft labels that travel: the teacher's answers, kept on disk, so that students need no teacher.

A *label stream* is what a student sees of a dataset, whatever its own weights are. Step t draws batch t of
`data.permutations(n, B, seed)` and augments it with fold_in(fold_in(key(seed), 1), t), so the stream is decided by the
images, the augmentation, B and the stream's seed. Only the answers of its first steps are kept, in one record an image;
boxes, flips and mixes are drawn again from the key. FKD (Shen and Xing 2022, section 3) keeps those on disk as well.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import nn
from jaxdd.data import augment as augmentation
from jaxdd.data import permutations
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, write_json
from jaxdd.ground.normalise import normalise
from jaxdd.ground.progress import progress
from jaxdd.nn.classifier import Apply
from jaxdd.stages.context import Teacher

FORMS = ("float32", "float16", "topk", "int8")


class Stream(NamedTuple):
    """What a student sees of a dataset, whatever its own weights are: how images are augmented and batched.

    Attributes:
      augment: what the images go through before the teacher sees them.
      batch_size: B, never more than there are images.
      temperature: T of the KL divergence, for the form topk; None if the labels have none.
    """

    augment: Augment
    batch_size: int
    temperature: float | None


@dataclass(frozen=True)
class LabelSettings:
    """How soft labels are kept, see `encode`, and for how long a student sees new ones."""

    form: str = "int8"
    """float32, float16, topk or int8: 4 K, 2 K, 3 or 4 times ``top``, K + 2 bytes an image and epoch."""
    top: int = 10
    """topk: classes that keep their own probability."""
    epochs: int = 300
    """Epochs that are kept. A student that is trained for longer sees them again from the first."""

    def steps(self, images: int, batch_size: int) -> int:
        """Steps that are kept: each image ``epochs`` times, up to the last partial batch."""
        return -(-self.epochs * images // min(batch_size, images))


def record(settings: LabelSettings, num_classes: int) -> np.dtype:
    """The fields of an image's label and their types: those of `encode`.

    Raises:
      InputError: a form that does not exist, no epoch, or ``top`` not in 1 .. K.
    """
    if settings.form not in FORMS or settings.epochs < 1:
        raise InputError(f"labels of form {settings.form!r} for {settings.epochs} epochs: use {', '.join(FORMS)}, and "
                         "1 epoch or more")  # fmt: skip
    if settings.form == "topk":
        if not 1 <= settings.top <= num_classes:
            raise InputError(f"top {settings.top} of {num_classes} classes cannot be kept; use 1 to {num_classes}")
        place = np.min_scalar_type(num_classes - 1).newbyteorder("<")
        return np.dtype([("above", "<f2", (settings.top,)), ("classes", place, (settings.top,))])
    if settings.form == "int8":
        return np.dtype([("codes", "u1", (num_classes,)), ("scale", "<f2")])
    return np.dtype([("logits", {"float32": "<f4", "float16": "<f2"}[settings.form], (num_classes,))])


def encode(settings: LabelSettings, logits: jax.Array, temperature: float) -> dict[str, jax.Array]:
    r"""Logits z as what is kept of them; softmax does not change when a constant is added, so none keeps one.

    - float32: z itself.
    - float16: :math:`z_k - \bar z`, each rounded: an error of at most 2^-11 of it.
    - int8: :math:`q_k = \mathrm{round}((z_k - \min z) / s)`, with the image's own
      :math:`s = \max((\max z - \min z) / 255, 2^{-14})` in float16: an error of at most s / 2 in each logit.
    - topk: for the ``top`` largest, how far they lie above the level r of the others,

      .. math:: d_k = z_k - r, \quad e^{r / T} = \frac1{K - k} \sum_{j \text{ in the tail}} e^{z_j / T},

      in float16. Giving the logit 0 to all of the tail then leaves every kept class its probability at temperature T
      and spreads what remains, exactly, evenly over the tail. Without a tail, r is taken over all classes.

    Args:
      logits: [N, K].
      temperature: T, which the other forms do not depend on.

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
        # The least normal number of float16: below it a rounded scale could be too small by more than the codes bear.
        scale = jnp.maximum((logits.max(-1, keepdims=True) - low) / 255, 2.0**-14).astype(jnp.float16)
        codes = jnp.round((logits - low) / scale.astype(jnp.float32)).astype(jnp.uint8)
        return {"codes": codes, "scale": scale[..., 0]}
    num_classes = logits.shape[-1]
    largest, classes = jax.lax.top_k(logits, settings.top)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), classes, True, -1, inplace=False)
    tail = (~kept | (settings.top == num_classes)).astype(jnp.float32)
    count = num_classes - settings.top or num_classes
    level = temperature * jax.nn.logsumexp(logits / temperature, -1, b=tail / count, keepdims=True)
    place = record(settings, num_classes)["classes"].base
    return {"above": (largest - level).astype(jnp.float16), "classes": classes.astype(place)}


def decode(kept: dict[str, jax.Array], num_classes: int) -> jax.Array:
    """The logits [N, K] float32 that `encode` kept, up to a constant of each image; the fields tell the form."""
    if "codes" in kept:
        return kept["codes"].astype(jnp.float32) * kept["scale"].astype(jnp.float32)[..., None]
    if "classes" in kept:
        tail, classes = jnp.zeros((*kept["above"].shape[:-1], num_classes)), kept["classes"].astype(jnp.int32)
        return jnp.put_along_axis(tail, classes, kept["above"].astype(jnp.float32), -1, inplace=False)
    return kept["logits"].astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a stream's first steps, on disk; read where they are asked for.

    Attributes:
      settings: their form.
      seed: the stream's.
      batch_size: B, never more than there are images.
      steps: how many are kept; step t of a student sees t mod ``steps``.
      num_classes: K.
      temperature: T of topk; None for other forms, which do not depend on it.
      augment: what the images went through before the teacher saw them.
      images: `fingerprint` of the images and their normalisation.
      shards: [at most S, B] records each, mapped from the disk; all but the last hold the same number S of steps.
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
        """Bytes of all records."""
        return sum(shard.nbytes for shard in self.shards)

    def read(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """The labels of these steps, [len(steps), B, ...] every field of `record`."""
        size = len(self.shards[0])
        records = np.stack([self.shards[t // size][t % size] for t in steps])
        return {name: np.ascontiguousarray(records[name]) for name in records.dtype.names}


def materialise(
    folder: Path | str,
    dataset: DistilledDataset,
    stream: Stream,
    teacher: Teacher,
    settings: LabelSettings = LabelSettings(),
    seed: int = 0,
    shard_bytes: int = 64 * 2**20,
) -> Labels:
    """Ask the teacher about a label stream and keep its answers; a student of the same seed is the one it would teach.

    The folder holds `labels.json`, what decided the labels, and shards `00000.npy`, ... of `record`s [S, B], each
    written atomically when it is full. An interrupted call resumes behind the shards that are there.

    Args:
      stream: augmentation, batch size and temperature of a protocol, `Protocol.stream`.
      seed: the stream's; all students that learn from these labels see the same batches and augmentations.
      shard_bytes: what a shard may take, if it holds more than one step.

    Raises:
      InputError: settings that do not exist, a folder with labels of other settings, images or teacher, or logits that
        are no numbers in this form.
    """
    folder = Path(folder)
    kind, n = record(settings, len(dataset.class_names)), len(dataset.labels)
    steps = settings.steps(n, stream.batch_size)
    each = min(steps, max(1, shard_bytes // (stream.batch_size * kind.itemsize)))
    header = {
        "settings": dataclasses.asdict(settings), "seed": seed, "batch_size": stream.batch_size, "steps": steps,
        "num_classes": len(dataset.class_names),
        "temperature": stream.temperature if settings.form == "topk" else None,
        "augment": dataclasses.asdict(stream.augment), "images": _fingerprint_images(dataset),
        "teacher": fingerprint(teacher.variables), "device": jax.devices()[0].device_kind, "steps_a_shard": each,
    }  # fmt: skip
    begun = _begun(folder, header)
    missing = {k for k in range(-(-steps // each)) if not _shard(folder, k).is_file()}
    batches = _answers(dataset, stream, teacher, settings, seed, [t for t in range(steps) if t // each in missing])
    pending = []
    for t, answer in batches:
        pending.append(answer)
        if (t + 1) % each == 0 or t + 1 == steps:
            records = _records(pending, kind, settings.form, t)
            if not begun:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "labels.json", header)
                begun = True
            with atomic(_shard(folder, t // each)) as place, place.open("wb") as file:
                np.save(file, records, allow_pickle=False)
            pending = []
    return open_labels(folder)


def _answers(
    dataset: DistilledDataset, stream: Stream, teacher: Teacher, settings: LabelSettings, seed: int, steps: list[int]
) -> Iterator[tuple[int, dict]]:
    """Each of these steps (ascending) with its encoded answers, one batch computed ahead."""
    variables = teacher.variables
    if nn.foldable(teacher.apply, variables, dataset.images.shape[1:]):
        variables = jax.jit(nn.fold)(variables)
    answer = _answering(teacher.apply, stream.augment, settings, stream.temperature)
    shared = variables, dataset.norm, jax.random.fold_in(jax.random.key(seed), 1)
    previous = None
    for t, before in zip(progress(steps, "relabel"), [None, *steps]):
        if before is None or t != before + 1:
            order = permutations(len(dataset.labels), stream.batch_size, seed, t)
        # One batch waits behind the one that is answered, no more: images would pile up.
        jax.block_until_ready(previous)
        previous = answer(*shared, dataset.images[next(order)], t)
        yield t, previous


def _records(answers: list[dict], kind: np.dtype, form: str, step: int) -> np.ndarray:
    """The answers of several steps as records [S, B].

    Raises:
      InputError: some are no numbers in this form.
    """
    answers = jax.device_get(answers)
    records = np.empty((len(answers), len(next(iter(answers[0].values())))), kind)
    for name in kind.names:
        records[name] = np.stack([part[name] for part in answers])
        if not np.isfinite(records[name]).all():
            raise InputError(f"labels of steps up to {step} are no numbers as {form}; check the teacher, or use "
                             "float32 if its logits are huge")  # fmt: skip
    return records


@lru_cache(maxsize=8)
def _answering(teacher_apply: Apply, augment: Augment, settings: LabelSettings, temperature: float):
    """Compiled once for all datasets of one shape."""
    change = augmentation.pipeline(augment)

    def answer(variables, norm, key, images, t):
        # Whatever the targets are, the images are the same.
        images, _ = change(jax.random.fold_in(key, t), normalise(norm, images), jnp.zeros((len(images), 1)))
        return encode(settings, teacher_apply(variables, images).logits, temperature)

    return jax.jit(answer)


def open_labels(folder: Path | str) -> Labels:
    """Map what `materialise` wrote; ``folder`` may also be the run folder around it.

    Raises:
      InputError: no labels there, or not all of them.
    """
    folder = Path(folder)
    if not (folder / "labels.json").is_file() and (folder / "labels" / "labels.json").is_file():
        folder = folder / "labels"
    if not (folder / "labels.json").is_file():
        raise InputError(f"no stored labels in {folder}; make them with: python -m experiments.relabel")
    told = json.loads((folder / "labels.json").read_text())
    each, kind = told.pop("steps_a_shard"), LabelSettings(**told["settings"])
    told |= {"settings": kind, "augment": Augment(**told["augment"])}
    del told["teacher"], told["device"]
    shards = []
    for k, first in enumerate(range(0, told["steps"], each)):
        shape = min(each, told["steps"] - first), told["batch_size"]
        try:
            shards.append(np.load(_shard(folder, k), mmap_mode="r", allow_pickle=False))
        except FileNotFoundError as error:
            raise InputError(f"labels in {folder} were cut off at step {first} of {told['steps']}; make the rest with: "
                             "python -m experiments.relabel") from error  # fmt: skip
        except (ValueError, OSError) as error:
            raise InputError(f"{_shard(folder, k)} is damaged; remove it and make it again with: "
                             "python -m experiments.relabel") from error  # fmt: skip
        if (shards[-1].shape, shards[-1].dtype) != (shape, record(kind, told["num_classes"])):
            raise InputError(f"{_shard(folder, k)} is not what labels.json beside it says; remove {folder}")
    return Labels(**told, shards=tuple(shards))


def check_fits(labels: Labels, dataset: DistilledDataset, stream: Stream) -> None:
    """Raise InputError unless the labels are those of this dataset's images in this stream."""
    if labels.images != _fingerprint_images(dataset):
        raise InputError("stored labels are those of other images; make them anew with: python -m experiments.relabel")
    pairs = {"augment": (stream.augment, labels.augment), "batch size": (stream.batch_size, labels.batch_size)}
    if labels.settings.form == "topk":
        pairs["temperature"] = stream.temperature, labels.temperature
    for name, (wanted, stored) in pairs.items():
        if wanted != stored:
            raise InputError(f"stored labels are for {name} {stored}, and the protocol has {wanted}; use that "
                             "protocol, or make them anew with: python -m experiments.relabel")  # fmt: skip


def fingerprint(tree: Any) -> str:
    """The SHA-256 of a pytree of arrays: names, types, shapes and bytes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        leaf = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        found.update(leaf.reshape(-1).view(np.uint8))
    return found.hexdigest()


def _fingerprint_images(dataset: DistilledDataset) -> str:
    floats = partial(np.asarray, dtype=np.float32)
    return fingerprint([floats(dataset.images), floats(dataset.norm.mean), floats(dataset.norm.std)])


def _shard(folder: Path, k: int) -> Path:
    return folder / f"{k:05d}.npy"


def _begun(folder: Path, wanted: dict) -> bool:
    """Whether the folder was begun by the same call; InputError if it holds anything else."""
    place = folder / "labels.json"
    if not place.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and holds no labels; choose another folder or remove it")
        return False
    found = json.loads(place.read_text())
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(f"{folder} holds labels with {name} {found.get(name)}, not {value}; remove it or choose "
                             "another folder")  # fmt: skip
    return True
