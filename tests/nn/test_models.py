"""Models as pure functions, and the algebra of BatchNorm moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxdd import nn
from jaxdd.ground.errors import InputError
from jaxdd.nn import batchnorm, convnet


def abstract(model, side, batch=2):
    variables = jax.eval_shape(lambda key: model.init(key, (side, side, 3)), jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    return variables, images


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "side", "features", "parameters"),
    [
        ("convnet3", 10, 32, 2048, 320_010),
        ("resnet18", 1000, 224, 512, 11_689_512),
        ("resnet34", 1000, 224, 512, 21_797_672),
        ("resnet50", 1000, 224, 2048, 25_557_032),
        ("resnet101", 1000, 224, 2048, 44_549_160),
    ],
)
def test_published_models_have_the_published_size(name, classes, side, features, parameters):
    model = nn.get(name, classes, side)
    variables, images = abstract(model, side)
    assert count(variables["params"]) == parameters
    out = jax.eval_shape(model.apply, variables, images)
    assert out.logits.shape == (2, classes)
    assert out.features.shape == (2, features)


@pytest.mark.slow
@pytest.mark.parametrize("name", nn.MODELS)
def test_every_model_gives_logits_features_and_one_moment_pair_for_each_norm(name):
    model = nn.get(name, 7, 64, width=4)
    variables, images = abstract(model, 64)
    out = jax.eval_shape(model.apply, variables, images)
    assert out.logits.shape == (2, 7) and out.logits.dtype == jnp.float32
    head = variables["params"]["head"]["kernel"]
    assert out.features.shape == (2, head.shape[0]) and out.features.dtype == jnp.float32
    scales = [
        x.shape[0]
        for path, x in jax.tree.leaves_with_path(variables["params"])
        if "'bn'" in str(path) and "'scale'" in str(path[-1])
    ]
    assert sorted(m.mean.shape[1] for m in out.moments.values()) == sorted(scales)
    assert all(m.mean.shape == m.var.shape == (2, m.mean.shape[1]) for m in out.moments.values())
    logits, updated = jax.eval_shape(model.apply_train, variables, images)
    assert logits.shape == (2, 7)
    assert jax.tree.structure(updated) == jax.tree.structure(variables)


def test_the_small_stem_keeps_the_resolution_and_the_imagenet_stem_quarters_it():
    small, large = (nn.get("resnet18", 5, side, width=4) for side in (64, 65))
    for model, side, kernel in ((small, 64, (3, 3, 3, 4)), (large, 65, (7, 7, 3, 4))):
        variables, _ = abstract(model, side)
        assert variables["params"]["conv1"]["kernel"].shape == kernel
    assert nn.get("resnet18", 5, 64, width=4) is small


@pytest.mark.parametrize(("typo", "near"), [("resnet81", "resnet18"), ("convnet-3", "convnet3"), ("vgg", "resnet50")])
def test_an_unknown_model_names_the_nearest(typo, near):
    with pytest.raises(InputError) as caught:
        nn.get(typo, 10, 32)
    assert repr(typo) in str(caught.value) and near in str(caught.value) and "\n" not in str(caught.value)


def test_images_too_small_for_the_depth_and_unknown_stems_are_refused():
    with pytest.raises(InputError, match="convnet5.*16 pixels"):
        nn.get("convnet5", 10, 16)
    nn.get("convnet4", 10, 16)
    with pytest.raises(InputError, match="stem 'tiny'"):
        nn.get("resnet18", 10, 32, stem="tiny")
    with pytest.raises(InputError, match="dtype 'float16' for resnet18; use bfloat16"):
        nn.get("resnet18", 10, 32, dtype="float16")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet3", "resnet18"])
def test_bfloat16_computes_in_bfloat16_what_float32_computes(name):
    wide, narrow = (nn.get(name, 7, 16, width=8, dtype=dtype) for dtype in (None, "bfloat16"))
    variables = drawn(lambda key: wide.init(key, (16, 16, 3)), 0)
    images = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
    jaxpr = jax.make_jaxpr(narrow.apply)(variables, images)
    convolutions = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) == {"convnet3": 3, "resnet18": 20}[name]
    assert all(v.aval.dtype == jnp.bfloat16 for e in convolutions for v in (*e.invars, *e.outvars))

    truth, got = (jax.jit(model.apply)(variables, images) for model in (wide, narrow))
    assert jax.tree.structure(got) == jax.tree.structure(truth)
    for want, ours in zip(jax.tree.leaves(truth), jax.tree.leaves(got)):
        assert ours.dtype == jnp.float32
        # A rounding is 0.4 % at most; after twenty layers of random signs a few such remain.
        assert np.linalg.norm(ours - want) < 0.03 * np.linalg.norm(want)

    same = lambda model: jax.eval_shape(lambda key: model.init(key, (16, 16, 3)), jax.random.key(0))
    assert same(narrow) == same(wide)
    logits, updated = jax.eval_shape(narrow.apply_train, variables, images)
    assert logits.dtype == jnp.float32 and {x.dtype for x in jax.tree.leaves(updated)} == {jnp.dtype(jnp.float32)}


# Moments. Shapes are fixed and groups are masks, so that everything is compiled once.

N, H, W, CH, K = 12, 3, 4, 2, 3


def brute(x, weights):
    """Mean and variance over every pixel of every image, a pixel carrying its image's weight, in float64."""
    pixels = x.astype(np.float64).reshape(len(x), -1, x.shape[-1])
    w = weights.astype(np.float64)[:, None, None] / pixels.shape[1]
    if not w.sum():
        return np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    w = w / weights.astype(np.float64).sum()
    mean = (w * pixels).sum((0, 1))
    return mean, (w * (pixels - mean) ** 2).sum((0, 1))


@jax.jit
def moments_in_every_way(x, weights, labels, mask):
    each = nn.image_moments(x)
    a, b = weights * mask, weights * (1 - mask)
    merged = nn.merge(nn.pool(each, a), a.sum(), nn.pool(each, b), b.sum())
    by_label = [nn.pool_by_label(each, w, labels, K) for w in (weights, a, b)]
    counts = [jax.ops.segment_sum(w, labels, K) for w in (a, b)]
    merged_by_label = nn.merge(by_label[1], counts[0], by_label[2], counts[1])
    return nn.pool(each, weights), merged, by_label[0], merged_by_label


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    hnp.arrays(np.float32, N, elements=st.sampled_from([0.0, 0.25, 1.0, 3.0])),
    hnp.arrays(np.int32, N, elements=st.integers(0, K - 1)),
    hnp.arrays(np.float32, N, elements=st.sampled_from([0.0, 1.0])),
    st.sampled_from([0.0, 1.0, 100.0]),
)
def test_pooled_moments_are_those_of_all_pixels_however_they_are_split(seed, weights, labels, mask, offset):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(N, H, W, CH)) + offset + 3 * rng.normal(size=(N, 1, 1, CH))).astype(np.float32)
    pooled, merged, by_label, merged_by_label = moments_in_every_way(x, weights, labels, mask)
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * (1 + offset)}
    for ours in (pooled, merged):
        for got, want in zip(ours, brute(x, weights)):
            np.testing.assert_allclose(got, want, **tolerance)
    for c in range(K):
        for ours in (by_label, merged_by_label):
            for got, want in zip(ours, brute(x, np.where(labels == c, weights, 0))):
                np.testing.assert_allclose(got[c], want, **tolerance)


@pytest.mark.slow
def test_a_model_hands_out_the_moments_of_the_input_of_its_norms():
    model = nn.get("convnet3", 4, 8, width=3)
    variables = model.init(jax.random.key(0), (8, 8, 2))
    x = jax.random.normal(jax.random.key(1), (5, 8, 8, 2))
    conv = variables["params"]["conv1"]
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, conv["kernel"], (1, 1), "SAME", dimension_numbers=dimensions) + conv["bias"]
    got = model.apply(variables, x).moments["norm1"]
    np.testing.assert_allclose(got.mean, np.mean(y, (1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.var, np.var(y, (1, 2)), rtol=1e-4, atol=1e-5)

    _, updated = model.apply_train(variables, x)
    running = updated["batch_stats"]["norm1"]["bn"]
    np.testing.assert_allclose(running["mean"], 0.1 * np.mean(y, (0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * np.var(y, (0, 1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_moments_do_not_keep_activations_alive():
    model, side, batch = nn.get("resnet18", 10, 32, width=8), 32, 64
    variables, images = abstract(model, side, batch)

    def temporary(apply):
        return jax.jit(apply).lower(variables, images).compile().memory_analysis().temp_size_in_bytes

    with_moments = temporary(model.apply)
    assert with_moments < 1.2 * temporary(lambda v, x: model.apply(v, x)[:2])
    # Five inputs of norms in each group (the first with the stem), with channels doubled and sides halved.
    inputs = sum(5 * batch * (side // 2**g) ** 2 * 8 * 2**g * 4 for g in range(4))
    assert with_moments < 0.7 * inputs


# The gradient of moments


def plain_moments(x):
    x = x.astype(jnp.float32)
    return nn.Moments(x.mean((1, 2)), x.var((1, 2)))


def pulled(function):
    return lambda x, bar: jax.vjp(function, x)[1](bar)[0]


def sharded(function):
    mesh = Mesh(np.array(jax.devices()[:1]), ("image",))
    return jax.shard_map(function, mesh=mesh, in_specs=P("image"), out_specs=P("image"))


def one_by_one(x, bar):
    return pulled(nn.image_moments)(x[None], jax.tree.map(lambda v: v[None], bar))[0]


@pytest.mark.parametrize(
    "gradient",
    [
        pytest.param(jax.jit(pulled(nn.image_moments)), id="jit"),
        pytest.param(jax.vmap(one_by_one), id="vmap"),
        pytest.param(pulled(jax.checkpoint(nn.image_moments)), id="checkpoint"),
        pytest.param(lambda *args: sharded(pulled(nn.image_moments))(*args), id="inside shard_map"),
        pytest.param(lambda *args: pulled(sharded(nn.image_moments))(*args), id="through shard_map"),
    ],
)
def test_the_gradient_of_moments_is_that_of_autodiff(gradient):
    keys = jax.random.split(jax.random.key(0), 3)
    x = 5 + jax.random.normal(keys[0], (N, H, W, CH))
    bar = nn.Moments(*(jax.random.normal(key, (N, CH)) for key in keys[1:]))
    zero = jnp.zeros((N, CH))
    for g in (bar, bar._replace(mean=zero), bar._replace(var=zero)):
        np.testing.assert_allclose(gradient(x, g), pulled(plain_moments)(x, g), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_moments_keeps_the_input_as_it_came_and_the_mean():
    x = jax.random.normal(jax.random.key(0), (N, H, W, CH)).astype(jnp.bfloat16)
    moments, pullback = jax.vjp(nn.image_moments, x)
    assert moments.mean.dtype == moments.var.dtype == jnp.float32
    kept = sorted((v.shape, str(v.dtype)) for v in jax.tree.leaves(pullback))
    assert kept == [((N, CH), "float32"), ((N, H, W, CH), "bfloat16")]
    assert pullback(moments)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("offset", [0.0, 1.0, -30.0, 1000.0])
def test_moments_in_one_pass_are_as_exact_as_bfloat16_activations(offset):
    values = np.random.default_rng(0).normal(size=(3, 24, 24, 5)) + offset
    x = jnp.asarray(values, jnp.bfloat16)
    exact, rounded = values.var((1, 2)), np.asarray(x, np.float64).var((1, 2))
    found = jax.jit(batchnorm._one_pass)(x)
    np.testing.assert_allclose(found.mean, np.asarray(x, np.float64).mean((1, 2)), rtol=1e-6, atol=1e-6)
    # A step of bfloat16 is 2^-8 of a number, and rounding to it adds up to a twelfth of its square to the variance.
    lost = (offset * 2.0**-8) ** 2 / 12
    assert np.abs(found.var - rounded).max() <= lost + 1e-5
    assert np.abs(rounded - exact).max() > 0.1 * lost
    two = jax.jit(batchnorm._two_passes)(x)
    np.testing.assert_allclose(two.var, rounded, rtol=1e-5)
    assert (found.var >= 0).all()


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 9, 2)])
def test_pooling_by_windows_is_pooling_by_a_reshape(shape):
    x = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    by_hand = np.asarray(x)[:, : shape[1] // 2 * 2, : shape[2] // 2 * 2]
    by_hand = (by_hand[:, ::2, ::2] + by_hand[:, 1::2, ::2] + by_hand[:, ::2, 1::2] + by_hand[:, 1::2, 1::2]) / 4
    for pool in (convnet._pooled_by_windows, convnet._pooled_by_reshape, convnet.average_pool_2x2):
        np.testing.assert_allclose(pool(x), by_hand, atol=1e-6)
