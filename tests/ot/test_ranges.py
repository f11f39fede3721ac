"""Values at every offset and scale that float32 holds, against float64; what it cannot hold is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ot_helpers import KEYS, M, N, clustered, distances, exact_cost, padded

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure

# Multiples of 1/128 below 8 stay exact in float32 when 2^15 is added, or when they are scaled by a power of two.
GRID = np.round(np.random.default_rng(0).normal(size=(2 * N, 2)) * 128) / 128
MU, NU = padded(GRID[:N]), padded(GRID[N:])
OFFSETS = [10.0, 300.0, -(2.0**15)]
SCALES = [2.0**-50, 2.0**-20, 2.0**20, 2.0**50]

divergence = jax.jit(jax.value_and_grad(lambda x, y: ot.sinkhorn_divergence(x, y, epsilon=1e-3).sum(), argnums=0))
distance = jax.jit(jax.value_and_grad(ot.w2_squared))
SOLVERS = {
    "quantize": jax.jit(lambda mu: ot.quantize(0, mu, M)),
    "uniform": jax.jit(lambda mu: ot.barycenter(0, mu, M, weights="uniform")),
    "entropic": jax.jit(lambda mu: ot.entropic_barycenter(0, mu, M, weights="uniform")),
    "clvq": jax.jit(lambda mu: ot.clvq.fit(0, mu, M)),
    "one atom": jax.jit(lambda mu: ot.quantize(0, mu, 1)),
}


def moved(mu, offset=0.0, scale=1.0):
    return mu._replace(points=(np.asarray(mu.points, np.float64) * scale + offset).astype(np.float32))


@pytest.mark.parametrize("cost", [divergence, distance])
@pytest.mark.parametrize("offset, scale", [(x, 1.0) for x in OFFSETS] + [(0.0, s) for s in SCALES])
def test_distances_know_neither_the_origin_nor_the_unit(cost, offset, scale):
    value, grad = cost(MU, NU)
    exact = exact_cost(*MU, *NU)
    assert abs(value - exact) < 0.01 * exact
    there, slope = cost(moved(MU, offset, scale), moved(NU, offset, scale))
    np.testing.assert_allclose(there / scale**2, value, rtol=2e-4)
    np.testing.assert_allclose(slope.points / scale, grad.points, atol=2e-3 * np.abs(grad.points).max())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("offset, scale", [(x, 1.0) for x in OFFSETS] + [(0.0, s) for s in SCALES])
def test_summaries_know_neither_the_origin_nor_the_unit(name, offset, scale):
    here, there = (SOLVERS[name](moved(MU, *change)) for change in ((0.0, 1.0), (offset, scale)))
    tolerance = 5e-3 if offset else 1e-5
    np.testing.assert_allclose(there.cost / scale**2, here.cost, rtol=tolerance)
    atoms = np.asarray(there.atoms.points, np.float64) / scale
    true = exact_cost(*moved(MU, offset), atoms, there.atoms.weights) * scale**2
    assert there.lower <= true and true <= there.cost * (1 + 2e-5)


@pytest.mark.parametrize("offset", [1e4, -3e5])
def test_one_atom_of_many_points_is_their_mean(offset):
    points = (np.random.default_rng(1).normal(size=(50_000, 4)) + offset).astype(np.float32)
    wide = points.astype(np.float64)
    result = ot.quantize(0, Measure(points, np.full(50_000, 1 / 50_000, np.float32)), 1)
    np.testing.assert_allclose(result.atoms.points[0], wide.mean(0), rtol=1e-7)
    np.testing.assert_allclose(result.cost, np.square(wide - np.asarray(result.atoms.points)).sum(1).mean(), rtol=1e-5)
    assert result.lower <= result.cost


def test_masses_of_many_points_are_shares_of_them():
    labels = np.random.default_rng(2).integers(0, 2, 60_000)
    mu = Measure(labels[:, None].astype(np.float32), np.full(60_000, 1 / 60_000, np.float32))
    weights = ot.quantize(0, mu, 2, settings=ot.KMeansSettings(restarts=1, exchanges=2)).atoms.weights
    np.testing.assert_allclose(np.sort(weights), np.sort(np.bincount(labels) / 60_000), rtol=1e-5)


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_a_cost_is_that_of_the_atoms_beside_far_points(far):
    points = np.concatenate([clustered(3), clustered(4, (1, 1, 1))[: N - 12]])[:N]
    points[-1] = far
    mu = padded(points)
    for name, solve in SOLVERS.items():
        result = solve(mu)
        true = exact_cost(*mu, *result.atoms)
        np.testing.assert_allclose(result.cost, true, rtol=1e-3, err_msg=name)
        assert result.lower <= true * (1 + 1e-6)


def quantile_cost(x, a, y, b):
    """W2^2 on the line, in float64: the integral of the squared difference of the quantile functions."""
    x, a, y, b = (np.asarray(v, np.float64) for v in (x, a, y, b))
    a, b = a[np.argsort(x)] / a.sum(), b[np.argsort(y)] / b.sum()
    x, y = np.sort(x), np.sort(y)
    ends = np.union1d(np.cumsum(a)[:-1], np.cumsum(b)[:-1]).clip(0, 1)
    edges = np.r_[0.0, ends, 1.0]
    middles = (edges[1:] + edges[:-1]) / 2
    at = lambda points, masses: points[np.minimum(np.searchsorted(np.cumsum(masses), middles), len(points) - 1)]
    return float((np.diff(edges) * (at(x, a) - at(y, b)) ** 2).sum())


@given(st.integers(0, 2**31), st.sampled_from([0.02, 0.05, 0.1, 0.5, 5.0]), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_exact_bears_any_masses(seed, concentration, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n).astype(np.float32), rng.normal(size=m).astype(np.float32)
    a, b = (rng.dirichlet(np.full(k, concentration)).astype(np.float32) for k in (n, m))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return  # NumPy's draw underflowed
    value = ot.exact(Measure(x[:, None], a), Measure(y[:, None], b))
    np.testing.assert_allclose(value, quantile_cost(x, a, y, b), rtol=1e-6, atol=1e-9)


FUNCTIONS = {
    "w2_squared": lambda mu: ot.w2_squared(mu, NU),
    "w2_squared, second": lambda mu: ot.w2_squared(NU, mu),
    "sinkhorn_divergence": lambda mu: ot.sinkhorn_divergence(mu, NU),
    "distortion": lambda mu: ot.distortion(mu, NU.points),
    "quantization_loss": lambda mu: ot.quantization_loss(mu, NU.points),
    "quantize": lambda mu: ot.quantize(0, mu, M),
    "barycenter": lambda mu: ot.barycenter(0, mu, M),
    "entropic_barycenter": lambda mu: ot.entropic_barycenter(0, mu, M),
    "clvq": lambda mu: ot.clvq.fit(0, mu, M),
    "exact": lambda mu: ot.exact(mu, NU),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("change", [lambda w: 0.5 * w, lambda w: 1.01 * w, lambda w: w - 0.1, lambda w: w * np.nan])
def test_masses_that_are_none_are_refused(name, change):
    with pytest.raises(InputError, match="sum to one|give non-negative"):
        FUNCTIONS[name](MU._replace(weights=change(MU.weights).astype(np.float32)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("points", [MU.points * np.float32(1e25), MU.points * np.float32(1e-30), MU.points * np.nan])
def test_points_that_float32_cannot_square_are_refused(name, points):
    if name == "exact" and np.isfinite(points).all():
        return  # it computes in float64
    with pytest.raises(InputError, match="rescale the points|NaN or inf"):
        FUNCTIONS[name](MU._replace(points=points))


def test_a_distance_beyond_the_range_is_refused():
    far = MU._replace(points=MU.points + np.float32(1e25))
    for cost in (ot.w2_squared, ot.sinkhorn_divergence):
        with pytest.raises(InputError, match="rescale"):
            cost(MU, far)


def test_measures_of_other_dimensions_are_refused():
    flat = Measure(MU.points[:, :1], MU.weights)
    for cost in (ot.w2_squared, ot.sinkhorn_divergence, ot.exact):
        with pytest.raises(InputError, match="dimensions"):
            cost(MU, flat)


@pytest.mark.parametrize("key", [7, np.int64(7), jax.random.key(7), jax.random.PRNGKey(7)])
def test_a_key_may_be_a_seed(key):
    result = jax.jit(ot.quantize, static_argnums=2)(jax.random.key(7), MU, M)
    np.testing.assert_allclose(ot.quantize(key, MU, M).atoms.points, result.atoms.points, atol=1e-6)


@pytest.mark.parametrize("key", [1.5, -1, "0", None, True, KEYS[:2], np.zeros(2)])
def test_other_keys_are_refused(key):
    with pytest.raises(InputError, match="`key`"):
        ot.quantize(key, MU, M)


@pytest.mark.parametrize("m", [2.5, "3", None, 0, -1, N + 1])
def test_numbers_of_atoms_that_are_none_are_refused(m):
    with pytest.raises(InputError, match="atoms"):
        ot.quantize(0, MU, m)


@pytest.mark.slow
def test_64_bits_and_strict_promotion_change_nothing():
    results = {name: solve(MU) for name, solve in SOLVERS.items()}
    pairs = {"divergence": divergence(MU, NU)[0], "distance": distance(MU, NU)[0]}
    narrow = jax.tree.map(jnp.asarray, (MU, NU))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        for name, solve in SOLVERS.items():
            result = solve(narrow[0])
            assert {leaf.dtype.name for leaf in jax.tree.leaves(result)} <= {"float32", "bool"}
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), result, results[name])
        for name, cost in (("divergence", divergence), ("distance", distance)):
            np.testing.assert_allclose(cost(*narrow)[0], pairs[name], rtol=1e-4)
        wide = Measure(jnp.asarray(GRID[:N]), jnp.full(N, 1 / N, jnp.float64))
        summary = ot.quantize(0, wide, M)
        np.testing.assert_allclose(summary.cost, distances(wide.points, summary.atoms.points).min(1).mean(), rtol=1e-12)
