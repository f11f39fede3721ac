"""Encoding is a sum over images: batches and order are nobody's business."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import data, nn
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.nn.classifier import Output
from jaxdd.stages import encode

OPTIMISED = True

COUNT = 60


def pixels_as_layers(variables, images):
    """A model whose norms see the image and its square, so that moments can be counted over pixels."""
    layers = {"image": nn.image_moments(images), "square": nn.image_moments(images**2 + variables)}
    flat = images.reshape(len(images), -1)
    return Output(flat[:, :10], flat, layers)


@pytest.mark.parametrize("size", [7, 60, 64])
def test_features_and_class_moments_are_those_of_all_pixels_for_any_batch(digits, size):
    norm = Normalisation(np.array([0.2], np.float32), np.array([0.1], np.float32))
    chosen = np.random.default_rng(0).permutation(1000)[:COUNT]
    batches = data.batches(digits, "train", size, chosen)
    encoded = encode.encode(pixels_as_layers, jnp.float32(50.0), norm, batches, 11)

    images = np.asarray(normalise(norm, digits.read("train", chosen)))
    labels = digits.labels["train"][chosen]
    np.testing.assert_array_equal(encoded.labels, labels)
    np.testing.assert_allclose(encoded.features, images.reshape(COUNT, -1), rtol=1e-6)
    np.testing.assert_array_equal(encoded.counts, np.bincount(labels, minlength=11))
    for name, values in (("image", images), ("square", images**2 + 50)):
        layer = encoded.moments[name]
        assert layer.mean.shape == layer.var.shape == (11, 1)
        for c in np.unique(labels):
            members = values[labels == c].astype(np.float64)
            np.testing.assert_allclose(layer.mean[c, 0], members.mean(), rtol=1e-5)
            np.testing.assert_allclose(layer.var[c, 0], members.var(), rtol=1e-4)
        everything = encode.global_moments(encoded)[name]
        np.testing.assert_allclose(everything.mean[0], values.mean(dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(everything.var[0], values.var(dtype=np.float64), rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 3e3, -1e5])
def test_moments_far_from_zero_keep_their_digits(offset):
    labels = np.random.default_rng(1).integers(0, 3, 4000).astype(np.int32)
    values = (np.random.default_rng(0).normal(size=(4000, 2, 2, 3)) + offset).astype(np.float32)
    state = encode.init(pixels_as_layers, jnp.float32(0), (2, 2, 3), 3)
    step = jax.jit(lambda *batch: encode.step(pixels_as_layers, jnp.float32(0), *batch)[0])
    for first in range(0, 4000, 8):
        rows = slice(first, first + 8)
        state = step(state, values[rows], labels[rows], np.ones(8, np.float32))
    layer = state.moments["image"]
    for c in range(3):
        members = values[labels == c].astype(np.float64)
        np.testing.assert_allclose(layer.mean[c], members.mean((0, 1, 2)), rtol=3e-7, atol=1e-6)
        np.testing.assert_allclose(layer.var[c], members.var((0, 1, 2)), rtol=2e-3)


@pytest.mark.slow
def test_a_network_encodes_the_same_in_any_order_and_batch(digits, teacher):
    apply, variables, norm = teacher[:3]
    chosen = np.arange(COUNT)
    turned = np.random.default_rng(1).permutation(COUNT)
    run = lambda rows, size: encode.encode(apply, variables, norm, data.batches(digits, "train", size, rows), 10, None)
    one, other = run(chosen, COUNT), run(chosen[turned], 16)
    np.testing.assert_allclose(one.features[turned], other.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one.labels[turned], other.labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.moments, other.moments)

    direct = apply(variables, normalise(norm, digits.read("train", chosen)))
    np.testing.assert_allclose(one.features, direct.features, rtol=1e-4, atol=1e-5)
    assert set(one.moments) == set(direct.moments) == {"norm1", "norm2", "norm3"}
    for name, layer in direct.moments.items():
        pooled = nn.pool(layer, jnp.ones(COUNT))
        for got, want in zip(encode.global_moments(one)[name], pooled):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_running_averages_estimate_the_global_moments(teacher, classes):
    """What SRe2L takes from the teacher and what is taken here from the data are the same thing."""
    running = teacher.variables["batch_stats"]
    for name, layer in encode.global_moments(classes.encoded).items():
        scale = np.sqrt(layer.var)
        assert (np.abs(running[name]["bn"]["mean"] - layer.mean) < 0.5 * scale).all()
        np.testing.assert_allclose(running[name]["bn"]["var"], layer.var, rtol=0.5)


def test_feature_variance_is_the_mean_squared_distance_to_the_mean_even_far_from_zero():
    features = np.random.default_rng(2).normal(size=(500, 3)).astype(np.float32) + 1000
    want = features.astype(np.float64).var(0).sum()
    assert encode.feature_variance(features) == pytest.approx(want, rel=1e-3)
