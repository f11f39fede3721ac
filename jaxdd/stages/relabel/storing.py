"""Soft labels are stored: the teacher answers a label stream once, and its logits are written in shards."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd import nn
from jaxdd.data import augment as augmentation
from jaxdd.data import permutations
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import differences, dry, parallel
from jaxdd.ground import settings as fields
from jaxdd.ground.errors import DivergenceError, InputError, shown
from jaxdd.ground.files import atomic, write_json
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import Bar, log, progress
from jaxdd.ground.reading import read_json
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.ground.watch import EVERY
from jaxdd.nn.classifier import Apply
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.forms import encode, record
from jaxdd.stages.relabel.labelling import answering
from jaxdd.stages.relabel.stored import (
    Labels,
    LabelSettings,
    Stream,
    fields_of,
    fingerprint,
    fingerprint_images,
    open_labels,
    shard_place,
)

SHARD_BYTES = 64 * 2**20
_SHORTER = "a lower `epochs`"


def materialise(
    folder: Path | str,
    dataset: DistilledDataset,
    stream: Stream,
    teacher: Teacher,
    settings: LabelSettings = LabelSettings(),  # noqa: B008
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Labels:
    """Store the teacher's labels on a stream; a student of the same seed then trains as it would with the teacher.

    The folder holds `labels.json`, everything that determines the labels, and shards `00000.npy`, ... of `record`s
    [S, B], which are written atomically when they are full. An interrupted call resumes after those that exist. Each
    device of this process answers steps of its own.

    Args:
      stream: augmentation, batch size and temperature of a protocol, see `Protocol.stream`.
      seed: the seed of the stream; all students that learn from these labels see the same batches and augmentations.
      shard_bytes: the largest size of a shard that holds more than one step.

    Raises:
      InputError: unknown settings, a folder with labels of other settings, images or teacher, labels that do not fit
        on the disk, or logits that are too large for this form.
      DivergenceError: the teacher's logits are not finite. Shards that were full before remain.
    """
    folder = Path(folder)
    kind, header, begun, wanted = _task(folder, dataset, stream, teacher, settings, seed, shard_bytes)
    steps, each = header["steps"], header["steps_a_shard"]
    batches = _answers(dataset, stream, teacher, settings, seed, wanted)
    pending: list[dict] = []
    for t, answer in batches:
        pending.append(answer)
        if len(pending) % EVERY == 0:
            _check_finite(pending[-EVERY:], settings.form, t)
        if (t + 1) % each == 0 or t + 1 == steps:
            _check_finite(pending, settings.form, t)
            records = _records(pending, kind)
            if not begun:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "labels.json", header)
                begun = True
            with atomic(shard_place(folder, t // each)) as place, place.open("wb") as file:
                np.save(file, records, allow_pickle=False)
            pending = []
    return open_labels(folder)


def steps_left(
    folder: Path, dataset: DistilledDataset, stream: Stream, teacher: Teacher, settings: LabelSettings, seed: int = 0
) -> int:
    """The number of steps that `materialise` with these arguments would label.

    Raises:
      InputError: `materialise` would refuse them; but labels of other settings in the folder are only told in a line.
    """
    return len(_task(folder, dataset, stream, teacher, settings, seed, SHARD_BYTES)[3])


def _task(
    folder: Path,
    dataset: DistilledDataset,
    stream: Stream,
    teacher: Teacher,
    settings: LabelSettings,
    seed: int,
    shard_bytes: int,
) -> tuple[np.dtype, dict, bool, list[int]]:
    """The form of a label, everything that determines the labels, whether they are begun, and the steps to label."""
    fields.check(settings)
    kind, n = record(settings, len(dataset.class_names)), len(dataset.labels)
    steps = settings.steps(n, stream.batch_size)
    each = min(steps, max(1, shard_bytes // (stream.batch_size * kind.itemsize)))
    header = {
        "settings": dataclasses.asdict(settings), "seed": seed, "batch_size": stream.batch_size, "steps": steps,
        "num_classes": len(dataset.class_names),
        "temperature": stream.temperature if settings.form == "topk" else None,
        "augment": dataclasses.asdict(stream.augment), "images": fingerprint_images(dataset),
        **({"batch_statistics": True} if stream.batch_statistics else {}),
        "teacher": fingerprint(teacher.variables), "device": jax.devices()[0].device_kind, "steps_a_shard": each,
    }  # fmt: skip
    begun, changes = _begun(folder, header)
    if changes:
        refusal = f"{folder} holds labels of other settings: {changes}; remove it or choose another `out`"
        if not dry.is_on():
            raise InputError(refusal)
        if not dry.is_rough():
            log(f"without `dry_run` this is refused: {refusal}")
    _check_space(folder, steps * stream.batch_size * kind.itemsize)
    missing = {k for k in range(-(-steps // each)) if changes or not shard_place(folder, k).is_file()}
    return kind, header, begun, [t for t in range(steps) if t // each in missing]


def _answers(
    dataset: DistilledDataset, stream: Stream, teacher: Teacher, settings: LabelSettings, seed: int, steps: list[int]
) -> Iterator[tuple[int, dict]]:
    """Yield each of these steps (ascending) with its encoded labels; the next are computed meanwhile.

    Each device of this process answers a step of its own.
    """
    local = parallel.mesh(jax.local_devices())
    apply = answering(teacher, stream.batch_statistics)
    variables = nn.folded(apply, teacher.variables, dataset.images.shape[1:])
    answer = _answering(apply, stream.augment, settings, stream.temperature, local)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    shared = parallel.put((variables, dataset.norm, key), local, parallel.SAME)
    order = _order(len(dataset.labels), stream.batch_size, seed, steps)
    chunks = parallel.chunks(len(steps), local.devices.size)
    running: list[tuple[np.ndarray, dict]] = []
    for places in progress(chunks, Bar("relabel", _SHORTER)):
        t = np.array([steps[place] for place in places[places >= 0]], np.int32)
        rows = np.stack([next(order) for _ in t])
        # The devices without a step repeat the first one.
        filled = np.where(places < 0, 0, np.arange(len(places)))
        batch = parallel.put((dataset.images[rows[filled]], t[filled]), local)
        running.append((t, answer(*shared, *batch)))
        if len(running) > 1:
            yield from _fetched(*running.pop(0))
    for launch in running:
        yield from _fetched(*launch)


def _order(count: int, batch_size: int, seed: int, steps: list[int]) -> Iterator[np.ndarray]:
    """The rows of the images of each of these steps (ascending), [B]."""
    for t, before in zip(steps, [None, *steps]):
        if before is None or t != before + 1:
            order = permutations(count, batch_size, seed, t)
        yield next(order)


def _fetched(steps: np.ndarray, answers: dict) -> Iterator[tuple[int, dict]]:
    """The steps [k] of a launch, each with its encoded labels; arrays of ``answers`` have a leading axis of devices."""
    arrays = jax.device_get(answers)
    for place, t in enumerate(steps):
        yield int(t), {name: part[place] for name, part in arrays.items()}


def _records(answers: list[dict], kind: np.dtype) -> np.ndarray:
    """The encoded labels of several steps as records [S, B]."""
    records = np.empty((len(answers), len(next(iter(answers[0].values())))), kind)
    for name in fields_of(kind):
        records[name] = np.stack([part[name] for part in answers])
    return records


def _check_finite(answers: list[dict], form: str, last: int) -> None:
    """Raise an error unless the encoded labels of some steps up to ``last`` are finite.

    Raises:
      DivergenceError: a logit is not finite, whatever the form.
      InputError: a logit is too large for the form.
    """
    for step, answer in zip(range(last - len(answers) + 1, last + 1), answers):
        values = np.concatenate([np.ravel(part).astype(np.float32) for part in answer.values()])
        if np.isfinite(values).all():
            continue
        if form == "float32" or np.isnan(values).any():
            raise DivergenceError(f"relabel: labels of step {step} are not finite as {form}; the teacher has diverged, "
                                  "use another one")  # fmt: skip
        raise InputError(f"labels of step {step} are not finite as {form}, because the teacher's logits are huge; use "
                         "`form` float32")  # fmt: skip


def program(
    teacher: Teacher, stream: Stream, settings: LabelSettings, image_shape: tuple[int, int, int], local: Mesh
) -> Program:
    """The program that labels a batch of images on each device; ``teacher`` may hold shapes in place of variables."""
    variables, apply = teacher.variables, answering(teacher, stream.batch_statistics)
    if nn.foldable(apply, variables, image_shape):
        variables = shapes_of(nn.fold, variables)
    key = jax.eval_shape(lambda: jax.random.key(0))
    norm = Normalisation(*[struct(image_shape[2])] * 2)
    devices = local.devices.size
    batch = struct(devices, stream.batch_size, *image_shape), struct(devices, dtype=np.int32)
    same = parallel.shapes((variables, norm, key), NamedSharding(local, parallel.SAME))
    each = parallel.shapes(batch, NamedSharding(local, parallel.EACH))
    answer = _answering(apply, stream.augment, settings, stream.temperature, local)
    return Program(answer, (*same, *each))


def work(teacher: Teacher, stream: Stream, settings: LabelSettings, image_shape: tuple, steps: int) -> Work:
    """The work of `materialise`."""
    local = parallel.mesh(jax.local_devices())
    planned = program(teacher, stream, settings, image_shape, local)
    size, launches = stream.batch_size, -(-steps // local.devices.size)
    return Work("relabel", "images", size * steps, 1, launches, 1, planned, size, _SHORTER, least=size)


@lru_cache(maxsize=8)
def _answering(teacher_apply: Apply, augment: Augment, settings: LabelSettings, temperature: float, local: Mesh):
    """The function that labels a batch on each device; compiled once for all datasets of one shape."""
    change = augmentation.pipeline(augment)

    def answer(variables, norm, key, images, t):
        # The augmented images do not depend on the targets, so any targets will do.
        targets = jnp.zeros((images.shape[1], 1), jnp.float32)
        images, _ = change(jax.random.fold_in(key, t[0]), normalise(norm, images[0]), targets)
        encoded = encode(settings, teacher_apply(variables, images).logits, temperature)
        return jax.tree.map(lambda x: x[None], encoded)

    return jax.jit(parallel.sharded(answer, local, (*[parallel.SAME] * 3, *[parallel.EACH] * 2)))


def _check_space(folder: Path, size: int) -> None:
    """Raise InputError if labels of ``size`` bytes are larger than the disk of a folder, which may not exist yet."""
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if size > shutil.disk_usage(place).total:
        raise InputError(f"labels of {size / 2**30:.3g} GiB are larger than the disk of {folder}; use fewer `epochs`")


def _begun(folder: Path, wanted: dict) -> tuple[bool, str]:
    """Whether labels lie in a folder, and the settings in which they differ from those that are wanted, in words.

    Raises:
      InputError: the folder holds something else.
    """
    place = folder / "labels.json"
    if not place.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and holds no labels; choose another folder or remove it")
        return False, ""
    present = read_json(place)
    if not isinstance(present, dict):
        raise InputError(f"{place} holds {shown(present)}, not the record of labels; remove {folder}")
    changed = [name for name, value in wanted.items() if present.get(name) != value]
    changes = differences.between(*(_flat(record, changed) for record in (present, json.loads(json.dumps(wanted)))))
    # The numbers of steps follow from the others.
    decisive = [one for one in changes if not one.name.startswith("steps")]
    return True, differences.told(decisive or changes)


def _flat(record: dict, names: list[str]) -> dict:
    """Some entries of the record of labels, and the settings of their form, which lie in a table, beside them."""
    inner = record.get("settings") if "settings" in names else None
    others = {name: record[name] for name in names if name in record and name != "settings"}
    return {**inner, **others} if isinstance(inner, dict) else others
