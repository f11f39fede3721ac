"""Squared Wasserstein-2 distances between weighted point clouds."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Array, Measure, as_measure, centred, check_atoms, power_of_two, real_points
from jaxdd.ground.settings import Bounds, bounded, check
from jaxdd.ot.solvers import solvers


@dataclass(frozen=True)
class SinkhornSettings:
    """Settings of `transport`. Every epsilon is relative to the mean cost under the product measure.

    Attributes:
      epsilon: the final entropic regularisation.
      start: the first epsilon. Without annealing, Sinkhorn at a small epsilon stops far from the optimum.
      decay: the factor on epsilon from one iteration to the next, in (0, 1).
      relaxation: over-relaxation of the potentials, in [1, 2). 1 is plain Sinkhorn, which is several times slower on
        well-separated clusters.
      threshold: the L1 error of the marginals below which the iterations stop.
      max_iterations: the limit of iterations, annealing included. Nearly tied plans of few points need thousands.
    """

    epsilon: float = bounded(1e-3, Bounds(1e-6, 1e6))
    start: float = bounded(1.0, Bounds(1e-6, 1e6))
    decay: float = bounded(0.98, Bounds(0.01, 0.999))
    relaxation: float = bounded(1.6, Bounds(0.1, 1.99))
    threshold: float = 3e-4
    max_iterations: int = bounded(10_000, Bounds(1, 10**7))


class Transport(NamedTuple):
    """A coupling and its dual potential.

    Attributes:
      plan: the coupling, with exact marginals, [n, m].
      potential: the dual potential of the columns, [m].
      converged: whether the error of the marginals fell below the threshold, boolean scalar.
    """

    plan: jax.Array
    potential: jax.Array
    converged: jax.Array


def squared_distances(x: Array, y: Array) -> jax.Array:
    r"""All :math:`C_{ij} = \|x_i - y_j\|^2 \ge 0`, for x [n, d] and y [m, d]: [n, m].

    Both clouds are first shifted by the mean of y, because the expanded square loses digits far from the origin.
    """
    centre = jnp.mean(y, axis=0)
    return expanded(x - centre, y - centre)


def expanded(x: Array, y: Array) -> jax.Array:
    """`squared_distances` of clouds that lie about the origin already, as those of `standardise` do."""
    products = jnp.matmul(x, y.T, precision="highest")  # by default tensor cores round the factors to ten bits
    return jnp.maximum(jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1) - 2 * products, 0.0)


def near_distances(x: Array, z: Array) -> jax.Array:
    r"""`squared_distances` of x [n, d] to atoms z [m, d], with all digits also in clusters far from each other: [n, m].

    With z_c the nearest atom of x and r = x - z_c, it is :math:`|r|^2 + 2 r \cdot (z_c - z) + |z_c - z|^2`. The error
    grows with the distance of a point from its own atom, and not with that from the other clusters. Both clouds must
    lie about the origin.
    """
    z = jnp.asarray(z)
    cell = jax.lax.stop_gradient(jnp.argmin(expanded(x, z), axis=1))
    own = z[cell]
    rest = x - own
    short = jnp.sum(rest**2, axis=1)[:, None]
    gaps = jax.lax.map(lambda atom: jnp.sum((atom - z) ** 2, axis=1), z)
    across = jnp.sum(rest * own, axis=1)[:, None] - jnp.matmul(rest, z.T, precision="highest")
    others = jnp.maximum(short + 2 * across + gaps[cell], 0.0)
    return jnp.where(cell[:, None] == jnp.arange(len(z)), short, others)


def distortion(mu: Measure, z: Array) -> jax.Array:
    r"""The quantization error :math:`G(z) = \sum_i a_i \min_j \|x_i - z_j\|^2`.

    It is the least :math:`W_2^2` between mu and any measure on the points z, reached by the masses of their
    Voronoi cells (Graf and Luschgy 2000, Lemma 3.4).

    Args:
      mu: one measure, points x [n, d], weights a [n].
      z: points, [m, d].

    Returns:
      A scalar, in the squared unit of the points.

    Raises:
      InputError: see `ground.measure.check_measure` and `check_atoms`.
    """
    mu = as_measure(mu)
    return jnp.sum(mu.weights * jnp.min(near_distances(*_about(mu, check_atoms(mu, z, "distortion"))), axis=1))


def _about(mu: Measure, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The points of mu and z, both minus the mean of z."""
    centre = jnp.mean(jax.lax.stop_gradient(z), axis=0)
    return real_points(mu) - centre, z - centre


def quantization_loss(mu: Measure, z: jax.Array, *, epsilon: float = 0.01) -> jax.Array:
    r"""The distortion with a soft minimum, :math:`L(z) = -\varepsilon \sum_i a_i \log \frac1m \sum_j
    e^{-\|x_i - z_j\|^2 / \varepsilon}`: a loss for atoms whose weights are free.

    It is the entropic transport of mu onto the points z, whose masses are left free,
    :math:`\min_P \langle P, C \rangle + \varepsilon KL(P \| a \otimes \frac1m)` over the P of row masses a. With

    .. math:: G(z) \le L(z) \le G(z) + \varepsilon \log m

    it tends to the `distortion` G as epsilon falls, but is smooth: where a point changes cells G has a kink, and an
    atom without a cell no gradient. That of L is :math:`2 \sum_i P_{ij} (z_j - x_i)` with P the minimiser, rows
    :math:`a_i \, \mathrm{softmax}(-C_i / \varepsilon)`; it takes the unit of epsilon as fixed.

    Args:
      mu: one measure, points x [n, d], weights a [n].
      z: points, [m, d].
      epsilon: relative to the mean cost between mu and equal masses on z.

    Returns:
      A scalar, in the squared unit of the points.

    Raises:
      InputError: see `ground.measure.check_measure` and `check_atoms`, or an epsilon out of range.
    """
    mu = as_measure(mu)
    check_epsilon(epsilon, "quantization_loss")
    z = check_atoms(mu, z, "quantization_loss")
    cost = squared_distances(real_points(mu), z)
    mean = jax.lax.stop_gradient(jnp.sum(mu.weights * jnp.mean(cost, axis=1)))
    unit = epsilon * jnp.where(mean > 0, mean, 1.0)
    soft = math.log(z.shape[0]) - jax.nn.logsumexp(-cost / unit, axis=1)
    return unit * jnp.sum(mu.weights * soft)


def cell_masses(mu: Measure, z: Array) -> jax.Array:
    """The mass of mu in the Voronoi cell of each point of z [m, d], [m]: the weights on z of least W2^2 to mu.

    Raises:
      InputError: see `ground.measure.check_measure` and `check_atoms`.
    """
    mu = as_measure(mu)
    near = near_distances(*_about(mu, check_atoms(mu, z, "cell_masses")))
    return masses_of(mu.weights, jnp.argmin(near, axis=1), near.shape[1])


def masses_of(a: Array, cell: jax.Array, m: int) -> jax.Array:
    """The sum of the weights a [n] in each of m cells, [m]; a product with a vector would add up in one long chain."""
    return jnp.sum(a[:, None] * memberships(cell, m, a.dtype), axis=0)


def nearest_atoms(x: Array, z: Array) -> jax.Array:
    """The index of the nearest atom z [m, d] of each point x [n, d], [n]."""
    return jnp.argmin(squared_distances(x, z), axis=1)


def memberships(cell: jax.Array, m: int, dtype) -> jax.Array:
    """Membership as a matrix [n, m]. A product with it sums over cells faster than a scatter, in a fixed order."""
    return (cell[:, None] == jnp.arange(m)).astype(dtype)


def cell_means(members: Array, x: Array, empty: Array) -> jax.Array:
    """The mean of x [n, d] in each cell, with weights ``members`` [n, m], or ``empty`` [m, d] in cells without mass."""
    masses = members.sum(axis=0)[:, None]
    sums = jnp.matmul(members.T, x, precision="highest")
    return jnp.where(masses > 0, sums / jnp.where(masses > 0, masses, 1.0), empty)


def mean_cost(cost: Array, a: Array, b: Array) -> jax.Array:
    """The mean of cost [n, m] under the product of the masses a [n] and b [m], scalar."""
    return jnp.sum(a * jnp.sum(cost * b, axis=1))


def transport(cost: Array, a: Array, b: Array, settings: SinkhornSettings) -> Transport:
    r"""A nearly optimal plan of :math:`\min_{P \ge 0} \langle P, C \rangle` with :math:`P 1 = a, P^T 1 = b`.

    Log-domain Sinkhorn along a geometric schedule of epsilon. The plan is then rounded onto the marginals (Altschuler,
    Weed and Rigollet 2017, algorithm 2), so that its cost is always an upper bound of the optimum.

    Args:
      cost: C, finite, [n, m].
      a: row masses, [n]. Rows of mass zero are zero in the plan.
      b: column masses, [m], of the same sum. Columns of mass zero are zero in the plan and have potential zero.
      settings: the schedule.
    """
    check(settings)
    mean = mean_cost(cost, a, b)
    mean = jnp.where(mean > 0, mean, 1.0)
    ott = solvers()
    annealing = ott.Epsilon(settings.epsilon, init=settings.start / settings.epsilon, decay=settings.decay)
    solver = ott.Sinkhorn(
        threshold=settings.threshold,
        min_iterations=_annealing_iterations(settings),
        max_iterations=settings.max_iterations,
        momentum=ott.Momentum(value=settings.relaxation),
    )
    geometry = ott.Geometry(cost_matrix=cost / mean, epsilon=annealing)
    with jax.numpy_dtype_promotion("standard"):  # which OTT-JAX relies on
        out = solver(ott.LinearProblem(geometry, a=a, b=b))
        matrix = out.matrix
    plan, potential = rounded(matrix, a, b), jnp.where(b > 0, out.g * mean, 0.0)
    return Transport(plan, potential, out.converged)


def rounded(plan: jax.Array, a: Array, b: Array) -> jax.Array:
    """The plan [n, m] rounded onto the marginals a [n] and b [m] (Altschuler, Weed and Rigollet 2017, algorithm 2)."""
    plan = plan * jnp.minimum(_ratio(a, plan.sum(axis=1)), 1.0)[:, None]
    plan = plan * jnp.minimum(_ratio(b, plan.sum(axis=0)), 1.0)
    short_a = jnp.maximum(a - plan.sum(axis=1), 0.0)
    short_b = jnp.maximum(b - plan.sum(axis=0), 0.0)
    return plan + short_a[:, None] * _ratio(short_b, short_b.sum())


def w2_squared(mu: Measure, nu: Measure, settings: SinkhornSettings = SinkhornSettings()) -> jax.Array:  # noqa: B008
    r""":math:`W_2^2(\mu, \nu) = \min_P \sum_{ij} P_{ij} \|x_i - y_j\|^2` over the couplings P of mu and nu.

    The result is the cost of a coupling, see `transport`, without entropy. It is an upper bound, by default within a
    few parts in a thousand. The gradient in the points treats the plan as constant, by the envelope theorem; the
    gradient in the weights is zero.

    Args:
      mu: one measure, points [n, d], weights [n].
      nu: one measure, points [m, d], weights [m]; memory grows as n m.
      settings: the schedule of Sinkhorn.

    Returns:
      A scalar, in the squared unit of the points.

    Raises:
      InputError: see `ground.measure.check_measure`; measures of different dimensions, or, outside of `jit`, a distance
        beyond the range of the dtype.
    """
    mu, nu = _pair(mu, nu)
    x, y, unit = _common(mu, nu)
    cost = squared_distances(x, y)
    solution = transport(*jax.lax.stop_gradient((cost, mu.weights, nu.weights)), settings)
    return _held(jnp.sum(jax.lax.stop_gradient(solution.plan) * cost) * unit * unit, "w2_squared")


def _pair(mu: Measure, nu: Measure) -> tuple[Measure, Measure]:
    """Both measures, checked; InputError also for different dimensions."""
    mu, nu = as_measure(mu), as_measure(nu)
    if mu.points.shape[1] != nu.points.shape[1]:
        raise InputError(f"measures of {mu.points.shape[1]} and {nu.points.shape[1]} dimensions; give equal ones")
    return mu, nu


def _common(mu: Measure, nu: Measure) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The points of two checked measures in a common unit, a power of two, around their common mean; and the unit.

    No digits are lost to a distant origin, and none to squares beyond the range of the dtype.
    """
    x, y = real_points(mu), real_points(nu)
    inner = jax.lax.stop_gradient((x, y))
    centre = (centred(inner[0], mu.weights)[1] + centred(inner[1], nu.weights)[1]) / 2
    peaks = [jnp.max(jnp.where(w[:, None] > 0, jnp.abs(p - centre), 0.0)) for p, w in zip(inner, (mu[1], nu[1]))]
    unit = power_of_two(jnp.maximum(*peaks))
    return (x - centre) / unit, (y - centre) / unit, unit


def _held(value: jax.Array, name: str) -> jax.Array:
    """The value of a distance; outside of `jit` InputError if the dtype cannot hold it."""
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(value):
        raise InputError(f"{name}: the squared distance is beyond the range of {value.dtype}; rescale the points")
    return value


def sinkhorn_divergence(mu: Measure, nu: Measure, *, epsilon: float = 0.05) -> jax.Array:
    r"""The debiased divergence :math:`S = OT_\varepsilon(\mu, \nu) - \frac12 OT_\varepsilon(\mu, \mu) -
    \frac12 OT_\varepsilon(\nu, \nu)` (Genevay, Peyre and Cuturi 2018; Feydy et al. 2019).

    Here :math:`OT_\varepsilon(\mu, \nu) = \min_P \langle P, C \rangle + \varepsilon KL(P \| \mu \otimes \nu)`. It is
    zero if and only if the measures are equal, positive otherwise, and smooth in the points and in the weights, so it
    can be a training loss. It tends to W2^2 as epsilon falls, and to the squared distance of the means as it grows.

    Args:
      mu: one measure, points [n, d], weights [n].
      nu: one measure, points [m, d], weights [m]; memory grows as (n + m)^2.
      epsilon: the entropic regularisation, relative to the mean cost under the product measure, at least 1e-5.

    Returns:
      A scalar, in the squared unit of the points.

    Raises:
      InputError: see `ground.measure.check_measure`; measures of different dimensions; an epsilon out of range; or,
        outside of `jit`, a distance beyond the range of the dtype.
    """
    check_epsilon(epsilon, "sinkhorn_divergence")
    mu, nu = _pair(mu, nu)
    x, y, unit = _common(mu, nu)
    # Matrices, as a cloud of points would compute their products in less precision on an accelerator.
    costs = tuple(squared_distances(p, q) for p, q in ((x, y), (x, x), (y, y)))
    mean = mean_cost(costs[0], mu.weights, nu.weights)
    mean = jnp.where(mean > 0, mean, 1.0)
    # Without annealing, thousands of iterations at a small epsilon end far from the optimum.
    least = _LEAST if isinstance(epsilon, jax.core.Tracer) else float(epsilon)
    annealed = _annealing_iterations(SinkhornSettings(epsilon=min(least, 1.0), decay=_DECAY))
    ott = solvers()
    with jax.numpy_dtype_promotion("standard"):  # which OTT-JAX relies on
        divergence, _ = ott.sinkhorn_divergence(
            ott.Geometry,
            cost_matrix=tuple(cost / mean for cost in costs),
            a=_positive(mu.weights),
            b=_positive(nu.weights),
            epsilon=ott.Epsilon(epsilon, init=jnp.maximum(1.0, 1.0 / epsilon), decay=_DECAY),
            solve_kwargs={
                "threshold": 1e-5,
                "min_iterations": annealed,
                "max_iterations": 2000,
                "momentum": ott.Momentum(value=SinkhornSettings.relaxation),
            },
        )
    return _held(divergence * mean * unit * unit, "sinkhorn_divergence")


def check_epsilon(epsilon: float | Array, what: str) -> None:
    """Raise InputError for a relative epsilon that float32 cannot resolve, or, outside of `jit`, that is none."""
    if not isinstance(epsilon, jax.core.Tracer) and not (np.ndim(epsilon) == 0 and _LEAST <= float(epsilon) <= 1e6):
        raise InputError(f"{what}: epsilon {epsilon} is out of range; use {_LEAST:g} to 1e6, or w2_squared for none")


_LEAST = 1e-5
_DECAY = 0.95  # of epsilon in each iteration of the divergence


def _positive(weights: Array) -> jax.Array:
    """The weights, with gradient zero where they are zero; the gradient of the entropy is infinite there."""
    return jnp.where(weights > 0, weights, 0.0)


def _annealing_iterations(settings: SinkhornSettings) -> int:
    steps = max(0, math.ceil(math.log(settings.epsilon / settings.start) / math.log(settings.decay)))
    # OTT computes the error every ten iterations. Before min_iterations it records infinity, which it later takes for a
    # divergence and stops. One more than a multiple of ten makes the first error after the annealing a finite one.
    return 10 * math.ceil(steps / 10) + 1


def _ratio(numerator: Array, denominator: Array) -> jax.Array:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)
