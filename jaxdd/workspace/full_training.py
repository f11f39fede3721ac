"""The training on all real images with hard labels: of teachers, and of students to compare with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import data
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.programs import Work
from jaxdd.ground.watch import Hook, Watch
from jaxdd.nn import Classifier, Variables
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import train
from jaxdd.workspace.real_data import RealData


def trainer(real: RealData, model: Classifier, training: train.TrainSettings) -> train.Trainer:
    """The training on all real images with hard labels; one for all seeds, so that it is compiled once."""
    steps = training.steps(len(real.source.labels["train"]))
    return train.trainer(model, training, steps, HardLabels().criterion(), real.norm)


SHORTER = "a lower `teacher_train.epochs`"
TITLE = "train on all images"
"""The title of the training of a teacher in progress bars and error messages."""


def work(real: RealData, model: Classifier, training: train.TrainSettings, title: str) -> Work:
    """The work of `fit`."""
    count = len(real.source.labels["train"])
    form = training.batch(count), len(real.class_names), training.steps(count)
    return train.work(title, trainer(real, model, training), real.source.image_shape, form, SHORTER)


class Followed(NamedTuple):
    """What is seen and kept of a training.

    Attributes:
      title: of the progress bar and of error messages.
      scratch: for checkpoints, from which an interrupted training goes on.
      also: see `Watch`.
    """

    title: str = TITLE
    scratch: Scratch = Scratch()
    also: tuple[Hook, ...] = ()


def fit(
    real: RealData,
    model: Classifier,
    trainer: train.Trainer,
    training: train.TrainSettings,
    seed: int,
    followed: Followed = Followed(),  # noqa: B008
) -> tuple[Variables, np.ndarray]:
    """Train on all real images with a `trainer`; returns (variables, losses [steps]).

    Raises:
      DivergenceError: the run diverged, or the features of all images became equal.
    """
    source, labels, title = real.source, real.source.labels["train"], followed.title
    steps = training.steps(len(labels))
    batch_size = training.batch(len(labels))
    key = jax.random.fold_in(jax.random.key(seed), 1)
    state = trainer.init(jax.random.key(seed), source.image_shape)
    ones = np.ones(batch_size, np.float32)
    stream = lambda first: (
        (images, train.one_hot(target, len(source.class_names)), ones)
        for images, target in data.shuffled(source, "train", batch_size, seed, first)
    )
    remedy = "use a lower `teacher_train.learning_rate`"
    probe = source.read("train", np.linspace(0, len(labels) - 1, min(64, len(labels))).astype(int))
    alive = train.not_dead(model.apply, real.norm, probe, len(source.class_names), title, remedy)
    watch = Watch(title, remedy=remedy, also=[alive, *followed.also])
    watch.keeping(followed.scratch.checkpoints(f"{title}, seed {seed}"))
    watch.shortened_by(SHORTER)
    state, batches = train.spread(state, stream, batch_size)
    state, losses = train.fit(trainer.step, state, key, batches, steps, watch=watch)
    # Not bound to the devices that shared the batches.
    return jax.tree.map(jnp.asarray, jax.device_get(state.result)), losses
