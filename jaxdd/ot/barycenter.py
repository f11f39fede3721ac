"""The Wasserstein barycenter of one measure on m atoms, with uniform, prescribed or free weights."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure, are_masses, standardise
from jaxdd.ot import coordinates, semidual
from jaxdd.ot.distance import cell_masses, distortion, rounded, squared_distances
from jaxdd.ot.quantization import KMeansSettings, iterations, quantize
from jaxdd.ot.semidual import NewtonSettings
from jaxdd.ot.summary import Summary, check_size


@dataclass(frozen=True)
class BarycenterSettings:
    """Alternating minimisation over plans, positions and weights.

    Attributes:
      rounds: the most position steps. Where the weights are given, all are made, and along the middle ones the
        plans' epsilon falls from `start` to `end`, so that atoms first share the points between them: annealing,
        which ends in better optima than exact plans do. The unit of epsilon is the median over the points of how
        much further the second atom is than the first: a hotter start would melt neighbouring atoms into one.
      start: the first epsilon of the annealing.
      end: its last epsilon.
      polish: how many of the rounds come before it, in case it melts what was good, and how many after it, with
        exact plans; where the weights are free, all have them.
      weight_steps: steps on the weights before each position step, where they are free.
      weight_rate: step t of the mirror descent takes weight_rate / sqrt(t), over the spread.
      tolerance: converged means that the last rounds lowered the best cost by less than this part of it.
      patience: so many such rounds end the search for free weights.
      k_means: how the start is found; where the weights are given, in one start of five Lloyd iterations at most.
      newton: how exact an exact plan is.
    """

    rounds: int = 24
    start: float = 0.6
    end: float = 0.12
    polish: int = 2
    weight_steps: int = 1
    weight_rate: float = 0.5
    tolerance: float = 1e-3
    patience: int = 3
    k_means: KMeansSettings = field(default_factory=KMeansSettings)
    newton: NewtonSettings = field(default_factory=NewtonSettings)


def barycenter(
    key: jax.Array,
    mu: Measure,
    m: int,
    *,
    weights: str | jax.Array = "free",
    start: Measure | None = None,
    settings: BarycenterSettings = BarycenterSettings(),  # noqa: B008
) -> Summary:
    r"""The free-support barycenter: argmin of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))` over z, or z and w.

    Each round takes a nearly optimal plan T and moves every atom by the Newton step to its barycentric
    projection, :math:`z_j \leftarrow \frac{1}{w_j} \sum_i T_{ij} x_i` (Cuturi and Doucet 2014, algorithm 2).

    - Given weights: from the centroids of k-means, the plans' epsilon falls slowly before the last rounds are
      exact (deterministic annealing, Rose 1998). Balanced k-means, when the weights are uniform.
    - Free weights: from the optimal quantizer and its cell masses, unless a start is given. Before each
      position step, mirror descent along the dual potential g of the atoms, a subgradient of W2^2 in w:
      :math:`w_j \leftarrow w_j e^{-\eta g_j} / Z` (their algorithm 1 under the entropy). The start counts as a
      round and the best one is kept, so the result is never worse than `quantize`, which is optimal over both z
      and w wherever its search found the global optimum.

    Plans come from `semidual.solve` and are rounded onto their marginals, so that each cost is one of a coupling,
    an upper bound of W2^2; `lower` bounds it from below. Costs n m (d + m) operations a round and memory of
    n (d + a few m) floats; where n < d and it pays, n m (n + m) after one product of all points with each other.
    `vmap` over keys [C], classes [C, n, d] and weights [C, m] works.

    Args:
      key: a PRNG key, for k-means++.
      mu: one measure, points x [n, d], weights [n]; zero-weight points change nothing.
      m: the number of atoms.
      weights: "free" descends on w too, "uniform" holds w = 1/m, an array [m] that sums to one holds w at that.
      start: the first atoms, points [m, d]; of the weights [m] only free ones make use.
      settings: of the alternation.

    Returns:
      A Summary; costs has rounds + 2 entries: the start (of given weights, what the first round's plan costs before
      it moves the atoms), the rounds, and the best atoms under a last exact plan.

    Raises:
      InputError: an unknown kind of weights, an array of another shape or, outside of `jit`, that is no
        probability; a start of other shapes; fewer than m points (see `check` for padded classes).
    """
    check_size(mu.points.shape[0], m)
    given = prescribed(weights, m, "barycenter")
    if m == 1:
        return quantize(key, mu, m)  # one atom weighs one, whatever was asked for
    standard, shift, scale = standardise(mu)
    # The annealing forgets most of its start: a short one will do.
    few = min(settings.k_means.max_iterations, 5)
    plain = replace(settings.k_means, restarts=1, exchanges=0, max_iterations=few)
    k_means = settings.k_means if given is None else plain
    # A start may lie outside of the span of the points, where their few coordinates end.
    short = start is None and coordinates.pay(*mu.points.shape, m, iterations(k_means) + settings.rounds)
    searched = Measure(coordinates.shorten(standard.points), standard.weights) if short else standard
    if start is not None:
        if start.points.shape != (m, mu.points.shape[1]) or start.weights.shape != (m,):
            shapes = f"{start.points.shape} and {start.weights.shape}"
            raise InputError(f"barycenter: start of shapes {shapes}; give [{m}, {mu.points.shape[1]}] and [{m}]")
        start = start._replace(points=(start.points - shift) / scale)
    else:
        start = quantize(key, searched, m, settings=k_means).atoms
        if given is not None:
            start = fitted(key, start, given)
    found = _alternate(searched, start if given is None else start._replace(weights=given), given, settings)
    best = found.best
    if short:
        best = best._replace(points=coordinates.lengthen(best.points, searched.points, standard.points))

    cost = squared_distances(standard.points, best.points)
    unit = semidual.spread(cost, standard.weights, best.weights)
    closing = semidual.certified(cost, standard.weights, best.weights, found.potential, unit, settings.newton)
    least = jnp.minimum(closing.cost, found.costs.min())
    if given is None:
        least = jnp.minimum(least, _quantizer_cost(standard, best))
    costs = jnp.append(jnp.where(jnp.isinf(found.costs), least, found.costs), least) * scale**2
    atoms = Measure(best.points * scale + shift, best.weights)
    return Summary(atoms, costs, jnp.minimum(closing.lower, least) * scale**2, found.stale > 0)


def prescribed(weights: str | jax.Array, m: int, solver: str) -> jax.Array | None:
    """The weights to hold, or None to learn them."""
    if isinstance(weights, str):
        if weights not in ("free", "uniform"):
            raise InputError(f"{solver}: weights={weights!r}; choose 'free', 'uniform' or an array [m]")
        return jnp.full(m, 1.0 / m) if weights == "uniform" else None
    if np.shape(weights) != (m,):
        raise InputError(f"{solver}: weights of shape {np.shape(weights)} for m={m} atoms; give [{m}]")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not are_masses(values):
            raise InputError(f"{solver}: weights sum to {values.sum():g}; give non-negative ones that sum to one")
    return jnp.asarray(weights, jnp.float32)


def fitted(key: jax.Array, start: Measure, given: jax.Array) -> Measure:
    """The start with its largest cells where the largest weights are."""
    rank = jnp.argsort(jnp.argsort(given))
    points, masses = (leaf[jnp.argsort(start.weights)][rank] for leaf in start)
    # An atom without a cell lies on another, and a blurred plan would move the two as one for ever.
    noise = 0.3 * jax.random.normal(jax.random.fold_in(key, 1), points.shape) / points.shape[1] ** 0.5
    shared = (masses == 0) & (given > 0)
    return Measure(points + jnp.where(shared[:, None], noise, 0.0), masses)


def _quantizer_cost(mu: Measure, atoms: Measure) -> jax.Array:
    """W2^2 where the weights are the masses of the cells: exact, where a plan would add its gap. Else infinity."""
    is_quantizer = jnp.allclose(cell_masses(mu, atoms.points), atoms.weights, atol=1e-6)
    return jnp.where(is_quantizer, distortion(mu, atoms.points), jnp.inf)


def _margin(cost: jax.Array, a: jax.Array, otherwise: jax.Array) -> jax.Array:
    """The weighted median over the rows of cost [n, m] of the second smallest entry minus the smallest."""
    least = -jax.lax.top_k(-cost, 2)[0]
    margins = least[:, 1] - least[:, 0]
    order = jnp.argsort(margins)
    rising = jnp.cumsum(jnp.take(a, order))
    # Just below a half: at it, rounding would choose between the two middle ones.
    median = margins[order][jnp.searchsorted(rising, 0.499 * rising[-1])]
    return jnp.where(median > 0, median, 0.1 * otherwise)


class _State(NamedTuple):
    index: jax.Array
    atoms: Measure
    potential: jax.Array
    best: Measure
    costs: jax.Array
    stale: jax.Array  # rounds since the best cost fell by more than the tolerance


def _alternate(mu: Measure, start: Measure, given: jax.Array | None, settings: BarycenterSettings) -> _State:
    """The rounds of `barycenter` on standardised mu."""
    x, a = mu
    first = squared_distances(x, start.points)
    spread = semidual.spread(first, a, start.weights)
    annealed = max(settings.rounds - 2 * settings.polish, 0) if given is not None else 0
    epsilons = jnp.asarray(np.geomspace(settings.start, settings.end, annealed), x.dtype)
    if annealed:
        epsilons = epsilons * _margin(first, a, spread)
    loose = replace(settings.newton, tolerance=1e-2)

    def exact_plan(cost, weights, potential):
        return semidual.certified(cost, a, weights, potential, spread, settings.newton)

    def weight_step(carry, step):
        atoms, potential, cost = carry
        g = exact_plan(cost, atoms.weights, potential).potential
        rate = settings.weight_rate / jnp.sqrt(step) / spread
        weights = jax.nn.softmax(jnp.log(atoms.weights) - rate * (g - atoms.weights @ g))
        return (atoms._replace(weights=weights), g, cost), None

    def advance(state, plan_for):
        atoms, potential = state.atoms, state.potential
        cost = squared_distances(x, atoms.points)
        if given is None and settings.weight_steps:
            steps = state.index * settings.weight_steps + 1.0 + jnp.arange(settings.weight_steps)
            (atoms, potential, _), _ = jax.lax.scan(weight_step, (atoms, potential, cost), steps)
        plan, before, potential = plan_for(cost, atoms.weights, potential)
        mass = plan.sum(axis=0)[:, None]
        projection = jnp.matmul(plan.T, x, precision="highest") / jnp.where(mass > 0, mass, 1.0)
        projection = jnp.where(mass > 0, projection, atoms.points)
        # Moving an atom to the mean of its mass saves its mass times the square of the way.
        after = jnp.maximum(before - jnp.sum(mass * (projection - atoms.points) ** 2), 0.0)
        atoms = atoms._replace(points=projection)
        least = state.costs.min()
        best = jax.tree.map(lambda new, old: jnp.where(after < least, new, old), atoms, state.best)
        stale = jnp.where(least - after > settings.tolerance * least, 0, state.stale + 1)
        costs = state.costs.at[state.index + 1].set(after)
        costs = costs.at[0].set(jnp.where(jnp.isinf(costs[0]), before, costs[0]))
        return _State(state.index + 1, atoms, potential, best, costs, stale)

    def annealing_round(state, epsilon):
        def plan_for(cost, weights, potential):
            found = semidual.solve(cost, a, weights, potential, epsilon, loose)
            plan = rounded(found.plan, a, weights)
            return plan, jnp.sum(plan * cost), found.potential

        return advance(state, plan_for), None

    def exact_round(state):
        def plan_for(cost, weights, potential):
            found = exact_plan(cost, weights, potential)
            return found.plan, found.cost, found.potential

        return advance(state, plan_for)

    def unfinished(state):
        return (state.index < settings.rounds) & ((state.stale < settings.patience) | (given is not None))

    cost = _quantizer_cost(mu, start) if given is None else jnp.inf
    costs = jnp.full(settings.rounds + 1, jnp.inf, x.dtype).at[0].set(cost)
    state = _State(0, start, jnp.zeros_like(start.weights), start, costs, 0)
    if annealed:
        state = jax.lax.while_loop(lambda state: state.index < settings.polish, exact_round, state)
        state, _ = jax.lax.scan(annealing_round, state, epsilons)
    return jax.lax.while_loop(unfinished, exact_round, state)
