"""Fewer coordinates for points that are fewer than their dimensions, as latents of a class often are."""

import jax
import jax.numpy as jnp


def pay(n: int, d: int, m: int, iterations: int) -> bool:
    """Whether `shorten`, n^2 d operations once, costs less than it saves in so many iterations of n m d each."""
    return n < d and 2 * iterations * m * (1 - n / d) > n * (1 + n / (6 * d))


def shorten(x: jax.Array) -> jax.Array:
    """Points y [n, n] with the distances of x [n, d], n < d: all that a search for atoms in their span needs.

    The Cholesky factor of x x^T. What keeps that positive in float32 sets all points the same small way further
    from each other, which changes no search, and makes every cost a little more than it is.
    """
    gram = jnp.matmul(x, x.T, precision="highest")
    n = x.shape[0]
    return jnp.linalg.cholesky(gram + jnp.eye(n) * (1e-4 * jnp.trace(gram) / n + 1e-30))


def lengthen(z: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Where atoms z [m, n], found among the points y = `shorten`(x), lie among the points x: [m, d]."""
    shares = jax.scipy.linalg.solve_triangular(y, z.T, lower=True, trans=1)  # of the points in each atom
    return jnp.matmul(shares.T, x, precision="highest")
