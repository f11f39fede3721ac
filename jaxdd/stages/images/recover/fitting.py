"""What fits into memory: how many classes are recovered at a time, in launches of how many steps, on which devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd.ground import parallel
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import ENDLESS, KEPT, needed_bytes, values
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Program
from jaxdd.ground.tracing import shapes_of
from jaxdd.nn.classifier import Apply, Variables, remat
from jaxdd.stages.context import OnSnapshot, Teacher
from jaxdd.stages.images.recover.descent import Recovery, State, goal_specs, recovery, state_specs
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings


class Placement(NamedTuple):
    """On which devices classes are recovered, how many at a time, where unfinished ones are kept, and who sees them.

    Attributes:
      local: the devices of this process, in one row.
      memory_bytes: what a chunk may take on one device: its pixels, their moments in Adam, and activations.
      group: the number of classes that are optimised together, see `group_size`.
      total: the number of classes of all processes together; None: those of the goal.
      scratch: for checkpoints of a chunk, from which a later run of the same classes goes on.
      on_snapshot: see `Context`.
    """

    local: Mesh
    memory_bytes: int
    group: int = 1
    total: int | None = None
    scratch: Scratch = Scratch()
    on_snapshot: OnSnapshot | None = None

    def beside(self, classes: int) -> "Placement":
        """The placement of ``classes`` classes of this process, without devices that would get no group."""
        local = Mesh(self.local.devices[: -(-classes // self.group)], self.local.axis_names)
        return self._replace(local=local, total=self.total or classes)

    @property
    def unit(self) -> int:
        """The number of classes if each device has one group; the size of a chunk is a multiple of it."""
        return self.group * self.local.devices.size


class Fitted(NamedTuple):
    """A recovery that fits in memory.

    Attributes:
      solver: the recovery.
      size: the number of groups per device at a time.
      launches: the steps and coarseness of every launch.
      program: the largest launch, with the shapes of its arguments.
    """

    solver: Recovery
    size: int
    launches: list[tuple[int, bool]]
    program: Program


def fitted(
    key: jax.Array,
    teacher: Teacher,
    settings: RecoverSettings,
    goal: Goal,
    image_shape: tuple[int, ...],
    placement: Placement,
) -> Fitted:
    """The compiled recovery of as many groups at a time as fit in memory.

    Activations are recomputed if they would not fit in memory otherwise.

    Args:
      image_shape: the images of a class, [m, H, W, ch].

    Raises:
      InputError: not even one group fits.
    """
    apply, variables, local = teacher.apply, teacher.variables, placement.local
    norm = Normalisation(np.asarray(teacher.norm.mean), np.asarray(teacher.norm.std))
    fused, most = plan(apply, variables, image_shape, len(goal.classes), placement)
    launches = launches_of(settings, fused)
    # The largest program is the longest launch on images of full size.
    largest = max(launches, key=lambda launch: (not launch[1], launch[0]))
    same = parallel.shapes(variables, NamedSharding(local, parallel.SAME))
    plain = lambda apply: apply
    for wrap in {"auto": (plain, remat), "never": (plain,), "always": (remat,)}[settings.remat]:
        solver = recovery(wrap(apply), key, norm, settings, placement.group, local)
        cost = placement.group * image_shape[0] * bytes_per_image(wrap(apply), variables, image_shape[1:])
        shapes = partial(_shapes, solver, settings, goal, image_shape, placement)
        program = partial(solver.program, same, count=largest[0], coarse=largest[1])
        need = lambda size, program=program, shapes=shapes: needed_bytes(program(*shapes(size)).lower())
        size, needed = _largest_fit(need, placement.memory_bytes, cost, most)
        if size:
            return Fitted(solver, size, launches, program(*shapes(size)))
    text = "too much memory" if needed == ENDLESS else f"{needed / 2**20:.0f} MiB"
    raise InputError(
        f"recovering {placement.group} classes of {image_shape[0]} images {list(image_shape[1:])} takes {text}, but a "
        f"device may take {placement.memory_bytes / 2**20:.0f} MiB; raise `memory_gib` on a CPU, lower `ipc` or "
        "`image_size`, or use a smaller `model`"
    )


def plan(
    apply: Apply, variables: Variables, image_shape: tuple[int, ...], classes: int, placement: Placement
) -> tuple[int, int]:
    """The steps of a launch, and the largest number of groups that a device takes at a time.

    Args:
      image_shape: the images of a class, [m, H, W, ch].
      classes: the number of classes of this process.
      placement: on CPU its ``total`` decides instead of ``classes``, so that the result is the same in any number of
        processes.
    """
    group = placement.group
    if not parallel.is_cpu(placement.local):
        return 20, -(-classes // placement.unit)
    # Each launch reads all weights again. The larger they are relative to the activations, the more images it takes to
    # make this worthwhile.
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
    images = np.clip(12 * weights / bytes_per_image(apply, variables, image_shape[1:]), 10, 25)
    total = classes if placement.total is None else placement.total
    return 1, max(1, min(int(images) // (group * image_shape[0]), -(-total // group)))


def launches_of(settings: RecoverSettings, most: int) -> list[tuple[int, bool]]:
    """The number of steps and the coarseness of every launch."""
    coarse = round(settings.coarse * settings.steps)
    kinds = ((coarse, True), (settings.steps - coarse, False))
    return [(count, small) for steps, small in kinds for count in parallel.launches(steps, most)]


def rows_of(goal: Goal, places: np.ndarray, settings: RecoverSettings) -> Goal:
    """The rows ``places`` of a goal; a place of -1 gives a class with zero weights."""
    atoms = parallel.take(jax.tree.map(np.asarray, goal.atoms), places)
    atoms = atoms._replace(weights=np.where(places[:, None] >= 0, atoms.weights, 0))
    moments = goal.moments
    if settings.per_class:
        moments = parallel.take(jax.tree.map(np.asarray, moments), places)
    per_class = jax.tree.map(np.asarray, (goal.classes, goal.means, goal.slices))
    classes, means, slices = parallel.take(per_class, places)
    return Goal(classes, atoms, means, moments, goal.feature_variance, slices)


def shardings(solver: Recovery, settings: RecoverSettings, local: Mesh) -> tuple[State, Goal]:
    """The shardings of a state and of a goal, in the place of their arrays."""
    state = shapes_of(solver.init, jax.ShapeDtypeStruct((1, 1, 1, 1, 1), jnp.float32))

    def sharding(spec: Any) -> Any:
        return NamedSharding(local, spec)

    return jax.tree.map(sharding, state_specs(state)), Goal(*map(sharding, goal_specs(settings)))


def _at(shapes: Any, places: Any) -> Any:
    """The shapes with shardings; a sharding applies to all arrays below it in the tree."""
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
    """A state and a goal of ``size`` groups per device, as shapes with shardings."""
    state_at, goal_at = shardings(solver, settings, placement.local)
    places = np.zeros(size * placement.unit, int)
    state = shapes_of(solver.init, jax.ShapeDtypeStruct((len(places), *image_shape), jnp.float32))
    part = jax.eval_shape(partial(rows_of, goal, places, settings))
    return _at(state, state_at), _at(part, goal_at)


def _largest_fit(need: Callable[[int], int], memory_bytes: int, cost: int, most: int) -> tuple[int, int]:
    """The number of groups that a device takes at a time, and the bytes they need; 0 groups if even one is too large.

    The search starts from the estimated bytes ``cost`` of one group, and then relies on ``need``, what the compiler
    reports. If less than two thirds of the memory is used, one larger size is tried. The size is reduced so that all
    chunks are about equally large.
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
            size = size // 2 if needed == ENDLESS else max(1, min(size - 1, size * memory_bytes // needed))


def bytes_per_image(apply: Apply, variables: Variables, image_shape: tuple[int, ...]) -> int:
    """Estimate the memory of one image [H, W, ch] during the gradient: twice the bytes of the forward pass's values.

    The factor is two because the backward pass makes a cotangent for each value. The compiler shares buffers and fuses
    operations, so this is an overestimate.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return 2 * sum(size for kind, size in values(apply, variables, image) if kind in KEPT)
