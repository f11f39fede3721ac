"""Stage 5: what a classifier, or a distilled dataset, is worth on real test images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

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
from jaxdd.stages.relabel.stored import Labels, check_fits, decode
from jaxdd.students import lanes, train
from jaxdd.students.lanes import Limits, Pool, Trained
from jaxdd.students.protocol import Protocol
from jaxdd.students.train import Trainer


class Lane(NamedTuple):
    """One student: what it learns from, and its seed.

    Attributes:
      dataset: its images.
      seed: of its first weights, its batches and augmentations.
      labels: stored soft labels of these images; None to ask the teacher, or nobody.
    """

    dataset: DistilledDataset
    seed: int
    labels: Labels | None = None


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
    asks = protocol.labels.asks_teacher and labels is None
    if labels is not None:
        criterion = protocol.labels.stored_criterion(partial(decode, num_classes=labels.num_classes))
    else:
        criterion = protocol.labels.criterion(teacher_apply)
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
    students: Sequence[Lane],
    context: Any,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Trained]:
    """Train students from scratch, each on its dataset with its seed; some at a time, as they are finished.

    A student is the same whatever others are trained beside it, up to rounding. Of a dataset (with its stored labels)
    that occurs several times the devices hold one copy.

    Args:
      students: of datasets of one shape, and stored labels of one form and length, or none.
      context: the teacher's variables; None where nobody asks it.
      limits: devices, memory, and how much is done at a time.

    Raises:
      InputError: no student, datasets that are not of one shape, or labels that are not theirs.
    """
    _check_shapes(students)
    stored = [lane.labels for lane in students if lane.labels is not None]
    if len(stored) not in (0, len(students)) or bool(stored) != (trainer.cycle is not None):
        raise InputError("stored labels need a trainer that was made for them, and it needs them: give labels to both "
                         "student_trainer and all of its students, or to none")  # fmt: skip
    distinct = {(id(lane.dataset), id(lane.labels)): lane for lane in students}
    which = [list(distinct).index((id(lane.dataset), id(lane.labels))) for lane in students]
    n = len(students[0].dataset.labels)
    for lane in distinct.values() if stored else ():
        check_fits(lane.labels, lane.dataset, protocol.stream(n))
        if (lane.labels.settings, lane.labels.steps) != (stored[0].settings, trainer.cycle):
            raise InputError(f"stored labels as {lane.labels.settings} of {lane.labels.steps} steps cannot be learnt "
                             f"beside those as {stored[0].settings} of {trainer.cycle}; train their students "
                             "apart")  # fmt: skip
    datasets = [lane.dataset for lane in distinct.values()]
    pool = Pool(
        [dataset.images for dataset in datasets],
        [train.one_hot(dataset.labels, len(dataset.class_names)) for dataset in datasets],
        [dataset.loss_weights(protocol.weights) for dataset in datasets],
        [lane.labels for lane in distinct.values()] if stored else None,
    )
    batch_size, steps = min(protocol.train.batch_size, n), protocol.train.steps(n)
    work = lanes.Lanes(which, [lane.seed for lane in students], batch_size, steps)
    return lanes.run(trainer, pool, work, trainer.prepare(context), limits)


def _check_shapes(students: Sequence[Lane]) -> None:
    """Raise InputError unless there are students, of datasets of one shape."""
    if not students:
        raise InputError("no students to train; give one or more")
    shapes = {(lane.dataset.images.shape, len(lane.dataset.class_names)): None for lane in students}
    if len(shapes) > 1:
        (one, classes), (other, others) = list(shapes)[:2]
        raise InputError(
            f"datasets {list(one)} of {classes} classes and {list(other)} of {others} cannot be learnt side by side; "
            "train their students apart"
        )


def train_students(
    trainer: Trainer,
    protocol: Protocol,
    students: Sequence[Lane],
    context: Any,
    limits: Limits = Limits(),  # noqa: B008
) -> tuple[Variables, np.ndarray]:
    """All students of `side_by_side` at once: variables, [S, ...] every array, and loss curves [S, steps]."""
    parts = list(side_by_side(trainer, protocol, students, context, limits))
    variables = jax.tree.map(lambda *parts: np.concatenate(parts), *(part.variables for part in parts))
    return variables, np.concatenate([part.losses for part in parts])


def train_student(
    trainer: Trainer,
    protocol: Protocol,
    dataset: DistilledDataset,
    seed: int,
    context: Any,
    labels: Labels | None = None,
) -> tuple[Variables, np.ndarray]:
    """Train one student from scratch: its variables and loss curve [steps].

    Args:
      context: the teacher's variables; None where nobody asks it.
      labels: stored soft labels, which then take the teacher's place.
    """
    variables, losses = train_students(
        trainer, protocol, [Lane(dataset, seed, labels)], context, Limits(title="student")
    )
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
    for batch in lanes.ahead(progress(batches, "test"), local, parallel.SAME):
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
