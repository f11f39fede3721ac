"""Training of small latent models: an autoencoder of images, and a denoiser of its latents.

A trainer is ``init`` and a jitted ``step(state, key, batch, labels, weights, context) -> (state, loss)``, as
`jaxdd.students.train.fit` requires. The state is a pytree. All random numbers are functions of the key and the step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdd.data import augment
from jaxdd.ground import parallel
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.normalise import normalise
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.promotion import standard_optimizer
from jaxdd.ground.settings import DRAWS, SHARE, bounded
from jaxdd.ground.tracing import struct
from jaxdd.latent import diffusion
from jaxdd.latent.diffusion import Denoiser, Schedule
from jaxdd.latent.vae import RANGE, Autoencoder
from jaxdd.nn.classifier import Variables


@dataclass(frozen=True)
class VAETraining:
    """Training settings of the autoencoder."""

    images: int = bounded(100_000, DRAWS)
    """The number of images seen, with repeats."""
    batch_size: int = 64
    learning_rate: float = 2e-3
    """The peak rate of Adam, with linear warmup over a twentieth of the steps and cosine decay to zero."""
    kl_weight: float = 1e-3
    """The weight of the divergence from N(0, I), in nats per latent dimension, beside the squared error per pixel."""


@dataclass(frozen=True)
class DiTTraining:
    """Training settings of the denoiser."""

    images: int = bounded(200_000, DRAWS)
    """The number of latents seen, with repeats."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    """As in `VAETraining`."""
    ema: float = bounded(0.999, SHARE)
    """Decay of the exponential moving average of the parameters, which is the result of the training."""
    drop: float = bounded(0.1, SHARE)
    """Share of the latents whose class is replaced by the null class, for classifier-free guidance."""


def steps_of(settings: VAETraining | DiTTraining) -> int:
    """The number of steps in which ``settings.images`` images are seen.

    Raises:
      InputError: fewer than one image, or a batch size below one.
    """
    if settings.images < 1 or settings.batch_size < 1:
        raise InputError(f"images {settings.images} and batch size {settings.batch_size}: give 1 or more of both")
    return -(-settings.images // settings.batch_size)


def check_learnt(stage: str, error: float, trivial: float, steps: int, most: float, remedy: str) -> None:
    """Refuse a model that is no better than a constant answer.

    Args:
      error: of the trained model.
      trivial: the error of the best constant answer, which a model must beat after 100 steps or more.
      steps: the length of the training.
      most: an error that no model reaches, however short its training.

    Raises:
      DivergenceError: the error is too large.
    """
    if error <= most and (error < trivial or steps < 100):
        return
    raise DivergenceError(f"{stage} diverged by step {steps}: error {error:.3g}, where a constant answer has "
                          f"{trivial:.3g}; {remedy}")  # fmt: skip


class LatentState(NamedTuple):
    """The complete state of a training run, enough to resume it."""

    variables: Variables
    average: Variables
    opt_state: optax.OptState
    step: jax.Array  # int32


class LatentTrainer(NamedTuple):
    """``init(key) -> LatentState``, and the jitted ``step``, which donates its state."""

    init: Callable[[jax.Array], LatentState]
    step: Callable[..., tuple[LatentState, jax.Array]]


def autoencoder_loss(model: Autoencoder, variables: Variables, key: jax.Array, images: jax.Array, kl_weight: float):
    r"""The loss of an autoencoder for images [N, H, W, C] in [-1, 1], [N].

    It is the squared error per pixel of the decoded z, drawn from q(z | x), plus
    kl_weight KL( q(z | x) || N(0, I) ) / dim z (Kingma and Welling 2014, equation 10).
    """
    q = model.encode(variables, images)
    z = q.mean + jnp.exp(0.5 * q.log_variance) * jax.random.normal(key, q.mean.shape, jnp.float32)
    error = jnp.square(model.decode(variables, z) - images).mean((1, 2, 3))
    divergence = 0.5 * (jnp.square(q.mean) + jnp.exp(q.log_variance) - 1 - q.log_variance)
    return error + kl_weight * divergence.mean((1, 2, 3))


@lru_cache(maxsize=4)
def vae_trainer(
    model: Autoencoder, settings: VAETraining, image_shape: tuple[int, int, int], mirror: bool
) -> LatentTrainer:
    """A trainer of an autoencoder on uint8 images [N, H, W, C], mirrored with probability one half if ``mirror``.

    Cached: equal arguments return the same trainer, which is compiled once.
    """

    def loss(variables, key, images, labels):
        k_view, k_draw = jax.random.split(key)
        images = normalise(RANGE, images)
        images = augment.flip(k_view, images) if mirror else images
        return autoencoder_loss(model, variables, k_draw, images, settings.kl_weight).mean()

    return _trainer(lambda key: model.init(key, image_shape), loss, settings, 0.0)


@lru_cache(maxsize=4)
def dit_trainer(model: Denoiser, schedule: Schedule, settings: DiTTraining) -> LatentTrainer:
    """A trainer of a denoiser on scaled latents [N, h, w, c] and labels [N]; cached like `vae_trainer`."""

    def loss(variables, key, latents, labels):
        return diffusion.loss(model, variables, schedule, key, latents, labels, settings.drop).mean()

    return _trainer(model.init, loss, settings, settings.ema)


def work(title: str, trainer: LatentTrainer, batch: Any, steps: int, shorter: str) -> Work:
    """The work of a training, by the devices that divide a batch.

    Args:
      batch: what a step sees, images or latents [N, ...] as a shape.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = batch.shape[0]
    each = batch, struct(size, dtype=np.int32)
    arguments = parallel.divided((jax.eval_shape(trainer.init, key), key), each, parallel.dividing(size))
    program = Program(trainer.step, (*arguments, None, None))
    return Work(title, "images", size, steps, 1, 1, program, size, shorter, trains=True, fused=False)


def _trainer(init_model, loss, settings: VAETraining | DiTTraining, decay: float) -> LatentTrainer:
    steps = steps_of(settings)
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, steps // 20, steps)
    tx = standard_optimizer(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)))

    def init(key):
        variables = init_model(key)
        return LatentState(variables, jax.tree.map(jnp.copy, variables), tx.init(variables), jnp.zeros((), jnp.int32))

    def step(state, key, batch, labels, weights, context):
        key = jax.random.fold_in(key, state.step)
        value, grads = jax.value_and_grad(loss)(state.variables, key, batch, labels)
        updates, opt_state = tx.update(grads, state.opt_state, state.variables)
        variables = optax.apply_updates(state.variables, updates)
        # A smaller decay at first, so that the average forgets the initial parameters.
        keep = jnp.minimum(decay, (1.0 + state.step.astype(jnp.float32)) / (10.0 + state.step.astype(jnp.float32)))
        average = optax.incremental_update(variables, state.average, 1 - keep)
        return LatentState(variables, average, opt_state, state.step + 1), value

    return LatentTrainer(init, jax.jit(step, donate_argnums=0))
