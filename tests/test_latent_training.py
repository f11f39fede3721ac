"""Training the small latent models: what is minimised, resuming, and the average that is kept."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd.latent import DiTConfig, Schedule, VAEConfig, autoencoder, dit, training
from jaxdd.latent.training import DiTTraining, VAETraining
from jaxdd.latent.vae import Autoencoder, Gaussian

KEY = jax.random.key(0)
VAE = VAETraining(images=30 * 16, batch_size=16, learning_rate=3e-3)
DIT = DiTTraining(images=30 * 16, batch_size=16, learning_rate=3e-3, ema=0.9)


def squared(mean, log_variance):
    """An autoencoder of one pixel whose posterior is given and whose decoder is the identity."""
    spread = lambda variables, x: Gaussian(jnp.full_like(x, mean), jnp.full_like(x, log_variance))
    return Autoencoder(lambda key, shape: {}, spread, lambda variables, z: z)


def test_the_loss_is_the_error_of_a_draw_and_the_divergence():
    images = jnp.full((4096, 1, 1, 1), 0.3)
    mean, log_variance, weight = 0.7, np.log(0.25), 0.1
    loss = training.autoencoder_loss(squared(mean, log_variance), {}, KEY, images, weight)
    assert loss.shape == (4096,)
    # E (z - x)^2 = bias^2 + variance, and KL(N(m, v) || N(0, 1)).
    expected = (mean - 0.3) ** 2 + 0.25 + weight * 0.5 * (mean**2 + 0.25 - 1 - log_variance)
    assert float(loss.mean()) == pytest.approx(expected, rel=0.03)
    exact = training.autoencoder_loss(squared(0.0, 0.0), {}, KEY, images, 5.0)
    np.testing.assert_allclose(exact, training.autoencoder_loss(squared(0.0, 0.0), {}, KEY, images, 0.0), rtol=1e-6)


@pytest.fixture(scope="module")
def vae_trainer():
    model = autoencoder(VAEConfig(1, 2, (8, 16), 1, 8, 1.0, 8))
    return training.vae_trainer(model, VAE, (8, 8, 1), mirror=False)


@pytest.fixture(scope="module")
def dit_trainer():
    return training.dit_trainer(dit.denoiser(DiTConfig(2, 8, 1, 2, 2, 4, 4, 10)), Schedule(), DIT)


def latents_of(digits):
    images = digits.read("train", np.arange(16)) / 127.5 - 1
    return np.concatenate([images[:, ::2, ::2], images[:, 1::2, 1::2]], -1).astype(np.float32)


def steps(trainer, state, batch, labels, count):
    losses = []
    for _ in range(count):
        state, loss = trainer.step(state, KEY, batch, labels, None, None)
        losses.append(float(loss))
    return state, losses


@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_the_loss_falls_and_a_resumed_run_is_the_same(request, digits, kind):
    trainer = request.getfixturevalue(f"{kind}_trainer")
    batch = digits.read("train", np.arange(16)) if kind == "vae" else latents_of(digits)
    labels = digits.labels["train"][:16]
    whole, losses = steps(trainer, trainer.init(KEY), batch, labels, 30)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    half, _ = steps(trainer, trainer.init(KEY), batch, labels, 15)
    # As a checkpoint would hold it.
    again, rest = steps(trainer, jax.tree.map(jnp.asarray, jax.device_get(half)), batch, labels, 15)
    assert rest == losses[15:]
    jax.tree.map(np.testing.assert_array_equal, again.average, whole.average)
    average, last = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (whole.average, whole.variables))
    if kind == "vae":  # keeps no average
        np.testing.assert_array_equal(average, last)
    else:
        assert 0 < np.abs(average - last).max() < 0.5


def test_the_average_is_that_of_the_steps(dit_trainer, digits):
    batch, labels = latents_of(digits), digits.labels["train"][:16]
    state = dit_trainer.init(KEY)
    name = "proj_out_2"
    average = np.asarray(state.variables["params"][name]["bias"])
    for k in range(12):
        state, _ = dit_trainer.step(state, KEY, batch, labels, None, None)
        keep = min(DIT.ema, (1 + k) / (10 + k))
        average = keep * average + (1 - keep) * np.asarray(state.variables["params"][name]["bias"])
    np.testing.assert_allclose(state.average["params"][name]["bias"], average, rtol=1e-4, atol=1e-7)


def test_steps_see_all_images():
    assert training.steps_of(VAETraining(images=100, batch_size=64)) == 2
    assert training.steps_of(DiTTraining(images=128, batch_size=64)) == 2
    for bad in (VAETraining(images=0), DiTTraining(batch_size=0)):
        assert "1 or more" in message(lambda bad=bad: training.steps_of(bad))
