"""Stage 5: what a classifier, or a distilled dataset, is worth on real test images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd import data, nn
from jaxdd.data import Source
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.progress import progress
from jaxdd.nn.classifier import Apply, Classifier, Variables
from jaxdd.stages.relabel import criteria as relabel
from jaxdd.stages.relabel.stored import Labels, check_fits, decode
from jaxdd.students import lanes as students
from jaxdd.students import train
from jaxdd.students.lanes import Pool, Trained
from jaxdd.students.protocol import Protocol
from jaxdd.students.train import Trainer


def student_trainer(
    model: Classifier,
    protocol: Protocol,
    teacher_apply: Apply | None,
    dataset: DistilledDataset,
    labels: Labels | None = None,
) -> Trainer:
    """The trainer for students of one shape; use it for every dataset of that size and every seed.

    Args:
      teacher_apply: answers for soft labels, unless they are stored.
      labels: stored labels like those that its students will learn from.
    """
    n, image_shape = len(dataset.labels), dataset.images.shape[1:]
    asks = protocol.labels == "soft" and labels is None
    if labels is not None:
        criterion = relabel.stored(partial(decode, num_classes=labels.num_classes), protocol.temperature)
    else:
        criterion = relabel.soft(teacher_apply, protocol.temperature) if asks else relabel.hard()
    settings = replace(protocol.train, batch_size=min(protocol.train.batch_size, n))
    trainer = train.trainer(model, settings, settings.steps(n), criterion, dataset.norm, labels and labels.steps)

    def prepare(variables):
        if not asks:
            return None
        # Only logits are asked of the teacher, and it gives them sooner without BatchNorm.
        return jax.jit(nn.fold)(variables) if nn.foldable(teacher_apply, variables, image_shape) else variables

    return trainer._replace(prepare=prepare)


def side_by_side(
    trainer: Trainer,
    protocol: Protocol,
    datasets: Sequence[DistilledDataset],
    seeds: Sequence[int],
    context: Any,
    local: Mesh | None = None,
    title: str = "students",
    labels: Sequence[Labels] | None = None,
    **limits: int | None,
) -> Iterator[Trained]:
    """Train a student from scratch on each dataset with the seed beside it; some at a time, as they are finished.

    A student is the same whatever others are trained beside it, up to rounding. Of a dataset (with its stored labels)
    that occurs several times the devices hold one copy.

    Args:
      datasets, seeds: one of each a student; datasets of one shape.
      context: the teacher's variables; None where nobody asks it.
      labels: stored labels, one a student and of one form and length, for a trainer that was made with such.
      local: this process's devices, in one row; default: all, but no more than there are students.
      limits: ``together``, ``launch``, ``resident_bytes`` and ``memory_bytes`` of `students.run`.

    Raises:
      InputError: datasets that are not of one shape, or not as many as seeds, or labels that are not theirs.
    """
    if len(datasets) != len(seeds) or not len(seeds):
        raise InputError(f"{len(datasets)} datasets and {len(seeds)} seeds: give one of each a student")
    shapes = {(dataset.images.shape, len(dataset.class_names)): None for dataset in datasets}
    if len(shapes) > 1:
        (one, classes), (other, others) = list(shapes)[:2]
        raise InputError(
            f"datasets {list(one)} of {classes} classes and {list(other)} of {others} cannot be learnt side by side; "
            "train their students apart"
        )
    if (labels is None) != (trainer.cycle is None):
        raise InputError("stored labels need a trainer that was made for them, and it needs them: give labels to both "
                         "student_trainer and its students, or to neither")  # fmt: skip
    told = [None] * len(datasets) if labels is None else list(labels)
    if len(told) != len(datasets):
        raise InputError(f"{len(datasets)} students and stored labels for {len(told)}: give one of each a student")
    asked = {(id(dataset), id(part)): (dataset, part) for dataset, part in zip(datasets, told)}
    which = [list(asked).index((id(dataset), id(part))) for dataset, part in zip(datasets, told)]
    for dataset, part in asked.values() if labels is not None else ():
        check_fits(part, dataset, protocol)
        if (part.settings, part.steps) != (told[0].settings, trainer.cycle):
            raise InputError(f"stored labels as {part.settings} of {part.steps} steps cannot be learnt beside those as "
                             f"{told[0].settings} of {trainer.cycle}; train their students apart")  # fmt: skip
    distinct = [dataset for dataset, _ in asked.values()]
    pool = Pool(
        [dataset.images for dataset in distinct],
        [train.one_hot(dataset.labels, len(dataset.class_names)) for dataset in distinct],
        [dataset.loss_weights(protocol.weights) for dataset in distinct],
        None if labels is None else [part for _, part in asked.values()],
    )
    n = len(datasets[0].labels)
    batch_size, steps = min(protocol.train.batch_size, n), protocol.train.steps(n)
    context = trainer.prepare(context)
    return students.run(trainer, pool, which, seeds, batch_size, steps, context, local, title, **limits)


def train_students(
    trainer: Trainer,
    protocol: Protocol,
    datasets: Sequence[DistilledDataset],
    seeds: Sequence[int],
    context: Any,
    local: Mesh | None = None,
    title: str = "students",
    labels: Sequence[Labels] | None = None,
    **limits: int | None,
) -> tuple[Variables, np.ndarray]:
    """All students of `side_by_side` at once: variables, [S, ...] every array, and loss curves [S, steps]."""
    parts = list(side_by_side(trainer, protocol, datasets, seeds, context, local, title, labels, **limits))
    variables = jax.tree.map(lambda *parts: np.concatenate(parts), *(part.variables for part in parts))
    return variables, np.concatenate([part.losses for part in parts])


def train_student(
    trainer: Trainer,
    protocol: Protocol,
    dataset: DistilledDataset,
    seed: int,
    context: Any,
    title: str = "student",
    labels: Labels | None = None,
) -> tuple[Variables, np.ndarray]:
    """Train one student from scratch: its variables and loss curve. ``context``: the teacher's variables."""
    labels = None if labels is None else [labels]
    variables, losses = train_students(trainer, protocol, [dataset], [seed], context, title=title, labels=labels)
    return jax.tree.map(lambda x: jnp.asarray(x[0]), variables), losses[0]


def accuracies(
    apply: Apply, variables: Variables, norm: Normalisation, batches: Iterable, local: Mesh | None = None
) -> np.ndarray:
    """Top-1 accuracies in [0, 1] of several classifiers of one architecture, [S], in one pass over the images.

    Args:
      variables: [S, ...] every array.
      batches: (images [N, H, W, C], labels [N], valid [N]); invalid rows do not count.
      local: this process's devices, in one row, each of which takes a classifier at a time; default: all, but no more
        than there are classifiers.

    Raises:
      InputError: no batch at all.
    """
    count = len(jax.tree.leaves(variables)[0])
    local = local or parallel.mesh(jax.local_devices()[:count])
    program = _counting(apply, local)
    norm = parallel.put(Normalisation(*map(np.asarray, norm)), local, parallel.SAME)
    chunks = parallel.chunks(count, local.devices.size)
    parts, counts = None, [parallel.put(np.zeros((len(places), 2), np.int32), local) for places in chunks]
    for batch in students.ahead(progress(batches, "test"), local, parallel.SAME):
        if parts is None:
            one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), variables)
            fold = _folding(local) if nn.foldable(apply, one, batch[0].shape[1:]) else lambda part: part
            parts = [fold(parallel.put(parallel.take(variables, places), local)) for places in chunks]
        before = counts
        counts = [program(part, norm, so_far, *batch) for part, so_far in zip(parts, before)]
        jax.block_until_ready(before)
    if parts is None:
        raise InputError("no images to be tested on; give at least one batch")
    correct, total = np.concatenate(jax.device_get(counts))[:count].T
    return correct / total


@lru_cache(maxsize=8)
def _folding(local: Mesh):
    return jax.jit(parallel.sharded(jax.vmap(nn.fold), local))


@lru_cache(maxsize=8)
def _counting(apply: Apply, local: Mesh):
    """Adds a batch to the images that each device's classifier knows and that there are, int32 [devices, 2]."""

    def count(variables, norm, so_far, images, labels, valid):
        logits = apply(jax.tree.map(lambda x: x[0], variables), normalise(norm, images)).logits
        there = valid > 0
        return so_far + jnp.stack([(there & (logits.argmax(-1) == labels)).sum(), there.sum()])

    specs = (parallel.EACH, parallel.SAME, parallel.EACH, *[parallel.SAME] * 3)
    return jax.jit(parallel.sharded(count, local, specs))


def accuracy(apply: Apply, variables: Variables, norm: Normalisation, batches: Iterable) -> float:
    """Top-1 accuracy in [0, 1] over batches of (images, labels [N], valid [N]); invalid rows do not count."""
    return float(accuracies(apply, jax.tree.map(lambda x: x[None], variables), norm, batches)[0])


def recognised(apply: Apply, variables: Variables, dataset: DistilledDataset, batch_size: int = 250) -> float:
    """The share of a distilled dataset's images that a classifier takes for their class, in [0, 1]."""
    read = lambda split, rows: dataset.images[rows]
    source = Source("distilled", dataset.class_names, dataset.images.shape[1:], {"train": dataset.labels}, read)
    chunks = data.batches(source, "train", min(batch_size, len(dataset.labels)))
    return accuracy(apply, variables, dataset.norm, chunks)


def row(
    method: str,
    dataset: str,
    ipc: int | None,
    student: str,
    labels: str,
    accuracies: list[float],
    **more: Any,
) -> dict:
    """A row of evaluation.json; accuracies in [0, 1], standard deviation over the seeds (0 for a single one)."""
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return {
        "method": method, "dataset": dataset, "ipc": ipc, "student": student, "labels": labels,
        "accuracies": accuracies, "mean": float(np.mean(accuracies)), "std": spread, **more,
    }  # fmt: skip
