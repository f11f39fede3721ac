"""What the tests of optimal transport are made of and judged by; the judges work in float64."""

import itertools

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment, linprog

from jaxdd.ground.measure import Measure

# Most measures are padded to one shape, because compiling takes most of the time of a test.
CLASSES, N, M = 6, 12, 3
KEYS = jax.random.split(jax.random.key(0), CLASSES)


def padded(points, weights=None, size=N, filler=0.0):
    """A measure of `size` points, the last of them without weight and at `filler`."""
    points = np.asarray(points, np.float32)
    weights = np.full(len(points), 1 / len(points)) if weights is None else np.asarray(weights)
    rest = size - len(points)
    return Measure(
        np.concatenate([points, np.full((rest, points.shape[1]), filler, np.float32)]),
        np.concatenate([weights, np.zeros(rest)]).astype(np.float32),
    )


def stack(measures):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *measures)


def random_points(seed, n, d=2):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def clustered(seed, sizes=(4, 4, 4), spread=0.1):
    """Three clusters in the plane, five or more apart."""
    rng = np.random.default_rng(seed)
    corners = 5 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2]])
    return np.concatenate([c + spread * rng.normal(size=(s, 2)) for c, s in zip(corners, sizes)])


def distances(x, z):
    """All squared distances [n, m]."""
    return np.square(np.asarray(x, np.float64)[:, None] - np.asarray(z, np.float64)[None]).sum(-1)


def linear_program(cost, a, b):
    """The exact cost of optimal transport, by a dense linear program."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones((1, m))), np.kron(np.ones((1, n)), np.eye(m))
    result = linprog(np.ravel(cost), A_eq=np.vstack([rows, columns]), b_eq=np.r_[a, b], method="highs")
    assert result.status == 0, result.message
    return result.fun


def exact_cost(x, a, z, w):
    """W2^2, exactly; points without weight may lie anywhere."""
    x, a, z, w = (np.asarray(v, np.float64) for v in (x, a, z, w))
    x, a, z, w = x[a > 0], a[a > 0], z[w > 0], w[w > 0]
    return linear_program(distances(x, z), a / a.sum(), w / w.sum())


def best_partition(x, a, m, sizes=None):
    """The least sum over cells of their weighted scatter, over all labelings, or those with cells of given sizes."""
    x, a = np.asarray(x, np.float64), np.asarray(a, np.float64)
    labelings = np.array(list(itertools.product(range(m), repeat=len(x))))
    if sizes is not None:
        counts = (labelings[..., None] == np.arange(m)).sum(1)
        labelings = labelings[(counts == np.asarray(sizes)).all(1)]
    members = (labelings[..., None] == np.arange(m)) * a[:, None]
    masses = members.sum(1)
    sums = np.einsum("pnm,nd->pmd", members, x)
    between = (sums**2).sum(-1) / np.where(masses > 0, masses, 1.0)
    return ((a[:, None] * x**2).sum() - between.sum(1)).min()


def unlabelled(z, w, like_z, like_w, atol):
    """Asserts that two measures have the same atoms in some order, as near as `atol`."""
    order = linear_sum_assignment(distances(like_z, z))[1]
    np.testing.assert_allclose(np.asarray(z)[order], like_z, atol=atol)
    np.testing.assert_allclose(np.asarray(w)[order], like_w, atol=atol)


def check_summary(mu, result, gap=1e-3):
    """What holds for any data: the atoms are a probability, and their W2^2 lies between `lower` and `cost`."""
    weights = np.asarray(result.atoms.weights)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(result.cost, np.min(result.costs, axis=-1))
    for c in range(len(weights)):
        real = mu.weights[c] > 0
        x, a, z = mu.points[c][real], mu.weights[c][real], np.asarray(result.atoms.points[c])
        variance = a @ ((x - a @ x) ** 2).sum(1)
        noise = 1e-6 * variance + 1e-12 * np.abs(x).max() ** 2  # what float32 can tell apart
        assert np.isfinite(z).all() and np.isfinite(result.costs[c]).all()
        exact = exact_cost(x, a, z, weights[c])
        assert float(result.lower[c]) <= exact * (1 + 1e-4) + noise
        assert exact * (1 - 1e-4) - noise <= float(result.cost[c]) <= exact * (1 + gap) + noise


def similar_measures(seed, shift, scale, angle):
    """Clusters, and the same permuted, shifted, scaled, rotated and mirrored; the factors of W2^2; the maps."""
    x = clustered(seed, sizes=(3, 5, 4), spread=0.4).astype(np.float32)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    order = np.random.default_rng(seed).permutation(N)
    maps = [lambda v: v, lambda v: v, lambda v: v + shift, lambda v: scale * v, lambda v: v @ turn, lambda v: -v]
    mu = stack(padded(move(x[order] if i == 1 else x)) for i, move in enumerate(maps))
    return mu, np.array([1, 1, 1, scale**2, 1, 1]), maps
