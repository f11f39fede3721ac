"""Semi-discrete optimal transport from n points to m << n: Newton's method on the dual potential of the m columns."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Array
from jaxdd.ground.settings import Bounds, bounded
from jaxdd.ot.distance import rounded
from jaxdd.ot.summary import slack


@dataclass(frozen=True)
class NewtonSettings:
    """Settings of `solve` and `certified`.

    Attributes:
      tolerance: the L1 error of the column masses below which `solve` stops.
      max_iterations: the limit of evaluations for one epsilon. From a random start, an epsilon of a hundredth of the
        costs may need more than a hundred.
      start: the first epsilon of `certified`, relative to the `spread`.
      levels: the number of epsilons that `certified` tries at most, each half of the one before.
      gap: the relative gap between the cost and its lower bound below which `certified` stops.
    """

    tolerance: float = 1e-4
    max_iterations: int = bounded(300, Bounds(1, 10**6))
    start: float = bounded(2e-2, Bounds(1e-6, 1e6))
    levels: int = bounded(10, Bounds(1, 100))
    gap: float = 5e-4


class SemiDual(NamedTuple):
    """A plan with exact row masses, and the potential of its columns.

    Attributes:
      plan: the plan of least entropic cost for the potential, [n, m].
      potential: g, [m], zero where the column has no mass. It is unique up to an additive constant.
      lower: the dual value of g without entropy, a lower bound of the cost of every plan, scalar.
      error: the L1 error of the column masses of the plan, scalar.
      steps: the number of evaluations of the semi-dual, int32 scalar.
    """

    plan: jax.Array
    potential: jax.Array
    lower: jax.Array
    error: jax.Array
    steps: jax.Array


class _State(NamedTuple):
    trial: jax.Array
    g: jax.Array  # the best potential so far; value, masses and hessian are those of g
    value: jax.Array
    masses: Array
    hessian: jax.Array
    damping: jax.Array
    evaluations: Any  # int32 scalar; the int 0 at the start


def solve(
    cost: Array,
    a: Array,
    b: Array,
    start: jax.Array,
    epsilon: jax.Array,
    settings: NewtonSettings = NewtonSettings(),  # noqa: B008
) -> SemiDual:
    r"""The entropic plan of least cost, by maximising the concave semi-dual over the m column potentials.

    .. math:: \max_g \sum_j b_j g_j - \varepsilon \sum_i a_i \log \sum_j e^{(g_j - C_{ij}) / \varepsilon}

    (Cuturi and Peyre 2016, section 4). With plan rows :math:`P_i = a_i \, \mathrm{softmax}((g - C_i) /
    \varepsilon)` the gradient is :math:`b - P^\top 1` and the Hessian
    :math:`-(\mathrm{diag}(P^\top 1) - P^\top \mathrm{diag}(a)^{-1} P) / \varepsilon`. A Newton step costs n m
    exponentials and n m^2 operations. It converges quadratically near the optimum, while Sinkhorn's algorithm converges
    linearly. The Levenberg-Marquardt damping of a step is raised until the value rises.

    Args:
      cost: C, finite, [n, m], with m at most in the hundreds.
      a: row masses, [n].
      b: column masses, [m], of the same sum. Columns of mass zero are zero in the plan.
      start: the initial potential, [m].
      epsilon: the entropic regularisation, positive, in the unit of the cost.
      settings: the stopping criteria.
    """
    # Settings may come as Python or NumPy numbers of another precision.
    epsilon = jnp.asarray(epsilon, cost.dtype)
    a, b, start = (jnp.asarray(x, cost.dtype) for x in (a, b, start))
    live = b > 0
    row_min = jnp.min(jnp.where(live, cost, jnp.inf), axis=1)
    # Subtracting a constant from a row changes no plan, and leaves more digits for the differences.
    cost = jnp.where(live, cost - row_min[:, None], 0.0)

    def error(masses):
        return jnp.abs(b - masses).sum()

    def body(state):
        value, masses, hessian = _evaluated(cost, a, b, state.trial, epsilon)
        close = value >= state.value - 1e-6 * jnp.abs(state.value)  # equal up to rounding
        better = (value > state.value) | (close & (error(masses) < error(state.masses)))
        damping = jnp.where(better, 0.1 * state.damping, 10 * jnp.maximum(state.damping, 1e-4))
        damping = jnp.where(state.evaluations == 0, 1e-4, damping)
        keep = lambda new, old: jnp.where(better | (state.evaluations == 0), new, old)
        g, value = keep(state.trial, state.g), keep(value, state.value)
        masses, hessian = keep(masses, state.masses), keep(hessian, state.hessian)
        step = epsilon * _newton_step(masses, hessian, b, damping)
        return _State(g + step, g, value, masses, hessian, damping, state.evaluations + 1)

    def unfinished(state):
        improvable = (error(state.masses) > settings.tolerance) & (state.damping <= 1e6)
        return (state.evaluations == 0) | (improvable & (state.evaluations < settings.max_iterations))

    state = jax.lax.while_loop(unfinished, body, _begun(start, b))
    shares, top, _ = _softmax(cost, live, state.g, epsilon)
    lower = jnp.sum(b * state.g) + jnp.sum(a * (row_min - epsilon * top))
    lower -= slack(jnp.sum(b * jnp.abs(state.g)) + jnp.sum(a * (row_min + epsilon * jnp.abs(top))))
    return SemiDual(shares * a[:, None], state.g, lower, error(state.masses), state.evaluations)


def _begun(start: Array, b: Array) -> _State:
    """The state before the first evaluation."""
    live = b > 0
    # Subtracting a constant from the potential changes no plan, and leaves more digits for the differences.
    start = jnp.where(live, start - jnp.sum(b * jnp.where(live, start, 0.0)) / b.sum(), 0.0)
    nothing = jnp.zeros((), start.dtype)
    return _State(start, start, nothing, b, jnp.diag(b), nothing, 0)


def _softmax(cost: jax.Array, live: Array, g: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The rows softmax((g - C_i) / epsilon) over live columns, [n, m]; the largest exponents and log sums, [n]."""
    scores = jnp.where(live, (g - cost) / epsilon, -jnp.inf)
    top = jnp.max(scores, axis=1)
    shares = jnp.exp(scores - top[:, None])
    total = jnp.sum(shares, axis=1)
    return shares / total[:, None], top, jnp.log(total)


def _evaluated(
    cost: jax.Array, a: Array, b: Array, g: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The semi-dual at g, its column masses [m], and minus epsilon times its Hessian [m, m]."""
    shares, top, log_total = _softmax(cost, b > 0, g, epsilon)
    plan = a[:, None] * shares
    masses = plan.sum(axis=0)
    hessian = jnp.diag(masses) - jnp.matmul(plan.T, shares, precision="highest")
    return jnp.sum(b * g) - epsilon * jnp.sum(a * (top + log_total)), masses, hessian


def _newton_step(masses: Array, hessian: jax.Array, b: Array, damping: jax.Array) -> jax.Array:
    """The damped Newton step of the potential, over epsilon, [m]; the arguments are those of `_evaluated`."""
    live = jnp.asarray(b) > 0
    # The potential is unique up to a constant. The rank-one term fixes its sum, and the damping the potentials of
    # columns that receive no mass.
    pins = jnp.where(live, damping * jnp.maximum(masses, 1e-3 * b), 1.0)
    ones = live.astype(hessian.dtype)
    pinned = hessian + jnp.diag(pins) + jnp.outer(ones, ones) / jnp.sum(ones) ** 2
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(pinned), jnp.where(live, b - masses, 0.0))


class Certified(NamedTuple):
    """A coupling with bounds on its suboptimality.

    Attributes:
      plan: the coupling, with exact marginals, [n, m].
      cost: its cost, scalar.
      lower: a lower bound on the cost of every coupling, scalar.
      potential: a nearly optimal dual potential, [m]: a subgradient of the cost in the column masses.
    """

    plan: jax.Array
    cost: jax.Array
    lower: jax.Array
    potential: jax.Array


def certified(
    cost: Array,
    a: Array,
    b: Array,
    start: jax.Array,
    unit: jax.Array,
    settings: NewtonSettings = NewtonSettings(),  # noqa: B008
) -> Certified:
    """A coupling that is optimal up to a known gap.

    The plan of `solve` is rounded onto its marginals. Epsilon is halved until the cost of the rounded plan is close
    enough to its lower bound.

    Args:
      cost, a, b, start: as in `solve`.
      unit: the unit of epsilon, see `spread`.
      settings: the stopping criteria.
    """
    a, b, start, unit = (jnp.asarray(x, cost.dtype) for x in (a, b, start, unit))

    def attempt(epsilon, g):
        solution = solve(cost, a, b, g, epsilon, settings)
        plan = rounded(solution.plan, a, b)
        return Certified(plan, jnp.sum(plan * cost), solution.lower, solution.potential)

    def body(state):
        level, old = state
        new = attempt(unit * settings.start * jnp.ldexp(jnp.ones_like(unit), -level), old.potential)
        best = jax.tree.map(lambda n, o: jnp.where(new.cost < old.cost, n, o), new, old)
        return level + 1, best._replace(lower=jnp.maximum(new.lower, old.lower), potential=new.potential)

    def unfinished(state):
        level, best = state
        wide = best.cost - best.lower > settings.gap * best.cost
        return (level == 0) | (wide & (level < settings.levels))

    infinity = jnp.asarray(jnp.inf, cost.dtype)
    initial = Certified(jnp.zeros_like(cost), infinity, -infinity, start)
    _, best = jax.lax.while_loop(unfinished, body, (0, initial))
    return best


def spread(cost: Array, a: Array, b: Array) -> jax.Array:
    """The unit of epsilon: the mean over the rows of the average cost minus the least cost of a row, scalar.

    Only columns of positive mass count. The least cost of a row, which in high dimension is most of its cost, does not
    influence the plan. The result is 1 where all costs are equal.
    """
    live = b > 0
    nearest = jnp.min(jnp.where(live, cost, jnp.inf), axis=1)
    excess = jnp.sum(a * (jnp.mean(cost, axis=1, where=live) - nearest))
    return jnp.where(excess > 0, excess, 1.0)
