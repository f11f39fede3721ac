"""Summarizers that solve one optimisation problem per class: all classes in parallel, in chunks that fit in memory."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd import ot
from jaxdd.ground import parallel
from jaxdd.ground.measure import Array, Groups, Measure, temper
from jaxdd.ground.memory import Resources
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import Bar, progress
from jaxdd.ground.tracing import struct
from jaxdd.stages.context import Context
from jaxdd.stages.summarize.base import Summarizer, Summary

_SHORTER = "another `summarizer`"


@dataclass(frozen=True)
class Solver(Summarizer):
    """Base class: a subclass defines `solve`, a pure function of one class that `jax.vmap` and `jax.jit` accept."""

    prescribes_weights: ClassVar[bool] = False
    """Whether `solve` accepts prescribed weights of the atoms."""
    copies: ClassVar[int] = 2
    """How many copies of the points an accelerator holds for `solve`, beside those of its working arrays. TPUs keep the
    bfloat16 parts of which their exact products consist."""

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """The atoms of one class.

        Args:
          key: the PRNG key of the class.
          mu: points [n, d], weights [n]. Shorter classes are padded with points of zero weight, which must not affect
            the result.
          m: the number of atoms.
          weights: the prescribed weights, [m]; None to optimise them.
        """
        raise TypeError(f"{type(self).__name__} defines no solve(key, mu, m, weights)")

    def work(self, context: Context, ipc: int) -> Work:
        """See `Summarizer.work`."""
        counts, local = context.classes.encoded.counts, context.resources.mesh
        devices, classes = local.devices.size, len(context.labels)
        shape = max(int(counts.max()), ipc), context.classes.encoded.features.shape[1], ipc
        memory_bytes = context.resources.bytes_per_device * devices
        size = chunk_size(shape, classes, memory_bytes, local, 0 if parallel.is_cpu(local) else self.copies)
        planned = program(self, shape, size, self.prescribes_weights and self.weights == "uniform", local)
        chunks = -(-classes // size)
        return Work("summarize", "classes", classes, 1, chunks, 1, planned, classes, _SHORTER, busy=0.05)

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """The atoms of each class; their weights are tempered as ``self.weights`` says."""
        encoded, labels, resources = context.classes.encoded, context.labels, context.resources
        held = None
        if self.prescribes_weights and self.weights == "uniform":
            held = np.full((len(labels), ipc), 1.0 / ipc, np.float32)
        # All classes are padded to the largest of the dataset, so a result does not depend on which others are solved.
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
      points: the points of all classes, [n, d].
      groups: the rows of each class.
      labels: the classes to solve, [k].
      padded: the number of points to which each class is padded.
    """

    points: np.ndarray
    groups: Groups
    labels: np.ndarray
    padded: int


@jax.jit
def class_keys(key: jax.Array, labels: Array) -> jax.Array:
    """A key for each of the classes [k]; it does not depend on the other classes."""
    return jax.vmap(lambda c: jax.random.fold_in(key, c))(labels)


def solve_classes(
    solver: Solver, keys: jax.Array, clouds: Clouds, m: int, held: np.ndarray | None, resources: Resources
) -> ot.Summary:
    """Solve each class, in chunks whose class axis is sharded over the devices with no cross-device communication.

    Args:
      keys: one key per class, [k].
      m: the number of atoms.
      held: prescribed weights, [k, m]; None to optimise them.
      resources: ``memory_bytes`` is what one chunk may take on all devices together, not counting the points.

    Returns:
      A Summary with a leading class axis on every array.
    """
    local, count = resources.mesh, len(clouds.labels)
    padded = max(clouds.padded, m)
    # On CPU, classes in lockstep gain nothing: each would wait for the slowest.
    lockstep = not parallel.is_cpu(local)
    shape = padded, clouds.points.shape[1], m
    size = chunk_size(shape, count, resources.memory_bytes, local, solver.copies if lockstep else 0)
    solve = _compiled(solver, m, local, lockstep)
    parts = []
    for places in progress(parallel.chunks(count, size), Bar("summarize", _SHORTER)):
        chosen = np.maximum(places, 0)
        measures = clouds.groups.padded(clouds.points, clouds.labels[chosen], padded)
        inputs = (keys[chosen], measures, None if held is None else held[chosen])
        parts.append(solve(*parallel.put(inputs, local)))
        # Solve one chunk while the next is gathered, and keep no more than these two in memory.
        jax.block_until_ready(parts[-2:-1])
    return jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)[:count]), *jax.device_get(parts))


def program(solver: Solver, shape: tuple[int, int, int], size: int, held: bool, local: Mesh) -> Program:
    """The program that solves ``size`` classes, which the devices divide.

    Args:
      shape: (points, dimensions, atoms) of a class.
      held: whether the weights are prescribed.
    """
    rows, d, m = shape
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    inputs = (keys, Measure(struct(size, rows, d), struct(size, rows)), struct(size, m) if held else None)
    inputs = parallel.shapes(inputs, NamedSharding(local, parallel.EACH))
    return Program(_compiled(solver, m, local, not parallel.is_cpu(local)), inputs)


def chunk_size(shape: tuple[int, int, int], classes: int, memory_bytes: int, local: Mesh, copies: int) -> int:
    """How many classes to solve in one call: a multiple of the number of devices, even if memory is short.

    Args:
      shape: (points, dimensions, atoms) of a class.
      copies: see `Solver.copies`; 0 if the classes are solved one after the other.
    """
    rows, d, m = shape
    devices = local.devices.size
    data, work = 4 * rows * (d + 1), 4 * rows * (2 * d + 8 * m)
    share = memory_bytes // devices
    per_device = -(-classes // devices)
    # Memory holds the data of two chunks, and the work arrays of all classes in lockstep or else of one class.
    if copies:
        work += 4 * copies * rows * d
        fits = share // (2 * data + work)
        if per_device <= share // (data + work):
            return per_device * devices  # there is no second chunk
    else:  # on CPU small buffers are reused, while large ones are requested from the system each time
        fits = min((share - work) // (2 * data), 2**23 // data)
    # Weigh the padding of the last chunk against a fixed cost per chunk, instead of taking the most that fit.
    sizes = np.arange(1, np.clip(fits, 1, per_device) + 1)
    return int(sizes[np.argmin(np.ceil(per_device / sizes) * (sizes + 0.1))]) * devices


@lru_cache(maxsize=32)
def _compiled(solver: Solver, m: int, local: Mesh, lockstep: bool):
    """The compiled solver of a chunk; solvers with equal settings share one compilation."""

    def one(key, mu, held):
        return solver.solve(key, mu, m, held)

    def solve(*inputs):
        return jax.vmap(one)(*inputs) if lockstep else jax.lax.map(lambda args: one(*args), inputs)

    return jax.jit(parallel.sharded(solve, local))
