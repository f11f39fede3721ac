"""Train a small autoencoder and a small denoiser on the images of a dataset."""

import dataclasses
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import data, pretrained
from jaxdd.data import Source
from jaxdd.ground import parallel
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.normalise import normalise
from jaxdd.ground.progress import log
from jaxdd.ground.watch import EVERY, Watch
from jaxdd.latent import dit, training, vae
from jaxdd.latent.decoding import LatentModel, encoder, latent_shape
from jaxdd.latent.diffusion import Schedule
from jaxdd.latent.training import DiTTraining, VAETraining
from jaxdd.nn.classifier import Variables
from jaxdd.stages.encode import Encoded
from jaxdd.students import train
from jaxdd.workspace.encoding import encode_train
from jaxdd.workspace.real_data import RealData, test_batches
from jaxdd.workspace.runs import PARTS


def train_vae(settings: VAETraining, channels: int, real: RealData, seed: int, out: Path) -> dict:
    """Train an autoencoder and write it to ``out``/vae.

    Returns:
      The record of the training: losses, settings, and the PSNR on the test images in dB.

    Raises:
      DivergenceError: the training diverged, or the autoencoder is no better than the mean of the test images.
    """
    source = real.source
    config = vae.small(source.image_shape, channels)
    model = vae.autoencoder(config)
    log(f"training an autoencoder on {len(source.labels['train'])} images, {settings.images} draws")
    trainer = training.vae_trainer(model, settings, source.image_shape, real.flip)
    started, size = time.perf_counter(), settings.batch_size
    stream = lambda first: (
        (images, labels, None) for images, labels in data.shuffled(source, "train", size, seed, first)
    )
    stage, remedy = "train autoencoder", "use a lower `latent.vae_train.learning_rate`"
    watch = Watch(stage, remedy=remedy).keeping(Scratch(out / PARTS).checkpoints(stage))
    variables, info, _ = _fit(trainer, stream, settings, seed, watch, "vae_train")

    restore = jax.jit(lambda v, x: jnp.square(model.decode(v, model.encode(v, x).mean) - x).mean((1, 2, 3)))
    errors, spread = [], _Spread()
    for images, _, valid in test_batches(source):
        pixels = normalise(vae.RANGE, images)
        errors.append(np.asarray(restore(variables, pixels))[valid > 0])
        spread.add(np.asarray(pixels)[valid > 0])
    error = np.concatenate(errors).mean()
    # Two images in [-1, 1] are no further apart than 4.
    training.check_learnt(stage, error, spread.variance, training.steps_of(settings), 4.0, remedy)
    latents = _encode_here(LatentModel(model, variables, source.image_shape), source).features
    config = replace(config, scaling_factor=float(1 / latents.std()))
    psnr = float(10 * np.log10(4 / error))
    log(f"autoencoder: {psnr:.1f} dB on the test images, {time.perf_counter() - started:.0f} s")
    pretrained.save_vae(out / "vae", config, variables)
    return info | {"psnr": psnr, "settings": dataclasses.asdict(settings)}


def train_dit(
    settings: DiTTraining, sizes: dit.DiTConfig, model: LatentModel, real: RealData, seed: int, out: Path
) -> dict:
    """Train a denoiser on the latents of an autoencoder, write ``out``/transformer and ``out``/scheduler.

    Args:
      real: the images, of the shape that the autoencoder needs.

    Returns:
      The record of the training: losses and settings.

    Raises:
      DivergenceError: the training diverged, or the denoiser is no better than a constant answer.
    """
    source, schedule, started = real.source, Schedule(), time.perf_counter()
    encoded = _encode_here(model, source)
    labels, count = encoded.labels, len(encoded.labels)
    views = [encoded.features]
    if real.flip:
        views.append(_encode_here(model, _mirrored(source)).features)
    latents = np.stack(views).reshape(len(views), count, *latent_shape(model))
    trainer = training.dit_trainer(dit.denoiser(sizes), schedule, settings)

    def batches(first: int):
        draws = np.random.default_rng([seed, _VIEWS])
        draw = lambda: draws.integers(len(latents), size=settings.batch_size)
        for _ in range(first):
            draw()
        for rows in data.permutations(count, settings.batch_size, seed, first):
            yield latents[draw(), rows], labels[rows], None

    stage, remedy = "train denoiser", "use a lower `latent.dit_train.learning_rate`"
    watch = Watch(stage, remedy=remedy).keeping(Scratch(out / PARTS).checkpoints(stage))
    variables, info, loss = _fit(trainer, batches, settings, seed, watch, "dit_train")
    # The noise to predict has mean 0 and variance 1.
    training.check_learnt(stage, loss, 1.0, training.steps_of(settings), 4.0, remedy)
    log(f"denoiser: loss {info['loss'][-1]:.4f}, {time.perf_counter() - started:.0f} s")
    pretrained.save_dit(out / "transformer", sizes, variables)
    pretrained.save_schedule(out / "scheduler", schedule)
    return info | {"settings": dataclasses.asdict(settings)}


# The seed sequence [seed, e] gives the order of epoch e, so [seed, _VIEWS] is free to choose the mirrored latents.
_VIEWS = 2**32 - 1


def _encode_here(model: LatentModel, source: Source) -> Encoded:
    """The train split as latents [n, h w c], computed by this process alone."""
    local = parallel.mesh(jax.local_devices())
    return encode_train((encoder(model), model.vae_variables, vae.RANGE), source, mesh=local)


def _mirrored(source: Source) -> Source:
    return source._replace(read=lambda split, rows: source.read(split, rows)[:, :, ::-1])


class _Spread:
    """The mean squared distance of images from their mean image, over several batches."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, images: np.ndarray) -> None:
        self.count += len(images)
        self.total = self.total + images.sum(0, dtype=np.float64)
        self.squares = self.squares + np.square(images, dtype=np.float64).sum(0)

    @property
    def variance(self) -> float:
        """Per pixel."""
        return float(np.mean(self.squares / self.count - np.square(self.total / self.count)))


def _fit(
    trainer: training.LatentTrainer, stream, settings, seed: int, watch: Watch, name: str
) -> tuple[Variables, dict, float]:
    """Run a trainer and return the averaged variables, on the host, the record of the run, and the loss at its end.

    Args:
      name: of the settings among those of the latent model.
    """
    key = jax.random.key(seed)
    state = trainer.init(jax.random.fold_in(key, 0))
    watch.shortened_by(f"a lower `latent.{name}.images`")
    state, stream = train.spread(state, stream, settings.batch_size)
    state, losses = train.fit(
        trainer.step, state, jax.random.fold_in(key, 1), stream, training.steps_of(settings), watch=watch
    )
    loss = [float(chunk.mean()) for chunk in np.array_split(losses, min(50, len(losses)))]
    info = {"loss": loss, "jax": jax.__version__}
    return jax.device_get(state.average), info, float(losses[-EVERY:].mean())
