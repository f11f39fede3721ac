"""k-means++: a start for everything that moves atoms."""

import math

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Measure


def seeds(key: jax.Array, mu: Measure, m: int) -> jax.Array:
    r"""Greedy k-means++ (Arthur and Vassilvitskii 2007): m points of mu, far from each other, [m, d].

    Each is the best of :math:`2 + \lfloor \log m \rfloor` different points drawn by weight times squared distance
    to the seeds so far. Costs n m d log m operations; zero-weight points are never drawn unless all weighted
    ones are seeds already, and do not change the draws if they come last.

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
        mass = jnp.where(jnp.any(mass > 0), mass, a)  # every point is a seed already: any will do
        # The Gumbel trick draws them all without replacement; a one-dimensional draw does not change with the
        # length of the padding, and unlike a cumulative sum its rounding does not either.
        score, drawn = jax.lax.top_k(jnp.log(mass) + jax.random.gumbel(key, mass.shape), trials)
        candidates = x[drawn]
        products = jnp.matmul(x, candidates.T, precision="highest")
        distances = jnp.maximum(norms[:, None] + norms[drawn] - 2 * products, 0.0)
        after = jnp.minimum(nearest[:, None], distances)
        best = jnp.argmin(jnp.where(score > -jnp.inf, a @ after, jnp.inf))
        # Its own distance is zero, whatever the rounding says: a seed must not be drawn twice.
        return after[:, best].at[drawn[best]].set(0.0), candidates[best]

    # All points at the same, larger distance: the first draw is then by weight alone.
    _, found = jax.lax.scan(pick, jnp.full_like(a, 1e6), jax.random.split(key, m))
    return found
