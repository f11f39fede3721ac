"""The free-support Wasserstein barycenter of one measure, on m atoms with uniform, prescribed or free weights."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.keys import as_key
from jaxdd.ground.measure import Array, Measure, are_masses, as_measure, check_atoms, standardise
from jaxdd.ground.settings import Bounds, bounded, check
from jaxdd.ot import coordinates, semidual
from jaxdd.ot.distance import cell_means, expanded, near_distances, rounded
from jaxdd.ot.quantization import KMeansSettings, found, iterations, of_cells, quantize, raised
from jaxdd.ot.semidual import NewtonSettings
from jaxdd.ot.summary import Closing, Summary, check_size


@dataclass(frozen=True)
class BarycenterSettings:
    """Settings of `barycenter`, an alternating minimisation over plans, positions and weights.

    Attributes:
      rounds: the limit of position steps. For prescribed weights all are taken. In the middle ones epsilon is annealed
        from `start` to `end`, so that at first several atoms share a point; this leads to better optima than exact
        plans. The unit of epsilon is the median over the points of the squared distance to the second nearest atom
        minus that to the nearest. A larger start would merge neighbouring atoms.
      start: the first epsilon of the annealing.
      end: the last epsilon of the annealing.
      polish: the number of rounds with exact plans before the annealing, whose best atoms are kept in case it makes
        them worse, and also the number of those after it. For free weights all rounds have exact plans.
      weight_steps: the steps on the weights before each position step, for free weights.
      weight_rate: the rate of step t of the mirror descent is weight_rate / sqrt(t), divided by `semidual.spread`.
      tolerance: a round has converged if it lowered the best cost by less than this share of it.
      patience: the number of consecutive such rounds that end the search for free weights.
      k_means: settings of the start; for prescribed weights it is a single start of at most five Lloyd iterations.
      newton: settings of the exact plans.
    """

    rounds: int = 24
    start: float = bounded(0.6, Bounds(1e-6, 1e6))
    end: float = bounded(0.12, Bounds(1e-6, 1e6))
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
    weights: str | Array = "free",
    start: Measure | None = None,
    settings: BarycenterSettings = BarycenterSettings(),  # noqa: B008
) -> Summary:
    r"""The free-support barycenter, the argmin of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))` over z, or over z and w.

    Each round computes a nearly optimal plan T and moves every atom by a Newton step to its barycentric projection,
    :math:`z_j \leftarrow \frac{1}{w_j} \sum_i T_{ij} x_i` (Cuturi and Doucet 2014, algorithm 2).

    - Prescribed weights: start from the centroids of k-means, anneal epsilon, and end with exact plans (deterministic
      annealing, Rose 1998). With uniform weights this is balanced k-means.
    - Free weights: start from the optimal quantizer and its cell masses, or from ``start``. Before each position step,
      take steps of mirror descent along the dual potential g of the atoms, a subgradient of W2^2 in w:
      :math:`w_j \leftarrow w_j e^{-\eta g_j} / Z` (Cuturi and Doucet, algorithm 1, with the entropy). The best round is
      kept, and the start counts as one, so the result is never worse than that of `quantize`, which is optimal over z
      and w if it is the global optimum.

    The plans of `semidual.solve` are rounded onto their marginals. Each cost is thus that of a coupling, an upper bound
    of W2^2; `lower` is a lower bound. A round costs n m (d + m) operations, or n m (n + m) after one product of all
    points with each other, where n < d and that saves time. Memory is n (d + a few m) floats. `vmap` over keys [C],
    classes [C, n, d] and weights [C, m] works.

    Args:
      key: a PRNG key or an integer seed, for k-means++.
      mu: one measure, points x [n, d], weights [n]; zero-weight points change nothing.
      m: the number of atoms.
      weights: "free" optimises w, "uniform" fixes w = 1/m, and an array [m] that sums to one fixes w to its values.
      start: the first atoms, points [m, d] and weights [m]; the weights are used only if they are free.
      settings: of the alternation.

    Returns:
      A Summary. costs has rounds + 2 entries: the start (for prescribed weights under the first round's plan), the
      rounds, and the best atoms under a final exact plan.

    Raises:
      InputError: see `ground.measure.check_measure` and `prescribed`; a start of other shapes; fewer than m points
        (`check` counts those of positive weight).
    """
    key = as_key(key)
    check(settings)
    mu = as_measure(mu)
    check_size(mu.points.shape[0], m)
    held = prescribed(weights, m, "barycenter", mu.points.dtype)
    if m == 1:
        return quantize(key, mu, m)  # the weight of a single atom is one in any case
    standard, shift, scale = standardise(mu)
    if start is not None:
        points, masses = _checked(start, mu, m, held is None)
        start = Measure((points - shift) / scale, masses)
    search = _searched(key, standard, m, start, held, settings)
    close = Closing.of(mu, search.best.points, shift, scale)
    return _closed(close, search, held is None, settings.newton).rescaled(shift, close.unit)


def _checked(start: Measure, mu: Measure, m: int, are_free: bool) -> Measure:
    """A start on m atoms, whose weights are used only if they are free; InputError if it is none."""
    points, weights = check_atoms(mu, start.points, "barycenter: start"), start.weights
    if points.shape[0] != m or np.shape(weights) != (m,):
        shapes = f"{list(points.shape)} and {list(np.shape(weights))}"
        raise InputError(f"barycenter: start of shapes {shapes}; give [{m}, {points.shape[1]}] and [{m}]")
    if are_free and not isinstance(weights, jax.core.Tracer) and not are_masses(np.asarray(weights)):
        raise InputError("barycenter: start of weights that are no masses; give non-negative ones that sum to one")
    return Measure(points, jnp.asarray(weights, points.dtype))


def _searched(
    key: jax.Array, mu: Measure, m: int, start: Measure | None, held: jax.Array | None, settings: BarycenterSettings
) -> "_State":
    """The rounds on standardised mu, in fewer coordinates where that saves time."""
    n, d = mu.points.shape
    k_means = settings.k_means if held is None else _brief(settings.k_means)
    # A start may lie outside of the span of the points, which the shorter coordinates cannot represent.
    shorter = start is None and coordinates.pay(n, d, m, iterations(k_means) + settings.rounds)
    searched, lengthen = coordinates.searched(mu, shorter)
    x, a = searched
    points = found(key, searched, m, k_means).points if start is None else start.points
    if held is None:
        near = near_distances(x, points)
        start = start or Measure(points, of_cells(near, a)[0])
        known = _quantizer_cost(near, a, start.weights)
    else:
        start = start or fitted(key, Measure(points, of_cells(expanded(x, points), a)[0]), held)
        start, known = start._replace(weights=held), jnp.asarray(jnp.inf, x.dtype)  # the cost of a plan, found later
    search = _alternate(searched, start, known, held, settings)
    return search._replace(best=search.best._replace(points=lengthen(search.best.points)))


def _brief(settings: KMeansSettings) -> KMeansSettings:
    """A short search: the annealing makes the result nearly independent of the start."""
    return replace(settings, restarts=1, exchanges=0, max_iterations=min(settings.max_iterations, 5))


def _closed(close: Closing, search: "_State", free: bool, newton: NewtonSettings) -> Summary:
    """The best atoms of the rounds under a plan that is exact but for a known gap, and all costs."""
    mu, best = close.mu, search.best._replace(points=close.points)
    cost = near_distances(mu.points, best.points)
    unit = semidual.spread(cost, mu.weights, best.weights)
    closing = semidual.certified(cost, mu.weights, best.weights, search.potential * close.ratio, unit, newton)
    least = closing.cost
    if free:
        least = jnp.minimum(least, _quantizer_cost(cost, mu.weights, best.weights))
    costs = jnp.append(raised(search.costs * close.ratio, least), least)
    return Summary(best, costs, jnp.minimum(closing.lower, least), search.stale > 0)


def prescribed(weights: str | Array, m: int, solver: str, dtype: Any) -> jax.Array | None:
    """The prescribed weights, [m] of that dtype, or None for free ones; ``solver`` is named in errors.

    Raises:
      InputError: an unknown kind, another shape, or, outside of `jit`, negative weights or another sum than one.
    """
    if isinstance(weights, str):
        if weights not in ("free", "uniform"):
            raise InputError(f"{solver}: weights={weights!r}; choose 'free', 'uniform' or an array [m]")
        return jnp.full(m, 1.0 / m, dtype) if weights == "uniform" else None
    if np.shape(weights) != (m,):
        raise InputError(f"{solver}: weights of shape {np.shape(weights)} for m={m} atoms; give [{m}]")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not are_masses(values):
            raise InputError(f"{solver}: weights sum to {values.sum():g}; give non-negative ones that sum to one")
    return jnp.asarray(weights, dtype)


def fitted(key: jax.Array, start: Measure, held: jax.Array) -> Measure:
    """The atoms of a start, reordered so that the largest cells have the largest of the prescribed weights [m]."""
    rank = jnp.argsort(jnp.argsort(held))
    points, masses = (leaf[jnp.argsort(start.weights)][rank] for leaf in start)
    # An atom without a cell coincides with another. Under an entropic plan both would always move together.
    noise = 0.3 * jax.random.normal(jax.random.fold_in(key, 1), points.shape, points.dtype) / points.shape[1] ** 0.5
    shared = (masses == 0) & (held > 0)
    return Measure(points + jnp.where(shared[:, None], noise, 0.0), masses)


def _quantizer_cost(cost: jax.Array, a: Array, b: Array) -> jax.Array:
    """The exact W2^2 if the weights b [m] are those of the cells, else infinity; a plan would add its gap."""
    masses, least = of_cells(cost, a)
    return jnp.where(jnp.allclose(masses, b, atol=1e-6), least, jnp.inf)


def _margin(cost: jax.Array, a: Array, spread: jax.Array) -> jax.Array:
    """The weighted median over the rows of cost [n, m] of the second smallest entry minus the smallest.

    Where that is zero, a tenth of ``spread``.
    """
    least = -jax.lax.top_k(-cost, 2)[0]
    margins = least[:, 1] - least[:, 0]
    order = jnp.argsort(margins)
    rising = jnp.cumsum(jnp.take(a, order))
    # Just below one half, where rounding would choose between two middle rows.
    median = margins[order][jnp.searchsorted(rising, 0.499 * rising[-1])]
    return jnp.where(median > 0, median, 0.1 * spread)


class _State(NamedTuple):
    rounds: Any  # int32 scalar; the int 0 at the start
    atoms: Measure
    potential: jax.Array
    best: Measure
    costs: jax.Array
    stale: Any  # int32 scalar, the rounds since the best cost fell by more than the tolerance; the int 0 at the start


def _projected(x: Array, atoms: Measure, plan: jax.Array, cost: jax.Array) -> tuple[Measure, jax.Array]:
    """The atoms at the barycentric projections of a plan [n, m] of that cost, and what the plan costs then."""
    mass, projection = plan.sum(axis=0)[:, None], cell_means(plan, x, atoms.points)
    # Moving an atom to the mean of its mass lowers the cost by the mass times the squared distance moved.
    after = jnp.maximum(cost - jnp.sum(mass * (projection - atoms.points) ** 2), 0.0)
    return atoms._replace(points=projection), after


def _alternate(mu: Measure, start: Measure, known: Any, held: Any, settings: BarycenterSettings) -> _State:
    """The rounds of `barycenter` on standardised mu; ``known`` is the cost of the start, or infinity."""
    x, a = mu
    first = expanded(x, start.points)
    spread = semidual.spread(first, a, start.weights)
    annealed = 0 if held is None else max(settings.rounds - 2 * settings.polish, 0)

    def exact_plan(cost, weights, potential):
        return semidual.certified(cost, a, weights, potential, spread, settings.newton)

    def weight_step(carry, step):
        atoms, potential, cost = carry
        g = exact_plan(cost, atoms.weights, potential).potential
        rate = settings.weight_rate / jnp.sqrt(step) / spread
        weights = jax.nn.softmax(jnp.log(atoms.weights) - rate * (g - jnp.sum(atoms.weights * g)))
        return (atoms._replace(weights=weights), g, cost), None

    def advance(state, plan_for):
        atoms, potential = state.atoms, state.potential
        cost = expanded(x, atoms.points)
        if held is None and settings.weight_steps:
            first = jnp.asarray(state.rounds, x.dtype) * settings.weight_steps + 1
            steps = first + jnp.arange(settings.weight_steps, dtype=x.dtype)
            (atoms, potential, _), _ = jax.lax.scan(weight_step, (atoms, potential, cost), steps)
        plan, before, potential = plan_for(cost, atoms.weights, potential)
        atoms, after = _projected(x, atoms, plan, before)
        least = state.costs.min()
        best = jax.tree.map(lambda new, old: jnp.where(after < least, new, old), atoms, state.best)
        stale = jnp.where(least - after > settings.tolerance * least, 0, state.stale + 1)
        costs = state.costs.at[state.rounds + 1].set(after)
        costs = costs.at[0].set(jnp.where(jnp.isinf(costs[0]), before, costs[0]))
        return _State(state.rounds + 1, atoms, potential, best, costs, stale)

    def annealing_round(state, epsilon):
        def plan_for(cost, weights, potential):
            solution = semidual.solve(cost, a, weights, potential, epsilon, replace(settings.newton, tolerance=1e-2))
            plan = rounded(solution.plan, a, weights)
            return plan, jnp.sum(plan * cost), solution.potential

        return advance(state, plan_for), None

    def exact_round(state):
        def plan_for(cost, weights, potential):
            solution = exact_plan(cost, weights, potential)
            return solution.plan, solution.cost, solution.potential

        return advance(state, plan_for)

    def unfinished(state):
        return (state.rounds < settings.rounds) & ((state.stale < settings.patience) | (held is not None))

    costs = jnp.full(settings.rounds + 1, jnp.inf, x.dtype).at[0].set(known)
    state = _State(0, start, jnp.zeros_like(start.weights), start, costs, 0)
    if annealed:
        falling = jnp.asarray(np.geomspace(settings.start, settings.end, annealed), x.dtype)
        epsilons = falling * _margin(first, a, spread)
        state = jax.lax.while_loop(lambda state: state.rounds < settings.polish, exact_round, state)
        state, _ = jax.lax.scan(annealing_round, state, epsilons)
    return jax.lax.while_loop(unfinished, exact_round, state)
