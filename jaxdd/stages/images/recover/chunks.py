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
from jaxdd.stages.images.recover.descent import (
    Goal,
    RecoverSettings,
    Recovery,
    State,
    Terms,
    goal_specs,
    recovery,
    state_specs,
)

Start = Callable[[np.ndarray], np.ndarray]  # rows of a goal [k] -> the images to begin with, [k, m, H, W, ch]


class Recovered(NamedTuple):
    """Some classes, finished."""

    places: np.ndarray  # [k], rows of the goal
    images: np.ndarray  # [k, m, H, W, ch]
    terms: Terms  # along the steps, [steps, k] each


def run(
    apply: Apply,
    variables: Variables,
    key: jax.Array,
    norm: Normalisation,
    settings: RecoverSettings,
    goal: Goal,
    start: Start,
    memory_bytes: int,
    group: int = 1,
    local: Mesh | None = None,
    total: int | None = None,
) -> Iterator[Recovered]:
    """All steps for all classes, chunk by chunk, sharded over this process's devices.

    On CPU a chunk has about 10 to 25 images: activations then stay in the cache, and the images come out the same bytes
    on any number of devices and hosts. On an accelerator it is as many as fit, and a launch takes many steps.

    Args:
      goal: of all classes that this process is to recover.
      start: rows of the goal [k] -> the images to begin with, float32 [k, m, H, W, ch].
      memory_bytes: what a device may hold of a chunk: its pixels, their moments in Adam, and activations.
      group: classes that are optimised together, see `group_size`.
      local: this process's devices, in one row; default: all.
      total: classes of all processes together; default: those of the goal.

    Raises:
      InputError: one group of classes does not fit, even without activations kept inside the network's blocks; or
        the model does not take images of half the side, where the first steps are to be coarse.
    """
    local = local or parallel.mesh(jax.local_devices())
    # A device without a group would work at nothing, which on cores that share their work costs as much as a group.
    local = Mesh(local.devices[: -(-len(goal.classes) // group)], local.axis_names)
    norm = Normalisation(*map(np.asarray, norm))
    same = parallel.put(variables, local, parallel.SAME)
    image_shape = tuple(start(np.arange(1)).shape[1:])  # [m, H, W, ch]
    if settings.coarse:
        _check_coarse(apply, variables, image_shape[1:])
    unit = group * local.devices.size
    total = total or len(goal.classes)
    fused, most = plan(apply, variables, image_shape, group, len(goal.classes), total, local)
    launches = _launches(settings, fused)
    # The largest program: steps on whole images.
    largest = max(launches, key=lambda launch: (not launch[1], launch[0]))
    fits = partial(_fits, same, goal, image_shape, unit, settings, local, largest, most, memory_bytes)
    plain = lambda apply: apply
    for way in {"auto": (plain, remat), "never": (plain,), "always": (remat,)}[settings.remat]:
        solver = recovery(way(apply), key, norm, settings, group, local)
        each, need = fits(solver, group * image_shape[0] * bytes_per_image(way(apply), variables, image_shape[1:]))
        if each:
            break
    else:
        size = "too much" if need == _ENDLESS else f"{need / 2**20:.0f} MiB"
        raise InputError(
            f"{group} classes of {image_shape[0]} images {list(image_shape[1:])} take {size} to recover, a device may "
            f"take {memory_bytes / 2**20:.0f}; raise --memory-gib on a CPU, lower --ipc or --image-size, or use a "
            "smaller --model"
        )

    chunks = parallel.chunks(len(goal.classes), each * unit)
    state_at, goal_at = shardings(solver, settings, local)
    init = jax.jit(solver.init, out_shardings=state_at)
    for i, places in enumerate(chunks):
        kept, rows = places >= 0, np.maximum(places, 0)
        state = init(parallel.put(start(rows), local))
        part = jax.device_put(rows_of(goal, places, settings), goal_at)
        curve = []
        for count, coarse in progress(launches, f"recover {i + 1}/{len(chunks)}"):
            state, values = solver.step(same, state, part, count=count, coarse=coarse)
            # One launch waits behind the one that runs, no more, or the bar would run ahead.
            jax.block_until_ready(curve[-1:])
            curve.append(values)
            if settings.schedule == "plateau" and len(curve) % max(1, 20 // count) == 0:
                over = np.asarray(state.pace.turned) + settings.anneal <= int(state.step)
                if over[kept].all():
                    break
        curve = jax.tree.map(lambda *steps: np.concatenate(steps), *jax.device_get(curve))
        if settings.schedule == "plateau":
            # A class that is done waits for the others of its chunk, whose number shall not show.
            last = np.asarray(state.pace.turned) + settings.anneal - 1
            held = np.minimum(np.arange(len(curve.feature))[:, None], last)
            curve = jax.tree.map(lambda values, held=held: np.take_along_axis(values, held, 0), curve)
        images = np.asarray(state.images)[kept]
        del state
        yield Recovered(places[kept], images, jax.tree.map(partial(np.compress, kept, axis=1), curve))


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
    apply: Apply,
    variables: Variables,
    image_shape: tuple[int, ...],
    group: int,
    own: int,
    total: int,
    local: Mesh,
) -> tuple[int, int]:
    """Steps a launch, and the most groups that a device takes at a time.

    image_shape: of a class, [m, H, W, ch]; own: classes of this process, which do not matter on CPU; total: of all.
    """
    if not parallel.is_cpu(local):
        return 20, -(-own // (group * local.devices.size))
    # Each launch reads all weights again: the larger they are beside the activations, the more images are worth it.
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
    images = np.clip(12 * weights / bytes_per_image(apply, variables, image_shape[1:]), 10, 25)
    return 1, max(1, min(int(images) // (group * image_shape[0]), -(-total // group)))


def _check_coarse(apply: Apply, variables: Variables, image_shape: tuple[int, ...]) -> None:
    """Raise InputError unless the model takes images of half the side."""
    h, w, channels = image_shape
    try:
        jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((1, h // 2, w // 2, channels), jnp.float32))
    except (TypeError, ValueError, FlaxError) as error:
        raise InputError(
            f"the model takes no images of {h // 2} pixels, half of its {h}; use --recover.coarse 0, or a resnet"
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
    if settings.moments == "class":
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


def _fits(
    variables: Variables,
    goal: Goal,
    image_shape: tuple[int, ...],
    unit: int,
    settings: RecoverSettings,
    local: Mesh,
    launch: tuple[int, bool],
    most: int,
    memory_bytes: int,
    solver: Recovery,
    cost: int,
) -> tuple[int, int]:
    """How many groups a device takes at a time, and the bytes they need; 0 groups where even one is too many.

    Begins with what the estimate allows and believes the compiler, which knows before anything runs. More are tried
    once where less than two thirds of the memory are used; where chunks remain uneven, all get smaller.
    """
    state_at, goal_at = shardings(solver, settings, local)
    even = lambda each: -(-most // -(-most // each))
    each, fitting = even(int(np.clip(memory_bytes // cost, 1, most))), (0, 0)
    while True:
        places = np.zeros(each * unit, int)
        state = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((len(places), *image_shape), jnp.float32))
        part = jax.eval_shape(partial(rows_of, goal, places, settings))
        shapes = _at(state, state_at), _at(part, goal_at)
        need = _need(solver.lower(variables, *shapes, count=launch[0], coarse=launch[1]))
        if need <= memory_bytes:
            more = even(min(most, each * memory_bytes // need))
            if fitting[0] or more == each or 3 * need > 2 * memory_bytes:
                return max(fitting, (each, need))
            fitting, each = (each, need), more
        elif fitting[0] or each == 1:
            return fitting if fitting[0] else (0, need)
        else:
            each = each // 2 if need == _ENDLESS else max(1, min(each - 1, each * memory_bytes // need))


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
