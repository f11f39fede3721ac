"""Shorter coordinates for n < d points in d dimensions, such as the latents of a class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Array, Measure


def pay(n: int, d: int, m: int, iterations: int) -> bool:
    """Whether `shorten`, n^2 d operations, costs less than it saves in ``iterations`` of n m d operations each."""
    return n < d and 2 * iterations * m * (1 - n / d) > n * (1 + n / (6 * d))


def shorten(x: Array) -> jax.Array:
    """Points y [n, n] with the pairwise distances of x [n, d], n < d, which suffice to search for atoms in their span.

    They are the Cholesky factor of x x^T. A small multiple of the identity keeps that positive definite in float32. It
    adds the same small number to all squared distances, so it changes no search and slightly raises every cost.
    """
    gram = jnp.matmul(x, x.T, precision="highest")
    n = x.shape[0]
    return jnp.linalg.cholesky(gram + jnp.eye(n, dtype=gram.dtype) * (1e-4 * jnp.trace(gram) / n + 1e-30))


def lengthen(z: Array, y: Array, x: Array) -> jax.Array:
    """The atoms z [m, n], in the coordinates y = `shorten`(x), in the coordinates of the points x [n, d]: [m, d]."""
    shares = jax.scipy.linalg.solve_triangular(y, z.T, lower=True, trans=1)  # the coefficients of the points, [n, m]
    return jnp.matmul(shares.T, x, precision="highest")


def searched(mu: Measure, shorter: bool) -> tuple[Measure, Callable[[Array], jax.Array]]:
    """The measure among whose points to search for atoms, and the way of the atoms back to the coordinates of mu."""
    if not shorter:
        return mu, jnp.asarray
    points = shorten(mu.points)
    return Measure(points, mu.weights), lambda atoms: lengthen(atoms, points, mu.points)
