"""Optimal quantization: the closest measure on m points when the weights are free."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Measure, real_points, standardise
from jaxdd.ot import coordinates
from jaxdd.ot.distance import cell_masses, distortion, squared_distances
from jaxdd.ot.seeding import seeds
from jaxdd.ot.summary import Summary, check_size


@dataclass(frozen=True)
class KMeansSettings:
    """Lloyd's algorithm, then exchanges.

    Attributes:
      restarts: independent k-means++ starts, of which the best goes on to the exchanges.
      max_iterations: the most Lloyd iterations of a start.
      exchanges: the most rounds of exchanges; 0 leaves plain k-means.
      tolerance: the exchanges stop when all that are left would lower the distortion by less than this part of it,
        Lloyd's algorithm when an iteration does; ten times this part, where exchanges follow.
    """

    restarts: int = 4
    max_iterations: int = 100
    exchanges: int = 100
    tolerance: float = 1e-4


def quantize(key: jax.Array, mu: Measure, m: int, *, settings: KMeansSettings = KMeansSettings()) -> Summary:  # noqa: B008
    r"""The optimal quantizer, the argmin over z and w of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))`.

    With the best w for each z, the masses of the Voronoi cells, that is the distortion
    :math:`\min_z \sum_i a_i \min_j \|x_i - z_j\|^2` (Graf and Luschgy 2000, Lemma 3.4), and the costs are W2^2
    exactly. Two local searches follow each other:

    1. Lloyd's algorithm (1982) from greedy k-means++: each point to its nearest atom, each atom to the mean of
       its cell. It stops where every point is nearest to its own atom; but a point pulls that atom towards
       itself, so in high dimension and small cells that happens early.
    2. Exchanges (Hartigan 1975): point i of cell j, which weighs W_j, belongs in cell k when the distortion falls
       with both atoms moved along, :math:`\frac{W_j}{W_j - a_i} \|x_i - z_j\|^2 > \frac{W_k}{W_k + a_i}
       \|x_i - z_k\|^2`. All such points move at once as long as that lowers the distortion; after that only the
       best of each pair of cells, which always does. Where none is left, Lloyd's algorithm has nothing left
       either.

    Costs n m d operations an iteration and memory of n (d + a few m) floats; where n < d and it pays, n m n after
    one product of all points with each other, which is all that the searches need. Where mu has fewer than m distinct
    points, some atoms have weight zero. `vmap` over keys [C] and classes [C, n, d] works; it runs as many
    iterations as the slowest class.

    Args:
      key: a PRNG key; the draws do not depend on zero-weight points at the end.
      mu: one measure, points x [n, d], weights a [n].
      m: the number of atoms.
      settings: of the two searches.

    Raises:
      InputError: fewer than m points; see `check` for classes padded with zero-weight points.
    """
    check_size(mu.points.shape[0], m)
    if m == 1:
        x = real_points(mu)
        mean = jnp.einsum("n,nd->d", mu.weights, x, precision="highest")
        variance = jnp.sum(mu.weights * jnp.sum((x - mean) ** 2, axis=1))
        return Summary(Measure(mean[None], jnp.ones(1, mean.dtype)), variance[None], variance, jnp.bool_(True))

    standard, shift, scale = standardise(mu)
    short = coordinates.pay(*standard.points.shape, m, iterations(settings))
    searched = Measure(coordinates.shorten(standard.points), standard.weights) if short else standard

    def start(key):
        return _lloyd(searched, seeds(key, searched, m), settings)

    found = jax.lax.map(start, jax.random.split(key, settings.restarts))
    best = jnp.argmin(found.costs.min(axis=1))
    found = jax.tree.map(lambda leaf: leaf[best], found)
    if settings.exchanges:
        found = _exchange(searched, found, settings)
    if short:
        found = found._replace(points=coordinates.lengthen(found.points, searched.points, standard.points))
    final, masses = distortion(standard, found.points), cell_masses(standard, found.points)
    costs = jnp.append(jnp.where(jnp.isinf(found.costs), final, found.costs), final) * scale**2
    atoms = Measure(found.points * scale + shift, masses / masses.sum())
    return Summary(atoms, costs, costs.min(), found.converged)


def iterations(settings: KMeansSettings) -> int:
    """How many iterations a search usually takes."""
    return settings.restarts * min(settings.max_iterations, 12) + min(settings.exchanges, 50)


class _Search(NamedTuple):
    points: jax.Array
    costs: jax.Array  # infinity where there was no iteration
    converged: jax.Array


def _lloyd(mu: Measure, start: jax.Array, settings: KMeansSettings) -> _Search:
    x, a = mu
    m = start.shape[0]
    norms = jnp.sum(x**2, axis=1)
    # The exchanges do all that further iterations would, and better.
    tolerance = settings.tolerance * (10 if settings.exchanges else 1)

    def body(state):
        index, z, costs, _ = state
        # Without |x|^2, which is added to the minimum alone: one pass over [n, m] less.
        distances = jnp.sum(z**2, axis=1) - 2 * jnp.matmul(x, z.T, precision="highest")
        cost = jnp.sum(a * jnp.maximum(norms + jnp.min(distances, axis=1), 0.0))
        members = a[:, None] * _cells(jnp.argmin(distances, axis=1), m, x.dtype)
        last = jnp.where(index > 0, costs[index - 1], jnp.inf)
        z = _means(members, x, z)
        return index + 1, z, costs.at[index].set(cost), last - cost <= tolerance * cost

    def unfinished(state):
        return (state[0] < settings.max_iterations) & ~state[-1]

    costs = jnp.full(settings.max_iterations, jnp.inf, x.dtype)
    _, z, costs, settled = jax.lax.while_loop(unfinished, body, (0, start, costs, jnp.bool_(False)))
    return _Search(z, costs, settled)


class _Exchange(NamedTuple):
    index: jax.Array
    own: jax.Array  # [n], the cell of each point
    before: jax.Array  # [n], the cells to go back to
    cost: jax.Array  # of `before`
    together: jax.Array  # whether all points may still move at once
    done: jax.Array
    costs: jax.Array


def _exchange(mu: Measure, start: _Search, settings: KMeansSettings) -> _Search:
    x, a = mu
    m = start.points.shape[0]
    rows = jnp.arange(x.shape[0])

    def atoms_of(own):
        cells = _cells(own, m, x.dtype)
        members = a[:, None] * cells
        # An empty cell waits where it was: any point may have it for nothing, and the one that gains most does.
        return cells, members.sum(axis=0), _means(members, x, start.points)

    def body(state):
        cells, masses, z = atoms_of(state.own)
        distances = squared_distances(x, z)
        own_distance = jnp.sum(cells * distances, axis=1)
        cost = jnp.sum(a * own_distance)
        worse = cost > state.cost

        mass = masses[state.own]
        alone = mass <= a * (1 + 1e-4)  # also a point without mass, which must not move anything
        leave = jnp.where(alone, 0.0, own_distance * mass / jnp.where(alone, 1.0, mass - a))
        total = masses + a[:, None]
        share = jnp.where(total > 0, masses / jnp.where(total > 0, total, 1.0), 1.0)
        enter = jnp.where(cells > 0, jnp.inf, distances * share)
        target = jnp.argmin(enter, axis=1)
        gain = a * (leave - jnp.min(enter, axis=1))
        gain = jnp.where(~alone & (gain > 1e-6 * a * leave), gain, 0.0)

        def best_of_each_pair():
            # The moves that both of their cells like best.
            touched = jnp.maximum(cells, _cells(target, m, x.dtype))
            best = jnp.argmax(touched * gain[:, None], axis=0)
            return (best[state.own] == rows) & (best[target] == rows)

        # All points want an empty cell: together they would only move it.
        may = jax.lax.cond(state.together, lambda: masses[target] > 0, best_of_each_pair)
        moves = (gain > 0) & may
        moved = jnp.where(moves, target, state.own)
        return _Exchange(
            state.index + 1,
            jnp.where(worse, state.before, moved),
            jnp.where(worse, state.before, state.own),
            jnp.where(worse, jnp.inf, cost),
            state.together & ~worse & jnp.any(moves),
            ~worse & (gain.sum() <= settings.tolerance * cost),
            state.costs.at[state.index].set(jnp.where(worse, state.cost, cost)),
        )

    def unfinished(state):
        return (state.index < settings.exchanges) & ~state.done

    own = _nearest(x, start.points)
    costs = jnp.full(settings.exchanges, jnp.inf, x.dtype)
    state = _Exchange(0, own, own, jnp.asarray(jnp.inf, x.dtype), jnp.bool_(True), jnp.bool_(False), costs)
    state = jax.lax.while_loop(unfinished, body, state)
    # The last moves of a search that ran out have not been judged; those of `before` have.
    _, _, z = atoms_of(state.before)
    return _Search(z, jnp.append(start.costs, state.costs), state.done)


def _nearest(x: jax.Array, z: jax.Array) -> jax.Array:
    return jnp.argmin(squared_distances(x, z), axis=1)


def _means(members: jax.Array, x: jax.Array, empty: jax.Array) -> jax.Array:
    """The mean of x [n, d] in each cell of weighted members [n, m], or `empty` [m, d] where there are none."""
    masses = members.sum(axis=0)[:, None]
    sums = jnp.matmul(members.T, x, precision="highest")
    return jnp.where(masses > 0, sums / jnp.where(masses > 0, masses, 1.0), empty)


def _cells(own: jax.Array, m: int, dtype) -> jax.Array:
    """Membership as a matrix [n, m]: a product with it sums over cells faster than a scatter, in a fixed order."""
    return (own[:, None] == jnp.arange(m)).astype(dtype)
