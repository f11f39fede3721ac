"""The exact squared Wasserstein-2 distance, on the host: the reference for the other solvers."""

import numpy as np
import scipy

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure, are_masses, as_points


def exact(mu: Measure, nu: Measure) -> float:
    r""":math:`W_2^2(\mu, \nu) = \min_P \sum_{ij} P_{ij} \|x_i - y_j\|^2` over couplings P, exact up to rounding.

    A linear program, solved by column generation in float64. The simplex method runs on a subset of the pairs, at first
    the nearest ones. Pairs of negative reduced cost are added until there are none, and then no coupling is cheaper.
    Takes a few n m doubles of memory. Not for use inside of `jit`.

    Args:
      mu: one measure, points [n, d], weights [n] that sum to one.
      nu: one measure, points [m, d], weights [m] likewise.

    Raises:
      InputError: points that are not finite, or weights that are not non-negative with sum one.
      RuntimeError: the linear program was not solved.
    """
    (x, a), (y, b) = _real(mu, "mu"), _real(nu, "nu")
    if x.shape[1] != y.shape[1]:
        raise InputError(f"exact: measures of {x.shape[1]} and {y.shape[1]} dimensions; give equal ones")
    if len(x) < len(y):
        x, a, y, b = y, b, x, a
    cost = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    unit = cost.mean() or 1.0
    if not np.isfinite(unit):
        raise InputError("exact: the squared distances are beyond the range of float64; rescale the points")
    chosen = _staircase(a, b)
    nearest = np.argsort(cost, axis=1)[:, :4]
    chosen[np.arange(len(x))[:, None], nearest] = True
    f, g, best = np.zeros(len(x)), np.zeros(len(y)), np.inf
    for _ in range(_REFINEMENTS):
        # Prices move the optimum only by a constant. What is left of the costs is small for the pairs that matter, so
        # the tolerances of the simplex method shrink with it.
        rows, columns, plan, more_f, more_g = _generated((cost - f[:, None] - g) / unit, chosen, a, b)
        f, g = f + more_f * unit, g + more_g * unit
        best = min(best, plan @ cost[rows, columns])
        lower = f @ a + g @ b + min(np.min(cost - f[:, None] - g), 0.0) * _TOTAL
        if best - lower <= 1e-9 * best:
            break
        unit *= 1e-5
    return float(best / _TOTAL)


_REFINEMENTS = 4


def _generated(cost: np.ndarray, chosen: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Column generation: the pairs, the plan on them, and the prices f [n], g [m]. ``chosen`` gets the pairs added."""
    while True:
        rows, columns = np.nonzero(chosen)
        plan, f, g = _simplex(cost[rows, columns], rows, columns, a, b)
        # A chosen pair can be missing too, as the tolerance of the simplex method is larger.
        missing = (cost - f[:, None] - g < -1e-9) & ~chosen
        if not missing.any():
            return rows, columns, plan, f, g
        # Only the three worst pairs of each row: all of them would be most of the matrix.
        reduced = np.where(missing, cost - g, np.inf)
        worst = np.argsort(reduced, axis=1)[:, :3]
        keep = np.take_along_axis(missing, worst, axis=1)
        chosen[np.repeat(np.arange(len(cost)), worst.shape[1])[keep.ravel()], worst.ravel()[keep.ravel()]] = True


# The program is solved with masses of this sum, of which the tolerances of the simplex method are a tiny share. It is a
# power of two, and all masses are multiples of 2^-27, so that their sums in float64 are exact: a sum that is off by one
# rounding would make the program infeasible.
_TOTAL = 2.0**25


def _real(measure: Measure, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of positive mass, and their masses, which sum to `_TOTAL` exactly."""
    points, weights = as_points(measure.points).astype(np.float64), np.asarray(measure.weights, np.float64)
    if points.ndim != 2 or weights.shape != points.shape[:1]:
        shapes = f"{list(points.shape)} and weights {list(weights.shape)}"
        raise InputError(f"exact: {name} has points {shapes}; give [n, d] and [n]")
    if not are_masses(weights):
        raise InputError(f"exact: weights of {name} sum to {weights.sum():g}; give non-negative ones that sum to one")
    if not np.isfinite(points[weights > 0]).all():
        raise InputError(f"exact: {name} has NaN or infinite points; drop them")
    masses = np.rint(weights / weights.sum() * _TOTAL * 2**27)
    masses[np.argmax(masses)] += _TOTAL * 2**27 - masses.sum()
    return points[masses > 0], masses[masses > 0] / 2**27


def _staircase(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pairs [n, m], boolean, that admit a coupling, by the north-west corner rule."""
    chosen = np.zeros((len(a), len(b)), bool)
    ends = np.union1d(np.cumsum(a), np.cumsum(b))
    middles = (np.r_[0, ends[:-1]] + ends) / 2
    rows = np.minimum(np.searchsorted(np.cumsum(a), middles), len(a) - 1)
    chosen[rows, np.minimum(np.searchsorted(np.cumsum(b), middles), len(b) - 1)] = True
    return chosen


def _simplex(cost, rows, columns, a, b):
    """The optimal plan on the given pairs, and the dual prices f [n], g [m]."""
    pairs = np.arange(len(cost))
    entries = (np.ones(2 * len(cost)), (np.r_[rows, len(a) + columns], np.r_[pairs, pairs]))
    constraints = scipy.sparse.csr_array(entries, shape=(len(a) + len(b), len(cost)))
    solution = scipy.optimize.linprog(cost, A_eq=constraints, b_eq=np.r_[a, b], method="highs-ds")
    if solution.status != 0:
        raise RuntimeError(f"exact: the linear program failed: {solution.message}")
    prices = solution.eqlin.marginals
    return np.maximum(solution.x, 0.0), prices[: len(a)], prices[len(a) :]
