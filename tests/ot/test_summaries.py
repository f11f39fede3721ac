"""Quantization and barycenters against brute force, closed forms and the exact distance."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st
from ot_helpers import (
    CLASSES,
    KEYS,
    M,
    N,
    best_partition,
    check_summary,
    clustered,
    distances,
    exact_cost,
    padded,
    random_points,
    similar_measures,
    stack,
    unlabelled,
)
from scipy.stats import norm

from jaxdd.ground.measure import Measure
from jaxdd.ot import BarycenterSettings, KMeansSettings, barycenter, check, coordinates, quantize
from jaxdd.ot.quantization import iterations

K_MEANS = KMeansSettings(restarts=8)
BARYCENTER = BarycenterSettings(k_means=K_MEANS)
GAP = 1e-3  # what a plan may cost more than the best
UNIFORM, HALF = np.full(M, 1 / M, np.float32), np.array([0.5, 0.25, 0.25], np.float32)

held = jax.jit(jax.vmap(lambda key, mu, w: barycenter(key, mu, M, weights=w, settings=BARYCENTER), (0, 0, None)))
SOLVERS = {
    "quantize": jax.jit(jax.vmap(functools.partial(quantize, m=M, settings=K_MEANS))),
    "free": jax.jit(jax.vmap(functools.partial(barycenter, m=M, settings=BARYCENTER))),
    "uniform": lambda keys, mu: held(keys, mu, UNIFORM),
    "half": lambda keys, mu: held(keys, mu, HALF),
}
HELD = {"uniform": UNIFORM, "half": HALF}


def weights_are_as_asked(name, result):
    if name in HELD:
        np.testing.assert_array_equal(result.atoms.weights, np.tile(HELD[name], (CLASSES, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_cost_is_attained_and_brute_force_confirms_it(name):
    # Random points for what always holds; clusters, where the optimum is plain, for being optimal.
    rng = np.random.default_rng(0)
    n, sizes = {"uniform": (6, (2, 2, 2)), "half": (8, (4, 2, 2))}.get(name, (8, None))
    shapes = [sizes or (2, 4, 1), sizes or (3, 2, 3)]
    data = [random_points(s, n) for s in range(4)] + [clustered(s, k, spread=0.5) for s, k in enumerate(shapes)]
    masses = [np.full(len(x), 1 / len(x)) if sizes else rng.dirichlet(2 * np.ones(len(x))) for x in data]
    mu = stack(padded(x, a) for x, a in zip(data, masses))
    result = SOLVERS[name](KEYS, mu)
    check_summary(mu, result)
    weights_are_as_asked(name, result)
    optimum = np.array([best_partition(x, a, M, sizes) for x, a in zip(data, masses)])
    cost = np.asarray(result.cost)
    assert (cost >= optimum * (1 - 1e-4)).all()
    if sizes is None:  # eight starts of eight points find the global optimum
        np.testing.assert_allclose(cost, optimum, rtol=1e-4)
    np.testing.assert_allclose(cost[4:], optimum[4:], rtol=GAP)
    assert cost.sum() <= 1.2 * optimum.sum()  # a local search among local optima


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_points_fewer_than_their_dimensions_are_summarized_as_in_the_plane_they_span(name):
    d = 60
    assert coordinates.pay(N, d, M, iterations(K_MEANS))
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(d, 2)))
    flat = [clustered(s, (6, 3, 3) if name == "half" else (4, 4, 4)) for s in range(CLASSES)]
    mu = stack(padded(x @ turn.T + 3.0) for x in flat)
    result = SOLVERS[name](KEYS, mu)
    check_summary(mu, result)
    weights_are_as_asked(name, result)
    plain = SOLVERS[name](KEYS, stack(padded(x) for x in flat))
    np.testing.assert_allclose(result.cost, plain.cost, rtol=GAP)
    for c in range(CLASSES):
        z, w = jax.tree.map(lambda leaf, c=c: np.asarray(leaf[c]), result.atoms)
        z_plain, w_plain = jax.tree.map(lambda leaf, c=c: np.asarray(leaf[c]), plain.atoms)
        unlabelled(z, w, z_plain @ turn.T + 3.0, w_plain, atol=1e-3)


def test_few_coordinates_keep_distances_and_lead_back():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 40)).astype(np.float32)
    x[8] = x[7]  # a Gram matrix without full rank
    y = coordinates.shorten(x)
    np.testing.assert_allclose(distances(y, y), distances(x, x), rtol=1e-3, atol=0.02)
    shares = rng.dirichlet(np.ones(9), size=4).astype(np.float32)
    np.testing.assert_allclose(coordinates.lengthen(shares @ y, y, x), shares @ x, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quantize", "free", "uniform"])
def test_as_many_atoms_as_points_cost_nothing(name):
    mu = stack(padded(random_points(s, M)) for s in range(CLASSES))
    result = SOLVERS[name](KEYS, mu)
    np.testing.assert_allclose(result.cost, 0.0, atol=1e-3 if name == "uniform" else 1e-6)
    for c in range(CLASSES):
        unlabelled(*jax.tree.map(lambda v, c=c: v[c], result.atoms), mu.points[c, :M], mu.weights[c, :M], atol=5e-3)


@pytest.mark.parametrize("weights", ["free", "uniform", np.ones(1, np.float32)])
def test_one_atom_is_the_weighted_mean_and_costs_the_variance(weights):
    x, a = random_points(3, 8), np.random.default_rng(0).dirichlet(np.ones(8))
    mean = a @ x
    for result in (quantize(KEYS[1], padded(x, a), 1), barycenter(KEYS[1], padded(x, a), 1, weights=weights)):
        np.testing.assert_allclose(result.atoms.points[0], mean, atol=1e-5)
        np.testing.assert_allclose(result.atoms.weights, [1.0], rtol=1e-6)
        np.testing.assert_allclose([result.cost, result.lower], a @ ((x - mean) ** 2).sum(1), rtol=1e-4)
        assert result.converged


@pytest.mark.slow
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
    result = SOLVERS[name](KEYS, mu)
    check_summary(mu, result)
    weights_are_as_asked(name, result)
    costs = np.asarray(result.cost)
    np.testing.assert_allclose(costs[:2], 0.0, atol=1e-6)
    if name in ("quantize", "free"):  # no more distinct points than atoms
        np.testing.assert_allclose(costs, 0.0, atol=1e-6)
    elif name == "uniform":  # mass 1/2 at either end, served by thirds: the middle atom takes 1/6 from both
        np.testing.assert_allclose(costs[2], 0.0, atol=2e-3)
        np.testing.assert_allclose(costs[3:5], [1 / 3 / 4, 16 / 3 / 4], rtol=GAP)
        points = np.sort(np.asarray(result.atoms.points[3])[:, 0])
        np.testing.assert_allclose(points, [0, 0.5, 1], atol=5e-3)
    else:  # a half and two quarters serve two halves
        np.testing.assert_allclose(costs[3:5], 0.0, atol=2e-3)


def test_empty_cells_weigh_nothing():
    mu = stack([padded([[0.0, 0.0], [1.0, 0.0]], [0.3, 0.7])] * CLASSES)
    for name in ("quantize", "free"):
        weights = np.sort(SOLVERS[name](KEYS, mu).atoms.weights, axis=1)
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)
        np.testing.assert_allclose(SOLVERS[name](KEYS, mu).cost, 0.0, atol=1e-6)
    assert (np.sort(SOLVERS["quantize"](KEYS, mu).atoms.weights, axis=1)[:, 0] == 0).all()


def test_duplicates_are_as_good_as_weight():
    x, counts = clustered(1, (2, 2, 2), spread=0.4), np.array([2, 1, 2, 3, 1, 3])
    mu = stack([padded(np.repeat(x, counts, axis=0)), padded(x, counts / 12)] * (CLASSES // 2))
    for solve in SOLVERS.values():
        result = solve(KEYS, mu)
        np.testing.assert_allclose(result.cost, result.cost[0], rtol=2 * GAP)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_padding_changes_nothing(name):
    data = [random_points(s, 5 + s) + 3 for s in range(CLASSES)]
    plain = SOLVERS[name](KEYS, stack(padded(x) for x in data))
    more = [(N + 7, -3.0)] if name in ("quantize", "half") else []  # another shape is compiled anew
    for size, filler in [(N, 1e6), (N, np.nan), *more]:
        result = SOLVERS[name](KEYS, stack(padded(x, size=size, filler=filler) for x in data))
        np.testing.assert_allclose(result.costs, plain.costs, rtol=2e-3)
        np.testing.assert_allclose(result.lower, plain.lower, rtol=2e-3)
        np.testing.assert_allclose(result.atoms.weights, plain.atoms.weights, atol=1e-3)
        np.testing.assert_allclose(result.atoms.points, plain.atoms.points, atol=1e-2)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100), st.floats(0, 6.3))
def test_solutions_are_equivariant(seed, shift, scale, angle):
    mu, areas, maps = similar_measures(seed, shift, scale, angle)
    for name, solve in SOLVERS.items():
        result = solve(jnp.stack([KEYS[0]] * CLASSES), mu)
        np.testing.assert_allclose(result.cost, result.cost[0] * areas, rtol=2 * GAP)
        np.testing.assert_allclose(result.lower, result.lower[0] * areas, rtol=2 * GAP)
        z, w = np.asarray(result.atoms.points), np.asarray(result.atoms.weights)
        if name == "quantize":
            for c, (f, size) in enumerate(zip(maps, areas)):
                unlabelled(z[c] / size**0.5, w[c], f(z[0]) / size**0.5, w[0], atol=1e-3)


@pytest.mark.slow
def test_uniform_is_a_name_for_equal_weights_and_vmap_changes_nothing():
    mu = stack(padded(random_points(s, 6 + s)) for s in range(CLASSES))
    together = SOLVERS["uniform"](KEYS, mu)
    alone = jax.jit(functools.partial(barycenter, m=M, weights="uniform", settings=BARYCENTER))
    for c in range(CLASSES):
        result = alone(KEYS[c], jax.tree.map(lambda leaf, c=c: leaf[c], mu))
        np.testing.assert_allclose(result.costs, together.costs[c], rtol=2e-3)
        np.testing.assert_allclose(result.atoms.points, together.atoms.points[c], atol=1e-2)
        np.testing.assert_allclose(result.atoms.weights, UNIFORM, rtol=1e-6)


# Exchanges

HIGH = [KMeansSettings(exchanges=0), KMeansSettings(tolerance=0.0, exchanges=300)]
high = [jax.jit(jax.vmap(functools.partial(quantize, m=12, settings=s))) for s in HIGH]


@pytest.fixture(scope="module")
def gaussians():
    """Six samples of sixty points in twenty dimensions, and their quantizers without and with all exchanges."""
    mu = stack(padded(random_points(s, 60, 20), size=60) for s in range(CLASSES))
    return mu, *(solve(KEYS, mu) for solve in high)


def test_exchanges_never_harm_and_help_in_high_dimension(gaussians):
    mu, without, full = gaussians
    assert (full.cost <= without.cost * (1 + 1e-6)).all()
    assert np.mean(full.cost / without.cost) < 0.98
    assert full.converged.all()
    for result in (without, full):
        to = [distances(x, z) for x, z in zip(mu.points, result.atoms.points)]
        masses = [np.bincount(each.argmin(1), minlength=12) / 60 for each in to]
        np.testing.assert_allclose(result.atoms.weights, masses, atol=1e-6)
        np.testing.assert_allclose(result.cost, [each.min(1).mean() for each in to], rtol=1e-5)
        np.testing.assert_allclose(result.lower, result.cost, rtol=1e-5)


def test_no_single_move_is_left_to_make(gaussians):
    mu, without, full = gaussians

    def scatter(x, cell):
        return sum(((x[cell == j] - x[cell == j].mean(0)) ** 2).sum() for j in np.unique(cell))

    def best_move(x, z):
        cell = distances(x, z).argmin(1)
        moves = np.repeat(cell[None], len(x) * 12, axis=0)
        moves[np.arange(len(moves)), np.repeat(np.arange(len(x)), 12)] = np.tile(np.arange(12), len(x))
        return min(scatter(x, move) for move in moves) / scatter(x, cell)

    x = mu.points.astype(np.float64)
    for c in range(2):
        assert best_move(x[c], full.atoms.points[c]) >= 1 - 1e-5
    # The same judge finds what plain k-means leaves.
    assert best_move(x[0], without.atoms.points[0]) < 1 - 1e-3


@pytest.mark.slow
def test_exchanges_never_harm_where_lloyd_is_already_good():
    plain = jax.jit(jax.vmap(functools.partial(quantize, m=M, settings=replace(K_MEANS, exchanges=0))))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(M, N + 1, CLASSES)
        mu = stack(padded(rng.normal(size=(n, 2)), rng.dirichlet(np.ones(n)), filler=np.nan) for n in sizes)
        assert (SOLVERS["quantize"](KEYS, mu).cost <= plain(KEYS, mu).cost * (1 + 1e-5) + 1e-7).all()


def test_k_means_never_starts_from_a_point_without_mass():
    # Far zero-weight points in the midst of real ones would draw any seeding that forgets the weights.
    x = np.concatenate([random_points(0, 8), 1e3 + random_points(1, 4)])
    order = np.random.default_rng(0).permutation(N)
    mu = Measure(x[order], np.repeat([1 / 8, 0], [8, 4])[order].astype(np.float32))
    optimum = best_partition(x[:8], np.full(8, 1 / 8), M)
    for name in ("quantize", "free"):
        result = SOLVERS[name](KEYS, stack([mu] * CLASSES))
        assert np.abs(result.atoms.points).max() < 5
        assert (result.cost >= optimum * (1 - 1e-4)).all()
        np.testing.assert_allclose(result.cost.min(), optimum, rtol=1e-4)


# Barycenters


def gaussian_slices(m):
    """The means of a Gaussian between its quantiles j/m and (j + 1)/m."""
    cuts = norm.ppf(np.arange(m + 1) / m)
    return m * (norm.pdf(cuts[:-1]) - norm.pdf(cuts[1:]))


@pytest.mark.slow
def test_on_a_line_each_atom_is_the_mean_of_its_block_of_sorted_points():
    m, n = 5, 1000
    line = np.sort(random_points(0, n, 1), axis=0)
    mu = padded(np.random.default_rng(0).permutation(line), size=n)
    solve = jax.jit(lambda w: barycenter(KEYS[0], mu, m, weights=w))
    for weights in (np.full(m, 0.2), np.array([0.1, 0.3, 0.2, 0.15, 0.25])):
        result = solve(weights)
        z, w = np.asarray(result.atoms.points)[:, 0], np.asarray(result.atoms.weights)
        np.testing.assert_allclose(w, weights, rtol=1e-6)
        order = np.argsort(z)
        blocks = np.split(line[:, 0], np.round(np.cumsum(w[order])[:-1] * n).astype(int))
        cost = sum(((block - block.mean()) ** 2).sum() for block in blocks) / n
        np.testing.assert_allclose(z[order], [block.mean() for block in blocks], atol=0.01)
        np.testing.assert_allclose(result.cost, cost, rtol=GAP)
        np.testing.assert_allclose(result.lower, cost, rtol=GAP)
        if (weights == 0.2).all():
            np.testing.assert_allclose(z[order], gaussian_slices(m), atol=0.1)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31))
def test_cost_and_lower_bracket_the_exact_distance(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(M, N + 1, CLASSES)
    mu = stack(padded(rng.normal(size=(n, 2)) * [3, 1], rng.dirichlet(np.ones(n)), filler=np.nan) for n in sizes)
    w = rng.dirichlet(np.ones(M)).astype(np.float32)
    others = {name: SOLVERS[name](KEYS, mu) for name in ("quantize", "free", "uniform")}
    result = held(KEYS, mu, w)
    np.testing.assert_array_equal(result.atoms.weights, np.tile(w, (CLASSES, 1)))  # in the order given
    for summary in (result, *others.values()):
        check_summary(mu, summary, gap=5e-3)
        assert (summary.lower <= summary.cost).all()
    # Weights that are free can only be nearer, but for what float32 can tell apart at the spread of the data.
    noise = 1e-6 * 10
    assert (others["free"].cost <= others["quantize"].cost * (1 + 1e-4) + noise).all()
    assert (others["free"].cost <= others["uniform"].cost * (1 + 1e-4) + noise).all()
    assert (others["quantize"].cost <= result.cost * (1 + 1e-4) + noise).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_largest_weight_goes_to_the_largest_cluster(order):
    w = np.array([0.5, 1 / 3, 1 / 6], np.float32)[list(order)]
    x = clustered(2, (2, 4, 6))
    result = held(KEYS, stack([padded(x)] * CLASSES), w)
    np.testing.assert_array_equal(result.atoms.weights, np.tile(w, (CLASSES, 1)))
    means = np.array([x[6:].mean(0), x[2:6].mean(0), x[:2].mean(0)])[list(order)]
    np.testing.assert_allclose(result.atoms.points, np.tile(means, (CLASSES, 1, 1)), atol=0.02)


def test_atoms_of_weight_zero_move_nothing():
    w = np.array([0.5, 0.0, 0.5], np.float32)
    mu = stack(padded(clustered(s, (4, 4, 0))) for s in range(CLASSES))
    result = held(KEYS, mu, w)
    check_summary(mu, result)
    means = np.stack([[x[:4].mean(0), x[4:8].mean(0)] for x in mu.points])
    for z, expected in zip(result.atoms.points, means):
        unlabelled(z[np.array([0, 2])], np.ones(2), expected, np.ones(2), atol=0.02)


@pytest.mark.slow
def test_annealing_ends_no_worse_than_exact_plans_from_the_start():
    chosen = replace(BARYCENTER, polish=BARYCENTER.rounds)
    plain = jax.jit(jax.vmap(lambda key, mu: barycenter(key, mu, M, weights=jnp.asarray(UNIFORM), settings=chosen)))
    ratios = []
    for seed in range(6):
        mu = stack(padded(random_points(100 * seed + c, N)) for c in range(CLASSES))
        annealed, exact_plans = held(KEYS, mu, UNIFORM), plain(KEYS, mu)
        assert annealed.costs.shape == exact_plans.costs.shape == (CLASSES, BARYCENTER.rounds + 2)
        ratios.append(annealed.cost / exact_plans.cost)
    assert np.mean(ratios) < 0.99


@pytest.mark.slow
def test_free_weights_descend_from_uniform_ones_to_k_means():
    # Three clusters of 1, 3 and 8 points, atoms near them but of equal weight: only the weights must be learned.
    start = Measure(jnp.asarray(clustered(1, (1, 1, 1), spread=0.3), jnp.float32), jnp.asarray(UNIFORM))
    x = clustered(0, (1, 3, 8), spread=0.2)
    mu = padded(x, filler=np.nan)
    chosen = BarycenterSettings(rounds=60, patience=60)
    result = jax.jit(lambda mu, s: barycenter(KEYS[0], mu, M, start=s, settings=chosen))(mu, start)
    optimum = float(quantize(KEYS[0], mu, M, settings=K_MEANS).cost)
    np.testing.assert_allclose(result.atoms.weights, [1 / 12, 3 / 12, 8 / 12], atol=0.03)
    uniform = exact_cost(x, np.ones(12), *start)
    assert optimum * (1 - 1e-4) <= float(result.cost) <= optimum + 0.1 * (uniform - optimum)


@pytest.mark.slow
def test_a_given_start_is_where_the_atoms_begin():
    x = np.repeat([[0.0, 0.0], [4.0, 0.0]], 6, axis=0)
    start = Measure(jnp.array([[0.0, 1.0], [4.0, 1.0], [2.0, 0.0]]), jnp.zeros(3))
    result = barycenter(KEYS[0], padded(x), M, weights="uniform", start=start, settings=replace(BARYCENTER, rounds=1))
    # Thirds of the mass to either upper atom, a third in equal parts to the middle one: 1/3 (1 + 1 + 4), moved to 4/3.
    np.testing.assert_allclose(result.costs[0], 2.0, rtol=0.01)
    assert float(result.cost) >= 4 / 3 * (1 - 1e-4)


def test_bad_weights_are_refused():
    mu = padded(random_points(0, 5), size=5)
    call = lambda weights: message(lambda: barycenter(KEYS[0], mu, 2, weights=weights))
    assert "'learned'" in call("learned") and "'free'" in call("learned")
    assert "(3,)" in call(np.full(3, 1 / 3)) and "[2]" in call(np.full(3, 1 / 3))
    assert "(2, 1)" in call(np.full((2, 1), 0.5))
    for weights in ([0.5, 0.6], [-0.5, 1.5], [np.nan, 1.0], [0.0, 0.0]):
        assert "sum to" in call(np.array(weights))


def test_too_few_points_are_named():
    mu = stack([padded(random_points(0, 5)), padded(random_points(1, 2))])
    check(mu, 2)
    check(jax.tree.map(lambda leaf: leaf[0], mu), 5)
    for m, words in ((3, "class 1 has 2 points, fewer than m=3"), (0, "m=0 atoms"), (6, "class 0 has 5")):
        assert words in message(lambda m=m: check(mu, m))
    one = padded(random_points(0, 5), size=5)
    for m in (0, 6):
        assert f"m={m} atoms for 5 points" in message(lambda m=m: quantize(KEYS[0], one, m))
        for weights in ("free", "uniform"):
            assert f"m={m} atoms" in message(lambda m=m, w=weights: barycenter(KEYS[0], one, m, weights=w))


def test_a_start_of_another_shape_is_refused():
    one = padded(random_points(0, 5), size=5)
    start = Measure(np.zeros((3, 2), np.float32), np.full(3, 1 / 3, np.float32))
    words = message(lambda: barycenter(KEYS[0], one, 2, start=start))
    assert "start of shapes [3, 2] and [3]; give [2, 2] and [2]" in words


@pytest.mark.slow
def test_annealing_that_melts_near_clusters_loses_nothing():
    # A blurred plan may merge near atoms for good; what was found before must then be kept.
    def data(seed):
        rng = np.random.default_rng(seed)
        centres = np.concatenate([10 * np.eye(12, 14), 100 * rng.normal(size=(4, 14))])
        return padded((centres[:, None] + 0.3 * rng.normal(size=(16, 8, 14))).reshape(-1, 14), size=128)

    mu = stack(data(seed) for seed in range(4))
    cells = mu.points.reshape(4, 16, 8, 14)
    within = np.square(cells - cells.mean(2, keepdims=True)).sum(-1).mean((1, 2))
    solve = jax.jit(jax.vmap(functools.partial(barycenter, m=16, weights="uniform")))
    cost = np.asarray(solve(KEYS[:4], mu).cost)
    assert (cost <= within * (1 + GAP) + 1e-6 * np.square(mu.points).sum(-1).mean()).all()
