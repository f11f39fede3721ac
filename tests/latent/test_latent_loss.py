"""What a denoiser is trained with, against the conditional variances and divergences of Gaussians."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from latent_helpers import DIT, KEY, MANY, NULL, SHAPE, STD, V, data, denoiser_of, gaussian, law

from jaxdd.latent import Schedule, diffusion

loss = jax.jit(diffusion.loss, static_argnums=(0, 2))


@pytest.mark.parametrize("schedule", [DIT, V])
def test_loss_of_the_best_denoiser_is_what_noise_still_varies_by(schedule):
    labels = np.arange(MANY) % 2
    latents = data(labels)
    run = lambda shift: np.asarray(loss(gaussian(schedule), law(shift=shift), schedule, KEY, latents, labels, 0.0))
    got, worse = run(0.0), run(0.5)
    a, std = diffusion.signal(schedule)[:, None, None], STD[:2].astype(np.float64)
    left = (a if schedule is DIT else 1.0) * std**2 / (a * std**2 + 1 - a)
    assert got.shape == (MANY,)
    assert abs(got.mean() - left.mean()) < 5 * got.std() / MANY**0.5
    assert abs((worse - got).mean() - 0.25) < 5 * (worse - got).std() / MANY**0.5


@cache
def about_zero(schedule):
    """Knows that the latents are zero; its variables say what its prediction is off by, and its variance channels."""
    curve = jnp.asarray(diffusion.signal(schedule), jnp.float32)

    def apply(variables, x, t, labels):
        a, (shift, channel) = curve[t][:, None, None, None], variables
        scale = 1.0 if schedule.prediction_type == "epsilon" else jnp.sqrt(a)
        return jnp.concatenate([scale * x / jnp.sqrt(1 - a) + shift, jnp.full_like(x, channel)], -1)

    return denoiser_of(apply)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("shift, channel", [(0.0, -1.0), (0.0, 1.0), (0.5, -1.0), (0.5, 0.3)])
def test_loss_of_a_learned_variance_is_the_divergence_of_two_gaussians(shift, channel, kind):
    schedule = Schedule(4, "linear", 0.1, 0.4, kind)
    zeros, variables = np.zeros((MANY, *SHAPE), np.float32), jnp.array([shift, channel])
    got = np.asarray(loss(about_zero(schedule), variables, schedule, KEY, zeros, np.zeros(MANY, int), 0.0))
    a = np.cumprod(1 - np.linspace(0.1, 0.4, 4))
    after, beta = np.r_[1, a[:-1]], np.linspace(0.1, 0.4, 4)
    posterior = beta * (1 - after) / (1 - a)
    posterior[0] = posterior[1]
    ours = np.exp((1 - channel) / 2 * np.log(posterior) + (1 + channel) / 2 * np.log(beta))
    of_clean = np.sqrt((1 - a) / a) if kind == "epsilon" else np.sqrt(1 - a)
    apart = np.sqrt(after) * beta / (1 - a) * of_clean * shift
    expected = shift**2 + 0.5 * (np.log(ours / posterior) + (posterior + apart**2) / ours - 1)
    if (shift, channel) == (0, -1):
        np.testing.assert_allclose(got, 0, atol=1e-5)
        return
    assert np.all(expected > shift**2)
    which = np.abs(got[:, None] - expected).argmin(1)
    np.testing.assert_allclose(got, expected[which], rtol=1e-3)
    np.testing.assert_allclose(np.bincount(which, minlength=4) / MANY, 0.25, atol=5 * (3 / 16 / MANY) ** 0.5)


WHOLE = denoiser_of(lambda out, *_: out)
PLAIN = denoiser_of(lambda out, *_: out[..., :2])


@partial(jax.jit, static_argnums=1)
def with_and_without(out, schedule):
    """The gradients with respect to the output, and the losses, with its variance channels and without them."""

    def total(out, model):
        labels = jnp.zeros(len(out), int)
        losses = diffusion.loss(model, out, schedule, KEY, jnp.ones((len(out), *SHAPE)), labels, 0.0)
        return losses.sum(), losses

    return [jax.grad(total, has_aux=True)(out, model) for model in (WHOLE, PLAIN)]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [DIT, Schedule(4, "linear", 0.1, 0.4, "v_prediction")])
def test_divergence_is_not_negative_and_teaches_the_variance_alone(schedule):
    out = jnp.asarray(np.random.default_rng(0).normal(size=(512, 2, 1, 4)), jnp.float32)
    (both, losses), (simple, errors) = with_and_without(out, schedule)
    assert np.all(losses >= errors * (1 - 1e-5))
    assert losses.sum() > errors.sum()
    np.testing.assert_allclose(both[..., :2], simple[..., :2], rtol=1e-5)
    assert np.all(simple[..., :2] != 0) and np.all(both[..., 2:] != 0)


def test_classes_are_dropped_as_often_as_asked():
    # A prediction of 1000 (label + 1) shows in the loss which label the model was given.
    model = denoiser_of(lambda variables, x, t, labels: jnp.ones_like(x) * 1000.0 * (labels + 1)[:, None, None, None])
    labels, latents = np.arange(MANY) % 2, np.zeros((MANY, *SHAPE), np.float32)
    seen = {p: np.sqrt(loss(model, {}, DIT, KEY, latents, labels, p)) / 1000 - 1 for p in (0.0, 0.25, 1.0)}
    seen = {p: np.round(values).astype(int) for p, values in seen.items()}
    np.testing.assert_array_equal(seen[0.0], labels)
    np.testing.assert_array_equal(seen[1.0], NULL)
    dropped = seen[0.25] == NULL
    assert abs(dropped.mean() - 0.25) < 5 * (0.1875 / MANY) ** 0.5
    np.testing.assert_array_equal(seen[0.25][~dropped], labels[~dropped])


@pytest.mark.parametrize("wrong", [{"beta_schedule": "cosine"}, {"prediction_type": "sample"}])
def test_loss_refuses_a_schedule_that_does_not_exist(wrong):
    latents, labels = jnp.zeros((1, *SHAPE)), jnp.zeros(1, int)
    (name,) = wrong.values()
    assert name in message(lambda: diffusion.loss(gaussian(DIT), law(), Schedule(**wrong), KEY, latents, labels))
