"""k-means++, the start of every search for atoms."""

import math

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Measure


def seeds(key: jax.Array, mu: Measure, m: int) -> jax.Array:
    r"""Greedy k-means++ (Arthur and Vassilvitskii 2007): m points of mu that are far from each other, [m, d].

    Each seed is the best of :math:`2 + \lfloor \log m \rfloor` distinct candidates, drawn with probability
    proportional to the weight times the squared distance to the nearest earlier seed. Costs n m d log m operations.
    Zero-weight points are drawn only when all weighted points are seeds. They do not change the draws if they come
    last.

    Args:
      key: a PRNG key.
      mu: a standardised measure, points x [n, d], weights a [n].
      m: the number of seeds.
    """
    x, a = mu
    trials = min(2 + int(math.log(m)), x.shape[0])
    norms = jnp.sum(x**2, axis=1)

    def pick(nearest, key):
        mass = a * nearest
        mass = jnp.where(jnp.any(mass > 0), mass, a)  # where all points are seeds, by weight alone
        # The Gumbel trick draws the candidates without replacement. The length of the padding changes neither a
        # one-dimensional draw nor, unlike in a cumulative sum, its rounding.
        score, drawn = jax.lax.top_k(jnp.log(mass) + jax.random.gumbel(key, mass.shape, mass.dtype), trials)
        candidates = x[drawn]
        products = jnp.matmul(x, candidates.T, precision="highest")
        distances = jnp.maximum(norms[:, None] + norms[drawn] - 2 * products, 0.0)
        after = jnp.minimum(nearest[:, None], distances)
        best = jnp.argmin(jnp.where(score > -jnp.inf, jnp.sum(a[:, None] * after, axis=0), jnp.inf))
        # The distance of the seed to itself is set to exactly zero, so that it is not drawn twice.
        return after[:, best].at[drawn[best]].set(0.0), candidates[best]

    # All points start at one large distance, so the first draw is by weight alone.
    _, chosen = jax.lax.scan(pick, jnp.full_like(a, 1e6), jax.random.split(key, m))
    return chosen
