"""Learning from a stream: the step by hand, and the end of it against Lloyd's algorithm."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from ot_helpers import distances, padded, random_points

from jaxdd.ground.measure import Measure
from jaxdd.ot import ClvqSettings, KMeansSettings, clvq, distortion, quantize

KEY = jax.random.key(0)
BATCH, M = 8, 4
COUNTING = ClvqSettings(forgetting=0.0, patience=1e6)
step = jax.jit(clvq.step, static_argnames="settings")
init = jax.jit(clvq.init, static_argnames="m")


def batches(seed, number, d=2, size=BATCH):
    """Samples around four corners."""
    rng = np.random.default_rng(seed)
    corners = 3 * np.eye(4, d) - 1
    return (corners[rng.integers(0, 4, (number, size))] + 0.5 * rng.normal(size=(number, size, d))).astype(np.float32)


def ones(points):
    return Measure(jnp.asarray(points), jnp.ones(len(points)))


def run(stream, settings, weights=None, state=None, first=0):
    state = init(KEY, ones(stream[0]), m=M) if state is None else state
    for i, points in enumerate(stream[first:], first):
        a = np.ones(len(points), np.float32) if weights is None else weights[i]
        state = step(jax.random.fold_in(KEY, i), state, Measure(points, a), settings=settings)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, BATCH])
def test_atoms_are_running_means_of_what_they_won(size):
    stream = batches(0, 30, size=size)
    state = init(KEY, ones(batches(0, 1)[0]), m=M)
    seeds, won, nearest = np.asarray(state.points), [[] for _ in range(M)], []
    for i, points in enumerate(stream):
        to = distances(points, state.points)
        for x, j in zip(points, to.argmin(1)):
            won[j].append(x)
        nearest.extend(to.min(1))
        state = step(jax.random.fold_in(KEY, i), state, ones(points), settings=COUNTING)
        expected = [np.mean(members, axis=0) if members else seed for members, seed in zip(won, seeds)]
        np.testing.assert_allclose(state.points, expected, atol=1e-5)
        np.testing.assert_allclose(state.visits, [len(members) for members in won], rtol=1e-6)
        np.testing.assert_allclose(state.distortion, np.mean(nearest), rtol=1e-4)
    assert state.steps == 30
    np.testing.assert_allclose(
        clvq.summary(state).atoms.weights, [len(members) / (30 * size) for members in won], rtol=1e-5
    )


def test_samples_of_weight_two_count_twice():
    stream, rng = batches(1, 10), np.random.default_rng(0)
    weights = np.stack([rng.permutation([2, 2, 2, 1, 1, 0, 0, 0]) for _ in stream])
    repeated = np.stack([np.repeat(points, a, axis=0) for points, a in zip(stream, weights)])
    start = init(KEY, ones(stream[0]), m=M)
    one, two = run(repeated, COUNTING, state=start), run(stream, COUNTING, weights.astype(np.float32), start)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), two, one)


def test_old_samples_are_forgotten_as_a_power_of_their_age():
    # With p = 2 a sample of step s counts s (s + 1) / (t (t + 1)) at step t, which sums to (t + 2) / 3 a sample.
    stream = batches(2, 12)
    state = init(KEY, ones(stream[0]), m=M)
    costs = []
    for i, points in enumerate(stream):
        costs.append(distances(points, state.points).min(1).mean())
        state = step(KEY, state, ones(points), settings=ClvqSettings(patience=1e6))
        np.testing.assert_allclose(state.visits.sum(), BATCH * (i + 3) / 3, rtol=1e-5)
    powers = np.arange(1, 13) * np.arange(2, 14)
    np.testing.assert_allclose(state.distortion, powers @ costs / powers.sum(), rtol=1e-4)


@pytest.mark.parametrize("filler", [1e6, np.nan, np.inf])
def test_rows_without_weight_change_nothing(filler):
    stream, settings = batches(3, 20), ClvqSettings(patience=1.0)
    weights = (np.random.default_rng(1).uniform(size=stream.shape[:2]) < 0.7).astype(np.float32)
    weights[0] = [1, 1, 1, 1, 1, 1, 0, 0]
    weights[7] = 0  # a whole batch
    dirty = np.where(weights[..., None] > 0, stream, np.float32(filler))
    clean = np.where(weights[..., None] > 0, stream, np.float32(0))
    one, two = (run(s, settings, weights, init(KEY, Measure(s[0], weights[0]), m=M)) for s in (clean, dirty))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.isfinite(one.points).all() and one.steps == 19
    nothing = step(KEY, one, Measure(dirty[7], weights[7]), settings=settings)
    jax.tree.map(np.testing.assert_array_equal, nothing, one)


@pytest.mark.slow
def test_rows_without_weight_are_as_good_as_absent():
    stream = batches(4, 10)
    long = np.concatenate([stream, np.full_like(stream, np.nan)], axis=1)
    weights = np.tile(np.r_[np.ones(BATCH), np.zeros(BATCH)].astype(np.float32), (10, 1))
    one = run(stream, ClvqSettings())
    two = run(long, ClvqSettings(), weights, init(KEY, Measure(long[0], weights[0]), m=M))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), two, one)


def test_a_state_saved_half_way_ends_bit_for_bit_the_same():
    stream, settings = batches(5, 20), ClvqSettings(patience=2.0)
    straight = run(stream, settings)
    half = run(stream[:9], settings)
    saved = [np.asarray(leaf).copy() for leaf in half]
    resumed = run(stream, settings, state=clvq.ClvqState(*map(jnp.asarray, saved)), first=9)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert resumed.steps == 20


@pytest.mark.slow
def test_a_shared_batch_serves_all_classes_at_once():
    stream = batches(6, 15, size=4 * BATCH)
    labels = np.random.default_rng(2).integers(0, 3, stream.shape[:2])
    weights = (labels[:, None] == np.arange(3)[:, None]).astype(np.float32)  # [steps, C, N]
    keys = jax.random.split(KEY, 3)
    by_class = Measure(None, 0)
    together = jax.vmap(partial(clvq.init, m=M), in_axes=(0, by_class))(keys, Measure(stream[0], weights[0]))
    alone = [init(keys[c], Measure(stream[0], weights[0, c]), m=M) for c in range(3)]
    all_at_once = jax.jit(jax.vmap(clvq.step, in_axes=(0, 0, by_class)))
    for i, points in enumerate(stream):
        together = all_at_once(keys, together, Measure(points, weights[i]))
        members = [np.where(labels[i, :, None] == c, points, np.nan) for c in range(3)]
        alone = [step(keys[c], alone[c], Measure(members[c], weights[i, c])) for c in range(3)]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), together, alone)
    summaries = jax.vmap(clvq.summary)(together)
    np.testing.assert_allclose(np.asarray(summaries.atoms.weights).sum(1), 1.0, rtol=1e-5)


def test_a_lost_atom_comes_back():
    stream = batches(7, 12)
    state = init(KEY, ones(stream[0]), m=M)
    state = state._replace(points=state.points.at[1].set(1e4))
    waiting = run(stream, ClvqSettings(patience=1e6), state=state)
    assert waiting.visits[1] == 0 and (waiting.points[1] == 1e4).all()
    np.testing.assert_allclose(waiting.idle[1], 12 * BATCH)
    result = run(stream[:4], ClvqSettings(patience=3.0), state=state)
    assert result.visits[1] > 0 and np.abs(result.points).max() < 10 and np.isfinite(result.points).all()
    # It is moved the moment that it has been idle for too long, not before, and to a sample.
    short = [run(stream[:i], ClvqSettings(patience=3.0), state=state) for i in (1, 2)]
    assert (short[0].points[1] == 1e4).all() and short[0].idle[1] == BATCH
    assert (np.asarray(short[1].points[1]) == stream[1]).all(1).any() and short[1].idle[1] == 0


def test_a_lost_atom_starts_anew_at_a_sample_with_weight_drawn_as_k_means_would():
    # Two rows are far from every atom; a third, farther still, has no weight.
    points = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [4, 0], [0, 3], [9, 9], [9, 9]], np.float32) + 5
    weights = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
    atoms = np.array([[0, 0], [1e4, 0], [0, 1], [1, 1]], np.float32) + 5
    state = clvq.ClvqState(atoms, np.full(M, 50.0), np.float32(1), np.array([0, 1e9, 0, 0]), np.int32(5))
    moved = jax.jit(jax.vmap(lambda key: clvq.step(key, state, Measure(points, weights))))
    result = moved(jax.random.split(KEY, 2000))
    np.testing.assert_array_equal(result.visits[:, 1], 0.0)  # it forgets where it was
    shares = [(np.asarray(result.points[:, 1]) == x).all(1).mean() for x in points]
    to = weights * distances(points, atoms).min(1)
    np.testing.assert_allclose(shares, to / to.sum(), atol=0.04)


def test_more_atoms_than_distinct_points_stay_finite():
    for points in (np.zeros((BATCH, 2)), np.repeat(np.eye(2), BATCH // 2, axis=0)):
        state = init(KEY, ones(points), m=M)
        for i in range(20):
            state = step(jax.random.fold_in(KEY, i), state, ones(points), settings=ClvqSettings(patience=1.0))
        assert all(np.isfinite(leaf).all() for leaf in state)
        summary = clvq.summary(state)
        np.testing.assert_allclose(np.asarray(summary.atoms.weights).sum(), 1.0, rtol=1e-5)
        np.testing.assert_allclose(distances(points, state.points).min(1), 0.0, atol=1e-6)
        np.testing.assert_allclose(summary.cost, 0.0, atol=1e-6)


CENTRES, ATOMS = 6, 12


def fresh(key, size):
    """A sample of clusters of different masses and sizes in five dimensions."""
    k_centre, k_noise = jax.random.split(key)
    centres = 3 * jax.random.normal(jax.random.key(7), (CENTRES, 5))
    logits = jnp.log(jnp.arange(1.0, CENTRES + 1))
    centre = jax.random.categorical(k_centre, logits, shape=(size,))
    return centres[centre] + (0.3 + 0.1 * centre)[:, None] * jax.random.normal(k_noise, (size, 5))


@pytest.fixture(scope="module")
def learned():
    """States after many fresh batches, [16], the held-out sample and Lloyd's quantizers of another, [16]."""

    @jax.jit
    @jax.vmap
    def stream(key):
        def advance(state, i):
            k = jax.random.fold_in(key, i)
            return clvq.step(k, state, ones(fresh(k, 128))), None

        state = clvq.init(key, ones(fresh(jax.random.fold_in(key, 10**6), 256)), ATOMS)
        return jax.lax.scan(advance, state, jnp.arange(500))[0]

    keys = jax.random.split(jax.random.key(1), 16)
    # As many starts as a stream has: one.
    lloyd = jax.jit(partial(quantize, m=ATOMS, settings=KMeansSettings(restarts=1, exchanges=0)))
    size = 4000
    sample = Measure(fresh(jax.random.key(8), size), jnp.full(size, 1 / size))
    return stream(keys), fresh(jax.random.key(9), 20000), [lloyd(k, sample) for k in keys]


def test_a_stream_is_quantized_as_well_as_lloyd_quantizes_a_sample(learned):
    states, held_out, lloyd = learned
    size = len(held_out)
    judge = lambda z: float(distortion(Measure(held_out, jnp.full(size, 1 / size)), z))
    limits = np.array([judge(summary.atoms.points) for summary in lloyd])
    costs = np.array([judge(z) for z in states.points])
    # From one start both end in a local optimum of many; on average, and at best, in equally good ones.
    assert costs.mean() <= 1.01 * limits.mean() and costs.min() <= 1.01 * limits.min()
    assert costs.max() <= 1.05 * limits.max()
    np.testing.assert_allclose(states.distortion, costs, rtol=0.05)


def test_the_weights_of_a_stream_are_the_masses_of_the_cells(learned):
    states, held_out, _ = learned
    summaries = jax.vmap(clvq.summary)(states)
    for z, w in zip(summaries.atoms.points, np.asarray(summaries.atoms.weights)):
        masses = np.bincount(distances(held_out, z).argmin(1), minlength=ATOMS) / len(held_out)
        assert np.abs(w - masses).sum() < 0.05
    np.testing.assert_array_equal(summaries.cost, states.distortion)


# A measure at hand


fitted = jax.jit(partial(clvq.fit, m=M, settings=ClvqSettings(batch_size=16, epochs=20)))
lloyd = jax.jit(partial(quantize, m=M, settings=KMeansSettings(exchanges=0)))


@pytest.mark.slow
def test_fit_reports_the_exact_masses_and_distortion_and_comes_near_lloyd():
    x = np.concatenate(batches(8, 8, d=5))
    a = np.random.default_rng(3).dirichlet(5 * np.ones(len(x))).astype(np.float32)
    result = fitted(KEY, Measure(x, a))
    assert result.costs.shape == (1,) and np.isfinite(result.costs).all()
    to = distances(x, result.atoms.points)
    np.testing.assert_allclose(result.atoms.weights, [a[to.argmin(1) == j].sum() for j in range(M)], atol=1e-5)
    assert float(result.costs[-1]) <= 1.05 * float(lloyd(KEY, Measure(x, a)).cost)
    np.testing.assert_allclose(result.cost, a @ to.min(1), rtol=1e-4)
    np.testing.assert_allclose(result.lower, a @ to.min(1), rtol=1e-4)


@pytest.mark.slow
def test_padding_changes_no_fit():
    x = np.concatenate(batches(9, 5)) + 50
    fit = jax.jit(partial(clvq.fit, m=M))
    plain = fit(KEY, padded(x, size=len(x)))
    for filler in (0.0, np.nan):
        result = fit(KEY, padded(x, size=len(x) + 24, filler=filler))
        np.testing.assert_allclose(result.atoms.points, plain.atoms.points, atol=1e-3)
        np.testing.assert_allclose(result.atoms.weights, plain.atoms.weights, atol=1e-5)


@pytest.mark.slow
def test_fit_draws_no_point_without_weight_however_the_dice_fall(monkeypatch):
    # The largest number that uniform draws can be: rounding must not carry the last stratum past the last point.
    high = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, high, dtype))
    x = 1000 + random_points(0, 9)
    result = clvq.fit(KEY, padded(x, size=12), M, settings=ClvqSettings(epochs=3))
    assert float(result.costs.max()) < 100
    assert np.abs(np.asarray(result.atoms.points) - 1000).max() < 10


def test_too_few_points_are_refused():
    for m in (0, BATCH + 1):
        assert f"m={m} atoms" in message(lambda m=m: clvq.init(KEY, ones(batches(0, 1)[0]), m))
        assert f"m={m} atoms" in message(lambda m=m: clvq.fit(KEY, padded(np.eye(BATCH), size=BATCH), m))
