"""Parity with PyTorch at 1e-4 in float32: forward passes, BatchNorm moments, recover loss and its gradient.

The references come from golden/make_golden.py, in float64. Inputs are not stored: both sides draw each array
from its name. The loss is also compared in the papers' own form: sum_j ||f(x_j) - z_j||^2 of a class and, at
BatchNorm layer l, P_l = ||mean_l - mean*_l|| and Q_l = ||var_l - var*_l||. With V the variance of the real
features, m images a class and L layers

    feature = sqrt( sum_j ||f(x_j) - z_j||^2 / (m V) ),
    moment  = (1/L) sum_l ( P_l / ||sqrt(var*_l)|| + Q_l / ||var*_l|| ).

So the authors' sqrt(sum_j ||f(x_j) - z_j||^2) + lambda sum_l (P_l + Q_l) weighs layer l as ours does where
moment_weight is feature_weight times lambda L ||sqrt(var*_l)|| / sqrt(m V) for its mean, times
lambda L ||var*_l|| / sqrt(m V) for its variance.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_helpers import MODELS, close, golden, model, torch_name, uniform

from jaxdd.data import augment
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.nn import Moments, pool
from jaxdd.stages import encode
from jaxdd.stages.images.recover import loss as recover
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms

LABELS = np.array([3, 7], np.int32)
C, M = 2, 3
NORM = Normalisation(np.array([0.45, 0.5, 0.4], np.float32), np.array([0.25, 0.2, 0.3], np.float32))
WEIGHTS = {"feature_weight": 0.3, "moment_weight": 3.0, "cross_entropy_weight": 0.3}
VARIANTS = {
    "weighted": RecoverSettings(**WEIGHTS),
    "unweighted": RecoverSettings(**WEIGHTS, weighted_moments=False),
    "global": RecoverSettings(**WEIGHTS, moments="global"),
}
CASES = [("resnet18_small", v) for v in VARIANTS] + [("resnet18_imagenet", "weighted")]


def split(tag, stacked):
    """[2, ..., sum of channels] as stored -> {PyTorch layer: Moments of [..., ch]}."""
    ends = np.cumsum(golden(tag)["channels"])[:-1]
    parts = zip(*(np.split(part, ends, -1) for part in stacked))
    return {name: Moments(*part) for name, part in zip(golden(tag)["layers"], parts)}


def by_torch_name(layers):
    return {torch_name(layer.split("/")): value for layer, value in layers.items()}


def close_moments(tag, ours, stacked):
    ours, truth = by_torch_name(ours), split(tag, stacked)
    assert ours.keys() == truth.keys()
    for name in truth:
        close(ours[name].mean, truth[name].mean)
        close(ours[name].var, truth[name].var)


def real_pixels(tag, n):
    size = MODELS[tag][1]
    bright = np.array([256, 160], np.float32)[:, None, None, None, None]
    return (uniform(f"{tag}/real", (C, n, size, size, 3)) * bright).astype(np.uint8)


def atom_weights(tag):
    w = uniform(f"{tag}/weights", (C, M)) + np.float32(0.2)
    return w / w.sum(1, keepdims=True)


def means(tag):
    return uniform(f"{tag}/means", (C, golden(tag)["features"].shape[-1]))


class Evaluated(NamedTuple):
    output: object
    terms: dict[str, Terms]
    losses: dict[str, jax.Array]
    gradients: dict[str, jax.Array]


@functools.cache
def evaluate(tag):
    """Forward pass, terms, losses and pixel gradients of every variant, compiled together."""
    apply, variables = model(tag)
    size, stored = MODELS[tag][1], golden(tag)
    variants = {name: s for name, s in VARIANTS.items() if (tag, name) in CASES}
    images = uniform(f"{tag}/synthetic", (C, M, size, size, 3)) * np.float32(3) - np.float32(1.5)
    points = uniform(f"{tag}/atoms", (C, M, stored["features"].shape[-1])) * np.float32(2)

    @jax.jit
    def run(variables, images, goals):
        output = apply(variables, images.reshape(C * M, *images.shape[2:]))
        values, losses, gradients = {}, {}, {}
        for name, settings in variants.items():

            def loss(images, settings=settings, goal=goals[name]):
                value = recover.terms(apply, variables, images, goal, settings)
                return recover.total(value, settings), value

            losses[name], pullback, values[name] = jax.vjp(loss, images, has_aux=True)
            (gradients[name],) = pullback(jnp.ones(C))
        return Evaluated(output, values, losses, gradients)

    layers = jax.eval_shape(apply, variables, images[0]).moments
    goals = {}
    for name, settings in variants.items():
        real = split(tag, stored[f"real_{settings.moments}"])
        real = {layer: real[torch_name(layer.split("/"))] for layer in layers}
        goals[name] = Goal(LABELS, Measure(points, atom_weights(tag)), means(tag), real, stored["feature_variance"])
    return run(variables, images, goals)


@functools.cache
def forward_real(tag, n):
    apply, variables = model(tag)
    images = real_pixels(tag, n)
    images = normalise(NORM, images.reshape(C * n, *images.shape[2:]))
    return jax.jit(apply)(variables, images)


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["resnet18_small", "resnet18_imagenet"])
def test_resnet18_forward(tag):
    output = evaluate(tag).output
    close(output.features, golden(tag)["features"])
    close(output.logits, golden(tag)["logits"])


@pytest.mark.slow
def test_resnet50_forward_and_moments():
    output, n = forward_real("resnet50", 2), 2
    stored = golden("resnet50")
    close(output.features, stored["features"])
    close(output.logits, stored["logits"])
    rows = jax.tree.map(lambda x: x.reshape(C, n, -1), output.moments)
    of_class = {name: pool(layer, jnp.ones((C, n))) for name, layer in rows.items()}
    of_all = {name: pool(layer, jnp.ones(C * n)) for name, layer in output.moments.items()}
    close_moments("resnet50", of_class, stored["real_class"])
    close_moments("resnet50", of_all, stored["real_global"])


@pytest.mark.slow
@pytest.mark.parametrize("tag, variant", CASES)
def test_moments_of_every_batchnorm_input(tag, variant):
    # E[x^2] - E[x]^2 over images and space there, the law of total variance here.
    weights = atom_weights(tag) if VARIANTS[variant].weighted_moments else np.ones((C, M), np.float32)
    moments = evaluate(tag).output.moments
    if VARIANTS[variant].moments == "global":
        ours = {name: pool(layer, weights.reshape(-1)) for name, layer in moments.items()}
    else:
        rows = jax.tree.map(lambda x: x.reshape(C, M, -1), moments)
        ours = {name: pool(layer, weights) for name, layer in rows.items()}
    close_moments(tag, ours, golden(tag)[f"{variant}/moments"])


@pytest.mark.slow
@pytest.mark.parametrize("tag, variant", CASES)
def test_recover_loss_and_gradient(tag, variant):
    ours, stored = evaluate(tag), golden(tag)
    for term, truth in zip(ours.terms[variant], stored[f"{variant}/terms"]):
        close(term, truth)
    close(ours.losses[variant], stored[f"{variant}/loss"])
    close(ours.gradients[variant], stored[f"{variant}/gradient"])


@pytest.mark.parametrize("tag, variant", CASES)
def test_terms_are_the_papers_sums_over_stated_constants(tag, variant):
    stored, settings = golden(tag), VARIANTS[variant]
    real = split(tag, stored[f"real_{settings.moments}"])
    mean_scale = np.stack([np.sqrt(r.var.sum(-1)) for r in real.values()])
    var_scale = np.stack([np.sqrt(np.square(r.var).sum(-1)) for r in real.values()])
    plain_mean, plain_var = stored[f"{variant}/plain_moment"]
    feature = np.sqrt(stored[f"{variant}/plain_feature"] / (M * stored["feature_variance"]))
    moment = (plain_mean / mean_scale + plain_var / var_scale).mean(0)
    ours = evaluate(tag).terms[variant]
    close(ours.feature, feature)
    close(ours.moment, np.broadcast_to(moment, C))
    share = atom_weights(tag) if settings.weighted_moments else np.full((C, M), 1 / M)
    centre = (share[..., None] * stored["features"].reshape(C, M, -1).astype(np.float64)).sum(1)
    close(ours.mean, np.linalg.norm(centre - means(tag), axis=1) / np.sqrt(stored["feature_variance"]))


@pytest.mark.slow
def test_encode_streams_the_moments_of_real_images():
    # uint8 in, two batches cutting through a class, the second padded with images that must not count.
    tag, n = "convnet3", 5
    apply, variables = model(tag)
    pixels, stored = real_pixels(tag, n), golden(tag)
    pixels = pixels.reshape(C * n, *pixels.shape[2:])
    labels = np.repeat(np.arange(C, dtype=np.int32), n)
    rest = 2 * 7 - C * n
    second = np.concatenate([pixels[7:], np.full((rest, *pixels.shape[1:]), 255, np.uint8)])
    batches = [
        (pixels[:7], labels[:7], np.ones(7, np.float32)),
        (
            second,
            np.r_[labels[7:], np.zeros(rest, np.int32)],
            np.r_[np.ones(3), np.zeros(rest)].astype(np.float32),
        ),
    ]
    encoded = encode.encode(apply, variables, NORM, batches, C)
    # Features are the last map flattened, CHW there and HWC here.
    features = stored["features"].reshape(C * n, -1, 2, 2).transpose(0, 2, 3, 1).reshape(C * n, -1)
    close(encoded.features, features)
    close(forward_real(tag, n).logits, stored["logits"])
    np.testing.assert_array_equal(encoded.counts, [n, n])
    close_moments(tag, encoded.moments, stored["real_class"])
    close_moments(tag, encode.global_moments(encoded), stored["real_global"])
    close(encode.feature_variance(encoded.features), stored["feature_variance"])


def test_crop_resize_reads_what_grid_sample_reads():
    image, stored = uniform("crop_resize/image", (12, 10, 3)), golden("crop_resize")
    crop = jax.jit(augment.crop_resize)
    for (origin, size), seen in zip(stored["boxes"], stored["seen"]):
        close(crop(image, origin, size), seen)
