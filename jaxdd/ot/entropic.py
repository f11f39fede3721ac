"""The same barycenter by OTT-JAX: Sinkhorn's plans, its free-support step, and weights by mirror descent."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.keys import as_key
from jaxdd.ground.measure import Array, Measure, as_measure, centred, standardise
from jaxdd.ground.settings import SHARE, Bounds, bounded, check
from jaxdd.ot import coordinates, semidual
from jaxdd.ot.barycenter import fitted, prescribed
from jaxdd.ot.distance import (
    cell_masses,
    cell_means,
    expanded,
    memberships,
    near_distances,
    nearest_atoms,
    rounded,
)
from jaxdd.ot.quantization import quantize, raised, settled
from jaxdd.ot.seeding import seeds
from jaxdd.ot.solvers import solvers
from jaxdd.ot.summary import Closing, Summary, check_size, slack

INITS = ("k-means++", "normal")


@dataclass(frozen=True)
class EntropicSettings:
    """Stages of falling epsilon, in each some rounds of alternation.

    The paper's own scheme, as WMDD runs it, is
    `EntropicSettings(stages=1, rounds=10, weight_steps=100, init="normal", damping=0.2, settle=False)`.

    The unit of epsilon is twice the variance of the data along the direction where that is largest: above one, all
    atoms melt into the mean (Rose 1998). The total variance, a sum over many directions, would be no such threshold.

    Attributes:
      epsilon: the entropic regularisation of the last stage.
      start: that of the first; in between it falls geometrically.
      stages: how many values epsilon takes; a single stage has the last one.
      rounds: position steps of a stage, each from the atoms and potentials of the one before.
      weight_steps: mirror-descent steps before each position step, where the weights are learned.
      weight_rate: step t of round r takes weight_rate (t + 1) / (2 sqrt(r)), over the variance of the data.
      settle: whether learned weights end with one exact round, which moves the atoms to the means of their cells and
        sets the weights to the masses of the cells. The steps tend to both.
      threshold: the L1 error of the marginals at which a plan of Sinkhorn is good enough.
      max_iterations: the limit of its iterations.
      relaxation: its over-relaxation, in [1, 2).
      init: the first atoms: "k-means++" seeds, or "normal", drawn from N(0, I) in the unit of the data, as WMDD does.
      damping: the part of the way to its barycentric projection that an atom moves; WMDD moves 0.2 of it.
    """

    epsilon: float = bounded(0.01, Bounds(1e-6, 1e6))
    start: float = bounded(0.5, Bounds(1e-6, 1e6))
    stages: int = bounded(24, Bounds(1, 10**4))
    rounds: int = bounded(2, Bounds(1, 10**4))
    weight_steps: int = 3
    weight_rate: float = 0.3
    settle: bool = True
    threshold: float = 1e-2
    max_iterations: int = bounded(50, Bounds(1, 10**6))
    relaxation: float = bounded(1.5, Bounds(0.1, 1.99))
    init: str = "k-means++"
    damping: float = bounded(1.0, SHARE)


def entropic_barycenter(
    key: jax.Array,
    mu: Measure,
    m: int,
    *,
    weights: str | Array = "free",
    settings: EntropicSettings = EntropicSettings(),  # noqa: B008
) -> Summary:
    r"""The free-support barycenter by entropic plans: :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))` over z, or z and w.

    A round solves :math:`\min_P \langle P, C \rangle - \varepsilon H(P)` over the couplings P of w and mu with OTT's
    Sinkhorn and moves the atoms to :math:`z_j \leftarrow \frac{1}{w_j} \sum_i P_{ij} x_i` by OTT's free-support
    step (Cuturi and Doucet 2014, algorithms 2 and 3). As epsilon falls, the blurred problems, which have few local
    optima, lead to a good one of the exact problem.

    Learned weights first take accelerated mirror-descent steps (their algorithm 1) along the dual potential f of the
    atoms, the gradient of the entropic cost in w: with :math:`\beta = (t + 1) / 2`,

    .. math:: \bar w = (1 - \tfrac1\beta) \hat w + \tfrac1\beta \tilde w, \quad
        \tilde w_j \leftarrow \tilde w_j e^{-\eta \beta f_j(\bar w)} / Z, \quad
        \hat w \leftarrow (1 - \tfrac1\beta) \hat w + \tfrac1\beta \tilde w.

    Each cost is that of a coupling: plans are rounded onto their marginals, and the last is exact but for a known gap.
    Costs n m exponentials an iteration and n m d operations a round. `vmap` over keys, classes and weights works.

    Args:
      key: a PRNG key or an integer seed, for the first atoms.
      mu: one measure, points x [n, d], weights [n]; zero-weight points change nothing.
      m: the number of atoms.
      weights: "free" learns w, "uniform" fixes w = 1/m, and an array [m] that sums to one fixes w to its values.
      settings: of the alternation.

    Returns:
      A Summary; costs has stages x rounds + 2 entries: the first atoms, the rounds, the best atoms at the end.

    Raises:
      InputError: see `ground.measure.check_measure` and `prescribed`; an unknown kind of first atoms; fewer than m
        points (`check` counts those of positive weight).
    """
    key = as_key(key)
    check(settings)
    mu = as_measure(mu)
    check_size(mu.points.shape[0], m)
    held = prescribed(weights, m, "entropic_barycenter", mu.points.dtype)
    if settings.init not in INITS:
        raise InputError(f"entropic_barycenter: init={settings.init!r}; choose {' or '.join(map(repr, INITS))}")
    if m == 1:
        return quantize(key, mu, m)  # the weight of a single atom is one in any case
    standard, shift, scale = standardise(mu)
    search = _searched(key, standard, shift, scale, held, m, settings)
    close = Closing.of(mu, search.best.points, shift, scale)
    closed = _settled(close, search) if held is None and settings.settle else _certified(close, search)
    return closed.rescaled(shift, close.unit)


def _searched(
    key: jax.Array,
    standard: Measure,
    shift: jax.Array,
    scale: jax.Array,
    held: jax.Array | None,
    m: int,
    settings: EntropicSettings,
) -> "_Search":
    """The best atoms of the rounds among the standardised points, (x - shift) / scale."""
    n, d = standard.points.shape
    # Normal atoms lie outside of the span of the points, where their few coordinates end; a round has three products.
    shorter = settings.init != "normal" and coordinates.pay(n, d, m, 3 * settings.stages * settings.rounds)
    searched, lengthen = coordinates.searched(standard, shorter)
    if settings.init == "normal":
        points = (jax.random.normal(key, (m, d), shift.dtype) - shift) / scale
        start = Measure(points, jnp.full(m, 1.0 / m, shift.dtype) if held is None else held)
    else:
        start = _seeded(key, searched, m, held)
    with jax.numpy_dtype_promotion("standard"):  # which OTT-JAX relies on
        search = _anneal(searched, start, held is None, settings)
    return search._replace(best=search.best._replace(points=lengthen(search.best.points)))


def _seeded(key: jax.Array, mu: Measure, m: int, held: jax.Array | None) -> Measure:
    """k-means++ seeds, with the masses of their cells, or the largest cells where the largest held weights are."""
    points = seeds(key, mu, m)
    masses = cell_masses(mu, points)
    if held is not None:
        return fitted(key, Measure(points, masses), held)._replace(weights=held)
    return Measure(points, 0.99 * masses / masses.sum() + 0.01 / m)  # mirror descent cannot leave zero


def _widest(mu: Measure) -> jax.Array:
    """Twice the largest variance of mu along any direction, by the power method; one where there is none."""
    x, a = centred(*mu)[0], mu.weights
    norms = jnp.sum(x**2, axis=1)
    farthest = x[jnp.argmax(jnp.where(a > 0, norms, -1.0))]

    def step(direction, _):
        direction = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-30)
        image = jnp.matmul(a * jnp.matmul(x, direction, precision="highest"), x, precision="highest")
        return image, jnp.linalg.norm(image)

    _, values = jax.lax.scan(step, farthest, length=30)
    return jnp.where(values[-1] > 0, 2 * values[-1], 1.0)


class _State(NamedTuple):
    atoms: Measure
    potentials: tuple[jax.Array, jax.Array]  # of the atoms and of the points, minus infinity without weight
    best: Measure
    least: jax.Array  # the cost of `best`


class _Search(NamedTuple):
    best: Measure
    costs: jax.Array
    potential: jax.Array  # of the last atoms
    converged: jax.Array


def _anneal(mu: Measure, start: Measure, learned: bool, settings: EntropicSettings) -> _Search:
    """The rounds of `entropic_barycenter` on standardised mu."""
    x, a = mu
    ott = solvers()
    momentum = ott.Momentum(value=settings.relaxation)
    solver = ott.Sinkhorn(threshold=settings.threshold, max_iterations=settings.max_iterations, momentum=momentum)
    epsilons = np.repeat(np.geomspace(settings.epsilon, settings.start, settings.stages)[::-1], settings.rounds)
    problem = ott.FreeBarycenterProblem(jnp.asarray(x)[None], jnp.asarray(a)[None], cost_fn=ott.products)
    unread = jnp.zeros(1, jnp.result_type(float))

    def advance(state, inputs):
        epsilon, rate = inputs
        atoms, potentials = state.atoms, state.potentials
        cost = expanded(x, atoms.points)
        # A matrix for Sinkhorn: the problem's own cloud of points would round products on an accelerator.
        geometry = ott.Geometry(cost_matrix=cost.T, epsilon=epsilon)

        def solve(weights, potentials):
            return solver(ott.LinearProblem(geometry, a=weights, b=a), init=potentials)

        if learned and settings.weight_steps:
            weights, potentials = _mirror_steps(solve, atoms.weights, potentials, rate, settings.weight_steps)
            atoms = atoms._replace(weights=weights)
        # One round of OTT's FreeWassersteinBarycenter. Its own loop has uniform weights only, full steps, and
        # potentials that start from zero, and keeps neither the costs without entropy nor the best atoms.
        step = ott.FreeBarycenterState(atoms.points, atoms.weights, unread, unread)
        step = step.update(0, problem, lambda _: solve(atoms.weights, potentials), store_errors=False)
        out = jax.tree.map(lambda leaf: leaf[0], step.linear_outputs)
        plan = rounded(out.matrix.T, a, atoms.weights)
        way = jnp.where(atoms.weights[:, None] > 0, step.x.astype(x.dtype) - atoms.points, 0.0)
        moved = atoms._replace(points=atoms.points + settings.damping * way)
        before, after = (jnp.sum(plan * c) for c in (cost, expanded(x, moved.points)))
        best = jax.tree.map(lambda new, old: jnp.where(after < state.least, new, old), moved, state.best)
        state = _State(moved, out.potentials, best, jnp.minimum(after, state.least))
        return state, (before, after)

    zero = lambda masses: jnp.where(masses > 0, jnp.zeros_like(masses), -jnp.inf)
    zeros = zero(start.weights), zero(a)
    rates = settings.weight_rate / np.sqrt(1 + np.arange(len(epsilons)))
    inputs = (jnp.asarray(epsilons, x.dtype) * _widest(mu), jnp.asarray(rates, x.dtype))
    state, (before, after) = jax.lax.scan(advance, _State(start, zeros, start, jnp.asarray(jnp.inf, x.dtype)), inputs)
    settled = jnp.abs(after[-1] - before[-1]) <= 1e-3 * before[-1]
    # The first atoms must not seem better than `best`: their move, by a plan not yet rounded, may cost a rounding.
    costs = jnp.append(jnp.maximum(before[:1], state.least), after)
    return _Search(state.best, costs, state.potentials[0], settled)


def _mirror_steps(solve, weights: jax.Array, potentials, rate: jax.Array, steps: int):
    """Accelerated mirror descent on the weights (Cuturi and Doucet 2014, algorithm 1), and the last potentials."""

    def step(carry, beta):
        slow, fast, potentials = carry
        middle = (1 - 1 / beta) * slow + fast / beta
        potentials = solve(middle, potentials).potentials
        f = jnp.where(middle > 0, potentials[0], 0.0)
        way = jnp.clip(rate * beta * (f - jnp.sum(middle * f)), -30.0, 30.0)
        fast = jax.nn.softmax(jnp.log(fast) - way)
        return ((1 - 1 / beta) * slow + fast / beta, fast, potentials), None

    (slow, _, potentials), _ = jax.lax.scan(
        step, (weights, weights, potentials), (2 + jnp.arange(steps, dtype=weights.dtype)) / 2
    )
    return slow / slow.sum(), potentials


def _settled(close: Closing, search: _Search) -> Summary:
    """The best atoms moved to the means of their cells, with the masses of these: one round with an exact plan.

    Each point goes to its nearest atom, so W2^2 is exact.
    """
    mu, best = close.mu, close.points
    members = mu.weights[:, None] * memberships(nearest_atoms(mu.points, best), len(best), best.dtype)
    atoms, final = settled(mu, cell_means(members, mu.points, best))
    return Summary(atoms, jnp.append(raised(search.costs * close.ratio, final), final), final - slack(final),
                   search.converged)  # fmt: skip


def _certified(close: Closing, search: _Search) -> Summary:
    """The best atoms with the weights they have, under a plan that is exact but for a known gap."""
    mu, best = close.mu, search.best._replace(points=close.points)
    cost = near_distances(mu.points, best.points)
    unit = semidual.spread(cost, mu.weights, best.weights)
    closing = semidual.certified(cost, mu.weights, best.weights, search.potential * close.ratio, unit)
    costs = jnp.append(raised(search.costs * close.ratio, closing.cost), closing.cost)
    return Summary(best, costs, jnp.minimum(closing.lower, closing.cost), search.converged)
