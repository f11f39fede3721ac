"""Distances between measures against linear programs, closed forms and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ot_helpers import N, clustered, distances, exact_cost, linear_program, padded, random_points
from scipy.optimize import linear_sum_assignment

from jaxdd.ground.measure import Measure
from jaxdd.ot import (
    SinkhornSettings,
    distortion,
    exact,
    sinkhorn_divergence,
    squared_distances,
    transport,
    w2_squared,
)

GAP = 3e-3  # what the entropy and the threshold may cost
SIZE = 6  # of the second measure
distance = jax.jit(w2_squared)
divergence = jax.jit(sinkhorn_divergence)
slopes = jax.jit(jax.value_and_grad(sinkhorn_divergence, argnums=(0, 1)))


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_squared_distances_are_those_of_the_definition(wrap, shift):
    x, y = random_points(0, 7, 5) + np.float32(shift), random_points(1, 4, 5) + np.float32(shift)
    np.testing.assert_allclose(wrap(squared_distances)(x, y), distances(x, y), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_squared_distances_are_never_negative(seed, shift, scale):
    x = (scale * random_points(seed, 6, 3) + shift).astype(np.float32)
    result = np.asarray(squared_distances(x, x))
    assert (result >= 0).all() and np.isfinite(result).all()
    assert np.diag(result).max() <= 1e-5 * max(result.max(), 1e-6 * shift**2)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_distortion_is_the_mean_distance_to_the_nearest_point(wrap):
    x, z, a = random_points(0, 7), random_points(1, 3), np.random.default_rng(0).dirichlet(np.ones(7))
    expected = sum(a[i] * min(((x[i] - z[j]) ** 2).sum() for j in range(3)) for i in range(7))
    for filler in (0.0, 1e5, np.nan):
        np.testing.assert_allclose(wrap(distortion)(padded(x, a, filler=filler), z), expected, rtol=1e-5)


def test_gradient_of_the_distortion_is_the_pull_of_each_point_on_its_nearest():
    a = np.random.default_rng(3).dirichlet(np.ones(9)).astype(np.float32)
    mu, z = padded(random_points(2, 9), a, filler=np.nan), random_points(3, 3)
    of_points, of_atoms = jax.jit(jax.grad(lambda x, z: distortion(mu._replace(points=x), z), argnums=(0, 1)))(
        np.nan_to_num(mu.points), z
    )
    nearest = distances(mu.points[:9], z).argmin(1)
    pull = 2 * a[:, None] * (mu.points[:9] - z[nearest])
    np.testing.assert_allclose(of_points[:9], pull, atol=1e-5)
    np.testing.assert_array_equal(of_points[9:], 0.0)
    np.testing.assert_allclose(of_atoms, [-pull[nearest == j].sum(0) for j in range(3)], atol=1e-5)
    # No formula: the difference of two values in float64.
    value = lambda z: a.astype(np.float64) @ distances(mu.points[:9], z).min(1)
    for j, k in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[j, k] = 1e-6
        np.testing.assert_allclose(of_atoms[j, k], (value(z + step) - value(z - step)) / 2e-6, atol=1e-4)


@pytest.mark.slow
def test_gradient_of_the_distortion_has_no_nan_where_a_point_without_weight_is_nan():
    mu = padded(random_points(2, 9), filler=np.nan)
    gradient = jax.grad(lambda z: distortion(mu, z))(jnp.asarray(random_points(3, 3)))
    clean = jax.grad(lambda z: distortion(padded(random_points(2, 9)), z))(jnp.asarray(random_points(3, 3)))
    np.testing.assert_allclose(gradient, clean, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, N), st.integers(1, SIZE))
@example(970, 8, 4)  # each of these takes more than a thousand iterations
@example(867, 7, 5)
@example(1432, 10, 5)
def test_w2_squared_is_the_linear_program(seed, n, m):
    rng = np.random.default_rng(seed)
    mu = padded(rng.normal(size=(n, 2)), rng.dirichlet(np.ones(n)))
    nu = padded(rng.normal(size=(m, 2)) + 1, rng.dirichlet(np.ones(m)), size=SIZE)
    truth = exact_cost(*mu, *nu)
    assert truth * (1 - 1e-4) <= float(distance(mu, nu)) <= truth * (1 + GAP)


def test_w2_squared_closed_forms():
    x = random_points(0, N)
    mu = padded(x)
    order = np.random.default_rng(0).permutation(N)
    offset = np.array([3.0, -4.0], np.float32)
    assert float(distance(mu, padded(x[order]))) <= GAP * 2 * x.var()
    np.testing.assert_allclose(distance(mu, padded(x[order] + offset)), 25.0, rtol=GAP)
    np.testing.assert_allclose(  # on a line, the sorted points are matched
        distance(padded(x * [1, 0]), padded(x[:, ::-1] * [1, 0])),
        ((np.sort(x[:, 0]) - np.sort(x[:, 1])) ** 2).mean(),
        atol=GAP * 4,
    )
    z = random_points(5, N)
    cost = distances(x, z)
    np.testing.assert_allclose(distance(mu, padded(z)), cost[linear_sum_assignment(cost)].mean(), rtol=2 * GAP)
    np.testing.assert_allclose(distance(padded(z), mu), distance(mu, padded(z)), rtol=2 * GAP)


def test_w2_squared_ignores_padding_and_bears_constant_data():
    x, z = random_points(0, 6), random_points(1, 4)
    plain = distance(padded(x), padded(z, size=SIZE))
    for filler in (1e6, np.nan):
        padding = distance(padded(x, filler=filler), padded(z, size=SIZE, filler=filler))
        np.testing.assert_allclose(padding, plain, rtol=1e-5)
    np.testing.assert_allclose(distance(padded(x, size=6), padded(z, size=4)), plain, rtol=1e-4)
    assert float(distance(padded(np.ones((5, 2))), padded(np.ones((3, 2)), size=SIZE))) == 0.0


def test_gradient_of_w2_squared_pulls_along_the_plan():
    mu, z = padded(random_points(0, 5)), np.array([[2.0, 1.0]], np.float32)
    nu = padded(z, size=SIZE)
    gradient = jax.jit(jax.grad(lambda x: w2_squared(mu._replace(points=x), nu)))(mu.points)
    np.testing.assert_allclose(gradient, 2 * mu.weights[:, None] * (mu.points - z), atol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_transport_is_feasible_and_near_the_optimum_on_far_clusters(epsilon):
    # Masses that do not fit the clusters are where Sinkhorn is slowest.
    x = np.concatenate([clustered(s, sizes=(7, 5, 8)) for s in range(2)])
    z, a = clustered(9, sizes=(2, 2, 2)), np.full(40, 1 / 40)
    b = np.full(6, 1 / 6)
    cost = distances(x, z)
    solve = jax.jit(functools.partial(transport, settings=SinkhornSettings(epsilon=epsilon, decay=0.95)))
    result = solve(*(jnp.asarray(v, jnp.float32) for v in (cost, a, b)))
    np.testing.assert_allclose(result.plan.sum(1), a, atol=1e-6)
    np.testing.assert_allclose(result.plan.sum(0), b, atol=1e-6)
    assert (np.asarray(result.plan) >= 0).all()
    assert (result.plan * cost).sum() <= linear_program(cost, a, b) * (1 + max(5 * epsilon, GAP))


def test_potential_of_transport_is_the_derivative_in_the_weights():
    x, z = random_points(0, 9), random_points(1, 3)
    a, b = np.random.default_rng(2).dirichlet(np.ones(9)), np.array([0.5, 0.3, 0.2])
    cost = distances(x, z)
    g = np.asarray(jax.jit(functools.partial(transport, settings=SinkhornSettings()))(cost, a, b).potential)
    for j, k in ((0, 1), (0, 2), (1, 2)):
        step = 1e-5 * (np.eye(3)[j] - np.eye(3)[k])
        slope = (linear_program(cost, a, b + step) - linear_program(cost, a, b - step)) / 2e-5
        np.testing.assert_allclose(g[j] - g[k], slope, atol=0.05)


# The Sinkhorn divergence


def pair(seed, shift=1.0, filler=0.0):
    """Two measures with weights, the first of nine points, the second of five."""
    rng = np.random.default_rng(seed)
    mu = padded(rng.normal(size=(9, 2)), 0.5 / 9 + 0.5 * rng.dirichlet(np.ones(9)), filler=filler)
    nu = padded(rng.normal(size=(5, 2)) + shift, 0.1 + 0.5 * rng.dirichlet(np.ones(5)), size=SIZE, filler=filler)
    return mu, nu


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(-3, 3))
def test_divergence_is_positive_and_symmetric_and_zero_for_equal_measures(seed, shift):
    mu, nu = pair(seed, shift)
    nu = padded(nu.points, nu.weights)  # one shape for both orders
    result, unit = float(divergence(mu, nu)), float(mu.weights @ distances(mu.points, nu.points) @ nu.weights)
    assert result > 1e-3 * unit  # nine points are not five
    np.testing.assert_allclose(divergence(nu, mu), result, rtol=1e-3, atol=1e-4 * unit)
    order = np.random.default_rng(seed).permutation(N)
    same = Measure(mu.points[order], mu.weights[order])
    assert abs(float(divergence(mu, same))) <= 1e-4 * unit


@pytest.mark.slow
def test_divergence_tends_to_w2_squared_as_epsilon_falls_and_to_the_means_as_it_grows():
    mu, nu = pair(0)
    truth = exact(mu, nu)
    errors = [abs(float(divergence(mu, nu, epsilon=e)) / truth - 1) for e in (0.5, 0.05, 0.01)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02
    means = ((mu.weights @ mu.points - nu.weights @ nu.points) ** 2).sum()
    np.testing.assert_allclose(divergence(mu, nu, epsilon=1e3), means, rtol=1e-2)


@pytest.mark.slow
def test_divergence_of_a_translation_is_the_squared_length_of_the_way():
    mu, _ = pair(1)
    moved = mu._replace(points=mu.points + np.array([3.0, -4.0], np.float32))
    np.testing.assert_allclose(divergence(mu, moved), 25.0, rtol=1e-3)


@pytest.mark.slow
def test_gradients_of_the_divergence_are_finite_differences():
    mu, nu = pair(2)
    of_mu, of_nu = slopes(mu, nu)[1]
    f, h = divergence, 1e-2
    rng = np.random.default_rng(0)
    for _ in range(4):
        x_way = rng.normal(size=mu.points.shape) * (mu.weights > 0)[:, None]
        y_way = rng.normal(size=nu.points.shape) * (nu.weights > 0)[:, None]
        x_way, y_way = (way / np.linalg.norm(way) for way in (x_way, y_way))
        ahead = f(mu._replace(points=mu.points + h * x_way), nu._replace(points=nu.points + h * y_way))
        behind = f(mu._replace(points=mu.points - h * x_way), nu._replace(points=nu.points - h * y_way))
        slope = np.sum(of_mu.points * x_way) + np.sum(of_nu.points * y_way)
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=0.02, atol=0.01)
        # Mass moves from some points to others: its sum stays.
        a_way, b_way = (rng.normal(size=v.weights.shape) * (v.weights > 0) for v in (mu, nu))
        a_way, b_way = a_way - (mu.weights > 0) * a_way.sum() / 9, b_way - (nu.weights > 0) * b_way.sum() / 5
        a_way, b_way = a_way / np.linalg.norm(a_way), b_way / np.linalg.norm(b_way)
        ahead = f(mu._replace(weights=mu.weights + h * a_way), nu._replace(weights=nu.weights + h * b_way))
        behind = f(mu._replace(weights=mu.weights - h * a_way), nu._replace(weights=nu.weights - h * b_way))
        slope = np.sum(np.where(mu.weights > 0, of_mu.weights, 0) * a_way)
        slope += np.sum(np.where(nu.weights > 0, of_nu.weights, 0) * b_way)
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("filler", [1e3, np.nan])
def test_divergence_and_its_gradients_ignore_what_lies_at_points_without_weight(filler):
    value, (of_mu, of_nu) = slopes(*pair(3))
    other, (of_mu_too, of_nu_too) = slopes(*pair(3, filler=filler))
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for one, two, n in ((of_mu, of_mu_too, 9), (of_nu, of_nu_too, 5)):
        np.testing.assert_allclose(two.points[:n], one.points[:n], atol=1e-4)
        np.testing.assert_array_equal(two.points[n:], 0.0)
        np.testing.assert_allclose(two.weights[:n], one.weights[:n], rtol=1e-3, atol=1e-4)
        assert np.isfinite(two.weights).all()


@pytest.mark.slow
def test_divergence_ignores_how_many_points_without_weight_there_are():
    mu, nu = pair(4)
    bare = Measure(mu.points[:9], mu.weights[:9]), Measure(nu.points[:5], nu.weights[:5])
    np.testing.assert_allclose(divergence(*bare), divergence(mu, nu), rtol=1e-4)


@pytest.mark.slow
def test_divergence_of_constant_data_is_zero_and_so_is_its_gradient():
    mu, nu = padded(np.ones((5, 2))), padded(np.ones((3, 2)), size=SIZE)
    value, (of_mu, of_nu) = slopes(mu, nu)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(of_mu.points, 0.0, atol=1e-6)
    np.testing.assert_allclose(of_nu.points, 0.0, atol=1e-6)
