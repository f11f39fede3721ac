"""Stage 3a for any number of classes: chunks that fit the memory, launch by launch, on all devices of this process."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh, NamedSharding

from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import compiled_bytes, values
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import progress
from jaxdd.nn.classifier import Apply, Variables, remat
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover.descent import Recovery, State, goal_specs, recovery, state_specs
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms

Start = Callable[[np.ndarray], np.ndarray]  # rows of a goal [k] -> the images to begin with, [k, m, H, W, ch]


class Recovered(NamedTuple):
    """Some classes, finished."""

    places: np.ndarray  # [k], rows of the goal
    images: np.ndarray  # [k, m, H, W, ch]
    terms: Terms  # along the steps, [steps, k] each


class Placement(NamedTuple):
    """Where and how many classes are recovered at a time.

    Attributes:
      local: this process's devices, in one row.
      memory_bytes: what a device may hold of a chunk: its pixels, their moments in Adam, and activations.
      group: classes that are optimised together, see `group_size`.
      total: classes of all processes together; None: those of the goal.
    """

    local: Mesh
    memory_bytes: int
    group: int = 1
    total: int | None = None

    def beside(self, classes: int) -> "Placement":
        """The same for so many classes of this process, without the devices that would have no group to work on."""
        local = Mesh(self.local.devices[: -(-classes // self.group)], self.local.axis_names)
        return self._replace(local=local, total=self.total or classes)

    @property
    def unit(self) -> int:
        """The classes of one group on each device: chunks hold a multiple of these."""
        return self.group * self.local.devices.size


def run(
    key: jax.Array,
    teacher: Teacher,
    settings: RecoverSettings,
    goal: Goal,
    start: Start,
    image_shape: tuple[int, int, int],
    placement: Placement,
) -> Iterator[Recovered]:
    """All steps for all classes, chunk by chunk, sharded over this process's devices.

    On CPU a chunk has about 10 to 25 images: activations then stay in the cache, and the images are the same bytes
    on any number of devices and hosts. On an accelerator it is as many as fit, and a launch takes many steps.

    Args:
      goal: of all classes that this process is to recover.
      start: rows of the goal [k] -> the images to begin with, float32 [k, m, H, W, ch].
      image_shape: (H, W, ch).

    Raises:
      InputError: one group of classes does not fit, even without activations kept inside the network's blocks; or
        the model does not take images of half the side, where the first steps are to be coarse.
    """
    placement = placement.beside(len(goal.classes))
    local = placement.local
    variables = parallel.put(teacher.variables, local, parallel.SAME)
    if settings.coarse:
        _check_coarse(teacher.apply, teacher.variables, image_shape)
    class_shape = (goal.atoms.points.shape[1], *image_shape)
    solver, size, launches = _fitted(key, teacher, settings, goal, class_shape, placement)
    chunks = parallel.chunks(len(goal.classes), size * placement.unit)
    state_at, goal_at = shardings(solver, settings, local)
    init = jax.jit(solver.init, out_shardings=state_at)
    for i, places in enumerate(chunks):
        kept, rows = places >= 0, np.maximum(places, 0)
        state = init(parallel.put(start(rows), local))
        part = jax.device_put(rows_of(goal, places, settings), goal_at)
        curve = []
        for count, coarse in progress(launches, f"recover {i + 1}/{len(chunks)}"):
            state, values = solver.step(variables, state, part, count=count, coarse=coarse)
            # One launch waits behind the one that runs, no more, or the bar would run ahead.
            jax.block_until_ready(curve[-1:])
            curve.append(values)
            if settings.stops_early and len(curve) % max(1, 20 // count) == 0:
                over = np.asarray(state.pace.turned) + settings.anneal <= int(state.step)
                if over[kept].all():
                    break
        curve = jax.tree.map(lambda *steps: np.concatenate(steps), *jax.device_get(curve))
        if settings.stops_early:
            # A class that is done waits for the others of its chunk, whose number must not show.
            last = np.asarray(state.pace.turned) + settings.anneal - 1
            held = np.minimum(np.arange(len(curve.feature))[:, None], last)
            curve = jax.tree.map(lambda values, held=held: np.take_along_axis(values, held, 0), curve)
        images = np.asarray(state.images)[kept]
        del state
        yield Recovered(places[kept], images, jax.tree.map(partial(np.compress, kept, axis=1), curve))


def _fitted(
    key: jax.Array,
    teacher: Teacher,
    settings: RecoverSettings,
    goal: Goal,
    image_shape: tuple[int, ...],
    placement: Placement,
) -> tuple[Recovery, int, list[tuple[int, bool]]]:
    """The compiled recovery, the groups that a device takes at a time, and the steps of every launch.

    Activations are recomputed where they would not fit otherwise.

    Raises:
      InputError: not even one group fits.
    """
    apply, variables, local = teacher.apply, teacher.variables, placement.local
    norm = Normalisation(*map(np.asarray, teacher.norm))
    fused, most = plan(apply, variables, image_shape, len(goal.classes), placement)
    launches = _launches(settings, fused)
    # The largest program: steps on whole images.
    largest = max(launches, key=lambda launch: (not launch[1], launch[0]))
    replicated = NamedSharding(local, parallel.SAME)
    same = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), variables)
    plain = lambda apply: apply
    for wrap in {"auto": (plain, remat), "never": (plain,), "always": (remat,)}[settings.remat]:
        solver = recovery(wrap(apply), key, norm, settings, placement.group, local)
        cost = placement.group * image_shape[0] * bytes_per_image(wrap(apply), variables, image_shape[1:])
        shapes = partial(_shapes, solver, settings, goal, image_shape, placement)
        lower = partial(solver.lower, same, count=largest[0], coarse=largest[1])
        need = lambda size, lower=lower, shapes=shapes: _need(lower(*shapes(size)))
        size, needed = _largest_fit(need, placement.memory_bytes, cost, most)
        if size:
            return solver, size, launches
    text = "too much" if needed == _ENDLESS else f"{needed / 2**20:.0f} MiB"
    raise InputError(
        f"{placement.group} classes of {image_shape[0]} images {list(image_shape[1:])} take {text} to recover, a "
        f"device may take {placement.memory_bytes / 2**20:.0f}; raise `memory_gib` on a CPU, lower `ipc` or "
        "`image_size`, or use a smaller `model`"
    )


def in_slices(
    recover: Callable[[Goal, Start], Iterator[Recovered]],
    settings: RecoverSettings,
    goal: Goal,
    start: Start,
    group: int,
    each: int,
) -> Iterator[Recovered]:
    """Recovery with global moments of ``each`` images of every class of a group at a time, all slices side by side.

    Of the terms their mean over the slices is returned.

    recover: a goal and its start -> its classes, as by `run`; here a class comes once for each slice.
    """
    slices = goal.atoms.points.shape[1] // each
    groups = np.stack(parallel.chunks(len(goal.classes), group))
    places, which = np.broadcast_arrays(groups[:, None], np.arange(slices)[:, None])  # [groups, slices, group]
    places, which = places.reshape(-1), which.reshape(-1)
    parts = Goal(
        np.repeat(goal.classes, slices),
        jax.tree.map(lambda x: np.asarray(x).reshape(-1, each, *x.shape[2:]), goal.atoms),
        np.repeat(goal.means, slices, axis=0),
        goal.moments,
        goal.feature_variance,
        np.tile(np.arange(slices, dtype=np.int32), len(goal.classes)),
    )
    parts = rows_of(parts, np.where(places < 0, -1, places * slices + which), settings)

    def begin(rows):
        # Slices of a class lie side by side in a chunk: all its images are asked for once.
        classes, at = np.unique(np.maximum(places[rows], 0), return_inverse=True)
        images = np.asarray(start(classes))
        return images.reshape(len(classes), slices, each, *images.shape[2:])[at, which[rows]]

    groups, done = iter(groups), []
    for chunk in recover(parts, begin):
        for first in range(0, len(chunk.places), group):
            rows = slice(first, first + group)
            done.append(chunk._replace(images=chunk.images[rows], terms=Terms(*(x[:, rows] for x in chunk.terms))))
            if len(done) == slices:
                yield _joined(next(groups), done)
                done = []


def _joined(places: np.ndarray, done: list[Recovered]) -> Recovered:
    """The classes of a group from its slices."""
    kept = places >= 0
    # Where the loss stands still, a slice may end before the others.
    steps = max(len(part.terms.feature) for part in done)
    long = lambda x: np.pad(x, ((0, steps - len(x)), (0, 0)), "edge")
    terms = jax.tree.map(lambda *parts: np.mean([long(x) for x in parts], 0)[:, kept], *(part.terms for part in done))
    return Recovered(places[kept], np.concatenate([part.images for part in done], 1)[kept], terms)


def plan(
    apply: Apply, variables: Variables, image_shape: tuple[int, ...], classes: int, placement: Placement
) -> tuple[int, int]:
    """Steps a launch, and the most groups that a device takes at a time.

    Args:
      image_shape: of a class, [m, H, W, ch].
      classes: those of this process, which on CPU do not matter.
      placement: with a ``total``.
    """
    group = placement.group
    if not parallel.is_cpu(placement.local):
        return 20, -(-classes // placement.unit)
    # Each launch reads all weights again: the larger they are beside the activations, the more images are worth it.
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
    images = np.clip(12 * weights / bytes_per_image(apply, variables, image_shape[1:]), 10, 25)
    return 1, max(1, min(int(images) // (group * image_shape[0]), -(-placement.total // group)))


def _check_coarse(apply: Apply, variables: Variables, image_shape: tuple[int, ...]) -> None:
    """Raise InputError unless the model takes images of half the side."""
    h, w, channels = image_shape
    try:
        jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((1, h // 2, w // 2, channels), jnp.float32))
    except (TypeError, ValueError, ZeroDivisionError, FlaxError) as error:
        raise InputError(
            f"the model takes no images of {h // 2} pixels, half of its {h}; use `imager.coarse` 0, or a resnet"
        ) from error


def _launches(settings: RecoverSettings, most: int) -> list[tuple[int, bool]]:
    """Steps and coarseness of every launch."""
    coarse = round(settings.coarse * settings.steps)
    kinds = ((coarse, True), (settings.steps - coarse, False))
    return [(count, small) for steps, small in kinds for count in parallel.launches(steps, most)]


def rows_of(goal: Goal, places: np.ndarray, settings: RecoverSettings) -> Goal:
    """The goal of some of its classes; where a place is -1, a class of weight zero."""
    atoms = parallel.take(jax.tree.map(np.asarray, goal.atoms), places)
    atoms = atoms._replace(weights=np.where(places[:, None] >= 0, atoms.weights, 0))
    moments = goal.moments
    if settings.per_class:
        moments = parallel.take(jax.tree.map(np.asarray, moments), places)
    given = jax.tree.map(np.asarray, (goal.classes, goal.means, goal.slices))
    classes, means, slices = parallel.take(given, places)
    return Goal(classes, atoms, means, moments, goal.feature_variance, slices)


def shardings(solver: Recovery, settings: RecoverSettings, local: Mesh) -> tuple[State, Goal]:
    """Where the parts of a state and of a goal lie."""
    state = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((1, 1, 1, 1, 1), jnp.float32))
    place = lambda spec: NamedSharding(local, spec)
    return jax.tree.map(place, state_specs(state)), Goal(*map(place, goal_specs(settings)))


def _at(shapes: Any, places: Any) -> Any:
    """The shapes with shardings, each of which serves all that lies below it."""
    at = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(lambda sharding, below: jax.tree.map(lambda x: at(x, sharding), below), places, shapes)


def _shapes(
    solver: Recovery,
    settings: RecoverSettings,
    goal: Goal,
    image_shape: tuple[int, ...],
    placement: Placement,
    size: int,
) -> tuple[State, Goal]:
    """A state and a goal of ``size`` groups on each device, as shapes with shardings."""
    state_at, goal_at = shardings(solver, settings, placement.local)
    places = np.zeros(size * placement.unit, int)
    state = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((len(places), *image_shape), jnp.float32))
    part = jax.eval_shape(partial(rows_of, goal, places, settings))
    return _at(state, state_at), _at(part, goal_at)


def _largest_fit(need: Callable[[int], int], memory_bytes: int, cost: int, most: int) -> tuple[int, int]:
    """How many groups a device takes at a time, and the bytes they need; 0 groups where even one is too many.

    Begins with what the estimate ``cost`` of one group allows and believes the compiler. More are tried once where
    less than two thirds of the memory are used; where chunks remain uneven, all get smaller.
    """
    even = lambda size: -(-most // -(-most // size))
    size, fitting = even(int(np.clip(memory_bytes // cost, 1, most))), (0, 0)
    while True:
        needed = need(size)
        if needed <= memory_bytes:
            more = even(min(most, size * memory_bytes // needed))
            if fitting[0] or more == size or 3 * needed > 2 * memory_bytes:
                return max(fitting, (size, needed))
            fitting, size = (size, needed), more
        elif fitting[0] or size == 1:
            return fitting if fitting[0] else (0, needed)
        else:
            size = size // 2 if needed == _ENDLESS else max(1, min(size - 1, size * memory_bytes // needed))


# More bytes than any device has.
_ENDLESS = 2**62


def _need(lowered: jax.stages.Lowered) -> int:
    """The bytes of a program; without end if the compiler, which on some devices minds the memory, gives up."""
    try:
        return compiled_bytes(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _ENDLESS


def bytes_per_image(apply: Apply, variables: Variables, image_shape: tuple[int, int, int]) -> int:
    """An estimate of what one image costs while its gradient is taken: twice the values its forward pass makes.

    Twice, because the backward pass makes a cotangent where the forward pass made a value; in between the compiler
    shares buffers and fuses, so this errs on the large side.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return 2 * sum(size for kind, size in values(apply, variables, image) if kind in _KEPT)


# Primitives whose results the backward pass asks for.
_KEPT = ("conv_general_dilated", "dot_general", "max", "add", "mul", "reduce_window_max")
