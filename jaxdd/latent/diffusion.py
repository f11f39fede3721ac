r"""Gaussian diffusion in discrete time: schedules, the training loss, and sampling from initial latents.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,    e ~ N(0, I),    a_t = prod_{s <= t} (1 - beta_s).

A denoiser predicts e, or v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and Ho 2022), from x_t, t and a class. One with
twice as many output channels also predicts the variance of its reverse step (Nichol and Dhariwal 2021, section 3.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.settings import SHARE, Bounds, bounded
from jaxdd.nn.classifier import Variables

Denoise = Callable[[Variables, jax.Array, jax.Array, jax.Array], jax.Array]


class Denoiser(NamedTuple):
    """A class-conditional model of latents as pure functions.

    Attributes:
      init: key -> variables.
      apply: (variables, x [N, h, w, c], t int [N], labels int [N]) -> [N, h, w, c or 2c].
      latent_shape: (h, w, c).
      null: the label of the empty condition, for classifier-free guidance.
    """

    init: Callable[[jax.Array], Variables]
    apply: Denoise
    latent_shape: tuple[int, int, int]
    null: int


@dataclass(frozen=True)
class Schedule:
    """A noise schedule, with the field names of published JSON files.

    The defaults are those of DiT (Ho et al. 2020, section 4).
    """

    num_train_timesteps: int = bounded(1000, Bounds(1, 10**5))
    beta_schedule: str = "linear"
    """"linear" in beta, or "scaled_linear", linear in the square root of beta (latent diffusion)."""
    beta_start: float = bounded(1e-4, SHARE)
    beta_end: float = bounded(0.02, SHARE)
    prediction_type: str = "epsilon"
    """"epsilon" or "v_prediction"."""
    steps_offset: int = 0
    """Added to the times of a sampler with fewer steps."""
    set_alpha_to_one: bool = True
    """Whether the last step ends without noise (a = 1); otherwise it ends at the noise of time zero."""


STABLE_DIFFUSION = Schedule(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, set_alpha_to_one=False
)


@dataclass(frozen=True)
class Sampling:
    """How noise is added to latents and removed."""

    sampler: str = "ddim"
    """"ddim" (deterministic after the first noise, Song et al. 2021) or "ddpm" (ancestral, Ho et al. 2020)."""
    steps: int = 50
    """Steps from pure noise. The number of steps taken is this times the strength."""
    strength: float = 0.5
    """The share of the schedule up to which noise is added: 0 keeps the latent, and 1 replaces it by noise. On DiT's
    linear schedule 0.5 scales the latent by 0.31, as does D4M's 0.7 on Stable Diffusion's schedule."""
    guidance: float = bounded(4.0, Bounds(0, 1000))
    """Classifier-free guidance (Ho and Salimans 2022): 1 is the conditional model, 0 the unconditional one."""


def check(settings: Sampling, schedule: Schedule) -> None:
    """Raise InputError for invalid settings."""
    if settings.sampler not in ("ddim", "ddpm"):
        raise InputError(f"unknown sampler {settings.sampler!r}; use ddim or ddpm")
    if not 0 <= settings.strength <= 1:
        raise InputError(f"strength {settings.strength}: give a share of the schedule, 0 to 1")
    if not 1 <= settings.steps <= schedule.num_train_timesteps:
        raise InputError(f"{settings.steps} diffusion steps: give 1 to {schedule.num_train_timesteps}")
    last = (settings.steps - 1) * (schedule.num_train_timesteps // settings.steps) + schedule.steps_offset
    if last >= schedule.num_train_timesteps:
        raise InputError(
            f"{settings.steps} diffusion steps, {schedule.steps_offset} later, end at time {last} of "
            f"{schedule.num_train_timesteps}; take fewer steps"
        )
    signal(schedule)


def signal(schedule: Schedule) -> np.ndarray:
    r"""The share of signal :math:`a_t = \prod_{s \le t} (1 - \beta_s)` at t = 0 .. T - 1, float64 [T].

    Raises:
      InputError: an unknown schedule of the betas, or prediction type.
    """
    if schedule.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"unknown prediction type {schedule.prediction_type!r}; use epsilon or v_prediction")
    first, last, count = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        betas = np.linspace(first, last, count)
    elif schedule.beta_schedule == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, count) ** 2
    else:
        raise InputError(f"unknown schedule {schedule.beta_schedule!r} of the betas; use linear or scaled_linear")
    return np.cumprod(1 - betas)


class Steps(NamedTuple):
    """The steps of a sampler, from noisy to clean, [k] each."""

    times: np.ndarray  # int32, t
    signal: np.ndarray  # float32, a at t
    after: np.ndarray  # float32, a after the step


def steps_of(schedule: Schedule, settings: Sampling) -> Steps:
    """The last round(strength x steps) of evenly spaced times, with "leading" spacing."""
    check(settings, schedule)
    a = signal(schedule)
    stride = schedule.num_train_timesteps // settings.steps
    times = np.arange(settings.steps)[::-1] * stride + schedule.steps_offset
    times = times[settings.steps - round(settings.strength * settings.steps) :]
    end = 1.0 if schedule.set_alpha_to_one else a[0]
    after = np.where(times >= stride, a[np.maximum(times - stride, 0)], end)
    return Steps(times.astype(np.int32), a[times].astype(np.float32), after.astype(np.float32))


def noised(x: jax.Array, noise: jax.Array, a: jax.Array) -> jax.Array:
    """x_t from x_0 and the noise, at signal ``a``, which is a scalar or broadcast against both."""
    return jnp.sqrt(a) * x + jnp.sqrt(1 - a) * noise


def clean_and_noise(x: jax.Array, output: jax.Array, a: jax.Array, prediction_type: str) -> tuple[jax.Array, jax.Array]:
    """x_0 and e according to the prediction ``output`` at x_t."""
    if prediction_type == "v_prediction":
        return jnp.sqrt(a) * x - jnp.sqrt(1 - a) * output, jnp.sqrt(a) * output + jnp.sqrt(1 - a) * x
    return (x - jnp.sqrt(1 - a) * output) / jnp.sqrt(a), output


def reverse_variance(a: jax.Array, after: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bounds of the log variance of the reverse step from signal ``a`` to ``after``.

    They are the log variance of q(x_s | x_t, x_0) and log beta (Ho et al. 2020, equation 7 and section 3.2). The former
    variance is at least 1e-20, also if the step ends without noise.
    """
    beta = 1 - a / after
    return jnp.log(jnp.maximum(beta * (1 - after) / (1 - a), 1e-20)), jnp.log(beta)


def reverse_mean(x: jax.Array, clean: jax.Array, a: jax.Array, after: jax.Array) -> jax.Array:
    """The mean of q(x_s | x_t, x_0) (Ho et al. 2020, equation 7)."""
    ratio = a / after
    return (jnp.sqrt(after) * (1 - ratio) * clean + jnp.sqrt(ratio) * (1 - after) * x) / (1 - a)


def guided(apply: Denoise, null: int, guidance: float) -> Denoise:
    """The denoiser with classifier-free guidance: u + g (c - u), for the predictions u without and c with the class.

    A learned variance is that of the conditional prediction.
    """
    if guidance == 1.0:
        return apply

    def both(variables, x, t, labels):
        pair = apply(variables, jnp.concatenate([x, x]), jnp.concatenate([t, t]),
                     jnp.concatenate([jnp.full_like(labels, null), labels]))  # fmt: skip
        unconditional, conditional = jnp.split(pair, 2)
        c = x.shape[-1]
        mixed = unconditional[..., :c] + guidance * (conditional[..., :c] - unconditional[..., :c])
        return jnp.concatenate([mixed, conditional[..., c:]], -1)

    return both


def sample(
    denoiser: Denoiser,
    variables: Variables,
    schedule: Schedule,
    settings: Sampling,
    keys: jax.Array,
    start: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """Add noise to latents up to ``settings.strength``, and denoise them conditionally on their classes.

    To be called under `jax.jit`.

    Args:
      denoiser, variables, schedule: the model.
      settings: the sampler.
      keys: one PRNG key per latent, [N], so that the draws of a latent do not depend on the others.
      start: the initial latents, float32 [N, h, w, c].
      labels: classes, int32 [N].

    Returns:
      float32 [N, h, w, c]; ``start`` if the strength is 0.

    Raises:
      InputError: see `check`.
    """
    return sampler(denoiser, schedule, settings)(variables, keys, start, labels)


def sampler(
    denoiser: Denoiser, schedule: Schedule, settings: Sampling, move: Callable[[jax.Array], jax.Array] | None = None
) -> Callable[[Variables, jax.Array, jax.Array, jax.Array], jax.Array]:
    """`sample` as a function of the variables, the keys, the initial latents and the classes.

    Args:
      denoiser, schedule, settings: as of `sample`.
      move: a change of the latents [N, h, w, c] that a step predicts from its noisy ones. The step then goes on from
        the moved latents, and with the noise as it was predicted: DDIM to sqrt(a') move(x_0) + sqrt(1 - a') e.

    Raises:
      InputError: see `check`.
    """
    steps = steps_of(schedule, settings)
    denoise = guided(denoiser.apply, denoiser.null, settings.guidance)

    def run(variables, keys, start, labels):
        if not len(steps.times):
            return start
        c = start.shape[-1]
        draw = lambda index: lambda k: jax.random.normal(jax.random.fold_in(k, index), start.shape[1:], jnp.float32)
        noise = lambda index: jax.vmap(draw(index))(keys)

        def step(x, now):
            i, t, a, after = now
            out = denoise(variables, x, jnp.full(x.shape[0], t), labels).astype(jnp.float32)
            clean, e = clean_and_noise(x, out[..., :c], a, schedule.prediction_type)
            clean = clean if move is None else move(clean)
            if settings.sampler == "ddim":
                return jnp.sqrt(after) * clean + jnp.sqrt(1 - after) * e, None
            least, largest = reverse_variance(a, after)
            log_variance = least if out.shape[-1] == c else _between(least, largest, out[..., c:])
            spread = jnp.where(i < len(steps.times), jnp.exp(0.5 * log_variance), 0.0)
            return reverse_mean(x, clean, a, after) + spread * noise(i), None

        x = noised(start, noise(0), steps.signal[0])
        order = np.arange(1, len(steps.times) + 1, dtype=np.int32)
        return jax.lax.scan(step, x, (order, *map(jnp.asarray, steps)))[0]

    return run


def sliced(apply: Denoise, most: int) -> Denoise:
    """The denoiser with at most so many latents at a time, so that its activations fit in memory."""

    def call(variables, x, t, labels):
        count = len(x)
        if count <= most:
            return apply(variables, x, t, labels)
        size = -(-count // -(-count // most))
        # The last part is filled up with the last latent.
        rows = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
        out = jax.lax.map(lambda some: apply(variables, x[some], t[some], labels[some]), jnp.asarray(rows))
        return out.reshape(-1, *out.shape[2:])[:count]

    return call


def _between(least, largest, output):
    share = (output + 1) / 2
    return share * largest + (1 - share) * least


def loss(
    denoiser: Denoiser,
    variables: Variables,
    schedule: Schedule,
    key: jax.Array,
    latents: jax.Array,
    labels: jax.Array,
    drop: float = 0.1,
) -> jax.Array:
    r"""The training loss of a denoiser, at one uniform time per latent.

    It is the mean squared error of the prediction. For a learned variance, the divergence of the reverse step from the
    posterior is added, KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats per dimension, without a gradient through the mean
    (Nichol and Dhariwal 2021, equation 16 with weight one, as in DiT).

    Args:
      denoiser, variables, schedule: the model.
      key: a PRNG key, for times, noise and dropped classes.
      latents: float32 [N, h, w, c].
      labels: int32 [N].
      drop: the probability that a class is replaced by the null class.

    Returns:
      The loss of each latent, [N].
    """
    k_time, k_noise, k_drop = jax.random.split(key, 3)
    n, c = latents.shape[0], latents.shape[-1]
    curve = signal(schedule)
    t = jax.random.randint(k_time, (n,), 0, schedule.num_train_timesteps, jnp.int32)
    a, after = (jnp.asarray(values, jnp.float32)[t][:, None, None, None] for values in (curve, np.r_[1.0, curve[:-1]]))
    e = jax.random.normal(k_noise, latents.shape, jnp.float32)
    x = noised(latents, e, a)
    labels = jnp.where(jax.random.bernoulli(k_drop, jnp.float32(drop), (n,)), denoiser.null, labels)
    out = denoiser.apply(variables, x, t, labels)
    target = e if schedule.prediction_type == "epsilon" else jnp.sqrt(a) * e - jnp.sqrt(1 - a) * latents
    error = jnp.square(out[..., :c] - target).mean((1, 2, 3))
    if out.shape[-1] == c:
        return error
    clean, _ = clean_and_noise(x, jax.lax.stop_gradient(out[..., :c]), a, schedule.prediction_type)
    # At t = 0 the variance of the posterior is zero. It is replaced by that at t = 1.
    second = reverse_variance(jnp.float32(curve[1]), jnp.float32(curve[0]))[0]
    least, largest = reverse_variance(a, after)
    least = jnp.maximum(least, second)
    predicted = _between(least, largest, out[..., c:])
    apart = jnp.square(reverse_mean(x, latents, a, after) - reverse_mean(x, clean, a, after))
    divergence = 0.5 * (predicted - least + jnp.exp(least - predicted) + apart * jnp.exp(-predicted) - 1)
    return error + divergence.mean((1, 2, 3))
