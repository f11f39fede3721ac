"""The summarize stage for arbitrary points, without images or a teacher."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import ot
from jaxdd.ground.arrays import as_array
from jaxdd.ground.errors import InputError
from jaxdd.ground.keys import as_key
from jaxdd.ground.measure import Groups, Measure, are_masses, as_points
from jaxdd.ground.memory import Resources
from jaxdd.ot.summary import check_counts
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Clouds, Solver, class_keys, solve_classes


class AtMost(NamedTuple):
    """A limit on the number of atoms per class, for data in which some classes have fewer points than that.

    Such a class gets one atom on each of its points, with free or equal weights, and W2^2 = 0. Its remaining atoms have
    zero weight.
    """

    atoms: int


def summarize(
    points: np.ndarray,
    labels: np.ndarray,
    ipc: int | AtMost,
    *,
    weights: Literal["free", "uniform"] | np.ndarray = "free",
    solver: Solver | str | None = None,
    key: jax.Array | int | None = None,
    resources: Resources = Resources(2**30),  # noqa: B008
) -> ot.Summary:
    r"""A few weighted points that represent each class: minimise :math:`W_2^2(\mu_c, \sum_j w_j \delta(z_j))`.

    :math:`\mu_c` is the empirical measure of class c. The minimum is over the positions z of ``ipc`` atoms and, if they
    are free, over the weights w. Classes are padded with points of zero weight, which do not affect the solution, and
    are solved in parallel in chunks that fit in memory. Each class has its own random key, so the result does not
    depend on the chunks or the devices.

        summary = jaxdd.summarize(features, labels, ipc=10)
        summary.atoms.points, summary.atoms.weights  # [C, 10, d], [C, 10]
        summary.cost  # [C], the W2^2 attained

    Args:
      points: the data x, finite, [n, d]: an array, or lists or a table that NumPy reads; read as float32.
      labels: integer classes 0 to C - 1, each with at least one point, [n] or [n, 1].
      ipc: the number of atoms per class, m. With ``AtMost(m)`` classes may have fewer points than that.
      weights: "free", "uniform", or the weights themselves, [m] or [C, m].
      solver: a settings object such as ``Quantization(restarts=8)``, or a name. "quantization" and "clvq" optimise the
        weights; "barycenter" takes any weights. Default: quantization for free weights, otherwise barycenter.
      key: a PRNG key, or an integer, the seed of one; default 0.
      resources: the devices, and the memory that one chunk may take on all of them, not counting ``points``.

    Returns:
      A Summary with a leading class axis on every array.

    Raises:
      InputError: shapes that disagree, invalid labels, points that float32 cannot hold, too few points, weights that do
        not sum to one, or a solver that cannot take them; messages name classes by index.
    """
    chosen = _check(weights, solver)
    points = as_points(points)
    groups = Groups.of(points, labels)
    classes = np.arange(len(groups.counts))
    m = _number_of_atoms(ipc, weights, groups.counts)
    held = _fixed_weights(weights, groups.counts, m)
    keys = class_keys(as_key(0 if key is None else key), classes)
    clouds = Clouds(points, groups, classes, int(groups.counts.max()))
    result = solve_classes(chosen, keys, clouds, m, held, resources)
    return _small_exactly(result, clouds) if isinstance(ipc, AtMost) else result


def _small_exactly(result: ot.Summary, clouds: Clouds) -> ot.Summary:
    """The summaries of all classes, in which one of at most m points consists of its points, at no cost.

    A search would move them by a rounding of the farthest point.
    """
    m = result.atoms.weights.shape[1]
    small = np.flatnonzero(clouds.groups.counts <= m)
    (points, weights), *rest = jax.tree.map(np.array, result)
    for c in small:
        rows = clouds.groups.rows(int(c))
        points[c] = clouds.points[np.resize(rows, m)]
        weights[c] = np.where(np.arange(m) < len(rows), 1 / len(rows), 0.0)
    for values, best in zip(rest, (0.0, 0.0, True)):
        values[small] = best
    return jax.tree.map(jnp.asarray, ot.Summary(Measure(points, weights), *rest))


def _check(weights: str | np.ndarray, solver: Solver | str | None) -> Solver:
    """The solver to use; InputError if the arguments contradict each other."""
    if isinstance(weights, str) and weights not in ("free", "uniform"):
        raise InputError(f"unknown `weights` {weights!r}; use 'free', 'uniform' or an array")
    free = isinstance(weights, str) and weights == "free"
    name = solver or ("quantization" if free else "barycenter")
    chosen = SUMMARIZERS.find(name)() if isinstance(name, str) else name
    if not isinstance(chosen, Solver):
        solvers = ", ".join(name for name, kind in SUMMARIZERS.items() if issubclass(kind, Solver))
        raise InputError(f"`solver` {solver!r} solves nothing; choose {solvers}")
    if chosen.weights != Solver.weights:
        raise InputError(f"`solver` has weights {chosen.weights!r}, which are not used here; give `weights` instead")
    if not chosen.prescribes_weights and not free:
        kind = SUMMARIZERS.name_of(chosen)
        raise InputError(f"`solver` {kind} finds its own weights; use `weights` 'free' or `solver` 'barycenter'")
    return chosen


def _number_of_atoms(ipc: int | AtMost, weights: str | np.ndarray, counts: np.ndarray) -> int:
    """The number of atoms per class, m; InputError if it is not positive, or if a class has too few points for it."""
    if not isinstance(ipc, AtMost):
        check_counts(counts, ipc)
        return int(ipc)
    if not isinstance(weights, str):
        raise InputError("`ipc` AtMost cannot change prescribed weights; use `weights` 'free' or 'uniform'")
    check_counts(np.maximum(counts, ipc.atoms), ipc.atoms)
    return ipc.atoms


def _fixed_weights(weights: str | np.ndarray, counts: np.ndarray, m: int) -> np.ndarray | None:
    """The prescribed weights, float32 [C, m]; None for free weights."""
    if isinstance(weights, str):
        if weights == "free":
            return None
        atoms = np.minimum(counts, m)[:, None]
        return np.where(np.arange(m) < atoms, 1.0 / atoms, 0.0).astype(np.float32)
    given, shapes = as_array(weights, "`weights`"), f"give real numbers [{m}] or [{len(counts)}, {m}]"
    if given.dtype.kind not in "biuf" or given.shape not in ((m,), (len(counts), m)):
        raise InputError(f"`weights` have dtype {given.dtype} and shape {given.shape}; {shapes}")
    held = np.broadcast_to(given.astype(np.float32), (len(counts), m))
    bad = ~are_masses(held)
    if bad.any():
        c = int(np.argmax(bad))
        raise InputError(f"class {c} has weights that sum to {held[c].sum():g}; give non-negative ones that sum to one")
    return held
