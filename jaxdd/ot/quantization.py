"""Optimal quantization: the closest measure on m points when the weights are free."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ott.tools.k_means import k_means

from jaxdd.errors import InputError
from jaxdd.measure import Measure, standardise
from jaxdd.ot.distance import squared_distances


class Summary(NamedTuple):
    """A small measure that stands for a large one, with the evidence of how close it came.

    Attributes:
      atoms: the measure found, points [m, d], weights [m].
      costs: W2^2 to the data after each round, [rounds], in the squared unit of the points, the start first;
        `atoms` attains the smallest.
      converged: whether the rounds had settled before they ran out, boolean scalar.
    """

    atoms: Measure
    costs: jax.Array
    converged: jax.Array


@dataclass(frozen=True)
class KMeansSettings:
    """Lloyd's algorithm.

    Attributes:
      restarts: independent k-means++ starts, of which the best is kept.
      max_iterations: the most Lloyd iterations of a start.
    """

    restarts: int = 4
    max_iterations: int = 100


def check(mu: Measure, m: int) -> None:
    """Raises InputError unless each class of mu, weights [..., n], has m >= 1 points of positive weight.

    Runs on the host: call it before entering `jit`, inside of which the weights are not known.
    """
    if m < 1:
        raise InputError(f"m={m} atoms; ask for at least one")
    counts = np.atleast_1d((np.asarray(mu.weights) > 0).sum(axis=-1))
    if (counts < m).any():
        c = int(np.argmax(counts < m))
        raise InputError(f"class {c} has {counts[c]} points, fewer than m={m} atoms; lower m or add data")


def quantize(key: jax.Array, mu: Measure, m: int, *, settings: KMeansSettings = KMeansSettings()) -> Summary:  # noqa: B008
    r"""The optimal quantizer, the argmin over z and w of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))`.

    With the best w for each z that is :math:`\min_z \sum_i a_i \min_j \|x_i - z_j\|^2`.

    k-means with points weighted by a; the best w are the masses of the Voronoi cells (Graf and Luschgy 2000,
    Lemma 3.4), and the costs are W2^2 exactly. Where mu has fewer than m distinct points, some atoms have
    weight zero. `vmap` over keys [C] and classes [C, n, d] may hold restarts * C * n * d floats: map over the
    classes of large data with `jax.lax.map`.

    Args:
      key: a PRNG key; the draws of k-means++ do not depend on zero-weight points at the end.
      mu: one measure, points x [n, d], weights a [n].
      m: the number of atoms.
      settings: of Lloyd's algorithm.

    Raises:
      InputError: fewer than m points; see `check` for classes padded with zero-weight points.
    """
    if not 1 <= m <= mu.points.shape[0]:
        raise InputError(f"m={m} atoms for {mu.points.shape[0]} points; ask for between 1 and that many")
    standard, shift, scale = standardise(mu)
    with jax.default_matmul_precision("highest"):
        out = k_means(
            standard.points,
            m,
            weights=standard.weights,
            init=lambda geom, k, rng: _seeds(rng, Measure(geom.x, standard.weights), k),
            n_init=settings.restarts,
            tol=0.0,
            max_iterations=settings.max_iterations,
            store_inner_errors=True,
            rng=key,
        )
    distances = squared_distances(standard.points, out.centroids)
    # A sum over a one-hot matrix, not a scatter: the same masses whatever the order of the points.
    masses = standard.weights @ jax.nn.one_hot(jnp.argmin(distances, axis=1), m, dtype=distances.dtype)
    final = jnp.sum(standard.weights * jnp.min(distances, axis=1))
    costs = jnp.append(jnp.where(out.inner_errors < 0, final, out.inner_errors), final)
    return Summary(Measure(out.centroids * scale + shift, masses / masses.sum()), costs * scale**2, out.converged)


def _seeds(key: jax.Array, mu: Measure, m: int) -> jax.Array:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007), points drawn by weight times squared distance.

    OTT's own seeding ignores the weights, so it could pick padding.
    """
    trials = 2 + int(np.log(m))

    def pick(nearest, key):
        mass = mu.weights * nearest
        mass = jnp.where(jnp.any(mass > 0), mass, mu.weights)  # every point is a seed already: any will do
        # One key a trial: a draw of shape [trials, n] would change with the amount of padding.
        draw = lambda k: jax.random.categorical(k, jnp.log(mass))
        candidates = mu.points[jax.vmap(draw)(jax.random.split(key, trials))]
        after = jnp.minimum(nearest, squared_distances(mu.points, candidates).T)
        best = jnp.argmin(after @ mu.weights)
        return after[best], candidates[best]

    # All points at the same, larger distance: the first draw is then by weight alone.
    _, seeds = jax.lax.scan(pick, jnp.full_like(mu.weights, 1e6), jax.random.split(key, m))
    return seeds
