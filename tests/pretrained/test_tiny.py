"""Tiny autoencoders, as their files and a forward pass in float64 NumPy by the published description say."""

import os
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_helpers import close
from helpers import message
from safetensors.numpy import load_file, save_file

from jaxdd import data, pretrained
from jaxdd.ground.normalise import normalise
from jaxdd.latent import TinyConfig, tiny
from jaxdd.latent.vae import RANGE

# In small: eight channels, two levels below the first, five channels of latents, a pool of twelve in the deepest level.
SMALL = TinyConfig(3, 5, 8, (1, 2, 1), (2, 1, 1), (0, 0, 12), (12, 0, 0))
PLAIN = TinyConfig(3, 4, 8, (1, 2, 1), (2, 1, 1), (0, 0, 0), (0, 0, 0))
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)


def sequence(config):
    """The layers of encoder and decoder in the published order: kind, and channels, stride or channels of the pool."""
    c = config
    encoder, decoder = [], ["clamp", ("conv", c.width, c.latent_channels, 1, True), "relu"]
    for level, (blocks, pool) in enumerate(zip(c.encoder_blocks, c.encoder_pools)):
        encoder += [("conv", c.width, c.width if level else c.in_channels, 2 if level else 1, not level)]
        encoder += [("block", pool)] * blocks
    for level, (blocks, pool) in enumerate(zip(c.decoder_blocks, c.decoder_pools)):
        decoder += ["upsample", ("conv", c.width, c.width, 1, False)] if level else []
        decoder += [("block", pool)] * blocks
    return {
        "encoder": [*encoder, ("conv", c.latent_channels, c.width, 1, True)],
        "decoder": [*decoder, ("conv", c.in_channels, c.width, 1, True)],
    }


@cache
def arrays(config):
    """Random arrays with the published names, {part: {name: [out, in, h, w] or [out]}}."""
    rng, parts = np.random.default_rng(1), {}
    draw = lambda *shape: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    for part, layers in sequence(config).items():
        held = parts[part] = {}
        for place, layer in enumerate(layers):
            if layer[0] == "conv":
                _, out, into, _, has_bias = layer
                held[f"{place}.weight"] = draw(out, into, 3, 3)
                held |= {f"{place}.bias": 0.1 * draw(out)} if has_bias else {}
            elif layer[0] == "block":
                for i in (0, 2, 4):
                    held[f"{place}.conv.{i}.weight"] = draw(config.width, config.width, 3, 3)
                    held[f"{place}.conv.{i}.bias"] = 0.1 * draw(config.width)
                if layer[1]:
                    held[f"{place}.pool.0.weight"] = draw(layer[1], config.width, 1, 1)
                    held[f"{place}.pool.1.weight"] = 1 + 0.1 * draw(layer[1])
                    held[f"{place}.pool.1.bias"] = 0.1 * draw(layer[1])
                    held[f"{place}.pool.3.weight"] = draw(config.width, layer[1], 1, 1)
    return parts


@pytest.fixture
def put(tmp_path):
    """Writes both files, with changes to the arrays of one part, and returns their folder."""

    def write(config=SMALL, names=("encoder", "decoder"), **changes):
        for part, name in zip(("encoder", "decoder"), names):
            held = arrays(config)[part] | changes.get(part, {})
            save_file({k: v for k, v in held.items() if v is not None}, tmp_path / f"{name}.safetensors")
        return tmp_path

    return write


def convolved(x, weight, bias=None, stride=1):
    """The cross-correlation of x [N, c, h, w], with zeros around it: a sum over the taps of the kernel."""
    side = weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    height, width = ((n - side) // stride + 1 for n in x.shape[2:])
    out = np.zeros((len(x), len(weight), height, width))
    for i in range(side):
        for j in range(side):
            seen = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            out += np.einsum("nchw,oc->nohw", seen, weight[:, :, i, j])
    return out if bias is None else out + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def pooled(x, held, name):
    y = convolved(x, held[f"{name}.pool.0.weight"])
    groups = y.reshape(len(y), 4, -1)
    groups = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    scale, shift = (held[f"{name}.pool.1.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return x + convolved(relu(groups.reshape(y.shape) * scale + shift), held[f"{name}.pool.3.weight"])


def forward(config, part, x):
    """The layers of a part one after the other, x [N, c, h, w] in float64."""
    held = {name: array.astype(np.float64) for name, array in arrays(config)[part].items()}
    for place, layer in enumerate(sequence(config)[part]):
        if layer == "clamp":
            x = 3 * np.tanh(x / 3)
        elif layer == "relu":
            x = relu(x)
        elif layer == "upsample":
            x = x.repeat(2, 2).repeat(2, 3)
        elif layer[0] == "conv":
            x = convolved(x, held[f"{place}.weight"], held.get(f"{place}.bias"), layer[3])
        else:
            x = pooled(x, held, place) if layer[1] else x
            y = x
            for i in (0, 2, 4):
                y = convolved(relu(y) if i else y, held[f"{place}.conv.{i}.weight"], held[f"{place}.conv.{i}.bias"])
            x = relu(y + x)
    return x


@cache
def compiled(config):
    model = tiny.autoencoder(config)
    return jax.jit(model.encode), jax.jit(model.decode)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_it_computes_what_is_published(put, config):
    loaded = pretrained.tiny(put(config))
    assert loaded.config == config and config.reduction == 4
    encode, decode = compiled(config)
    posterior = encode(loaded.variables, normalise(RANGE, IMAGES))
    truth = forward(config, "encoder", IMAGES.transpose(0, 3, 1, 2) / 255)
    assert posterior.mean.shape == (2, 4, 6, config.latent_channels) and posterior.mean.dtype == jnp.float32
    close(posterior.mean, truth.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(posterior.log_variance, -30)
    # Latents so large that they are clamped.
    latents = 3 * np.random.default_rng(2).normal(size=truth.shape)
    images = decode(loaded.variables, latents.transpose(0, 2, 3, 1).astype(np.float32))
    close((images + 1) / 2, forward(config, "decoder", latents).transpose(0, 2, 3, 1))


def test_bfloat16_is_close_and_its_results_are_float32(put):
    variables = pretrained.tiny(put(PLAIN)).variables
    half = tiny.autoencoder(PLAIN, jnp.bfloat16)
    images = normalise(RANGE, IMAGES)
    rough, exact = jax.jit(half.encode)(variables, images).mean, compiled(PLAIN)[0](variables, images).mean
    assert rough.dtype == jnp.float32
    apart = np.abs(np.asarray(rough - exact))
    assert 0 < apart.max() < 0.2 * np.abs(exact).max() and apart.mean() < 0.05 * np.abs(exact).mean()


def test_the_default_sizes_are_taesds():
    """1.22 million parameters of each half, of which TAESD's authors speak."""
    model = tiny.autoencoder(TinyConfig())
    shapes = jax.eval_shape(lambda key: model.init(key, (8, 8, 3)), jax.random.key(0))["params"]
    assert {part: sum(leaf.size for leaf in jax.tree.leaves(shapes[part])) for part in shapes} == {
        "encoder": 1_222_532,
        "decoder": 1_222_531,
    }
    assert TinyConfig().reduction == 8


def test_what_is_written_is_read_again(put, tmp_path):
    loaded = pretrained.tiny(put())
    pretrained.save_tiny(tmp_path / "again", *loaded)
    for part in ("encoder", "decoder"):
        written = load_file(tmp_path / "again" / f"{part}.safetensors")
        assert written.keys() == arrays(SMALL)[part].keys()
        for name, array in arrays(SMALL)[part].items():
            np.testing.assert_array_equal(written[name], array)
    wrong = {"params": {"encoder": loaded.variables["params"]["encoder"]}}
    assert "do not fit" in message(lambda: pretrained.save_tiny(tmp_path / "x", SMALL, wrong))


def test_half_precision_is_read_as_float32(put):
    halves = {part: {k: v.astype(np.float16) for k, v in arrays(SMALL)[part].items()} for part in arrays(SMALL)}
    kernel = pretrained.tiny(put(**halves)).variables["params"]["decoder"]["6"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), halves["decoder"]["6.weight"])


def test_each_layout_of_an_autoencoder_is_recognised(put, tmp_path):
    place = put(names=("taesd_encoder", "taesd_decoder"))
    # The same hub repository also has diffusers' layout, of another class, which is not read.
    (place / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    config, variables = pretrained.autoencoder(place)
    assert config == SMALL and pretrained.build(config) is tiny.autoencoder(SMALL, None)
    whole = tmp_path / "whole"
    pretrained.save_autoencoder(whole / "vae", config, variables)
    jax.tree.map(np.testing.assert_array_equal, pretrained.autoencoder(whole).variables, variables)
    assert "AutoencoderTiny" in message(lambda: pretrained.vae(place))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in message(lambda: pretrained.autoencoder(empty))


BLOCK = {f"4.conv.{i}.{kind}": None for i in (0, 2, 4) for kind in ("weight", "bias")}
WRONG = {
    "a name of something else": ({"encoder": {"quant_conv.weight": np.zeros((2, 2), np.float32)}}, "quant_conv.weight"),
    "no last convolution": ({"encoder": {"7.weight": None, "7.bias": None}}, "cbcbbcb"),
    "a block too few": ({"decoder": BLOCK}, "do not fit the model"),
    "one array too few": ({"decoder": {"3.conv.2.bias": None}}, "missing 3.conv.2.bias"),
    "one pool too few": ({"decoder": {f"4.pool.{k}": None for k in ("0.weight", "1.weight", "1.bias", "3.weight")}},
                         "missing 4.pool.0.weight"),
    "a linear layer": ({"encoder": {"0.weight": np.zeros((8, 3), np.float32)}}, "0.weight"),
    "another side": ({"encoder": {"2.weight": np.zeros((8, 8, 5, 5), np.float32)}}, "wrong shape 2.weight"),
    "other latents": ({"decoder": {"1.weight": np.zeros((8, 4, 3, 3), np.float32)}}, "wrong shape 1.weight"),
    "other groups": ({"encoder": {"6.pool.0.weight": np.zeros((10, 8, 1, 1), np.float32)}}, "10 channels"),
    "no number": ({"encoder": {"0.bias": np.full(8, np.nan, np.float32)}}, "0.bias has NaN"),
    "whole numbers": ({"encoder": {"0.bias": np.zeros(8, np.int32)}}, "0.bias' has dtype I32"),
    "no layers": ({"decoder": dict.fromkeys(arrays(SMALL)["decoder"]) | {"x": np.zeros(1, np.float32)}}, "other names"),
}  # fmt: skip


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_said_in_a_line(put, change, words):
    place = put(**change)
    text = message(lambda: pretrained.tiny(place))
    assert words in text and str(place) in text and "\n" not in text


def test_files_that_are_missing_or_doubled_or_of_two_models_are_said(put, tmp_path):
    assert "no encoder.safetensors" in message(lambda: pretrained.tiny(tmp_path))
    place = put()
    other = {"decoder": arrays(replace(PLAIN, decoder_blocks=(1, 1), decoder_pools=(0, 0)))["decoder"]}
    dropped = dict.fromkeys(arrays(SMALL)["decoder"])
    assert "encoder has 3 levels and the decoder 2" in message(
        lambda: pretrained.tiny(put(decoder=dropped | other["decoder"]))
    )
    put(names=("taesd_encoder", "taesd_decoder"))
    assert "encoder.safetensors, taesd_encoder.safetensors" in message(lambda: pretrained.tiny(place))


@pytest.mark.slow
@pytest.mark.skipif(
    not {"JAXDD_DATA", "JAXDD_TAESD"} <= os.environ.keys(),
    reason="JAXDD_DATA names no folder of datasets, or JAXDD_TAESD no tiny autoencoder of 32 channels",
)
@pytest.mark.parametrize("side, expected", [(64, 27.1), (128, 29.8)])
def test_published_weights_restore_photographs(side, expected):
    source = data.load(os.path.join(os.environ["JAXDD_DATA"], "imagenette"), image_size=side)
    config, variables = pretrained.autoencoder(os.environ["JAXDD_TAESD"])
    assert config == TinyConfig(3, 32, 64, (1, 3, 3, 3), (3, 3, 3, 1), (0, 0, 0, 256), (256, 0, 0, 0))
    model = pretrained.build(config)

    @jax.jit
    def seen(images):
        latents = model.encode(variables, images).mean
        restored = jnp.clip(model.decode(variables, latents), -1, 1)
        return latents, 10 * jnp.log10(4 / jnp.square(restored - images).mean((1, 2, 3)))

    rows = np.linspace(0, len(source.labels["test"]) - 1, 160).astype(int).reshape(-1, 32)
    latents, psnr = zip(*(seen(normalise(RANGE, source.read("test", some))) for some in rows))
    mean, spread = np.mean(psnr), np.std(latents)
    print(f"{side} pixels: {mean:.2f} dB, standard deviation of the latents {spread:.2f}")
    assert latents[0].shape == (32, side // 8, side // 8, 32) and 0.8 < spread < 1.0
    assert abs(mean - expected) < 0.5
