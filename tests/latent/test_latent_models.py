"""The diffusion transformer and the autoencoder: what depends on what, and in which units."""

import math
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd.latent import DiTConfig, VAEConfig, autoencoder, dit, vae

KEY = jax.random.key(0)
# Four patches, three classes and the null class; the width is twice the numbers of a patch.
CONFIG = DiTConfig(2, 12, 2, 2, 3, 6, 4, 3)
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(variables, size, seed=0):
    """Every parameter drawn anew, those that start at zero too."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [(size * rng.normal(size=leaf.shape)).astype(np.float32) for leaf in leaves])


def differ(a, b, by=1e-3):
    """Whether each row of a is far from that of b."""
    return np.abs(np.asarray(a) - np.asarray(b)).reshape(len(a), -1).max(1) > by


# The transformer


@cache
def transformer():
    """Its initial variables, random ones, and a jitted apply."""
    model = dit.denoiser(CONFIG)
    variables = model.init(KEY)
    return variables, randomised(variables, 0.3), jax.jit(model.apply)


X, T, Y = normal(1, 5, 4, 4, 3), np.array([0, 10, 500, 999, 10]), np.array([0, 1, 2, 3, 1])


@pytest.mark.slow
def test_denoiser_says_what_it_takes():
    model = dit.denoiser(CONFIG)
    assert model.latent_shape == (4, 4, 3) and model.null == 3
    variables, _, apply = transformer()
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = jax.eval_shape(apply, variables, X, T, Y)
    assert out.shape == (5, 4, 4, 6) and out.dtype == jnp.float32


@pytest.mark.slow
def test_blocks_and_output_start_at_zero():
    variables, _, apply = transformer()
    np.testing.assert_array_equal(apply(variables, X, T, Y), 0)


@pytest.mark.slow
def test_output_depends_on_class_time_and_every_patch():
    _, variables, apply = transformer()
    same = lambda row: np.repeat(row[:1], 5, 0)
    x, t, y = same(X), same(T[1:]), same(Y)
    out = apply(variables, x, t, y)
    assert not np.any(differ(out[1:], out[:1]))
    by_class = apply(variables, x, t, np.array([0, 1, 2, 3, 3]))
    for first in range(3):
        assert np.all(differ(by_class[first + 1 : 4], by_class[first : first + 1]))
    by_time = apply(variables, x, np.array([0, 1, 2, 500, 999]), y)
    for first in range(4):
        assert np.all(differ(by_time[first + 1 :], by_time[first : first + 1]))
    # Rows 1 to 4 each have one patch changed; all of the output sees it.
    touched = x.copy()
    for row, (i, j) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)], 1):
        touched[row, i : i + 2, j : j + 2] += normal(row, 2, 2, 3)
    moved = np.abs(np.asarray(apply(variables, touched, t, y) - out))[1:]
    assert np.all(moved.max(-1) > 1e-4)


def test_attention_knows_where_a_patch_is():
    _, variables, apply = transformer()
    turned = np.roll(X, (2, 2), (1, 2))
    assert np.all(differ(np.roll(apply(variables, X, T, Y), (2, 2), (1, 2)), apply(variables, turned, T, Y)))


def test_each_row_is_on_its_own():
    _, variables, apply = transformer()
    out = apply(variables, X, T, Y)
    order = np.array([3, 0, 4, 1, 2])
    close(apply(variables, X[order], T[order], Y[order]), out[order])
    alone = np.arange(5) == 2
    others = apply(variables, np.where(alone[:, None, None, None], X, 7), np.where(alone, T, 3), np.where(alone, Y, 0))
    close(others[2], out[2])
    assert np.all(differ(others, out) != alone)


def with_parameter(variables, name, value):
    """The variables with one kernel replaced."""
    params = dict(variables["params"])
    params[name] = {**params[name], "kernel": jnp.asarray(value, jnp.float32)}
    return {"params": params}


def test_patches_come_back_pixel_for_pixel():
    # Blocks are the identity at first. Tokens of (x, -x), so large that positions vanish beside them, are only divided
    # by their root mean square; reading off the first half must give the patches of x so divided, each where it was.
    variables, _, apply = transformer()
    eye = np.eye(12)
    variables = with_parameter(variables, "pos_embed.proj", 1e5 * np.hstack([eye, -eye]))
    # Of the six channels of an output pixel, the first three are read off.
    read = np.pad(eye.reshape(12, 4, 3), ((0, 12), (0, 0), (0, 3))).reshape(24, 24)
    variables = with_parameter(variables, "proj_out_2", read)
    expected = np.zeros((5, 4, 4, 6))
    for i in (0, 2):
        for j in (0, 2):
            patch = X[:, i : i + 2, j : j + 2]
            root = np.sqrt(np.square(patch).mean((1, 2, 3), keepdims=True))
            expected[:, i : i + 2, j : j + 2, :3] = patch / root
    np.testing.assert_allclose(apply(variables, X, T, Y), expected, atol=1e-3)


def test_with_closed_gates_a_patch_stays_where_it_is():
    variables, random, apply = transformer()
    variables = with_parameter(variables, "proj_out_2", random["params"]["proj_out_2"]["kernel"])
    touched = X.copy()
    touched[:, :2, 2:] += 1
    moved = np.abs(np.asarray(apply(variables, touched, T, Y) - apply(variables, X, T, Y))).max((0, 3))
    assert np.all(moved[:2, 2:] > 1e-3)
    moved[:2, 2:] = 0
    np.testing.assert_array_equal(moved, 0)


def test_each_label_reads_its_own_embedding():
    _, variables, apply = transformer()
    name = "class_embedder.embedding_table"
    table = variables["params"][name]["embedding"]
    assert table.shape == (4, 24)
    out = apply(variables, X, T, Y)
    for label in range(4):
        other = table + normal(label, 24) * (np.arange(4) == label)[:, None]
        changed = apply({"params": {**variables["params"], name: {"embedding": other}}}, X, T, Y)
        np.testing.assert_array_equal(differ(changed, out), label == Y)


@pytest.mark.slow
def test_transformer_in_bfloat16_is_close():
    _, variables, apply = transformer()
    half = jax.jit(dit.denoiser(CONFIG, jnp.bfloat16).apply)
    exact, rough = apply(variables, X, T, Y), half(variables, X, T, Y)
    assert rough.dtype == jnp.float32
    apart = np.abs(np.asarray(rough - exact))
    assert 0 < apart.max() < 0.1 * np.abs(exact).max() and apart.mean() < 0.02 * np.abs(exact).mean()


# Peebles and Xie 2023, table 1 and section 4: layers, width, heads; millions of parameters at patch 2.
@pytest.mark.parametrize(
    "size, layers, width, heads, millions",
    [("S", 12, 384, 6, 33), ("B", 12, 768, 12, 130), ("L", 24, 1024, 16, 458), ("XL", 28, 1152, 16, 675)],
)
def test_named_sizes_are_those_of_the_paper(size, layers, width, heads, millions):
    config = dit.named(f"DiT-{size}/2", 1000, 32)
    assert (config.num_layers, config.width, config.num_attention_heads, config.patch_size) == (layers, width, heads, 2)
    assert (config.in_channels, config.out_channels, config.sample_size, config.num_embeds_ada_norm) == (4, 8, 32, 1000)
    shapes = jax.eval_shape(dit.DiT(config).init, KEY, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1, int), jnp.zeros(1, int))
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 / millions - 1) < 0.01
    assert size != "XL" or config == DiTConfig()


def test_named_takes_patch_classes_and_channels():
    config = dit.named("DiT-Ti/4", 10, 8, channels=2)
    assert (config.patch_size, config.num_embeds_ada_norm, config.sample_size) == (4, 10, 8)
    assert (config.in_channels, config.out_channels) == (2, 4)


@pytest.mark.parametrize("name", ["DiT-M/2", "S/2", "DiT-S", "DiT-S/", "DiT-S/0", "DiT-S/-2", "DiT-S/x", "UNet"])
def test_an_unknown_transformer_is_said(name):
    assert repr(name) in message(lambda: dit.named(name, 10, 8))


def test_patches_that_do_not_divide_are_said():
    text = message(lambda: dit.named("DiT-S/3", 10, 8))
    assert "DiT-S/3" in text and "8" in text


# The autoencoder

TOY = VAEConfig(3, 4, (8, 16), 1, 4, 1.0, 8)
IMAGES = np.random.default_rng(2).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)


@cache
def compiled(config, dtype=None):
    """Images to the posterior of their latents, and what its mean decodes to."""
    model = autoencoder(config, dtype)

    def run(variables, images):
        posterior = model.encode(variables, images)
        return posterior, model.decode(variables, posterior.mean)

    return jax.jit(run)


def initial(config, image_shape, dtype=None):
    """The shapes of its variables."""
    return jax.eval_shape(partial(autoencoder(config, dtype).init, image_shape=image_shape), KEY)


@cache
def weights():
    """Random, small enough not to blow up, and the same for every factor and dtype."""
    return randomised(initial(TOY, (8, 8, 3)), 0.2)


@pytest.mark.parametrize("widths, channels", [((8,), 1), ((8, 16), 3), ((4, 8, 8), 1), ((8, 8, 16, 16), 3)])
def test_latents_are_smaller_by_two_a_level(widths, channels):
    config = VAEConfig(channels, 5, widths, 1, 4)
    model, r = autoencoder(config), 2 ** (len(widths) - 1)
    assert config.reduction == r
    variables = initial(config, (16, 24, channels))
    images = jax.ShapeDtypeStruct((2, 16, 24, channels), jnp.float32)
    mean, log_variance = jax.eval_shape(model.encode, variables, images)
    assert mean.shape == log_variance.shape == (2, 16 // r, 24 // r, 5)
    assert jax.eval_shape(model.decode, variables, mean) == images


@pytest.mark.parametrize("side", [8, 32, 128])
def test_small_autoencoders_fit_their_images(side):
    config = vae.small((side, side, 1), 3)
    images = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    latents = jax.eval_shape(autoencoder(config).encode, initial(config, (side, side, 1)), images).mean
    assert latents.shape == (1, side // config.reduction, side // config.reduction, 3)
    assert latents.shape[1] >= 4


@pytest.mark.slow
def test_latents_are_scaled_and_decoded_from_that_scale():
    one, images = compiled(TOY)(weights(), IMAGES)
    scaled, same = compiled(replace(TOY, scaling_factor=0.18215))(weights(), IMAGES)
    close(scaled.mean, 0.18215 * one.mean)
    close(scaled.log_variance, one.log_variance + 2 * math.log(0.18215))
    close(same, images)
    assert np.abs(one.mean).max() > 0.1 and np.abs(images).max() > 0.1


@pytest.mark.slow
def test_log_variances_are_bounded():
    params = dict(weights()["params"])
    for bias, bound in ((-1e3, -30), (1e3, 20)):
        params["quant_conv"] = {**params["quant_conv"], "bias": np.full(8, bias, np.float32)}
        got, _ = compiled(TOY)({"params": params}, IMAGES)
        np.testing.assert_array_equal(got.log_variance, bound)
        assert np.all(np.abs(got.mean) > 100)


@pytest.mark.slow
def test_each_image_is_on_its_own():
    run = partial(compiled(TOY), weights())
    out, order = run(IMAGES), np.array([2, 0, 1])
    jax.tree.map(close, run(IMAGES[order]), jax.tree.map(lambda leaf: leaf[order], out))
    others = IMAGES.copy()
    others[1:] = 0
    changed = run(others)
    jax.tree.map(lambda a, b: close(a[0], b[0]), changed, out)
    assert all(np.all(differ(a[1:], b[1:])) for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(out)))


@pytest.mark.slow
def test_autoencoder_in_bfloat16_is_close():
    exact, rough = (compiled(TOY, dtype)(weights(), IMAGES) for dtype in (None, jnp.bfloat16))
    for expected, got in zip(jax.tree.leaves(exact), jax.tree.leaves(rough)):
        assert got.dtype == jnp.float32
        apart = np.abs(np.asarray(got - expected))
        assert 0 < apart.max() < 0.1 * np.abs(expected).max() and apart.mean() < 0.03 * np.abs(expected).mean()
    assert {leaf.dtype for leaf in jax.tree.leaves(initial(TOY, (8, 8, 3), jnp.bfloat16))} == {jnp.dtype("float32")}


def test_groups_that_do_not_divide_the_channels_are_said():
    text = message(lambda: autoencoder(VAEConfig(block_out_channels=(8, 12), norm_num_groups=8)))
    assert "12" in text and "8" in text
