import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from jaxdd.errors import InputError
from jaxdd.measure import Measure
from jaxdd.ot import (
    BarycenterSettings,
    KMeansSettings,
    SinkhornSettings,
    barycenter,
    check,
    distortion,
    quantize,
    squared_distances,
    transport,
    w2_squared,
)
from jaxdd.ot.barycenter import _alternate

# Everything below is padded to one shape, because compiling takes most of the time of a test.
CLASSES, N, M = 6, 12, 3
K_MEANS = KMeansSettings(restarts=8)
BARYCENTER = BarycenterSettings(rounds=6, k_means=K_MEANS)
SOLVERS = {
    "quantize": lambda key, mu, m=M: quantize(key, mu, m, settings=K_MEANS),
    "uniform": lambda key, mu, m=M: barycenter(key, mu, m, weights="uniform", settings=BARYCENTER),
    "learned": lambda key, mu, m=M: barycenter(key, mu, m, settings=BARYCENTER),
}
compiled = {name: jax.jit(jax.vmap(solve)) for name, solve in SOLVERS.items()}
KEYS = jax.random.split(jax.random.key(0), CLASSES)
GAP = 3e-3  # what the entropy and the threshold may cost


def padded(points, weights=None, size=N, filler=0.0):
    points = np.asarray(points, np.float32)
    weights = np.full(len(points), 1 / len(points)) if weights is None else np.asarray(weights)
    rest = size - len(points)
    return Measure(
        np.concatenate([points, np.full((rest, points.shape[1]), filler, np.float32)]),
        np.concatenate([weights, np.zeros(rest)]).astype(np.float32),
    )


def stack(measures):
    measures = list(measures)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *measures)


def random_points(seed, n, d=2):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def clustered(seed, sizes=(4, 4, 4), spread=0.1):
    rng = np.random.default_rng(seed)
    corners = 5 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2]])
    return np.concatenate([c + spread * rng.normal(size=(s, 2)) for c, s in zip(corners, sizes)])


def linear_program(cost, a, b):
    """The exact cost of optimal transport."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones((1, m))), np.kron(np.ones((1, n)), np.eye(m))
    found = linprog(np.ravel(cost), A_eq=np.vstack([rows, columns]), b_eq=np.r_[a, b], method="highs")
    assert found.status == 0, found.message
    return found.fun


def exact_cost(x, a, z, w):
    x, a, z, w = (np.asarray(v, np.float64) for v in (x, a, z, w))
    return linear_program(((x[:, None] - z[None]) ** 2).sum(-1), a / a.sum(), w / w.sum())


def best_partition(x, a, m, balanced=False):
    """The least sum over cells of their weighted scatter, over all labelings (with equal cells)."""
    labelings = np.array(list(itertools.product(range(m), repeat=len(x))))
    if balanced:
        counts = (labelings[..., None] == np.arange(m)).sum(1)
        labelings = labelings[(counts == len(x) // m).all(1)]
    members = (labelings[..., None] == np.arange(m)) * np.asarray(a, np.float64)[:, None]
    masses = members.sum(1)
    sums = np.einsum("pnm,nd->pmd", members, np.asarray(x, np.float64))
    between = (sums**2).sum(-1) / np.where(masses > 0, masses, 1.0)
    return ((a[:, None] * x**2).sum() - between.sum(1)).min()


# Distances


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_squared_distances_are_those_of_the_definition(wrap, shift):
    x, y = random_points(0, 7, 5) + np.float32(shift), random_points(1, 4, 5) + np.float32(shift)
    expected = ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(wrap(squared_distances)(x, y), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_squared_distances_are_never_negative(seed, shift, scale):
    x = (scale * random_points(seed, 6, 3) + shift).astype(np.float32)
    distances = np.asarray(squared_distances(x, x))
    assert (distances >= 0).all() and np.isfinite(distances).all()
    assert np.diag(distances).max() <= 1e-5 * max(distances.max(), 1e-6 * shift**2)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_distortion_is_the_mean_distance_to_the_nearest_point(wrap):
    x, z, a = random_points(0, 7), random_points(1, 3), np.random.default_rng(0).dirichlet(np.ones(7))
    expected = sum(a[i] * min(((x[i] - z[j]) ** 2).sum() for j in range(3)) for i in range(7))
    for filler in (0.0, 1e5, np.nan):
        np.testing.assert_allclose(wrap(distortion)(padded(x, a, filler=filler), z), expected, rtol=1e-5)


distance = jax.jit(w2_squared)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, N), st.integers(1, 6))
def test_w2_squared_is_the_linear_program(seed, n, m):
    rng = np.random.default_rng(seed)
    mu = padded(rng.normal(size=(n, 2)), rng.dirichlet(np.ones(n)))
    nu = padded(rng.normal(size=(m, 2)) + 1, rng.dirichlet(np.ones(m)), size=6)
    exact = exact_cost(*mu, *nu)
    found = float(distance(mu, nu))
    assert exact * (1 - 1e-4) <= found <= exact * (1 + 2 * GAP)


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
    cost = ((x[:, None] - z[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distance(mu, padded(z)), cost[linear_sum_assignment(cost)].mean(), rtol=2 * GAP)
    np.testing.assert_allclose(distance(padded(z), mu), distance(mu, padded(z)), rtol=2 * GAP)


def test_w2_squared_ignores_padding_and_bears_constant_data():
    x, z = random_points(0, 6), random_points(1, 4)
    plain = distance(padded(x), padded(z, size=6))
    for filler in (1e6, np.nan):
        padding = distance(padded(x, filler=filler), padded(z, size=6, filler=filler))
        np.testing.assert_allclose(padding, plain, rtol=1e-5)
    np.testing.assert_allclose(distance(padded(x, size=6), padded(z, size=4)), plain, rtol=1e-4)
    assert float(distance(padded(np.ones((5, 2))), padded(np.ones((3, 2)), size=6))) == 0.0


def test_gradient_of_w2_squared_pulls_along_the_plan():
    mu, z = padded(random_points(0, 5)), np.array([[2.0, 1.0]], np.float32)
    nu = padded(z, size=6)
    gradient = jax.jit(jax.grad(lambda x: w2_squared(mu._replace(points=x), nu)))(mu.points)
    np.testing.assert_allclose(gradient, 2 * mu.weights[:, None] * (mu.points - z), atol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_transport_is_feasible_and_near_the_optimum_on_far_clusters(epsilon):
    # Masses that do not fit the clusters are where Sinkhorn is slowest.
    x = np.concatenate([clustered(s, sizes=(7, 5, 8)) for s in range(2)])
    z, a = clustered(9, sizes=(2, 2, 2)), np.full(40, 1 / 40)
    b = np.full(6, 1 / 6)
    cost = ((x[:, None] - z[None]) ** 2).sum(-1)
    solve = jax.jit(functools.partial(transport, settings=SinkhornSettings(epsilon=epsilon, decay=0.95)))
    found = solve(*(jnp.asarray(v, jnp.float32) for v in (cost, a, b)))
    np.testing.assert_allclose(found.plan.sum(1), a, atol=1e-6)
    np.testing.assert_allclose(found.plan.sum(0), b, atol=1e-6)
    assert (np.asarray(found.plan) >= 0).all()
    assert (found.plan * cost).sum() <= linear_program(cost, a, b) * (1 + max(5 * epsilon, GAP))


def test_potential_is_the_derivative_in_the_weights():
    x, z = random_points(0, 9), random_points(1, M)
    a, b = np.random.default_rng(2).dirichlet(np.ones(9)), np.array([0.5, 0.3, 0.2])
    cost = ((x[:, None] - z[None]) ** 2).sum(-1).astype(np.float64)
    g = np.asarray(jax.jit(functools.partial(transport, settings=SinkhornSettings()))(cost, a, b).potential)
    for j, k in itertools.combinations(range(M), 2):
        step = 1e-5 * (np.eye(M)[j] - np.eye(M)[k])
        slope = (linear_program(cost, a, b + step) - linear_program(cost, a, b - step)) / 2e-5
        np.testing.assert_allclose(g[j] - g[k], slope, atol=0.05)


# Quantization and barycenters


def check_summary(mu, found, uniform):
    """What holds for any data: the weights are a probability, the best cost is attained by the atoms."""
    weights = np.asarray(found.atoms.weights)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert (weights >= 0).all()
    for c in range(len(weights)):
        best = float(np.min(found.costs[c]))
        z = np.asarray(found.atoms.points[c])
        mean = mu.weights[c] @ mu.points[c]
        variance = mu.weights[c] @ ((mu.points[c] - mean) ** 2).sum(1)
        noise = 1e-6 * variance + 1e-12 * np.abs(mu.points[c]).max() ** 2  # what float32 can tell apart
        assert np.isfinite(z).all() and np.isfinite(found.costs[c]).all()
        exact = exact_cost(mu.points[c], mu.weights[c], z, weights[c])
        assert exact * (1 - 1e-4) - noise <= best <= exact * (1 + GAP) + noise
        if uniform:
            np.testing.assert_allclose(weights[c], 1 / weights.shape[1], rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_cost_is_attained_and_brute_force_confirms_it(name):
    # Random points for what always holds; clusters, where the optimum is plain, for being optimal.
    rng = np.random.default_rng(0)
    sizes = [(2, 2, 2), (2, 2, 2)] if name == "uniform" else [(2, 4, 1), (3, 2, 3)]
    data = [random_points(s, 6) for s in range(4)] + [clustered(s, k, spread=0.5) for s, k in enumerate(sizes)]
    masses = [None if name == "uniform" else rng.dirichlet(2 * np.ones(len(x))) for x in data]
    mu = stack(padded(x, a) for x, a in zip(data, masses))
    found = compiled[name](KEYS, mu)
    check_summary(mu, found, uniform=name == "uniform")
    for c, (x, a) in enumerate(zip(data, masses)):
        a = np.full(len(x), 1 / len(x)) if a is None else a
        optimum = best_partition(x, a, M, balanced=name == "uniform")
        cost = float(np.min(found.costs[c]))
        assert cost >= optimum * (1 - 1e-4)
        if c >= 4 or name == "quantize":  # eight starts of six points find the global optimum
            assert cost <= optimum * (1 + GAP) + 1e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_as_many_atoms_as_points_cost_nothing(name):
    mu = stack(padded(random_points(s, M)) for s in range(CLASSES))
    found = compiled[name](KEYS, mu)
    np.testing.assert_allclose(np.min(found.costs, axis=1), 0.0, atol=2e-3 if name == "uniform" else 1e-6)
    for c in range(CLASSES):
        nearest = squared_distances(mu.points[c, :M], found.atoms.points[c]).min(1)
        np.testing.assert_allclose(nearest, 0.0, atol=1e-3)


@pytest.mark.parametrize("name", ["quantize", "learned"])
def test_one_atom_is_the_weighted_mean_and_costs_the_variance(name):
    x, a = random_points(3, 8), np.random.default_rng(0).dirichlet(np.ones(8))
    found = jax.jit(functools.partial(SOLVERS[name], m=1))(jax.random.key(1), padded(x, a))
    mean = a @ x
    np.testing.assert_allclose(found.atoms.points[0], mean, atol=1e-5)
    np.testing.assert_allclose(found.atoms.weights, [1.0], rtol=1e-6)
    np.testing.assert_allclose(np.min(found.costs), a @ ((x - mean) ** 2).sum(1), rtol=1e-4)
    assert found.converged


@pytest.mark.parametrize("name", SOLVERS)
def test_degenerate_classes_stay_finite(name):
    x = random_points(0, 3)
    data = [
        np.full((N, 2), 3.0),
        np.zeros((N, 2)),
        np.repeat(x, 3, axis=0),
        np.array([[0.0, 0.0], [1.0, 0.0]]),
        np.repeat([[0.0, 0.0], [4.0, 0.0]], 6, axis=0),
        1e4 + np.concatenate([np.zeros((8, 2)), np.eye(2)]),
    ]
    mu = stack(padded(v, filler=np.nan) for v in data)
    found = compiled[name](KEYS, mu)
    check_summary(jax.tree.map(np.nan_to_num, mu), found, uniform=name == "uniform")
    costs = np.min(found.costs, axis=1)
    np.testing.assert_allclose(costs[:3], 0.0, atol=2e-3)
    if name != "uniform":  # no more distinct points than atoms
        np.testing.assert_allclose(costs, 0.0, atol=1e-6)
    else:  # two points on a line, mass 1/2 each, served by thirds: the middle atom takes 1/6 from either end
        np.testing.assert_allclose(costs[3], 1 / 3 * 1 / 4, rtol=GAP)
        np.testing.assert_allclose(costs[4], 16 / 3 * 1 / 4, rtol=GAP)


@pytest.mark.parametrize("name", SOLVERS)
def test_padding_changes_nothing(name):
    data = [random_points(s, 5 + s) for s in range(CLASSES)]
    plain = compiled[name](KEYS, stack(padded(x) for x in data))
    more = [(N + 7, -3.0)] if name == "uniform" else []  # which contains k-means; another shape is compiled anew
    for size, filler in [(N, 1e6), (N, np.nan), *more]:
        found = compiled[name](KEYS, stack(padded(x, size=size, filler=filler) for x in data))
        np.testing.assert_allclose(found.costs, plain.costs, rtol=2e-3)
        np.testing.assert_allclose(found.atoms.weights, plain.atoms.weights, atol=1e-3)
        np.testing.assert_allclose(found.atoms.points, plain.atoms.points, atol=1e-2)


@pytest.mark.parametrize("name", SOLVERS)
def test_cost_is_equivariant(name):
    x = clustered(0, sizes=(3, 5, 4), spread=0.8).astype(np.float32)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
    order = np.random.default_rng(1).permutation(N)
    mu = stack(padded(v) for v in (x, x[order], x + 100, 1e-3 * x, 50 * x, x @ turn))
    cost = np.min(compiled[name](jnp.stack([KEYS[0]] * CLASSES), mu).costs, axis=1)
    np.testing.assert_allclose(cost, cost[0] * np.array([1, 1, 1, 1e-6, 2500, 1]), rtol=2 * GAP)


def test_vmap_and_jit_equal_an_eager_call():
    name = "uniform"  # which contains k-means
    mu = stack(padded(random_points(s, 6 + s)) for s in range(CLASSES))
    together = compiled[name](KEYS, mu)
    alone = SOLVERS[name](KEYS[4], jax.tree.map(lambda leaf: jnp.asarray(leaf[4]), mu))
    np.testing.assert_allclose(alone.costs, together.costs[4], rtol=2e-3)
    np.testing.assert_allclose(alone.atoms.points, together.atoms.points[4], atol=1e-2)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_learned_weights_beat_uniform_ones_and_match_k_means(seed):
    rng = np.random.default_rng(seed)
    mu = stack(padded(rng.normal(size=(n, 2)) * [3, 1], rng.dirichlet(np.ones(n))) for n in range(7, 7 + CLASSES))
    costs = {name: np.min(solve(KEYS, mu).costs, axis=1) for name, solve in compiled.items()}
    assert (costs["learned"] <= costs["quantize"] * (1 + 1e-4) + 1e-6).all()
    assert (costs["learned"] <= costs["uniform"] * (1 + 1e-4) + 1e-6).all()


def test_weights_descend_to_the_masses_of_the_clusters():
    mu = padded(np.repeat([[-1.0, 0.0], [1.0, 0.0]], [9, 3], axis=0))
    start = Measure(jnp.array([[-0.8, 0.1], [0.9, 0.0]]), jnp.array([0.5, 0.5]))
    run = jax.jit(lambda mu, start: _alternate(mu, start, 1, BarycenterSettings(rounds=60)))
    found = run(mu, start)
    np.testing.assert_allclose(found.atoms.weights, [0.75, 0.25], atol=0.02)
    assert float(found.costs.min()) < 0.05 < float(found.costs[0])


def test_k_means_never_starts_from_a_point_without_mass():
    # Far zero-weight points in the midst of real ones would draw any seeding that forgets the weights.
    x = np.concatenate([random_points(0, 8), 1e3 + random_points(1, 4)])
    order = np.random.default_rng(0).permutation(N)
    mu = Measure(x[order], np.repeat([1 / 8, 0], [8, 4])[order].astype(np.float32))
    found = compiled["quantize"](KEYS, stack([mu] * CLASSES))
    assert np.abs(found.atoms.points).max() < 5
    optimum = best_partition(x[:8], np.full(8, 1 / 8), M)
    costs = np.min(found.costs, axis=1)
    assert (costs >= optimum * (1 - 1e-4)).all()
    np.testing.assert_allclose(costs.min(), optimum, rtol=1e-4)


def test_too_few_points_are_named():
    mu = stack([padded(random_points(0, 5)), padded(random_points(1, 2))])
    check(mu, 2)
    check(jax.tree.map(lambda leaf: leaf[0], mu), 5)
    for m, words in ((3, "class 1 has 2 points, fewer than m=3"), (0, "m=0 atoms"), (6, "class 0 has 5")):
        with pytest.raises(InputError, match=words):
            check(mu, m)
    one = padded(random_points(0, 5), size=5)
    for m in (0, 6):
        with pytest.raises(InputError, match=f"m={m} atoms for 5 points"):
            quantize(jax.random.key(0), one, m)
    with pytest.raises(InputError, match="weights='free'"):
        barycenter(jax.random.key(0), one, 2, weights="free")
