"""Optimal transport from many points to few: Newton's method on the dual potential of the few."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ot.distance import rounded


@dataclass(frozen=True)
class NewtonSettings:
    """Of `solve` and `certified`.

    Attributes:
      tolerance: the L1 error of the column masses at which the search is over.
      max_iterations: the most evaluations for one epsilon. From a random start, an epsilon of a hundredth of the costs
        may need more than a hundred.
      start: the first epsilon of `certified`, relative to the `spread`.
      levels: how often it may be halved.
      gap: the relative gap between the cost and its lower bound at which `certified` is content.
    """

    tolerance: float = 1e-4
    max_iterations: int = 300
    start: float = 2e-2
    levels: int = 10
    gap: float = 5e-4


class SemiDual(NamedTuple):
    """A plan [n, m] whose row masses are exact, the potential [m] of its columns, and how far it got.

    Attributes:
      plan: of least entropic cost for the potential; its column masses are off by `error` in L1.
      potential: g, zero where the column has no mass; adding a constant changes nothing.
      lower: the dual value of g without entropy, a lower bound of the cost of every plan.
      error: see `plan`.
      steps: evaluations of the semi-dual it took.
    """

    plan: jax.Array
    potential: jax.Array
    lower: jax.Array
    error: jax.Array
    steps: jax.Array


class _State(NamedTuple):
    trial: jax.Array
    g: jax.Array  # the best potential so far, and what is known of it
    value: jax.Array
    masses: jax.Array
    hessian: jax.Array
    damping: jax.Array
    index: jax.Array


def solve(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    start: jax.Array,
    epsilon: jax.Array,
    settings: NewtonSettings = NewtonSettings(),  # noqa: B008
) -> SemiDual:
    r"""The entropic plan of least cost, by maximising the concave semi-dual over the m potentials of the columns.

    .. math:: \max_g \sum_j b_j g_j - \varepsilon \sum_i a_i \log \sum_j e^{(g_j - C_{ij}) / \varepsilon}

    (Cuturi and Peyre 2016, section 4). With plan rows :math:`P_i = a_i \, \mathrm{softmax}((g - C_i) /
    \varepsilon)` the gradient is :math:`b - P^\top 1` and the Hessian
    :math:`-(\mathrm{diag}(P^\top 1) - P^\top \mathrm{diag}(a)^{-1} P) / \varepsilon`: one step costs n m
    exponentials and n m^2 operations, and close to the optimum each squares the error, where an iteration of
    Sinkhorn's algorithm takes a fixed part off it. Each step is damped (Levenberg and Marquardt) until the value rises.

    Args:
      cost: C, finite, [n, m], with m at most in the hundreds.
      a: row masses, [n].
      b: column masses, [m], of the same sum; columns of mass zero receive nothing.
      start: the first potential, [m].
      epsilon: the entropic regularisation, positive, in the unit of the cost.
      settings: when to stop.
    """
    live = b > 0
    row_min = jnp.min(jnp.where(live, cost, jnp.inf), axis=1)
    # A constant a row changes no plan, and what is left has the digits that matter.
    cost = jnp.where(live, cost - row_min[:, None], 0.0)
    size = jnp.sum(live)

    def softmax(g):
        scores = jnp.where(live, (g - cost) / epsilon, -jnp.inf)
        top = jnp.max(scores, axis=1)
        shares = jnp.exp(scores - top[:, None])
        total = jnp.sum(shares, axis=1)
        return shares / total[:, None], top, jnp.log(total)

    def evaluate(g):
        shares, top, log_total = softmax(g)
        plan = a[:, None] * shares
        masses = plan.sum(axis=0)
        hessian = jnp.diag(masses) - jnp.matmul(plan.T, shares, precision="highest")
        return jnp.sum(b * g) - epsilon * (a @ (top + log_total)), masses, hessian

    def error(masses):
        return jnp.abs(b - masses).sum()

    def body(state):
        value, masses, hessian = evaluate(state.trial)
        close = value >= state.value - 1e-6 * jnp.abs(state.value)  # as equal as rounding can tell
        better = (value > state.value) | (close & (error(masses) < error(state.masses)))
        damping = jnp.where(better, 0.1 * state.damping, 10 * jnp.maximum(state.damping, 1e-4))
        damping = jnp.where(state.index == 0, 1e-4, damping)
        keep = lambda new, old: jnp.where(better | (state.index == 0), new, old)
        g, value = keep(state.trial, state.g), keep(value, state.value)
        masses, hessian = keep(masses, state.masses), keep(hessian, state.hessian)
        # Potentials are free up to a constant: the rank-one term pins their sum, the damping what nobody reaches.
        pins = jnp.where(live, damping * jnp.maximum(masses, 1e-3 * b), 1.0)
        factor = jax.scipy.linalg.cho_factor(hessian + jnp.diag(pins) + jnp.outer(live, live) / size**2)
        step = epsilon * jax.scipy.linalg.cho_solve(factor, jnp.where(live, b - masses, 0.0))
        return _State(g + step, g, value, masses, hessian, damping, state.index + 1)

    def unfinished(state):
        open_ = (error(state.masses) > settings.tolerance) & (state.damping <= 1e6)
        return (state.index == 0) | (open_ & (state.index < settings.max_iterations))

    # A constant in the potential changes nothing but the digits that are left for the rest.
    start = jnp.where(live, start - jnp.sum(b * jnp.where(live, start, 0.0)) / b.sum(), 0.0)
    nothing = jnp.zeros((), cost.dtype)
    state = _State(start, start, nothing, b, jnp.diag(b), nothing, 0)
    state = jax.lax.while_loop(unfinished, body, state)
    shares, top, _ = softmax(state.g)
    lower = jnp.sum(b * state.g) + a @ (row_min - epsilon * top)
    return SemiDual(a[:, None] * shares, state.g, lower, error(state.masses), state.index)


class Certified(NamedTuple):
    """A coupling [n, m] with the given marginals, its cost, and a lower bound on the cost of every coupling.

    `potential` [m] is nearly optimal in the dual: a subgradient of the cost in the column masses.
    """

    plan: jax.Array
    cost: jax.Array
    lower: jax.Array
    potential: jax.Array


def certified(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    start: jax.Array,
    unit: jax.Array,
    settings: NewtonSettings = NewtonSettings(),  # noqa: B008
) -> Certified:
    """The optimal plan but for a gap that is known: `solve` and rounding, epsilon halved until the gap closes.

    Args:
      cost, a, b, start: as in `solve`.
      unit: what epsilon is relative to, see `spread`.
      settings: when the gap is small enough.
    """

    def attempt(epsilon, g):
        found = solve(cost, a, b, g, epsilon, settings)
        plan = rounded(found.plan, a, b)
        return Certified(plan, jnp.sum(plan * cost), found.lower, found.potential)

    def body(state):
        level, old = state
        new = attempt(unit * settings.start * 0.5**level, old.potential)
        best = jax.tree.map(lambda n, o: jnp.where(new.cost < old.cost, n, o), new, old)
        return level + 1, best._replace(lower=jnp.maximum(new.lower, old.lower), potential=new.potential)

    def unfinished(state):
        level, found = state
        wide = found.cost - found.lower > settings.gap * found.cost
        return (level == 0) | (wide & (level < settings.levels))

    infinity = jnp.asarray(jnp.inf, cost.dtype)
    _, found = jax.lax.while_loop(unfinished, body, (0, Certified(jnp.zeros_like(cost), infinity, -infinity, start)))
    return found


def spread(cost: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """What is at stake: how much dearer than the nearest live column the average one is, averaged over the rows.

    The unit for epsilon that a plan feels: the distance from the nearest column itself, in high dimension most of
    the cost, decides nothing. One where all costs are equal.
    """
    live = b > 0
    nearest = jnp.min(jnp.where(live, cost, jnp.inf), axis=1)
    average = jnp.sum(jnp.where(live, cost, 0.0), axis=1) / jnp.sum(live)
    found = jnp.sum(a * (average - nearest))
    return jnp.where(found > 0, found, 1.0)
