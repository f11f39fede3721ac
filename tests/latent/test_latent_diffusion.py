"""Schedules and samplers against Gaussians, whose diffusion is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from latent_helpers import DIT, KEY, MANY, MEAN, NULL, SHAPE, STD, V, data, denoiser_of, gaussian, law

from jaxdd.latent import STABLE_DIFFUSION, Sampling, Schedule, diffusion

jitted = jax.jit(diffusion.sample, static_argnums=(0, 2, 3))
few_examples = hypothesis_settings(max_examples=50, deadline=None)


def sample(denoiser, variables, schedule, settings, start, labels, keys=None):
    keys = jax.random.split(KEY, len(start)) if keys is None else keys
    return np.asarray(jitted(denoiser, variables, schedule, settings, keys, jnp.asarray(start), jnp.asarray(labels)))


def precise(schedule, settings):
    """Signal before and after each step, in float64."""
    a, times = diffusion.signal(schedule), diffusion.steps_of(schedule, settings).times
    return a[times], np.append(a[times[1:]], 1.0 if schedule.set_alpha_to_one else a[0])


def moments_match(got, mean, std):
    """Sample moments over N values of each column within five standard errors."""
    n = len(got)
    assert np.all(np.abs(got.mean(0) - mean) < 5 * std / n**0.5)
    assert np.all(np.abs(got.std(0) / std - 1) < 5 / (2 * n) ** 0.5)


# Schedules


def test_betas_are_linear_or_linear_in_their_root():
    for schedule, power in ((Schedule(5, "linear", 0.1, 0.5), 1), (Schedule(5, "scaled_linear", 0.1, 0.5), 0.5)):
        a = diffusion.signal(schedule)
        betas = 1 - a / np.r_[1, a[:-1]]
        np.testing.assert_allclose(np.diff(betas**power), (0.5**power - 0.1**power) / 4, rtol=1e-12)
        np.testing.assert_allclose(betas[[0, -1]], [0.1, 0.5], rtol=1e-12)


@pytest.mark.parametrize("schedule", [DIT, STABLE_DIFFUSION, Schedule(400, "linear", 0.001, 0.03)])
def test_signal_falls_to_the_integral_of_the_log(schedule):
    a = diffusion.signal(schedule)
    assert a.dtype == np.float64 and a.shape == (schedule.num_train_timesteps,)
    assert np.all(np.diff(a) < 0) and a[0] < 1 and a[-1] > 0
    first, last, spaces = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps - 1
    if schedule.beta_schedule == "linear":
        primitive = lambda beta: -(1 - beta) * np.log(1 - beta) - beta
        integral = (primitive(last) - primitive(first)) / (last - first)
    else:
        primitive = lambda r: (1 + r) * np.log(1 + r) - (1 - r) * np.log(1 - r) - 2 * r
        integral = (primitive(last**0.5) - primitive(first**0.5)) / (last**0.5 - first**0.5)
    trapezia = spaces * integral + (np.log(1 - first) + np.log(1 - last)) / 2
    np.testing.assert_allclose(np.log(a[-1]), trapezia, rtol=1e-6)


unit = st.floats(0.002, 0.998)


@few_examples
@given(unit, st.floats(-3, 3), st.floats(-3, 3))
def test_noising_keeps_unit_variance_and_predictions_undo_it(a, clean, e):
    a, clean, e = jnp.float32(a), jnp.float32(clean), jnp.float32(e)
    np.testing.assert_allclose(diffusion.noised(1.0, 0.0, a) ** 2 + diffusion.noised(0.0, 1.0, a) ** 2, 1, rtol=3e-6)
    x = diffusion.noised(clean, e, a)
    velocity = jnp.sqrt(a) * e - jnp.sqrt(1 - a) * clean
    for output, kind in ((e, "epsilon"), (velocity, "v_prediction")):
        np.testing.assert_allclose(diffusion.clean_and_noise(x, output, a, kind), (clean, e), atol=3e-4)


@few_examples
@given(unit, st.floats(0.05, 0.95), st.floats(-3, 3), st.floats(-3, 3))
def test_reverse_step_is_the_conditional_of_two_composed_gaussians(after, ratio, clean, x):
    a = after * ratio
    # Given x_0: x_s = sqrt(after) x_0 + noise, x_t = sqrt(ratio) x_s + noise; then condition x_s on x_t.
    mean_s, var_s = after**0.5 * clean, 1 - after
    mean_t, var_t, both = ratio**0.5 * mean_s, ratio * var_s + 1 - ratio, ratio**0.5 * var_s
    least, largest = diffusion.reverse_variance(jnp.float32(a), jnp.float32(after))
    np.testing.assert_allclose(np.exp(least), var_s - both**2 / var_t, rtol=3e-3)
    np.testing.assert_allclose(np.exp(largest), 1 - ratio, rtol=1e-4)
    mean = diffusion.reverse_mean(*map(jnp.float32, (x, clean, a, after)))
    np.testing.assert_allclose(mean, mean_s + both / var_t * (x - mean_t), atol=3e-4)


@few_examples
@given(st.integers(2, 1200), st.data(), st.floats(0, 1), st.sampled_from([0, 1]), st.booleans())
def test_steps_are_the_last_of_evenly_spaced_times(count, draw, strength, offset, to_one):
    steps = draw.draw(st.integers(1, count - offset if offset else count))
    schedule = Schedule(count, steps_offset=offset, set_alpha_to_one=to_one)
    taken = diffusion.steps_of(schedule, Sampling(steps=steps, strength=strength))
    assert len(taken.times) == round(strength * steps)
    # "Leading": whole multiples of T // steps from zero, plus the offset.
    np.testing.assert_array_equal(taken.times[::-1], [i * (count // steps) + offset for i in range(len(taken.times))])
    a = diffusion.signal(schedule)
    np.testing.assert_allclose(taken.signal, a[taken.times], rtol=1e-6)
    if len(taken.times):
        np.testing.assert_array_equal(taken.after[:-1], taken.signal[1:])
        at_zero = offset >= count // steps
        np.testing.assert_allclose(taken.after[-1], 1 if to_one and not at_zero else a[0], rtol=1e-6)


def test_no_strength_is_no_step_and_full_strength_all():
    for steps in (1, 7, 50):
        assert len(diffusion.steps_of(DIT, Sampling(steps=steps, strength=0.0)).times) == 0
        assert len(diffusion.steps_of(DIT, Sampling(steps=steps, strength=1.0)).times) == steps


# Strength and guidance


def test_strength_zero_returns_the_start():
    start, labels = data([0, 1]), [0, 1]
    for sampler in ("ddim", "ddpm"):
        got = sample(gaussian(DIT), law(), DIT, Sampling(sampler, strength=0.0), start, labels)
        np.testing.assert_array_equal(got, start)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_guidance_one_is_the_class_and_zero_the_null_class(sampler):
    labels = np.array([0, 1, 1, 0])
    run = lambda guidance, known, y: sample(gaussian(DIT), known, DIT, Sampling(sampler, 5, 0.8, guidance), data(y), y)
    conditional = run(1.0, law(), labels)
    no_null = law(np.where(np.arange(3)[:, None] == NULL, np.nan, MEAN))
    np.testing.assert_array_equal(run(1.0, no_null, labels), conditional)
    # Its start is that of the class, its denoiser the null class's.
    null = law(MEAN[[NULL] * 3], STD[[NULL] * 3])
    np.testing.assert_allclose(run(0.0, law(), labels), run(1.0, null, labels), rtol=1e-5, atol=1e-6)
    assert np.abs(run(0.0, law(), labels) - conditional).max() > 0.1


@pytest.mark.slow
def test_guidance_mixes_predictions_and_keeps_the_variance_of_the_class():
    variances = np.array([0.7, -0.4, 5.0])[:, None]
    model, known = gaussian(DIT), law(variance=variances)

    def mixed(variables, x, t, labels):
        given, null = (model.apply(variables, x, t, y) for y in (labels, jnp.full_like(labels, NULL)))
        return jnp.concatenate([3.5 * given[..., :2] - 2.5 * null[..., :2], given[..., 2:]], -1)

    x, labels = data([0, 1, 0, 1]), jnp.array([0, 1, 0, 1])
    t = jnp.array([0, 10, 500, 999])
    got, expected = (jax.jit(f)(known, x, t, labels) for f in (diffusion.guided(model.apply, NULL, 3.5), mixed))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[..., 2:], np.broadcast_to(variances[labels][:, None, None], x.shape))
    by_hand = sample(denoiser_of(mixed), known, DIT, Sampling("ddpm", 4, 0.5, 1.0), x, labels)
    guided = sample(model, known, DIT, Sampling("ddpm", 4, 0.5, 3.5), x, labels)
    np.testing.assert_allclose(guided, by_hand, rtol=1e-4, atol=1e-4)


# Denoising Gaussians


def ddim_factor(schedule, settings, std):
    """What the affine steps of DDIM multiply the distance to sqrt(a) mean by."""
    a, after = (values[:, None, None] for values in precise(schedule, settings))
    each = (np.sqrt(a * after) * std**2 + np.sqrt((1 - a) * (1 - after))) / (a * std**2 + 1 - a)
    return each.prod(0)


@pytest.mark.slow
def test_ddim_is_the_composed_affine_map_of_one_standard_noise():
    labels = np.arange(MANY) % 2
    mean = MEAN[labels][:, None, None]
    noises = []
    for schedule, steps, strength, seed in (
        (DIT, 50, 0.7, 0),
        (V, 20, 0.25, 2),
        (STABLE_DIFFUSION, 10, 1.0, 3),
    ):
        settings, start = Sampling("ddim", steps, strength, 1.0), data(labels, seed)
        out = sample(gaussian(schedule), law(), schedule, settings, start, labels).astype(np.float64)
        first = precise(schedule, settings)[0][0]
        end = 1.0 if schedule.set_alpha_to_one else diffusion.signal(schedule)[0]
        factor = ddim_factor(schedule, settings, STD.astype(np.float64))[labels][:, None, None]
        away = (out - end**0.5 * mean) / factor
        noises.append((away - first**0.5 * (start - mean)) / (1 - first) ** 0.5)
    # Undone, the maps of all settings leave the same draws.
    for other in noises[1:]:
        np.testing.assert_allclose(other, noises[0], atol=5e-3)
    moments_match(noises[0].reshape(-1, 4), 0, 1)
    assert np.all(np.abs(np.corrcoef(noises[0].reshape(MANY, 4).T) - np.eye(4)) < 5 / MANY**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler, schedule", [("ddim", DIT), ("ddpm", V)])
def test_all_steps_from_pure_noise_recover_each_class(sampler, schedule):
    labels, zeros = np.arange(MANY) % 2, np.zeros((MANY, *SHAPE), np.float32)
    out = sample(gaussian(schedule), law(), schedule, Sampling(sampler, 1000, 1.0, 1.0), zeros, labels)
    for label in (0, 1):
        got = out[labels == label].reshape(-1, 2)
        # Beside the sampling error, a thousand steps of the least variance are not infinitely many.
        assert np.all(np.abs(got.mean(0) - MEAN[label]) / STD[label] < 5 / len(got) ** 0.5)
        assert np.all(np.abs(got.std(0) / STD[label] - 1) < 5 / (2 * len(got)) ** 0.5 + 0.04)


def ddpm_std(schedule, settings, std, share):
    """The spread that the affine steps of DDPM end with, from N(mean, std^2), and the best share of each step.

    ``share`` is the place of the log variance between least (0) and largest (1), or "best".
    """
    spread, best = std**2, []
    a, after = precise(schedule, settings)
    spread = a[0] * spread + 1 - a[0]
    for i, (now, then) in enumerate(zip(a, after)):
        beta, total = 1 - now / then, now * std**2 + 1 - now
        slope = (now / then) ** 0.5 * (1 - then) / (1 - now)
        of_clean = then**0.5 * beta / (1 - now)
        slope = slope + of_clean * now**0.5 * std**2 / total
        if i == len(a) - 1:
            return np.sqrt(slope**2 * spread), np.array(best)
        least, largest = np.log(beta * (1 - then) / (1 - now)), np.log(beta)
        # The variance of x_s given x_t alone: the posterior's, and what x_0 still varies by.
        exact = np.exp(least) + of_clean**2 * std**2 * (1 - now) / total
        best.append((np.log(exact) - least) / (largest - least))
        use = best[-1] if isinstance(share, str) else share
        spread = slope**2 * spread + np.exp(least + use * (largest - least))
    return None


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_ddpm_with_the_exact_variance_keeps_the_data_in_a_few_steps(strength):
    settings = Sampling("ddpm", 5, strength, 1.0)
    std, best = ddpm_std(DIT, settings, STD.astype(np.float64), "best")
    np.testing.assert_allclose(std, STD, rtol=0.01)
    # Between the two bounds where the data is narrower than N(0, 1), and the upper one where it is as wide.
    assert np.all(best[:, STD < 1] < 1) and np.all(best > 0)
    np.testing.assert_allclose(best[:, STD == 1], 1, atol=1e-6)
    table = np.zeros((1000, *STD.shape))
    table[diffusion.steps_of(DIT, settings).times[:-1]] = 2 * best - 1
    labels = np.arange(MANY) % 2
    out = sample(gaussian(DIT), law(variance=table), DIT, settings, data(labels), labels)
    for label in (0, 1):
        moments_match(out[labels == label].reshape(-1, 2), MEAN[label], std[label])


@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
def test_ddpm_spreads_as_its_variance_channels_say(share):
    settings = Sampling("ddpm", 5, 0.8, 1.0)
    labels = np.arange(MANY) % 2
    known = law(variance=None if share is None else 2 * share - 1)
    out = sample(gaussian(DIT), known, DIT, settings, data(labels), labels)
    std, _ = ddpm_std(DIT, settings, STD.astype(np.float64), share or 0.0)
    for label in (0, 1):
        moments_match(out[labels == label].reshape(-1, 2), MEAN[label], std[label])


def test_one_ddpm_step_spreads_by_the_posterior_or_by_beta():
    # Two steps, the last without noise; noise predicted as zero, so that it only divides by sqrt(a).
    settings, start = Sampling("ddpm", 2, 1.0, 1.0), np.zeros((MANY, *SHAPE), np.float32)
    model = denoiser_of(lambda channel, x, t, y: jnp.concatenate([jnp.zeros_like(x), jnp.full_like(x, channel)], -1))
    schedule, labels = Schedule(10, "linear", 0.1, 0.3), np.zeros(MANY, np.int32)
    run = lambda channel: sample(model, jnp.float32(channel), schedule, settings, start, labels)
    a = np.cumprod(1 - np.linspace(0.1, 0.3, 10))[[5, 0]]
    beta = 1 - a[0] / a[1]
    posterior = beta * (1 - a[1]) / (1 - a[0])
    still = run(-1e4)
    least, middle, largest = (run(c) - still for c in (-1, 0, 1))
    moments_match(a[1] ** 0.5 * largest.reshape(-1, 4), 0, beta**0.5)
    np.testing.assert_allclose(least * (beta / posterior) ** 0.5, largest, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(middle * (beta / posterior) ** 0.25, largest, rtol=1e-2, atol=1e-4)


# The draws


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_latent_and_its_key_stay_together(sampler):
    labels, keys = np.array([0, 1, 1, 0]), jax.random.split(KEY, 4)
    run = partial(sample, gaussian(DIT), law(), DIT, Sampling(sampler, 5, 0.8, 1.0))
    start = data(labels)
    out = run(start, labels, keys)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(start[order], labels[order], keys[order]), out[order], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run(start, labels, keys), out)
    others = run(start, labels, jax.random.split(jax.random.key(1), 4))
    assert np.all(np.abs(others - out) > 1e-6)
    twins = run(start[[0] * 4], labels[[0] * 4], keys)
    assert all(len(np.unique(column)) == 4 for column in twins.reshape(4, -1).T)


@pytest.mark.slow
def test_a_latent_does_not_know_its_neighbours_nor_jit():
    labels, keys = np.array([0, 1, 1, 0]), jax.random.split(KEY, 4)
    settings, start, known = Sampling("ddpm", 5, 0.8, 1.0), data(labels), law()
    run = lambda part: sample(gaussian(DIT), known, DIT, settings, start[part], labels[part], keys[part])
    out = run(np.s_[:])
    parts = np.concatenate([run(np.s_[:1]), run(np.s_[1:])])
    np.testing.assert_allclose(parts, out, rtol=1e-5, atol=1e-5)
    plain = diffusion.sample(gaussian(DIT), known, DIT, settings, keys, start, jnp.asarray(labels))
    np.testing.assert_allclose(plain, out, rtol=1e-5, atol=1e-5)


# Errors


@pytest.mark.parametrize(
    "schedule, settings, part",
    [
        (DIT, Sampling("euler"), "euler"),
        (DIT, Sampling(strength=-0.1), "-0.1"),
        (DIT, Sampling(strength=1.5), "1.5"),
        (DIT, Sampling(strength=float("nan")), "nan"),
        (DIT, Sampling(steps=0), "0 diffusion steps"),
        (DIT, Sampling(steps=1001), "1 to 1000"),
        (STABLE_DIFFUSION, Sampling(steps=1000), "1000 diffusion steps"),
        (Schedule(beta_schedule="cosine"), Sampling(), "cosine"),
        (Schedule(prediction_type="sample"), Sampling(), "sample"),
    ],
)
def test_what_does_not_exist_is_said(schedule, settings, part):
    assert part in message(lambda: diffusion.check(settings, schedule))
    assert part in message(lambda: diffusion.steps_of(schedule, settings))
    start, keys = jnp.zeros((1, *SHAPE)), jax.random.split(KEY, 1)
    labels = jnp.zeros(1, int)
    assert part in message(lambda: diffusion.sample(gaussian(DIT), law(), schedule, settings, keys, start, labels))


def test_the_default_strength_leaves_as_much_of_a_latent_as_d4ms():
    """D4M noises to 0.7 of Stable Diffusion's schedule; the same share on DiT's would leave a third of that."""
    left = lambda schedule, strength: float(
        np.sqrt(diffusion.steps_of(schedule, Sampling(strength=strength)).signal[0])
    )
    theirs = left(STABLE_DIFFUSION, 0.7)
    assert left(DIT, Sampling().strength) == pytest.approx(theirs, rel=0.01) == pytest.approx(0.31, abs=0.005)
    assert left(DIT, 0.7) < theirs / 3
