"""Optimal quantization: the measure on m points, with free weights, that is closest to another."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.keys import as_key
from jaxdd.ground.measure import Array, Measure, as_measure, centred, standardise
from jaxdd.ground.settings import Bounds, bounded, check
from jaxdd.ot import coordinates
from jaxdd.ot.distance import (
    cell_means,
    expanded,
    masses_of,
    memberships,
    near_distances,
    nearest_atoms,
)
from jaxdd.ot.seeding import seeds
from jaxdd.ot.summary import Closing, Summary, check_size, slack


@dataclass(frozen=True)
class KMeansSettings:
    """Settings of `quantize`: Lloyd's algorithm, then exchanges.

    Attributes:
      restarts: the number of independent k-means++ starts; the exchanges begin from the best.
      max_iterations: the limit of Lloyd iterations of a start.
      exchanges: the limit of rounds of exchanges; 0 is plain k-means.
      tolerance: the relative decrease of the distortion below which a search stops. For the exchanges it is the
        decrease of all that remain; for Lloyd's algorithm it is that of an iteration, and ten times this tolerance if
        exchanges follow.
    """

    restarts: int = bounded(4, Bounds(1, 1000))
    max_iterations: int = bounded(100, Bounds(1, 10**5))
    exchanges: int = 100
    tolerance: float = 1e-4


def quantize(key: jax.Array, mu: Measure, m: int, *, settings: KMeansSettings = KMeansSettings()) -> Summary:  # noqa: B008
    r"""The optimal quantizer, the argmin over z and w of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))`.

    For fixed z the best w are the masses of the Voronoi cells, and the objective is the distortion
    :math:`\sum_i a_i \min_j \|x_i - z_j\|^2` (Graf and Luschgy 2000, Lemma 3.4). The costs are thus exactly W2^2. Two
    local searches follow each other:

    1. Lloyd's algorithm (1982) from greedy k-means++: assign each point to its nearest atom, and move each atom to the
       mean of its cell. It stops when every point is nearest to the atom of its cell. As a point attracts that atom, in
       high dimension and small cells it stops early.
    2. Exchanges (Hartigan 1975): moving point i from cell j to cell k, of masses W_j and W_k, lowers the distortion
       after both atoms are updated if :math:`\frac{W_j}{W_j - a_i} \|x_i - z_j\|^2 > \frac{W_k}{W_k + a_i}
       \|x_i - z_k\|^2`. All such points move at once while that lowers the distortion, and then only the best point of
       each pair of cells, which always lowers it. When no such point is left, Lloyd's algorithm has converged, too.

    Costs n m d operations per iteration and memory of n (d + a few m) floats. Where n < d and it saves time, an
    iteration costs n m n operations, after one product of all points with each other. If mu has fewer than m distinct
    points, some atoms have weight zero. `vmap` over keys [C] and classes [C, n, d] works, and takes as many iterations
    as the slowest class.

    Args:
      key: a PRNG key or an integer seed; the draws do not depend on zero-weight points at the end.
      mu: one measure, points x [n, d], weights a [n].
      m: the number of atoms.
      settings: of the two searches.

    Raises:
      InputError: fewer than m points (`check` counts those of positive weight), or see `ground.measure.check_measure`.
    """
    key = as_key(key)
    check(settings)
    mu = as_measure(mu)
    n = mu.points.shape[0]
    check_size(n, m)
    standard, shift, scale = standardise(mu)
    if m == 1:
        close = Closing.of(mu, centred(*standard)[1][None], shift, scale)
        variance = jnp.sum(mu.weights * jnp.sum((close.mu.points - close.points) ** 2, axis=1))
        atoms = Measure(close.points, jnp.ones(1, shift.dtype))
        return Summary(atoms, variance[None], variance - slack(variance), jnp.bool_(True)).rescaled(shift, close.unit)

    shorter = coordinates.pay(n, mu.points.shape[1], m, iterations(settings))
    searched, lengthen = coordinates.searched(standard, shorter)
    search = found(key, searched, m, settings)
    close = Closing.of(mu, lengthen(search.points), shift, scale)
    atoms, final = settled(close.mu, close.points)
    costs = jnp.append(raised(search.costs * close.ratio, final), final)
    return Summary(atoms, costs, final - slack(final), search.converged).rescaled(shift, close.unit)


def found(key: jax.Array, mu: Measure, m: int, settings: KMeansSettings) -> "Search":
    """The two searches of `quantize` for m > 1 atoms of a standardised measure."""

    def start(key):
        return _lloyd(mu, seeds(key, mu, m), settings)

    search = jax.lax.map(start, jax.random.split(key, settings.restarts))
    best = jnp.argmin(search.costs.min(axis=1))
    search = jax.tree.map(lambda leaf: leaf[best], search)
    return _exchange(mu, search, settings) if settings.exchanges else search


def raised(costs: jax.Array, final: jax.Array) -> jax.Array:
    """The costs of a search, none of which is below the final one, and which are the final one where they are infinite.

    In the search they are less accurate, and they may not seem better than the atoms that are returned.
    """
    return jnp.where(jnp.isinf(costs), final, jnp.maximum(costs, final))


def settled(mu: Measure, points: jax.Array) -> tuple[Measure, jax.Array]:
    """The points [m, d] with the masses of their cells, and the W2^2 between them and mu, which is the distortion."""
    masses, cost = of_cells(near_distances(mu.points, points), mu.weights)
    return Measure(points, masses), cost


def of_cells(distances: jax.Array, a: Array) -> tuple[jax.Array, jax.Array]:
    """The masses of the cells, [m], and the distortion, from squared distances [n, m] and weights a [n]."""
    masses = masses_of(a, jnp.argmin(distances, axis=1), distances.shape[1])
    return masses / masses.sum(), jnp.sum(a * jnp.min(distances, axis=1))


def iterations(settings: KMeansSettings) -> int:
    """A typical number of iterations of a search."""
    return settings.restarts * min(settings.max_iterations, 12) + min(settings.exchanges, 50)


class Search(NamedTuple):
    """The atoms [m, d], the costs, with infinity where there was no iteration, and whether the search converged."""

    points: jax.Array
    costs: jax.Array
    converged: jax.Array


def _lloyd(mu: Measure, start: jax.Array, settings: KMeansSettings) -> Search:
    x, a = mu
    m = start.shape[0]
    norms = jnp.sum(x**2, axis=1)
    # Exchanges improve on further iterations, so fewer are needed before them.
    tolerance = settings.tolerance * (10 if settings.exchanges else 1)

    def body(state):
        index, z, costs, _ = state
        # |x|^2 is added to the minimum only, which saves a pass over [n, m].
        distances = jnp.sum(z**2, axis=1) - 2 * jnp.matmul(x, z.T, precision="highest")
        cost = jnp.sum(a * jnp.maximum(norms + jnp.min(distances, axis=1), 0.0))
        members = a[:, None] * memberships(jnp.argmin(distances, axis=1), m, x.dtype)
        last = jnp.where(index > 0, costs[index - 1], jnp.inf)
        z = cell_means(members, x, z)
        return index + 1, z, costs.at[index].set(cost), last - cost <= tolerance * cost

    def unfinished(state):
        return (state[0] < settings.max_iterations) & ~state[-1]

    costs = jnp.full(settings.max_iterations, jnp.inf, x.dtype)
    _, z, costs, settled = jax.lax.while_loop(unfinished, body, (0, start, costs, jnp.bool_(False)))
    return Search(z, costs, settled)


class _Exchange(NamedTuple):
    rounds: Any  # int32 scalar; the int 0 at the start
    cell: jax.Array  # the cell of each point, [n]
    before: jax.Array  # the cells before the last moves, which are restored if these raise the cost, [n]
    cost: jax.Array  # of `before`
    together: jax.Array  # whether all points may still move at once
    done: jax.Array
    costs: jax.Array


def _exchange(mu: Measure, start: Search, settings: KMeansSettings) -> Search:
    x, a = mu
    m = start.points.shape[0]
    rows = jnp.arange(x.shape[0])

    def atoms_of(cell):
        cells = memberships(cell, m, x.dtype)
        members = a[:, None] * cells
        # The atom of an empty cell keeps its position. Entering the cell costs nothing, so it gets the point that gains
        # most.
        return cells, members.sum(axis=0), cell_means(members, x, start.points)

    def body(state):
        cells, masses, z = atoms_of(state.cell)
        distances = expanded(x, z)
        present = jnp.sum(cells * distances, axis=1)
        cost = jnp.sum(a * present)
        worse = cost > state.cost

        mass = masses[state.cell]
        alone = mass <= a * (1 + 1e-4)  # true also of mass zero, where the quotient would be 0 / 0
        leave = jnp.where(alone, 0.0, present * mass / jnp.where(alone, 1.0, mass - a))
        total = masses + a[:, None]
        share = jnp.where(total > 0, masses / jnp.where(total > 0, total, 1.0), 1.0)
        enter = jnp.where(cells > 0, jnp.inf, distances * share)
        target = jnp.argmin(enter, axis=1)
        gain = a * (leave - jnp.min(enter, axis=1))
        gain = jnp.where(~alone & (gain > 1e-6 * a * leave), gain, 0.0)

        def best_of_each_pair():
            # The moves of largest gain in both of their cells.
            touched = jnp.maximum(cells, memberships(target, m, x.dtype))
            best = jnp.argmax(touched * gain[:, None], axis=0)
            return (best[state.cell] == rows) & (best[target] == rows)

        # Every point gains by entering an empty cell. If all did so at once, they would only move the cell.
        allowed = jax.lax.cond(state.together, lambda: masses[target] > 0, best_of_each_pair)
        moves = (gain > 0) & allowed
        moved = jnp.where(moves, target, state.cell)
        return _Exchange(
            state.rounds + 1,
            jnp.where(worse, state.before, moved),
            jnp.where(worse, state.before, state.cell),
            jnp.where(worse, jnp.inf, cost),
            state.together & ~worse & jnp.any(moves),
            ~worse & (gain.sum() <= settings.tolerance * cost),
            state.costs.at[state.rounds].set(jnp.where(worse, state.cost, cost)),
        )

    def unfinished(state):
        return (state.rounds < settings.exchanges) & ~state.done

    cell = nearest_atoms(x, start.points)
    costs = jnp.full(settings.exchanges, jnp.inf, x.dtype)
    state = _Exchange(0, cell, cell, jnp.asarray(jnp.inf, x.dtype), jnp.bool_(True), jnp.bool_(False), costs)
    state = jax.lax.while_loop(unfinished, body, state)
    # If the rounds ran out, the cost of the last moves is unknown, but that of `before` is known.
    _, _, z = atoms_of(state.before)
    return Search(z, jnp.append(start.costs, state.costs), state.done)
