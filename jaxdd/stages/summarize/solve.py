"""Stage 2: each class's cloud of points -> a few weighted atoms, all classes at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Groups, Measure, are_masses
from jaxdd.ground.progress import progress
from jaxdd.ot import clvq
from jaxdd.ot.barycenter import BarycenterSettings, barycenter
from jaxdd.ot.quantization import KMeansSettings, quantize
from jaxdd.ot.summary import Summary, check_counts

SOLVERS = {"quantization": KMeansSettings, "clvq": clvq.ClvqSettings, "barycenter": BarycenterSettings}
Settings = KMeansSettings | clvq.ClvqSettings | BarycenterSettings


def summarize(
    points: np.ndarray,
    labels: np.ndarray,
    ipc: int,
    *,
    weights: Literal["free", "uniform"] | np.ndarray = "free",
    solver: str | None = None,
    key: jax.Array | None = None,
    settings: Settings | None = None,
    few: Literal["error", "zero"] = "error",
    num_classes: int | None = None,
    classes: np.ndarray | None = None,
    rows: int | None = None,
    memory_bytes: int = 2**30,
    devices: Sequence[jax.Device] | None = None,
) -> Summary:
    r"""A few weighted points that stand for each class: the argmin of :math:`W_2^2(\mu_c, \sum_j w_j \delta(z_j))`.

    With :math:`\mu_c` the empirical measure of class c, over the positions z of ``ipc`` atoms and, where they are
    free, their weights w. Classes are padded with zero-weight points, which change nothing, and solved side by
    side in chunks that fit the memory; each class draws from its own key, so that neither the chunks nor the
    devices matter to the result. The class axis is sharded over the devices without any communication.

        summary = jaxdd.summarize(features, labels, ipc=10)
        summary.atoms.points, summary.atoms.weights  # [C, 10, d], [C, 10]
        summary.cost  # [C], W2^2 attained

    Args:
      points: the data x, finite, [n, d]; read as float32.
      labels: integer classes, [n].
      ipc: the number of atoms of each class, m.
      weights: "free", "uniform", or the weights themselves, [m] or [C, m].
      solver: "quantization" (`ot.quantize`; free weights), "clvq" (`ot.clvq.fit`; free weights) or "barycenter"
        (`ot.barycenter`; any). Default: quantization for free weights, else barycenter.
      key: a PRNG key; default `jax.random.key(0)`.
      settings: of the solver.
      few: what to do with a class of fewer points than atoms: "error", or "zero" to let as many atoms as it has
        points stand on them, with free or equal weights, and give the others weight zero.
      num_classes: default: the largest label plus one.
      classes, rows: what the key of each class is folded with, [C] (default: its label), and the points that classes
        are padded to (default: those of the largest). A process that has some of the classes only then finds for
        them, to the last bit, what one that has all would find.
      memory_bytes: what a chunk may take on all devices, beside the points themselves.
      devices: default: all of this process.

    Returns:
      A Summary with a leading class axis on every array.

    Raises:
      InputError: shapes that disagree, labels that are no classes, NaN or infinite points, too few points, weights
        that do not sum to one, or a solver that cannot hold them; classes are named by their index.
    """
    solver = _check(weights, solver, settings, few)
    groups = Groups.of(points, labels, num_classes)
    count = len(groups.counts)
    check_counts(groups.counts if few == "error" else np.full(count, max(ipc, 0)), ipc)
    held = _held(weights, groups.counts, ipc)
    local = parallel.mesh(devices or jax.local_devices())
    keys = class_keys(jax.random.key(0) if key is None else key, np.arange(count) if classes is None else classes)

    rows = max(int(groups.counts.max()), ipc, rows or 0)
    # A core gains nothing from classes in lockstep, where each would wait for the slowest.
    lockstep = not parallel.is_cpu(local)
    each = _chunk(rows, points.shape[1], ipc, count, memory_bytes, local.devices.size, lockstep)
    solve = _compiled(_Solver(solver, ipc, held is None, settings or SOLVERS[solver]()), local, lockstep)
    found = []
    for places in progress(parallel.chunks(count, each), "summarize"):
        chosen = np.maximum(places, 0)
        inputs = (keys[chosen], groups.padded(points, chosen, rows), None if held is None else held[chosen])
        found.append(solve(*parallel.put(inputs, local)))
        # One chunk is solved while the next is gathered, but no more than that lie in memory.
        jax.block_until_ready(found[-2:-1])
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:count]), *jax.device_get(found))


def _check(weights, solver: str | None, settings: Settings | None, few: str) -> str:
    """The solver to use; InputError where the arguments do not go together."""
    if isinstance(weights, str) and weights not in ("free", "uniform"):
        raise InputError(f"summarize: weights={weights!r}; choose 'free', 'uniform' or an array")
    free = isinstance(weights, str) and weights == "free"
    solver = solver or ("quantization" if free else "barycenter")
    if solver not in SOLVERS:
        raise InputError(f"summarize: solver={solver!r}; choose {', '.join(SOLVERS)}")
    if solver != "barycenter" and not free:
        raise InputError(f"summarize: {solver} finds its own weights; choose weights='free' or solver='barycenter'")
    if settings is not None and not isinstance(settings, SOLVERS[solver]):
        raise InputError(f"summarize: {type(settings).__name__} for {solver}; give {SOLVERS[solver].__name__}")
    if few not in ("error", "zero"):
        raise InputError(f"summarize: few={few!r}; choose 'error' or 'zero'")
    if few == "zero" and not isinstance(weights, str):
        raise InputError("summarize: few='zero' cannot change given weights; choose 'free' or 'uniform' ones")
    return solver


def _held(weights, counts: np.ndarray, m: int) -> np.ndarray | None:
    """The weights to hold, [C, m], or None."""
    if isinstance(weights, str):
        if weights == "free":
            return None
        atoms = np.minimum(counts, m)[:, None]
        return np.where(np.arange(m) < atoms, 1.0 / atoms, 0.0).astype(np.float32)
    try:
        held = np.broadcast_to(np.asarray(weights, np.float32), (len(counts), m))
    except ValueError:
        shapes = f"[{m}] or [{len(counts)}, {m}]"
        raise InputError(f"summarize: weights of shape {np.shape(weights)}; give {shapes}") from None
    bad = ~are_masses(held)
    if bad.any():
        c = int(np.argmax(bad))
        raise InputError(f"class {c} has weights that sum to {held[c].sum():g}; give non-negative ones that sum to one")
    return held


def _chunk(rows: int, d: int, m: int, classes: int, memory_bytes: int, devices: int, lockstep: bool) -> int:
    """How many classes are solved in one call: a multiple of the number of devices, whatever the memory."""
    data, work = 4 * rows * (d + 1), 4 * rows * (2 * d + 8 * m)
    share = memory_bytes // devices
    # The data of two chunks, and what one class or all take that are worked on at a time.
    if lockstep:
        fits = share // (2 * data + work)
    else:  # on CPU, where small buffers are used again and large ones fetched from the system each time
        fits = min((share - work) // (2 * data), 2**23 // data)
    own = -(-classes // devices)
    # Not just the most that fit: the last chunk should have few places to fill, at some cost for each chunk.
    sizes = np.arange(1, np.clip(fits, 1, own) + 1)
    return int(sizes[np.argmin(np.ceil(own / sizes) * (sizes + 0.1))]) * devices


@jax.jit
def class_keys(key: jax.Array, classes: np.ndarray) -> jax.Array:
    """A key for each of the classes [k], whatever others there are."""
    return jax.vmap(lambda c: jax.random.fold_in(key, c))(classes)


@dataclass(frozen=True)
class _Solver:
    """One class to its summary; equal solvers share their compilation."""

    name: str
    m: int
    free: bool
    settings: Settings

    def __call__(self, key: jax.Array, mu: Measure, held: jax.Array | None) -> Summary:
        if self.name == "quantization":
            return quantize(key, mu, self.m, settings=self.settings)
        if self.name == "clvq":
            return clvq.fit(key, mu, self.m, settings=self.settings)
        return barycenter(key, mu, self.m, weights="free" if self.free else held, settings=self.settings)


@lru_cache(maxsize=32)
def _compiled(solver: _Solver, local: Mesh, lockstep: bool):
    def solve(*inputs):
        return jax.vmap(solver)(*inputs) if lockstep else jax.lax.map(lambda one: solver(*one), inputs)

    return jax.jit(parallel.sharded(solve, local))
