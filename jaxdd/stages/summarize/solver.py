"""Summarizers that solve one problem a class: all classes side by side, in chunks that fit the memory."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd import ot
from jaxdd.ground import parallel
from jaxdd.ground.measure import Groups, Measure, temper
from jaxdd.ground.memory import Resources
from jaxdd.ground.progress import progress
from jaxdd.stages.context import Context
from jaxdd.stages.summarize.base import Summarizer, Summary


@dataclass(frozen=True)
class Solver(Summarizer):
    """A subclass defines `solve`, a pure function of one class that `jax.vmap` and `jax.jit` can take."""

    prescribes_weights: ClassVar[bool] = False
    """Whether `solve` can hold the weights of the atoms, rather than find them."""

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """The atoms of one class.

        Args:
          key: the class's own PRNG key.
          mu: points [n, d], weights [n]; shorter classes end in points of weight zero, which must change nothing.
          m: the number of atoms.
          weights: to hold, [m]; None to find them.
        """
        raise TypeError(f"{type(self).__name__} defines no solve(key, mu, m, weights)")

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """The atoms of each class, with their weights tempered to ``weights``."""
        encoded, labels, resources = context.classes.encoded, context.labels, context.resources
        held = None
        if self.prescribes_weights and self.weights == "uniform":
            held = np.full((len(labels), ipc), 1.0 / ipc, np.float32)
        # Classes are padded to the largest of all, so that a class is the same whichever others are here.
        clouds = Clouds(encoded.features, context.classes.groups, labels, int(encoded.counts.max()))
        memory_bytes = resources.bytes_per_device * resources.mesh.devices.size
        solution = solve_classes(
            self, class_keys(key, labels), clouds, ipc, held, resources._replace(memory_bytes=memory_bytes)
        )
        weights = np.asarray(temper(solution.atoms.weights, self.weights))
        return Summary(Measure(np.asarray(solution.atoms.points), weights), np.asarray(solution.costs))


class Clouds(NamedTuple):
    """The points of some classes.

    Attributes:
      points: of all classes, [n, d].
      groups: the rows of each class.
      labels: the classes to solve, [k].
      padded: the number of points that each class is padded to.
    """

    points: np.ndarray
    groups: Groups
    labels: np.ndarray
    padded: int


@jax.jit
def class_keys(key: jax.Array, labels: np.ndarray) -> jax.Array:
    """A key for each of the classes [k], whatever others there are."""
    return jax.vmap(lambda c: jax.random.fold_in(key, c))(labels)


def solve_classes(
    solver: Solver, keys: jax.Array, clouds: Clouds, m: int, held: np.ndarray | None, resources: Resources
) -> ot.Summary:
    """Solve each class, in chunks whose class axis is sharded over the devices without any communication.

    Args:
      keys: one a class, [k].
      m: the number of atoms.
      held: weights to hold, [k, m]; None to find them.
      resources: ``memory_bytes`` is what a chunk may take on all devices together, beside the points themselves.

    Returns:
      A Summary with a leading class axis on every array.
    """
    local, count = resources.mesh, len(clouds.labels)
    padded = max(clouds.padded, m)
    # A core gains nothing from classes in lockstep, where each would wait for the slowest.
    lockstep = not parallel.is_cpu(local)
    size = _chunk_size((padded, clouds.points.shape[1], m), count, resources.memory_bytes, local, lockstep)
    solve = _compiled(solver, m, local, lockstep)
    parts = []
    for places in progress(parallel.chunks(count, size), "summarize"):
        chosen = np.maximum(places, 0)
        measures = clouds.groups.padded(clouds.points, clouds.labels[chosen], padded)
        inputs = (keys[chosen], measures, None if held is None else held[chosen])
        parts.append(solve(*parallel.put(inputs, local)))
        # One chunk is solved while the next is gathered; no more than that lie in memory.
        jax.block_until_ready(parts[-2:-1])
    return jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)[:count]), *jax.device_get(parts))


def _chunk_size(shape: tuple[int, int, int], classes: int, memory_bytes: int, local: Mesh, lockstep: bool) -> int:
    """How many classes are solved in one call: a multiple of the number of devices, whatever the memory.

    shape: (points, dimensions, atoms) of a class.
    """
    rows, d, m = shape
    devices = local.devices.size
    data, work = 4 * rows * (d + 1), 4 * rows * (2 * d + 8 * m)
    share = memory_bytes // devices
    # The data of two chunks, and what one class or all take that are worked on at a time.
    if lockstep:
        fits = share // (2 * data + work)
    else:  # on CPU, where small buffers are reused and large ones fetched from the system each time
        fits = min((share - work) // (2 * data), 2**23 // data)
    per_device = -(-classes // devices)
    # Not just the most that fit: the last chunk should have few places to fill, at some cost for each chunk.
    sizes = np.arange(1, np.clip(fits, 1, per_device) + 1)
    return int(sizes[np.argmin(np.ceil(per_device / sizes) * (sizes + 0.1))]) * devices


@lru_cache(maxsize=32)
def _compiled(solver: Solver, m: int, local: Mesh, lockstep: bool):
    """Equal solvers share their compilation."""

    def one(key, mu, held):
        return solver.solve(key, mu, m, held)

    def solve(*inputs):
        return jax.vmap(one)(*inputs) if lockstep else jax.lax.map(lambda args: one(*args), inputs)

    return jax.jit(parallel.sharded(solve, local))
