"""Small datasets and a classifier that compiles in no time, for tests of students."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.normalise import Normalisation
from jaxdd.nn.classifier import Classifier, Output

UNIT = Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32))
SHAPE = (4, 4, 1)


def dataset(seed, n=9):
    """So many drawn images of three classes, with uneven weights."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, *SHAPE)).astype(np.float32)
    weights = rng.uniform(0.2, 1.8, n).astype(np.float32)
    return DistilledDataset(images, np.arange(n, dtype=np.int32) % 3, weights, ("a", "b", "c"), UNIT, {})


A, B = dataset(0), dataset(1)


def close(a, b, tolerance=1e-5):
    """Every leaf of one pytree is that of the other, up to rounding."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), a, b)


def lane(variables, s):
    """Row s of every leaf."""
    return jax.tree.map(lambda x: x[s], variables)


# A model that is no Linen module


def linear_init(key, image_shape):
    size = int(np.prod(image_shape))
    return {"params": {"w": 0.3 * jax.random.normal(key, (size, 3)), "b": jnp.zeros(3)}}


def linear_apply(variables, images):
    flat = images.reshape(len(images), -1)
    return Output(flat @ variables["params"]["w"] + variables["params"]["b"], flat, {})


LINEAR = Classifier(linear_init, linear_apply, lambda v, x: (linear_apply(v, x).logits, v))
