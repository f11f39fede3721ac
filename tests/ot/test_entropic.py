"""Entropic barycenters and the soft distortion against the exact solvers, closed forms and finite differences."""

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
    padded,
    random_points,
    similar_measures,
    stack,
    unlabelled,
)
from scipy.special import logsumexp
from scipy.stats import norm

from jaxdd.ot import (
    EntropicSettings,
    barycenter,
    distortion,
    entropic_barycenter,
    exact,
    quantization_loss,
    quantize,
)

OPTIMISED = True

FEW = EntropicSettings()
PAPER = EntropicSettings(stages=1, rounds=10, weight_steps=20, init="normal", settle=False)
HALF = np.array([0.5, 0.25, 0.25], np.float32)
GAP = 1e-3  # what a certified plan may cost more than the best


def solver(m=M, settings=FEW, **arguments):
    return jax.jit(jax.vmap(functools.partial(entropic_barycenter, m=m, settings=settings, **arguments)))


held = jax.jit(jax.vmap(lambda key, mu, w: entropic_barycenter(key, mu, M, weights=w, settings=FEW), (0, 0, None)))
SOLVERS = {
    "free": solver(),
    "uniform": lambda keys, mu: held(keys, mu, np.full(M, 1 / M, np.float32)),
    "half": lambda keys, mu: held(keys, mu, HALF),
    "paper": solver(settings=PAPER),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_cost_is_attained_and_bracketed_whatever_the_data(name):
    x = random_points(0, 3)
    data = [
        random_points(1, 8),
        clustered(0, (2, 4, 1), spread=0.5),
        np.full((N, 2), 3.0),
        np.repeat(x, 3, axis=0),
        np.array([[0.0, 0.0], [1.0, 0.0]]),
        1e3 + np.concatenate([np.zeros((8, 2)), np.eye(2)]),
    ]
    masses = [np.random.default_rng(0).dirichlet(2 * np.ones(8)), *[None] * 5]
    mu = stack(padded(v, a, filler=np.nan) for v, a in zip(data, masses))
    summaries = SOLVERS[name](KEYS, mu)
    check_summary(mu, summaries, gap=GAP)
    assert summaries.costs.shape == (CLASSES, 2 + (10 if name == "paper" else 48))
    if name == "half":
        np.testing.assert_array_equal(summaries.atoms.weights, np.tile(HALF, (CLASSES, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["free", "uniform", "half"])  # from N(0, I), not every start finds all three
def test_clusters_far_apart_have_their_means_for_atoms(name):
    sizes = {"uniform": (4, 4, 4), "half": (6, 3, 3)}.get(name, (3, 7, 2))
    data = [clustered(s, sizes) for s in range(CLASSES)]
    summaries = SOLVERS[name](KEYS, stack(padded(x) for x in data))
    for c, x in enumerate(data):
        cells = np.split(x, np.cumsum(sizes)[:-1])
        z, w = (np.asarray(leaf[c]) for leaf in summaries.atoms)
        unlabelled(z, w, [cell.mean(0) for cell in cells], np.array(sizes) / N, atol=5e-3)
        scatter = sum(((cell - cell.mean(0)) ** 2).sum() for cell in cells) / N
        np.testing.assert_allclose(summaries.cost[c], scatter, rtol=GAP)


@pytest.mark.parametrize("weights", ["free", "uniform", np.ones(1, np.float32)])
def test_one_atom_is_the_weighted_mean_and_costs_the_variance(weights):
    x, a = random_points(3, 8), np.random.default_rng(0).dirichlet(np.ones(8))
    summary = entropic_barycenter(KEYS[1], padded(x, a), 1, weights=weights)
    np.testing.assert_allclose(summary.atoms.points[0], a @ x, atol=1e-5)
    np.testing.assert_allclose(summary.atoms.weights, [1.0], rtol=1e-6)
    np.testing.assert_allclose([summary.cost, summary.lower], a @ ((x - a @ x) ** 2).sum(1), rtol=1e-4)


@pytest.mark.slow
def test_on_a_line_atoms_are_the_means_between_quantiles():
    m, n = 5, 600
    middles = (np.arange(n) + 0.5) / n
    cuts = norm.ppf(np.arange(m + 1) / m)
    expected = {
        "Gaussian": (norm.ppf(middles), m * (norm.pdf(cuts[:-1]) - norm.pdf(cuts[1:]))),
        "uniform": (middles, (np.arange(m) + 0.5) / m),
    }
    mu = stack(padded(line[:, None], size=n) for line, _ in expected.values())
    solve = solver(m, EntropicSettings(stages=16), weights="uniform")
    z = np.sort(solve(KEYS[:2], mu).atoms.points[..., 0], axis=1)
    for c, (_, means) in enumerate(expected.values()):
        np.testing.assert_allclose(z[c], means, atol=0.02)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100), st.floats(0, 6.3))
def test_solutions_follow_permutations_translations_scalings_and_rotations(seed, shift, scale, angle):
    mu, areas, _ = similar_measures(seed, shift, scale, angle)
    for name in ("free", "uniform"):
        summaries = SOLVERS[name](jnp.stack([KEYS[0]] * CLASSES), mu)
        np.testing.assert_allclose(summaries.cost, summaries.cost[0] * areas, rtol=2 * GAP)
        np.testing.assert_allclose(summaries.lower, summaries.lower[0] * areas, rtol=2 * GAP)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_padding_changes_nothing(name):
    data = [random_points(s, 5 + s) + 3 for s in range(CLASSES)]
    plain = SOLVERS[name](KEYS, stack(padded(x) for x in data))
    more = [(N + 7, -3.0)] if name == "free" else []  # another shape is compiled anew
    for size, filler in [(N, 1e6), (N, np.nan), *more]:
        other = SOLVERS[name](KEYS, stack(padded(x, size=size, filler=filler) for x in data))
        np.testing.assert_allclose(other.costs, plain.costs, rtol=2e-3)
        np.testing.assert_allclose(other.lower, plain.lower, rtol=2e-3)
        np.testing.assert_allclose(other.atoms.weights, plain.atoms.weights, atol=1e-3)
        np.testing.assert_allclose(other.atoms.points, plain.atoms.points, atol=1e-2)


@pytest.mark.slow
def test_vmap_is_a_loop_and_uniform_a_name_for_equal_weights():
    mu = stack(padded(random_points(s, 6 + s)) for s in range(CLASSES))
    together = SOLVERS["uniform"](KEYS, mu)
    alone = jax.jit(functools.partial(entropic_barycenter, m=M, weights="uniform", settings=FEW))
    for c in range(2):
        one = alone(KEYS[c], jax.tree.map(lambda leaf, c=c: leaf[c], mu))
        np.testing.assert_allclose(one.costs, together.costs[c], rtol=2e-3)
        np.testing.assert_allclose(one.atoms.points, together.atoms.points[c], atol=1e-2)


def test_atoms_without_weight_stay_finite_and_the_others_are_the_best_two():
    x = clustered(0, (6, 3, 3))
    weights = np.array([0.5, 0.5, 0.0], np.float32)
    mu = stack([padded(x)] * CLASSES)
    summaries = held(KEYS, mu, weights)
    check_summary(mu, summaries)
    np.testing.assert_allclose(summaries.cost, best_partition(x, np.full(12, 1 / 12), 2, sizes=(6, 6)), rtol=2 * GAP)


@pytest.fixture(scope="module")
def high():
    """Three samples of eighty points, in ten overlapping clusters of unequal masses in a hundred dimensions."""

    def sample(seed):
        rng = np.random.default_rng(seed)
        centres, centre = rng.normal(size=(10, 100)), rng.choice(10, 80, p=rng.dirichlet(3 * np.ones(10)))
        return padded(centres[centre] + rng.normal(size=(80, 100)), size=80)

    return stack(sample(s) for s in range(3))


def judged(mu, atoms):
    return np.array([exact(*(jax.tree.map(lambda leaf, c=c: leaf[c], part) for part in (mu, atoms))) for c in range(3)])


@pytest.mark.slow
def test_uniform_weights_come_as_near_as_newtons_plans_do(high):
    ours = solver(8, EntropicSettings(), weights="uniform")(KEYS[:3], high)
    newton = jax.jit(jax.vmap(functools.partial(barycenter, m=8, weights="uniform")))(KEYS[:3], high)
    costs = judged(high, ours.atoms)
    assert costs.sum() <= 1.02 * judged(high, newton.atoms).sum()
    assert (costs <= np.asarray(ours.cost) * (1 + 1e-5)).all()
    np.testing.assert_allclose(ours.cost, costs, rtol=0.01)
    assert (np.asarray(ours.lower) <= costs * (1 + 1e-5)).all()


@pytest.mark.slow
def test_learned_weights_come_near_the_quantizer_and_settling_them_helps(high):
    settled = solver(8, EntropicSettings())(KEYS[:3], high)
    learned = solver(8, EntropicSettings(settle=False))(KEYS[:3], high)
    best = np.asarray(jax.jit(jax.vmap(functools.partial(quantize, m=8)))(KEYS[:3], high).cost)
    costs = [judged(high, summary.atoms) for summary in (settled, learned)]
    assert (costs[0] >= 0.97 * best).all()  # both are local searches, and either may win
    assert costs[0].sum() <= 1.02 * best.sum()
    assert (costs[0] <= costs[1] * (1 + 1e-5)).all() and costs[1].sum() <= 1.03 * costs[0].sum()
    for summary, cost in zip((settled, learned), costs):
        np.testing.assert_allclose(summary.cost, cost, rtol=0.01)
        assert (np.asarray(summary.lower) <= cost * (1 + 1e-5)).all()


@pytest.mark.slow
def test_mirror_descent_lowers_what_equal_weights_cost():
    mu = stack(padded(clustered(s, (2, 7, 3), spread=0.5)) for s in range(CLASSES))
    learned = solver(settings=replace(PAPER, init="k-means++", weight_steps=3))(KEYS, mu)
    assert (learned.cost < 0.5 * SOLVERS["uniform"](KEYS, mu).cost).all()
    np.testing.assert_allclose(np.sort(learned.atoms.weights, axis=1), np.tile([2, 3, 7], (CLASSES, 1)) / N, atol=0.03)


@pytest.mark.slow
def test_damped_atoms_go_a_part_of_the_way():
    mu = stack([padded(random_points(s, N)) for s in range(2)])
    once = EntropicSettings(stages=1, rounds=1, settle=False, weight_steps=0)
    full, part = (
        solver(settings=replace(once, damping=damping, init="normal"))(KEYS[:2], mu).atoms.points
        for damping in (1.0, 0.2)
    )
    start = np.stack([jax.random.normal(key, (M, 2)) for key in KEYS[:2]])
    np.testing.assert_allclose(part, start + 0.2 * (full - start), atol=1e-5)


def test_what_cannot_be_solved_is_refused():
    mu = padded(random_points(0, N))
    assert "m=13 atoms for 12 points" in message(lambda: entropic_barycenter(KEYS[0], mu, N + 1))
    words = message(lambda: entropic_barycenter(KEYS[0], mu, M, weights="equal"))
    assert "entropic_barycenter: weights='equal'; choose 'free', 'uniform' or an array [m]" in words
    words = message(lambda: entropic_barycenter(KEYS[0], mu, M, settings=EntropicSettings(init="random")))
    assert "init='random'; choose 'k-means++' or 'normal'" in words


# The distortion with a soft minimum

loss = jax.jit(quantization_loss)
slope = jax.jit(jax.grad(quantization_loss, argnums=1))


def soft_distortion(x, a, z, epsilon):
    """The loss in float64, epsilon in the unit of the cost."""
    soft = logsumexp(-distances(x, z) / epsilon, axis=1) - np.log(len(z))
    return -epsilon * np.asarray(a, np.float64) @ soft


@pytest.mark.parametrize("filler", [0.0, np.nan])
def test_loss_lies_between_the_distortion_and_a_little_more(filler):
    a = np.random.default_rng(0).dirichlet(np.ones(9))
    mu, z = padded(random_points(0, 9), a, filler=filler), random_points(1, M)
    least, mean = float(distortion(mu, z)), a @ distances(mu.points[:9], z).mean(1)
    values = [float(loss(mu, z, epsilon=epsilon)) for epsilon in (1e-4, 1e-2, 0.1, 1.0)]
    for epsilon, value in zip((1e-4, 1e-2, 0.1, 1.0), values):
        np.testing.assert_allclose(value, soft_distortion(mu.points[:9], a, z, epsilon * mean), rtol=1e-4)
        assert least * (1 - 1e-5) <= value <= (least + epsilon * mean * np.log(M)) * (1 + 1e-5)
    assert values == sorted(values)
    np.testing.assert_allclose(values[0], least, rtol=1e-3)
    np.testing.assert_allclose(loss(mu, z, epsilon=1e3), mean, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_gradient_of_the_loss_is_a_finite_difference(epsilon):
    a = np.random.default_rng(3).dirichlet(np.ones(9))
    mu, z = padded(random_points(2, 9), a, filler=np.nan), random_points(3, M)
    x = mu.points[:9].astype(np.float64)
    unit = epsilon * (a @ distances(x, z).mean(1))
    gradient, step = slope(mu, z, epsilon=epsilon), 1e-5
    for j, k in np.ndindex(M, 2):
        way = np.zeros((M, 2))
        way[j, k] = step
        difference = soft_distortion(x, a, z + way, unit) - soft_distortion(x, a, z - way, unit)
        np.testing.assert_allclose(gradient[j, k], difference / (2 * step), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_loss_moves_an_atom_that_no_point_is_nearest_to():
    mu, z = padded(random_points(0, N)), jnp.array([[0.0, 0.0], [1.0, 1.0], [6.0, 6.0]])
    np.testing.assert_allclose(jax.grad(distortion, argnums=1)(mu, z)[2], 0, atol=1e-6)
    assert (slope(mu, z, epsilon=0.3)[2] > 0).all()


def test_loss_is_that_of_the_points_whatever_their_place_and_scale():
    mu, z = padded(random_points(0, N)), random_points(1, M)
    value = float(loss(mu, z))
    moved = lambda v: 10 * v[::-1] + np.float32(30)
    np.testing.assert_allclose(loss(mu._replace(points=moved(mu.points)), moved(z)), 100 * value, rtol=1e-4)
    same = padded(np.ones((5, 2)))
    assert float(loss(same, np.ones((M, 2), np.float32))) == 0.0
    assert not slope(same, jnp.ones((M, 2))).any()
