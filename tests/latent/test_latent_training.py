"""Training the small latent models: what is minimised, resuming, and the average that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd.latent import Schedule, autoencoder, dit, training
from jaxdd.latent.training import DiTTraining, VAETraining
from jaxdd.latent.vae import Autoencoder, Gaussian, small

KEY = jax.random.key(0)
# What the tests of the command line train too, so that it is compiled once.
VAE, DIT, STEPS = VAETraining(images=640), DiTTraining(images=640), {"vae": 10, "dit": 5}


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
    return training.vae_trainer(autoencoder(small((8, 8, 1))), VAE, (8, 8, 1), False)


@pytest.fixture(scope="module")
def dit_trainer():
    return training.dit_trainer(dit.denoiser(dit.named("DiT-Ti/4", 10, 4)), Schedule(), DIT)


def latents_of(digits, count=128):
    """The four pixels of each square of two as four channels."""
    images = digits.read("train", np.arange(count)) / 127.5 - 1
    return np.concatenate([images[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], -1).astype(np.float32)


def steps(trainer, state, batch, labels, count):
    losses = []
    for _ in range(count):
        state, loss = trainer.step(state, KEY, batch, labels, None, None)
        losses.append(float(loss))
    return state, losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_the_loss_falls_and_a_resumed_run_is_the_same(request, digits, kind):
    trainer, count = request.getfixturevalue(f"{kind}_trainer"), STEPS[kind]
    batch = digits.read("train", np.arange(64)) if kind == "vae" else latents_of(digits)
    labels = digits.labels["train"][: len(batch)]
    whole, losses = steps(trainer, trainer.init(KEY), batch, labels, count)
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    half, first = steps(trainer, trainer.init(KEY), batch, labels, count // 2)
    # As a checkpoint would hold it.
    again, rest = steps(trainer, jax.tree.map(jnp.asarray, jax.device_get(half)), batch, labels, count - count // 2)
    assert first + rest == losses
    jax.tree.map(np.testing.assert_array_equal, again.average, whole.average)
    if kind == "vae":  # keeps no average
        jax.tree.map(np.testing.assert_array_equal, whole.average, whole.variables)


@pytest.mark.slow
def test_the_average_is_that_of_the_steps(dit_trainer, digits):
    batch, labels = latents_of(digits), digits.labels["train"][:128]
    state = dit_trainer.init(KEY)
    name = "proj_out_2"
    average = np.asarray(state.variables["params"][name]["bias"])
    for k in range(5):
        state, _ = dit_trainer.step(state, KEY, batch, labels, None, None)
        keep = min(DIT.ema, (1 + k) / (10 + k))
        average = keep * average + (1 - keep) * np.asarray(state.variables["params"][name]["bias"])
    np.testing.assert_allclose(state.average["params"][name]["bias"], average, rtol=1e-4, atol=1e-7)


def test_steps_see_all_images():
    assert training.steps_of(VAETraining(images=100, batch_size=64)) == 2
    assert training.steps_of(DiTTraining(images=128, batch_size=64)) == 2
    for bad in (VAETraining(images=0), DiTTraining(batch_size=0)):
        assert "1 or more" in message(lambda bad=bad: training.steps_of(bad))
