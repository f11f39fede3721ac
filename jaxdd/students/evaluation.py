"""The train stage: students trained on distilled datasets, and their accuracy on real test images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import progress
from jaxdd.ground.tracing import struct
from jaxdd.nn.classifier import Apply, Classifier, Variables
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.forms import decode
from jaxdd.stages.relabel.labelling import Labelling
from jaxdd.stages.relabel.stored import Labels, check_fits
from jaxdd.students import lanes, train
from jaxdd.students.lanes import Limits, Pool, Trained
from jaxdd.students.protocol import Protocol
from jaxdd.students.train import Trainer, TrainSettings


class Lane(NamedTuple):
    """One student: its training data and its seed.

    Attributes:
      dataset: the images to train on.
      seed: the seed of the initial weights, the batches and the augmentation.
      labels: stored soft labels of these images; None for labels from the teacher, or hard labels.
      targets: one soft label an image, float32 [n, K]; default: the classes.
      name: what error messages call it; default: its place and its seed.
    """

    dataset: DistilledDataset
    seed: int
    labels: Labels | None = None
    name: str | None = None
    targets: np.ndarray | None = None


def student_trainer(
    model: Classifier,
    protocol: Protocol,
    teacher_apply: Apply | None,
    dataset: DistilledDataset,
    labels: Labels | None = None,
) -> Trainer:
    """The trainer for students on datasets of one shape, for every such dataset with this normalisation and every seed.

    Arguments that are equal, apart from the pixels, give the same trainer, which is compiled once.

    Args:
      teacher_apply: the teacher's function, needed for soft labels that are not stored.
      labels: stored labels of the same form and length as those that the students will learn from.
    """
    n = len(dataset.labels)
    settings = replace(protocol.train, batch_size=protocol.train.batch(n), min_batches=1)
    needs_teacher = protocol.labels.asks_teacher and labels is None
    norm = tuple(tuple(np.asarray(part, np.float32).tolist()) for part in dataset.norm)
    stored = None if labels is None else (labels.num_classes, labels.steps)
    teacher_apply = teacher_apply if needs_teacher else None
    return _trainer(model, protocol.labels, settings, teacher_apply, dataset.images.shape, norm, stored)


@lru_cache(maxsize=8)
def _trainer(
    model: Classifier,
    labelling: Labelling,
    settings: TrainSettings,
    teacher_apply: Apply | None,
    shape: tuple[int, ...],
    norm: tuple,
    stored: tuple[int, int] | None,
) -> Trainer:
    """`student_trainer` for images [n, H, W, C]; ``stored``: the numbers of classes and steps of stored labels."""
    cycle: int | None = None
    if stored:
        num_classes, cycle = stored
        criterion = labelling.stored_criterion(partial(decode, num_classes=num_classes))
    else:
        epochs, criterion = labelling.repeats_after, labelling.criterion(teacher_apply)
        if epochs:
            cycle = replace(settings, epochs=epochs).steps(shape[0])
    normalisation = Normalisation(*(np.array(part, np.float32) for part in norm))
    trainer = train.trainer(model, settings, settings.steps(shape[0]), criterion, normalisation, cycle)

    def prepare(variables):
        return nn.folded(teacher_apply, variables, shape[1:]) if teacher_apply else None

    return trainer._replace(prepare=prepare)


def side_by_side(
    trainer: Trainer,
    protocol: Protocol,
    students: Sequence[Lane],
    context: Any,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Trained]:
    """Train students from scratch, each on its dataset with its seed, and yield some at a time as they are finished.

    The result of a student does not depend on the other students, up to rounding. If a dataset (with its stored labels)
    occurs several times, the devices hold one copy of it.

    Args:
      students: their datasets have one shape; their stored labels have one form and length, or there are none.
      context: the teacher's variables; None if the labels do not come from the teacher.
      limits: devices, memory, and the work done at a time.

    Raises:
      InputError: no students, datasets of different shapes, or stored labels that do not belong to their dataset.
      DivergenceError: a student diverged; those that were yielded before are finished.
    """
    _check_shapes(students)
    stored = [lane.labels for lane in students if lane.labels is not None]
    repeated = trainer.cycle is not None and not protocol.labels.repeats_after
    if len(stored) not in (0, len(students)) or repeated and not stored or stored and trainer.cycle is None:
        raise InputError("stored labels and the trainer do not match; give `labels` to student_trainer and to all of "
                         "its students, or to none of them")  # fmt: skip
    identity = lambda lane: (id(lane.dataset), id(lane.labels), id(lane.targets))
    distinct = {identity(lane): lane for lane in students}
    which = [list(distinct).index(identity(lane)) for lane in students]
    n = len(students[0].dataset.labels)
    datasets = [lane.dataset for lane in distinct.values()]
    labels = [lane.labels for lane in distinct.values() if lane.labels is not None]
    for part, dataset in zip(labels, datasets):
        check_fits(part, dataset, protocol.stream(n))
        if (part.settings, part.steps) != (stored[0].settings, trainer.cycle):
            raise InputError(f"stored labels as {part.settings} of {part.steps} steps and labels as "
                             f"{stored[0].settings} of {trainer.cycle} steps cannot be learnt together; train their "
                             "students separately")  # fmt: skip
    pool = Pool(
        [dataset.images for dataset in datasets],
        [_targets(lane) for lane in distinct.values()],
        [dataset.loss_weights(protocol.weights) for dataset in datasets],
        labels or None,
    )
    batch_size, steps = protocol.train.batch(n), protocol.train.steps(n)
    names = [lane.name or f"student {s}, seed {lane.seed}" for s, lane in enumerate(students)]
    work = lanes.Lanes(which, [lane.seed for lane in students], batch_size, steps, names)
    return lanes.run(trainer, pool, work, trainer.prepare(context), limits)


def labelled(lane: Lane, protocol: Protocol, teacher: Teacher) -> Lane:
    """The lane with one soft label an image, if the labels of the protocol are such."""
    if not protocol.labels.per_image:
        return lane
    return lane._replace(targets=_soft_targets(_Identity(lane.dataset), protocol.labels, _Identity(teacher)))


class _Identity:
    """A key for what has no hash: equal only for the same object, which it keeps alive."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(maxsize=64)
def _soft_targets(dataset: _Identity, labels: Labelling, teacher: _Identity) -> np.ndarray:
    """The targets of a dataset, once for all its students, which then share it on the devices."""
    return labels.targets(answers(teacher.value, dataset.value.images), dataset.value.labels)


def answers(teacher: Teacher, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """The logits of a teacher on normalised images [n, H, W, ch] as they are, float32 [n, K]."""
    count = len(images)
    size, answer = min(batch_size, count), _answering(teacher.apply)
    rows = [np.minimum(np.arange(first, first + size), count - 1) for first in range(0, count, size)]
    parts = [answer(teacher.variables, images[some]) for some in rows]
    return np.concatenate(parts)[:count].astype(np.float32)


@lru_cache(maxsize=8)
def _answering(apply: Apply):
    return jax.jit(lambda variables, images: apply(variables, images).logits)


def _targets(lane: Lane) -> np.ndarray:
    """What each image of a lane's dataset is called, [n, K]."""
    dataset = lane.dataset
    return train.one_hot(dataset.labels, len(dataset.class_names)) if lane.targets is None else lane.targets


def _check_shapes(students: Sequence[Lane]) -> None:
    """Raise InputError if there are no students, or their datasets have different shapes."""
    if not students:
        raise InputError("no students to train; give one or more")
    shapes = {(lane.dataset.images.shape, len(lane.dataset.class_names)): None for lane in students}
    if len(shapes) > 1:
        (one, classes), (other, others) = list(shapes)[:2]
        raise InputError(
            f"datasets {list(one)} of {classes} classes and {list(other)} of {others} classes cannot be learnt "
            "together; train their students separately"
        )


def train_students(
    trainer: Trainer,
    protocol: Protocol,
    students: Sequence[Lane],
    context: Any,
    limits: Limits = Limits(),  # noqa: B008
) -> tuple[Variables, np.ndarray]:
    """`side_by_side`, merged: variables (every array [S, ...]) and loss curves [S, steps] of all students."""
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
    """Train one student from scratch and return its variables and loss curve [steps].

    Args:
      context: the teacher's variables; None if the labels do not come from the teacher.
      labels: stored soft labels, used instead of the teacher.
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
      variables: every array [S, ...].
      batches: (images [N, H, W, C], labels [N], valid [N]); invalid rows do not count.
      local: the devices of this process to use, in one row; each evaluates one classifier at a time. Default: all, but
        at most one per classifier.

    Raises:
      InputError: there is no batch.
    """
    count = len(jax.tree.leaves(variables)[0])
    local = local or parallel.mesh(jax.local_devices()[:count])
    program = _counting(apply, local)
    norm = parallel.put(Normalisation(np.asarray(norm.mean), np.asarray(norm.std)), local, parallel.SAME)
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
        raise InputError("no images to test on; give at least one batch")
    correct, total = np.concatenate(jax.device_get(counts))[:count].T
    return correct / total


@lru_cache(maxsize=8)
def _folding(local: Mesh):
    return jax.jit(parallel.sharded(jax.vmap(nn.fold), local))


@lru_cache(maxsize=8)
def _counting(apply: Apply, local: Mesh):
    """The program that adds a batch to the counts of correct and of valid images of each device, int32 [devices, 2]."""

    def count(variables, norm, so_far, images, labels, valid):
        logits = apply(jax.tree.map(lambda x: x[0], variables), normalise(norm, images)).logits
        real, found = valid > 0, logits.argmax(-1).astype(labels.dtype)
        return so_far + jnp.stack([x.sum(dtype=so_far.dtype) for x in (real & (found == labels), real)])

    specs = (parallel.EACH, parallel.SAME, parallel.EACH, *[parallel.SAME] * 3)
    return jax.jit(parallel.sharded(count, local, specs))


def testing(
    apply: Apply, variables: Variables, image_shape: tuple[int, int, int], form: tuple[int, int, int], local: Mesh
) -> Work:
    """The work of `accuracies`, by one classifier after the other.

    Args:
      variables: of one classifier, as shapes.
      form: (classifiers, test images, images of a batch).
    """
    count, images, batch = form
    local = parallel.mesh(list(local.devices.flat[:1]))
    some = parallel.shapes(jax.tree.map(lambda x: struct(1, *x.shape, dtype=x.dtype), variables),
                           NamedSharding(local, parallel.EACH))  # fmt: skip
    norm = Normalisation(*[struct(image_shape[2])] * 2)
    same = norm, struct(batch, *image_shape, dtype=np.uint8), struct(batch, dtype=np.int32), struct(batch)
    norm, *rest = parallel.shapes(same, NamedSharding(local, parallel.SAME))
    so_far = parallel.shapes(struct(1, 2, dtype=np.int32), NamedSharding(local, parallel.EACH))
    planned = Program(_counting(apply, local), (some, norm, so_far, *rest))
    return Work("test", "images", count * images, 1, count * -(-images // batch), 1, planned, batch, "fewer `seeds`")


def accuracy(apply: Apply, variables: Variables, norm: Normalisation, batches: Iterable) -> float:
    """Top-1 accuracy in [0, 1] over batches of (images, labels [N], valid [N]); invalid rows do not count."""
    return float(accuracies(apply, jax.tree.map(lambda x: x[None], variables), norm, batches)[0])


def recognised(apply: Apply, variables: Variables, dataset: DistilledDataset, batch_size: int = 250) -> float:
    """The share of the images of a distilled dataset that a classifier assigns to their class, in [0, 1]."""
    count = len(dataset.labels)
    size = min(batch_size, count)
    # One shape for all batches: the last is padded with its last image, which then does not count.
    places = [np.arange(first, first + size) for first in range(0, count, size)]
    chunks = ((np.minimum(place, count - 1), (place < count).astype(np.float32)) for place in places)
    batches = ((dataset.images[rows], dataset.labels[rows], valid) for rows, valid in chunks)
    return accuracy(apply, variables, dataset.norm, batches)
