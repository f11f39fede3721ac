"""Shared by the tests: digits, and a narrow teacher trained on them for a second."""

import jax
import numpy as np
import pytest

from experiments.teachers import Teacher
from jaxdd import data, encode, methods, nn, relabel, train
from jaxdd.augment import Augment
from jaxdd.normalise import Normalisation, normalise

PLAIN = Augment(crop="none", flip=False)


@pytest.fixture(scope="session")
def digits():
    return data.in_memory(data.load("digits"))


@pytest.fixture(scope="session")
def teacher(digits):
    """A ConvNet-3 of width 8 on 8x8 digits."""
    model = nn.get("convnet3", 10, 8, width=8)
    norm = Normalisation(*data.statistics(digits))
    settings = train.TrainSettings(
        epochs=8, batch_size=64, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, augment=PLAIN
    )
    steps = settings.steps(len(digits.labels["train"]))
    trainer = train.trainer(model, settings, steps, relabel.hard(), norm)
    ones = np.ones(64, np.float32)
    batches = ((x, train.one_hot(y, 10), ones) for x, y in data.shuffled(digits, "train", 64, 0))
    state = trainer.init(jax.random.key(0), digits.image_shape)
    state, _ = train.fit(trainer.step, state, jax.random.key(1), batches, steps)
    return Teacher(model, state.variables, norm, {})


@pytest.fixture(scope="session")
def classes(digits, teacher):
    """All train digits as that teacher sees them."""
    batches = data.batches(digits, "train", 479)
    encoded = encode.encode(teacher.model.apply, teacher.variables, teacher.norm, batches, 10)
    read = lambda rows: np.asarray(normalise(teacher.norm, digits.read("train", rows)))
    return methods.Classes(encoded, read, digits.image_shape)
