"""Models that compile in no time and can be driven to divergence, and runs of each stage on them."""

import itertools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from lane_helpers import LINEAR, UNIT, dataset, linear_apply, linear_init

from jaxdd import nn
from jaxdd.data.augment import Augment
from jaxdd.ground import parallel
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.latent.decoding import LatentModel, Pixels, decode
from jaxdd.latent.diffusion import Denoiser, Sampling
from jaxdd.latent.vae import Autoencoder, Gaussian
from jaxdd.nn.classifier import Output
from jaxdd.stages.context import Classes, Context, Teacher
from jaxdd.stages.encode import encode
from jaxdd.stages.images.recover import chunks
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import evaluation, train
from jaxdd.students.evaluation import Lane
from jaxdd.students.lanes import Limits
from jaxdd.students.protocol import Protocol
from jaxdd.students.train import TrainSettings

KEY = jax.random.key(0)
PLAIN = Augment(crop="none", flip=False)
STEPS = 130

# Recovery

CLASSES, M = 3, 2
RECOVER = RecoverSettings(steps=STEPS, learning_rate=0.05, flip=False, min_scale=1.0)
NORM = Normalisation(np.float32([0.5]), np.float32([0.25]))
TABLE = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def pooled(variables, images):
    """Features of the mean and of the mean square of the pixels."""
    moments = jnp.concatenate([images.mean((1, 2)), jnp.square(images).mean((1, 2))], -1)
    features = moments @ variables
    return Output(features, features, {"image": nn.image_moments(images)})


def recovered(
    settings=RECOVER,
    variables=TABLE,
    atoms=lambda points: points,
    start=lambda images: images,
    scratch=None,
    on_snapshot=None,
):
    """The recovered classes, chunk by chunk."""
    rng = np.random.default_rng(1)
    points = atoms(0.1 * rng.normal(size=(CLASSES, M, 3)).astype(np.float32))
    images = start(0.5 * rng.normal(size=(CLASSES, M, 4, 4, 1)).astype(np.float32))
    layer = nn.Moments(np.zeros((CLASSES, 1), np.float32), np.ones((CLASSES, 1), np.float32))
    means = np.zeros((CLASSES, 3), np.float32)
    atoms = Measure(points, np.full((CLASSES, M), 1 / M, np.float32))
    goal = Goal(np.arange(CLASSES, dtype=np.int32), atoms, means, {"image": layer}, np.float32(1))
    local, scratch = parallel.mesh(jax.local_devices()[:1]), scratch or Scratch()
    placement = Placement(local, 2**30, scratch=scratch, on_snapshot=on_snapshot)
    return chunks.run(
        KEY, Teacher(pooled, variables, NORM), settings, goal, lambda rows: images[rows], (4, 4, 1), placement
    )


# Training

X = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype(np.float32)
Y = train.one_hot(np.arange(8) % 3, 3)
ONES = np.ones(8, np.float32)


@cache
def trainer_of(optimizer="sgd", learning_rate=0.1, weight_decay=0.0):
    settings = TrainSettings(optimizer=optimizer, learning_rate=learning_rate, weight_decay=weight_decay, augment=PLAIN)
    return train.trainer(LINEAR, settings, STEPS, HardLabels().criterion(), UNIT)


def fitted(*settings, change=lambda step, batch: batch, steps=STEPS):
    """A linear classifier, trained on batches that ``change`` may spoil at each step, from 1 on."""
    trainer = trainer_of(*settings)
    batches = (change(step, (X, Y, ONES)) for step in itertools.count(1))
    return train.fit(trainer.step, trainer.init(KEY, (4, 4, 1)), KEY, batches, steps)


# Students

SOFT = Protocol(train=TrainSettings(STEPS // 3, 3, "sgd", 0.05, augment=PLAIN))
ANSWERS = linear_init(jax.random.key(5), (4, 4, 1))


@cache
def student_trainer(settings: Protocol):
    return evaluation.student_trainer(LINEAR, settings, linear_apply, dataset(0))


def students(settings=SOFT, spoil=lambda images: images, answers=ANSWERS, **limits):
    """Three students, of which the last two learn from a dataset that ``spoil`` may change."""
    good, other = dataset(0), dataset(1)
    other = replace(other, images=spoil(other.images))
    lanes = [Lane(good, 0, name="good"), Lane(other, 0, name="bad, seed 0"), Lane(other, 1, name="bad, seed 1")]
    return evaluation.side_by_side(student_trainer(settings), settings, lanes, answers, Limits(**limits))


# Latent models

AUTOENCODER = Autoencoder(
    lambda key, shape: jnp.ones(()),
    lambda scale, x: Gaussian(scale * x, jnp.zeros_like(x)),
    lambda scale, z: scale * z,
)
DENOISER = Denoiser(
    lambda key: jnp.ones(()),
    lambda scale, x, t, labels: scale * x * (1 + 0.01 * labels[:, None, None, None]),
    (4, 4, 1),
    3,
)


def decoded(guidance=1.0, scale=1.0, atoms=lambda z: z, strength=0.5):
    """The images of atoms of three classes."""
    z = atoms(np.random.default_rng(2).normal(size=(CLASSES, M, 16)).astype(np.float32))
    model = LatentModel(AUTOENCODER, jnp.ones(()), (4, 4, 1), DENOISER, jnp.float32(scale))
    return decode(KEY, model, Sampling(steps=10, guidance=guidance, strength=strength), z, Pixels(NORM, (4, 4, 1)))


# A whole method

LABELS = np.arange(24) % CLASSES
PICTURES = np.random.default_rng(3).integers(0, 256, (24, 4, 4, 1)).astype(np.uint8)


def real_images(rows):
    return (PICTURES[rows] / np.float32(255) - NORM.mean) / NORM.std


def encoded(apply=pooled, variables=TABLE):
    """The real images of three classes as ``apply`` sees them."""
    valid = np.ones(12, np.float32)
    batches = ((PICTURES[i : i + 12], LABELS[i : i + 12], valid) for i in (0, 12))
    return encode(apply, variables, NORM, batches, CLASSES)


@cache
def context():
    return Context(Teacher(pooled, TABLE, NORM), Classes.of(encoded(), real_images, (4, 4, 1)), flip=False)
