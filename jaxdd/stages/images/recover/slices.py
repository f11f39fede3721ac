"""Recovery with global moments over slices: a part of the images of every class at a time."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxdd.ground import parallel
from jaxdd.ground.measure import Array
from jaxdd.stages.images.recover.chunks import Pictures, Recovered, Task
from jaxdd.stages.images.recover.fitting import rows_of
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms


def in_slices(
    recover: Callable[[list[Task], Pictures], Iterator[Recovered]],
    settings: RecoverSettings,
    tasks: Sequence[Task],
    pictures: Pictures,
    group: int,
    each: int,
) -> Iterator[Recovered]:
    """Recovery with global moments over slices: ``each`` images of every class of a group, all slices in parallel.

    The returned terms are means over the slices.

    Args:
      recover: maps tasks and pictures to finished classes, as `chunks.in_turn` does. It sees one class per slice.
      group: the number of classes that share global moments.
      each: the images of a class in one slice, a divisor of m.
    """
    goal = tasks[0].goal
    slices = goal.atoms.points.shape[1] // each
    groups = np.stack(parallel.chunks(len(goal.classes), group))
    places, which = np.broadcast_arrays(groups[:, None], np.arange(slices)[:, None])  # [groups, slices, group]
    places, which = places.reshape(-1), which.reshape(-1)
    rows = np.where(places < 0, -1, places * slices + which)
    parts = [Task(task.teacher, rows_of(_sliced(task.goal, slices, each), rows, settings)) for task in tasks]

    def begin(rows: np.ndarray) -> np.ndarray:
        # A chunk may have several slices of a class; read the images of the class only once.
        classes, at = np.unique(np.maximum(places[rows], 0), return_inverse=True)
        images = np.asarray(pictures.start(classes))
        return images.reshape(len(classes), slices, each, *images.shape[2:])[at, which[rows]]

    def patch(rows: np.ndarray, images: Array) -> Array:
        assert pictures.patch is not None
        return pictures.patch(np.maximum(places[rows], 0), images)

    pending: Iterator[np.ndarray] = iter(groups)
    done: list[Recovered] = []
    for chunk in recover(parts, Pictures(begin, None if pictures.patch is None else patch)):
        for first in range(0, len(chunk.places), group):
            part = slice(first, first + group)
            done.append(chunk._replace(images=chunk.images[part], terms=Terms(*(x[:, part] for x in chunk.terms))))
            if len(done) == slices:
                yield _joined(next(pending), done)
                done = []


def _sliced(goal: Goal, slices: int, each: int) -> Goal:
    """The goal of the slices of all classes, as classes of their own."""
    return Goal(
        np.repeat(goal.classes, slices),
        jax.tree.map(lambda x: np.asarray(x).reshape(-1, each, *x.shape[2:]), goal.atoms),
        np.repeat(goal.means, slices, axis=0),
        goal.moments,
        goal.feature_variance,
        np.tile(np.arange(slices, dtype=np.int32), len(goal.classes)),
    )


def _joined(places: np.ndarray, done: list[Recovered]) -> Recovered:
    """Merge the slices of a group into its classes."""
    kept = places >= 0
    # With the schedule "plateau" a slice may end before the others.
    steps = max(len(part.terms.feature) for part in done)
    long = lambda x: np.pad(x, ((0, steps - len(x)), (0, 0)), "edge")
    terms = jax.tree.map(lambda *parts: np.mean([long(x) for x in parts], 0)[:, kept], *(part.terms for part in done))
    return Recovered(places[kept], np.concatenate([part.images for part in done], 1)[kept], terms)
