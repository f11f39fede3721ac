"""The trainer, its order of batches, its losses and its checkpoints."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdd import data, nn
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import checkpoint, losses
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation, denormalise, normalise, valid_range
from jaxdd.nn.classifier import Classifier, Output
from jaxdd.stages.relabel.labelling import HardLabels, SoftLabels
from jaxdd.students import evaluation, train
from jaxdd.students.train import TrainSettings

PLAIN = Augment(crop="none", flip=False)
UNIT = Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32))


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Order of batches


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 1000), st.integers(1, 4))
def test_every_index_comes_once_an_epoch_and_every_batch_is_full(n, batch_size, seed, epochs):
    batches = take(data.permutations(n, batch_size, seed), -(-epochs * n // batch_size))
    assert all(batch.shape == (batch_size,) for batch in batches)
    order = np.concatenate(batches)[: epochs * n].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(n), (epochs, 1)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 1000), st.integers(0, 9))
def test_an_order_resumed_goes_on_as_if_never_stopped(n, batch_size, seed, start):
    whole = take(data.permutations(n, batch_size, seed), start + 3)
    same(whole[start:], take(data.permutations(n, batch_size, seed, start), 3))


def test_seeds_and_epochs_shuffle_differently():
    first, second = take(data.permutations(50, 50, 0), 2)
    (other,) = take(data.permutations(50, 50, 1), 1)
    assert not np.array_equal(first, second) and not np.array_equal(first, other)


def test_steps_show_each_image_once_an_epoch():
    run = TrainSettings(epochs=3, batch_size=10)
    assert [run.steps(n) for n in (1, 7, 10, 25)] == [3, 3, 3, 8]
    for nothing in (replace(run, epochs=0), replace(run, batch_size=0)):
        with pytest.raises(InputError, match="1 or more"):
            nothing.steps(5)


def test_few_images_are_seen_in_smaller_batches_if_an_epoch_has_a_least_number_of_them():
    run = TrainSettings(epochs=3, batch_size=10, min_batches=4)
    assert [run.batch(n) for n in (1, 7, 10, 36, 400)] == [1, 1, 2, 9, 10]
    assert all(run.steps(n) * run.batch(n) >= 3 * n for n in range(1, 50))


# A model that is no Linen module


def linear_init(key, image_shape):
    size = int(np.prod(image_shape))
    return {"params": {"w": 0.01 * jax.random.normal(key, (size, 3)), "b": jnp.zeros(3)}}


def linear_apply(variables, images):
    flat = images.reshape(len(images), -1)
    return Output(flat @ variables["params"]["w"] + variables["params"]["b"], flat, {})


LINEAR = Classifier(linear_init, linear_apply, lambda v, x: (linear_apply(v, x).logits, v))
X = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype(np.float32)
Y = train.one_hot(np.arange(8) % 3, 3)
ONES = np.ones(8, np.float32)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_tiny_set_is_learnt_by_heart(kind):
    run = TrainSettings(optimizer=kind, learning_rate=0.1, weight_decay=0.0, augment=PLAIN)
    trainer = train.trainer(LINEAR, run, 100, HardLabels().criterion(), UNIT)
    state = trainer.init(jax.random.key(0), X.shape[1:])
    state, curve = train.fit(trainer.step, state, jax.random.key(1), itertools.repeat((X, Y, ONES)), 100)
    assert curve.shape == (100,) and curve.dtype == np.float32
    assert curve[0] > 1.0 and curve[-1] < 0.05
    assert int(state.step) == 100
    np.testing.assert_array_equal(linear_apply(state.variables, X).logits.argmax(1), Y.argmax(1))


def test_an_image_of_weight_zero_changes_nothing():
    run = TrainSettings(learning_rate=0.1, augment=PLAIN)
    trainer = train.trainer(LINEAR, run, 5, HardLabels().criterion(), UNIT)
    weights = np.where(np.arange(8) == 3, 0, ONES).astype(np.float32)

    def trained(images, weights):
        state = trainer.init(jax.random.key(0), X.shape[1:])
        return train.fit(trainer.step, state, jax.random.key(1), itertools.repeat((images, Y, weights)), 5)

    other = X.copy()
    other[3] = 7.0
    (state, curve), (state_other, curve_other) = trained(X, weights), trained(other, weights)
    same(state, state_other)
    np.testing.assert_array_equal(curve, curve_other)
    assert not np.array_equal(trained(other, ONES)[1], trained(X, ONES)[1])


def test_weights_scale_the_loss_of_their_image():
    run = TrainSettings(learning_rate=0.1, augment=PLAIN)
    trainer = train.trainer(LINEAR, run, 5, HardLabels().criterion(), UNIT)
    weights = np.arange(8, dtype=np.float32)
    state = trainer.init(jax.random.key(0), X.shape[1:])
    logits = np.asarray(linear_apply(state.variables, X).logits, np.float64)
    _, value = trainer.step(state, jax.random.key(1), X, Y, weights, None)
    each = np.log(np.exp(logits).sum(1)) - (logits * Y).sum(1)
    np.testing.assert_allclose(value, (weights * each).mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("warmup", [0.0, 0.4])
def test_the_rate_ends_at_zero_and_warms_up_only_if_asked(kind, warmup):
    steps, params = 10, {"w": jnp.ones(3)}
    tx = train.optimizer(TrainSettings(optimizer=kind, learning_rate=0.5, warmup=warmup), steps)
    state, sizes = tx.init(params), []
    for _ in range(steps + 1):
        updates, state = tx.update({"w": jnp.ones(3)}, state, params)
        sizes.append(float(jnp.abs(updates["w"]).max()))
    assert sizes[-1] == 0 and min(sizes[:-1]) > 0
    # Plain Adam on a constant gradient steps by the rate; Nesterov momentum starts at 1 + 0.9 times it.
    rate = sizes[0] / (1.9 if kind == "sgd" else 1 + TrainSettings().weight_decay)
    assert rate == pytest.approx(0.05 if warmup else 0.5, rel=0.02)
    assert sizes[-2] < 0.2 * max(sizes)


def test_a_cosine_over_twice_the_run_ends_at_half_the_rate():
    settings, steps = TrainSettings(optimizer="sgd", learning_rate=0.5, weight_decay=0.0, horizon=2.0), 10
    tx = train.optimizer(settings, steps)
    state, sizes = tx.init({"w": jnp.ones(3)}), []
    for _ in range(2 * steps + 1):
        updates, state = tx.update({"w": jnp.ones(3)}, state, {"w": jnp.ones(3)})
        sizes.append(-float(updates["w"][0]))
    # Nesterov momentum on a constant gradient: the step is 1 + 0.9 + 0.9^2 ... times the rate.
    rates = np.array(sizes) / np.cumsum(0.9 ** np.arange(2 * steps + 2))[1:]
    np.testing.assert_allclose(rates, 0.25 * (1 + np.cos(np.pi * np.arange(2 * steps + 1) / (2 * steps))), atol=1e-6)
    assert rates[steps] == pytest.approx(0.25)


def test_the_result_is_the_running_mean_of_the_variables_if_one_is_asked_for():
    run = TrainSettings(learning_rate=0.1, augment=PLAIN, average=0.8)
    trainer = train.trainer(LINEAR, run, 12, HardLabels().criterion(), UNIT)
    plain = train.trainer(LINEAR, replace(run, average=0.0), 12, HardLabels().criterion(), UNIT)
    state, other = (each.init(jax.random.key(0), X.shape[1:]) for each in (trainer, plain))
    mean = np.asarray(state.variables["params"]["w"], np.float64)
    for t in range(12):
        state, _ = trainer.step(state, jax.random.key(1), X, Y, ONES, None)
        other, _ = plain.step(other, jax.random.key(1), X, Y, ONES, None)
        decay = min(0.8, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * np.asarray(state.variables["params"]["w"])
    np.testing.assert_allclose(state.result["params"]["w"], mean, rtol=1e-5)
    # The mean changes nothing of the run itself, and without one the result is what the run ends with.
    np.testing.assert_array_equal(state.variables["params"]["w"], other.variables["params"]["w"])
    assert other.result is other.variables


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="'lion'"):
        train.optimizer(TrainSettings(optimizer="lion"), 3)


# Reproducing and resuming


@pytest.fixture(scope="module")
def network():
    """A narrow ConvNet under random crops and flips, and how to run it from any state."""
    model = nn.get("convnet3", 10, 8, width=4)
    run = TrainSettings(batch_size=8, learning_rate=0.01, augment=Augment(crop="pad"))
    trainer = train.trainer(model, run, 6, HardLabels().criterion(), UNIT)
    images = np.random.default_rng(1).normal(size=(20, 8, 8, 1)).astype(np.float32)
    targets = train.one_hot(np.arange(20) % 10, 10)

    def go(state, start, steps, seed=0):
        order = data.permutations(20, 8, seed, start)
        batches = ((images[i], targets[i], np.ones(8, np.float32)) for i in order)
        return train.fit(trainer.step, state, jax.random.key(seed), batches, steps)

    return trainer, lambda: trainer.init(jax.random.key(0), (8, 8, 1)), go


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(network):
    _, init, go = network
    (first, curve), (second, curve_again), (_, other) = (
        go(init(), 0, 6),
        go(init(), 0, 6),
        go(init(), 0, 6, 1),
    )
    same(first, second)
    np.testing.assert_array_equal(curve, curve_again)
    assert not np.array_equal(curve, other)


@pytest.mark.slow
def test_a_run_resumed_from_disk_ends_in_the_same_bytes(network, tmp_path):
    trainer, init, go = network
    whole, curve = go(init(), 0, 6)
    half, first = go(init(), 0, 3)
    checkpoint.save(tmp_path / "half", half)
    like = jax.eval_shape(lambda key: trainer.init(key, (8, 8, 1)), jax.random.key(0))
    resumed, second = go(checkpoint.load(tmp_path / "half", like), 3, 3)
    same(whole, resumed)
    np.testing.assert_array_equal(curve, np.concatenate([first, second]))


def test_checkpoints_that_are_missing_or_do_not_fit_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no checkpoint at .*nowhere"):
        checkpoint.load(tmp_path / "nowhere", {"a": jnp.ones(3)})
    checkpoint.save(tmp_path / "kept", {"a": jnp.ones(3)})
    checkpoint.save(tmp_path / "kept", {"a": jnp.full(3, 2.0)})
    same(checkpoint.load(tmp_path / "kept", {"a": jnp.zeros(3)}), {"a": np.full(3, 2.0)})
    for like in ({"b": jnp.ones(3)}, {"a": jnp.ones(4)}):
        with pytest.raises(InputError, match="does not fit") as caught:
            checkpoint.load(tmp_path / "kept", like)
        assert "\n" not in str(caught.value)


# Losses


LOGITS = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
TEACHER = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)


def test_losses_are_those_of_optax_for_each_image():
    targets = np.asarray(jax.nn.softmax(TEACHER))
    want = optax.softmax_cross_entropy(LOGITS, targets)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, targets), want, rtol=1e-5)
    kl = optax.kl_divergence(jax.nn.log_softmax(LOGITS / 3), jax.nn.softmax(TEACHER / 3))
    np.testing.assert_allclose(losses.distillation(LOGITS, TEACHER, 3.0), 9 * kl, rtol=1e-4)


def test_distillation_vanishes_where_student_and_teacher_agree_up_to_a_constant():
    shifted = TEACHER + np.arange(4, dtype=np.float32)[:, None]
    value, grad = jax.value_and_grad(lambda x: losses.distillation(x, TEACHER, 20.0).sum())(jnp.asarray(shifted))
    assert abs(value) < 1e-3 and np.abs(grad).max() < 1e-4
    assert (losses.distillation(LOGITS, TEACHER, 20.0) > 0.01).all()


def test_distillation_at_high_temperature_compares_centred_logits():
    """T^2 KL -> 1/(2K) sum_k (d_k - mean d)^2, d the difference of logits; its gradient: (d - mean d) / K."""
    grad = jax.grad(lambda x: losses.distillation(x, TEACHER, 1000.0).sum())(jnp.asarray(LOGITS))
    d = LOGITS - TEACHER
    np.testing.assert_allclose(grad, (d - d.mean(1, keepdims=True)) / 5, atol=2e-3)


def test_soft_labels_are_the_teachers_on_the_same_images_and_carry_no_gradient_to_it():
    criterion = SoftLabels(temperature=4.0).criterion(linear_apply)
    teacher = linear_init(jax.random.key(3), X.shape[1:])
    logits = linear_apply(teacher, X).logits
    np.testing.assert_allclose(criterion(logits, X, Y, teacher), 0, atol=1e-5)
    want = losses.distillation(2 * logits, logits, 4.0)
    np.testing.assert_allclose(criterion(2 * logits, X, Y, teacher), want, rtol=1e-6)
    grads = jax.grad(lambda t: criterion(2 * logits, X, Y, t).sum())(teacher)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))


def test_smoothing_mixes_the_target_with_the_uniform():
    got = HardLabels(smoothing=0.3).criterion()(LOGITS, None, train.one_hot(np.arange(4), 5), None)
    want = optax.softmax_cross_entropy(LOGITS, optax.smooth_labels(jnp.eye(5)[:4], 0.3))
    np.testing.assert_allclose(got, want, rtol=1e-5)


# A real, if small, problem, and what it is worth


@pytest.mark.slow
def test_a_narrow_teacher_learns_digits_and_is_scored_by_counting(digits, teacher):
    apply, variables, norm = teacher[:3]
    images = digits.read("test", np.arange(len(digits.labels["test"])))
    hits = np.asarray(apply(variables, normalise(norm, images)).logits).argmax(1) == digits.labels["test"]
    for size in (100, len(images)):
        score = evaluation.accuracy(apply, variables, norm, data.batches(digits, "test", size))
        assert score == pytest.approx(hits.mean(), abs=1e-6)
    assert score > 0.85


@pytest.mark.slow
def test_recognised_images_are_counted_once_whatever_the_batch(digits, teacher):
    apply, variables, norm = teacher[:3]
    pixels, labels = digits.read("train", np.arange(23)), digits.labels["train"][:23].copy()
    answers = np.asarray(apply(variables, normalise(norm, pixels)).logits.argmax(-1))
    labels[::3] = (answers[::3] + 1) % 10
    dataset = DistilledDataset(
        np.asarray(normalise(norm, pixels)), labels, np.ones(23, np.float32), digits.class_names, norm, {}
    )
    for size in (5, 23, 250):
        share = evaluation.recognised(apply, variables, dataset, size)
        assert share == pytest.approx((answers == labels).mean()) and 0.2 < share < 0.8


def test_normalising_and_back_is_exact_and_leaves_floats_alone():
    norm = Normalisation(np.array([0.3, 0.5], np.float32), np.array([0.2, 0.7], np.float32))
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 8, 2)
    inside = normalise(norm, pixels)
    np.testing.assert_array_equal(denormalise(norm, inside), pixels)
    np.testing.assert_array_equal(normalise(norm, inside), inside)
    low, high = valid_range(norm)
    np.testing.assert_allclose(normalise(norm, np.zeros((1, 1, 1, 2), np.uint8))[0, 0, 0], low, rtol=1e-6)
    np.testing.assert_allclose(normalise(norm, np.full((1, 1, 1, 2), 255, np.uint8))[0, 0, 0], high, rtol=1e-6)
