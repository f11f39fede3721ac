"""Recovery of any number of classes: in chunks that fit in memory, on all devices of this process."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground import launching, parallel
from jaxdd.ground.launching import Curve
from jaxdd.ground.measure import Array
from jaxdd.ground.progress import Bar
from jaxdd.ground.watch import Watch
from jaxdd.nn.classifier import Variables, takes
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover.descent import Recovery, State
from jaxdd.stages.images.recover.fitting import (
    Placement,
    fitted,
    launches_of,
    rows_of,
    shardings,
)
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms
from jaxdd.stages.images.recover.shown import Shown
from jaxdd.stages.images.recover.watched import watched

SHORTER = "a lower `imager.steps`"
Start = Callable[[np.ndarray], Array]  # rows of a goal [k] -> the initial images, [k, m, H, W, ch]


class Pictures(NamedTuple):
    """Images to begin with, and real ones to mix in.

    Attributes:
      start: rows of a goal [k] -> the initial images, float32 [k, m, H, W, ch].
      patch: these rows, and their images [k, m, H, W, ch] so far -> the real images that are mixed in, of that shape.
    """

    start: Start
    patch: Callable[[np.ndarray, Array], Array] | None = None


class Task(NamedTuple):
    """What the images have to match in the eyes of one teacher.

    Attributes:
      teacher: the classifier.
      goal: the goal of all classes that this process has to recover.
    """

    teacher: Teacher
    goal: Goal


class Recovered(NamedTuple):
    """The finished images of some classes."""

    places: np.ndarray  # [k], rows of the goal
    images: np.ndarray  # [k, m, H, W, ch]
    terms: Terms  # at each step, [steps, k] each


def run(
    key: jax.Array,
    teacher: Teacher,
    settings: RecoverSettings,
    goal: Goal,
    start: Start,
    image_shape: tuple[int, int, int],
    placement: Placement,
) -> Iterator[Recovered]:
    """`in_turn` with one teacher, and without real images to mix in."""
    return in_turn(key, [Task(teacher, goal)], settings, Pictures(start), image_shape, placement)


def in_turn(
    key: jax.Array,
    tasks: Sequence[Task],
    settings: RecoverSettings,
    pictures: Pictures,
    image_shape: tuple[int, int, int],
    placement: Placement,
) -> Iterator[Recovered]:
    """Take all steps for all classes, chunk by chunk, sharded over the devices of this process.

    On CPU a chunk has about 10 to 25 images: the activations then stay in the cache, and the images are byte-identical
    on any number of devices and hosts. On an accelerator a chunk is as large as fits, and a launch takes many steps.

    Args:
      tasks: what the images have to match, one for each teacher; step t is that of task t mod their number.
      image_shape: (H, W, ch).

    Raises:
      InputError: one group of classes does not fit in memory, even if activations are recomputed; or some steps are on
        smaller images, which the model does not accept.
      DivergenceError: a class diverged. The chunks that were yielded before are finished.
    """
    goal = tasks[0].goal
    for task in tasks:
        settings.check_shapes(image_shape, partial(takes, task.teacher.apply, task.teacher.variables))
    placement = placement.beside(len(goal.classes))
    stretches = [_stretch(key, k, tasks, settings, image_shape, placement) for k in range(len(settings.sides))]
    variables = [parallel.put(task.teacher.variables, placement.local, parallel.SAME) for task in tasks]
    chunks = parallel.chunks(len(goal.classes), min(part.size for part in stretches) * placement.unit)
    for i, places in enumerate(chunks):
        kept, rows = places >= 0, np.maximum(places, 0)
        images = np.asarray(pictures.start(rows))
        chunk = Chunk(places, [rows_of(task.goal, places, settings) for task in tasks], (i, len(chunks)))
        curves, watches = [], []
        for stretch in stretches:
            if stretch.number:
                images = _mixed(images, pictures, rows, settings.mixing)
            images, curve, watch = _descended(
                tasks, stretch, chunk, variables, resized(images, stretch.shape), placement
            )
            images = resized(images, image_shape)
            curves.append(curve)
            watches.append(watch)
        terms = jax.tree.map(lambda *parts: np.concatenate(parts), *curves)
        yield Recovered(places[kept], images[kept], jax.tree.map(partial(np.compress, kept, axis=1), terms))
        for watch in watches:
            watch.checkpoints.clear()


class Stretch(NamedTuple):
    """One descent of several, which follow each other.

    Attributes:
      number: its place among them.
      settings: with its part of the steps.
      shape: of its images, (H, W, ch).
      init: images, float32 [k, m, H, W, ch] of that shape -> the first state, on the devices.
      solvers: of each task.
      size: groups per device at a time.
      launches: the steps and coarseness of every launch.
    """

    number: int
    settings: RecoverSettings
    shape: tuple[int, int, int]
    init: Callable[[Array], State]
    solvers: list[Recovery]
    size: int
    launches: list[tuple[int, bool]]


class Chunk(NamedTuple):
    """Some classes that are recovered together.

    Attributes:
      places: their rows of the goal; -1 is padding.
      goals: of each task, with these rows.
      number: of the chunk, and how many there are.
    """

    places: np.ndarray
    goals: list[Goal]
    number: tuple[int, int]


def _stretch(
    key: jax.Array,
    number: int,
    tasks: Sequence[Task],
    settings: RecoverSettings,
    image_shape: tuple[int, int, int],
    placement: Placement,
) -> Stretch:
    """A stretch that fits in memory; each has random views of its own."""
    settings, shape = settings.stretch(number), settings.shape(number, image_shape)
    views = jax.random.fold_in(key, number) if number else key
    each = len(tasks[0].goal.atoms.points[0]), *shape
    fits = [fitted(views, task.teacher, settings, task.goal, each, placement) for task in tasks]
    # Teachers take turns step by step, so that a launch has one step.
    launches = fits[0].launches if len(tasks) == 1 else launches_of(settings, 1)
    solvers = [fit.solver for fit in fits]
    init = jax.jit(solvers[0].init, out_shardings=shardings(solvers[0], settings, placement.local)[0])
    return Stretch(number, settings, shape, init, solvers, min(fit.size for fit in fits), launches)


def _descended(
    tasks: Sequence[Task],
    stretch: Stretch,
    chunk: Chunk,
    variables: list[Variables],
    images: np.ndarray,
    placement: Placement,
) -> tuple[np.ndarray, Terms, Watch]:
    """The images of a chunk after a stretch, its curve, and the watch, whose checkpoints are still there."""
    settings, goal, places = stretch.settings, tasks[0].goal, chunk.places
    kept, rows, norm = places >= 0, np.maximum(places, 0), tasks[0].teacher.norm
    goal_at = shardings(stretch.solvers[0], settings, placement.local)[1]
    state = stretch.init(parallel.put(images, placement.local))
    parts = [jax.device_put(part, goal_at) for part in chunk.goals]
    names = [np.asarray(who)[rows][kept].tolist() for who in (goal.classes, goal.slices) if who is not None]
    identity = f"{names}, stretch {stretch.number}" if stretch.number else str(names)
    seen = watched(settings, goal, places, state, norm).keeping(placement.scratch.checkpoints(identity))
    launch = _launcher(stretch, variables, parts)
    (i, count), stretches = chunk.number, len(settings.sides)
    number, all_parts = i * stretches + stretch.number, count * stretches
    bar = Bar(f"recover {number + 1}/{all_parts}", "" if number else SHORTER, all_parts)
    if placement.on_snapshot is not None:
        shown = Shown(placement.on_snapshot, settings, goal, places, norm)
        seen.also, launch = [shown], shown.from_start(launch)
    terms = jax.ShapeDtypeStruct((1, len(places)), np.float32)
    form = Curve(Terms(terms, terms, terms, terms), 0)  # type: ignore[arg-type]
    counts = [count for count, _ in stretch.launches]
    is_over = partial(_is_over, settings, kept, counts)
    state, curve = launching.run(launch, state, counts, seen, form, bar, is_over)
    if settings.stops_early:
        # A finished class keeps stepping until its whole chunk is done. Hold its curve at its own last step, so that
        # the curve does not depend on the other classes.
        last = np.asarray(state.pace.turned) + settings.anneal - 1
        held = np.minimum(np.arange(len(curve.feature))[:, None], last)
        curve = jax.tree.map(lambda values: np.take_along_axis(values, held, 0), curve)
    return np.asarray(state.images), curve, seen


def _mixed(images: np.ndarray, pictures: Pictures, rows: np.ndarray, share: float) -> np.ndarray:
    """(1 - share) x + share p for images x and real ones p; x itself without a share."""
    if not share or pictures.patch is None:
        return images
    return np.float32(1 - share) * images + np.float32(share) * np.asarray(pictures.patch(rows, images), np.float32)


def resized(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images [k, m, H, W, ch] of another height and width: bilinear, with antialiasing; unchanged if they have it."""
    if tuple(images.shape[2:]) == shape:
        return images
    return np.asarray(_resizing(shape)(jnp.asarray(images)))


@lru_cache(maxsize=16)
def _resizing(shape: tuple[int, int, int]):
    return jax.jit(lambda images: jax.image.resize(images, (*images.shape[:2], *shape), "linear", antialias=True))


def _launcher(stretch: Stretch, variables: list[Variables], parts: list[Goal]):
    """The function (state, number of the launch) -> (state, terms of its steps, [count, k] each)."""

    def launch(state: State, k: int) -> tuple[State, Terms]:
        count, coarse = stretch.launches[k]
        turn = k % len(parts)
        return stretch.solvers[turn].step(variables[turn], state, parts[turn], count=count, coarse=coarse)

    return launch


def _is_over(settings: RecoverSettings, kept: np.ndarray, counts: list[int], state: State, launched: int) -> bool:
    """Whether all classes that count have taken their last step; looked up about every twenty steps."""
    if not settings.stops_early or launched % max(1, 20 // counts[launched - 1]):
        return False
    over = np.asarray(state.pace.turned) + settings.anneal <= int(state.step)
    return bool(over[kept].all())
