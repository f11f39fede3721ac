"""Parity with diffusers and transformers at 1e-4 in float32, from files as those libraries write them.

The checkpoints and references in golden/latent come from golden/make_latent_golden.py, in float64. Inputs are not
stored: both sides draw each array from its name.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_helpers import HERE, close, uniform

from jaxdd import pretrained
from jaxdd.ground.errors import InputError
from jaxdd.latent import clip, diffusion, dit, unet, vae
from jaxdd.latent.diffusion import STABLE_DIFFUSION, Denoiser, Sampling, Schedule

FOLDER = HERE / "latent"
TIMES = np.array([0, 500, 999], np.int32)
SCHEDULES = {"linear": Schedule(), "scaled_linear": replace(STABLE_DIFFUSION, prediction_type="v_prediction")}
TEN = Sampling(steps=10, strength=0.7, guidance=1.0)


@functools.cache
def golden():
    with np.load(FOLDER / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


def normal(name, shape):
    """Box and Muller's, of two uniform draws."""
    u, v = (uniform(f"{name}/{part}", shape).astype(np.float64) for part in "uv")
    return (np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)).astype(np.float32)


@pytest.mark.slow
def test_autoencoder_parity():
    config, variables = pretrained.vae(FOLDER)
    model = vae.autoencoder(config)
    posterior = jax.jit(model.encode)(variables, normal("vae/images", (2, 16, 24, 3)))
    close(posterior.mean / config.scaling_factor, golden()["vae/mean"])
    close(np.exp(posterior.log_variance) / config.scaling_factor**2, np.exp(golden()["vae/logvar"]))
    latents = config.scaling_factor * normal("vae/latents", (2, 4, 6, 4))
    close(jax.jit(model.decode)(variables, latents), golden()["vae/decoded"])


@pytest.mark.slow
def test_dit_parity():
    config, variables = pretrained.dit(FOLDER)
    model = dit.denoiser(config)
    labels = np.array([0, 3, model.null], np.int32)
    close(jax.jit(model.apply)(variables, normal("dit/x", (3, 8, 8, 4)), TIMES, labels), golden()["dit/out"])


@pytest.mark.slow
def test_unet_parity():
    config, variables = pretrained.unet(FOLDER)
    model = unet.denoiser(config, 2)
    variables = {**variables, "context": normal("unet/context", (3, 6, 8))}
    labels = np.array([model.null, 0, 1], np.int32)
    close(jax.jit(model.apply)(variables, normal("unet/x", (3, 8, 8, 4)), TIMES, labels), golden()["unet/out"])


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_text_encoder_parity(act):
    config, variables = pretrained.text_encoder(FOLDER)
    assert config.hidden_act == "quick_gelu"
    model = clip.text_encoder(replace(config, hidden_act=act))
    tokens = (uniform("clip/tokens", (3, 7)) * 50).astype(np.int32)
    close(jax.jit(model.apply)(variables, tokens), golden()[f"clip/{act}"])


@pytest.mark.slow
def test_text_encoder_sees_no_future():
    config, variables = pretrained.text_encoder(FOLDER)
    tokens = (uniform("clip/tokens", (3, 7)) * 50).astype(np.int32)
    close(clip.text_encoder(config).apply(variables, tokens[:, :4]), golden()["clip/quick_gelu"][:, :4])


@pytest.mark.slow
@pytest.mark.parametrize("tag", SCHEDULES)
def test_ddim_parity_at_every_step(tag):
    """``sample`` starts from sqrt(a) start + sqrt(1 - a) noise: the start is chosen so that this is the stored x_T."""
    path, schedule, seen = golden()[f"{tag}/path"], SCHEDULES[tag], []

    def formula(variables, x, t, labels):
        seen.append((int(t[0]), np.asarray(x)))
        return jnp.tanh(x) * 0.5 + t[:, None, None, None] / 1000

    model = Denoiser(None, formula, (4, 4, 4), 0)
    keys = jax.random.split(jax.random.key(0), 2)
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(k, 0), (4, 4, 4)) for k in keys])
    a = diffusion.signal(schedule)[int(golden()[f"{tag}/times"][0])]
    start = (path[0] - np.sqrt(1 - a) * noise) / np.sqrt(a)
    with jax.disable_jit():
        last = diffusion.sample(model, {}, schedule, TEN, keys, start.astype(jnp.float32), jnp.zeros(2, jnp.int32))
    times, latents = zip(*seen)
    np.testing.assert_array_equal(times, golden()[f"{tag}/times"])
    close(np.stack([*latents, last]), path)


def test_schedule_as_written():
    assert pretrained.schedule(FOLDER) == SCHEDULES["scaled_linear"]


@pytest.mark.parametrize("tag", [*SCHEDULES, "ddpm"])
def test_noising_parity(tag):
    steps = diffusion.steps_of(SCHEDULES.get(tag, Schedule()), TEN)
    ours = diffusion.noised(normal(f"{tag}/clean", (2, 4, 4, 4)), normal(f"{tag}/noise", (2, 4, 4, 4)), steps.signal[0])
    close(ours, golden()[f"{tag}/path"][0])


def test_ddpm_parity_at_every_step():
    path, drawn = golden()["ddpm/path"], golden()["ddpm/drawn"]
    steps = diffusion.steps_of(Schedule(), TEN)
    np.testing.assert_array_equal(steps.times, golden()["ddpm/times"])
    for i, (t, a, after) in enumerate(zip(*steps)):
        x = path[i]
        clean, _ = diffusion.clean_and_noise(x, np.tanh(x) * 0.5 + t / 1000, a, "epsilon")
        least, largest = diffusion.reverse_variance(a, after)
        share = (np.sin(x) + 1) / 2
        spread = np.exp(0.5 * (share * largest + (1 - share) * least)) if t else 0.0
        close(diffusion.reverse_mean(x, clean, a, after) + spread * drawn[i], path[i + 1])


@pytest.mark.slow
def test_published_sizes():
    """Of Stable Diffusion v1.5 and DiT-XL/2, by the number of parameters; nothing is computed."""
    key, latent = jax.random.key(0), jnp.float32

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    def shapes(*of):
        return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in of]

    for model, out, parameters in (
        # The DiT's published count also has its fixed position embeddings.
        (dit.denoiser(dit.DiTConfig(), jnp.bfloat16), 8, 675_129_632 - 256 * 1152),
        (unet.denoiser(unet.UNetConfig(), 1000, jnp.bfloat16), 4, 859_520_964),
    ):
        variables = jax.eval_shape(model.init, key)
        assert count(variables["params"]) == parameters
        step = shapes(((2, *model.latent_shape), latent), ((2,), jnp.int32), ((2,), jnp.int32))
        output = jax.eval_shape(model.apply, variables, *step)
        assert output.shape == (2, *model.latent_shape[:2], out) and output.dtype == jnp.float32
    assert variables["context"].shape == (1001, 77, 768)

    text = clip.text_encoder(clip.CLIPTextConfig())
    variables = jax.eval_shape(text.init, key)
    assert count(variables) == 123_060_480
    assert jax.eval_shape(text.apply, variables, *shapes(((2, 77), jnp.int32))).shape == (2, 77, 768)

    model = vae.autoencoder(vae.VAEConfig())
    variables = jax.eval_shape(lambda k: model.init(k, (512, 512, 3)), key)
    assert count(variables) == 83_653_863
    posterior = jax.eval_shape(model.encode, variables, *shapes(((1, 512, 512, 3), jnp.float32)))
    assert posterior.mean.shape == posterior.log_variance.shape == (1, 64, 64, 4)
    assert jax.eval_shape(model.decode, variables, posterior.mean).shape == (1, 512, 512, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ("AttnDownBlock2D",) * 4}, "AttnDownBlock2D"),
        ({"up_block_types": ("UpBlock2D",) * 3}, "3 up_block_types"),
        ({"norm_num_groups": 24}, "norm_num_groups 24"),
        ({"attention_head_dim": 7}, "attention_head_dim 7"),
        ({"in_channels": 9}, "out_channels 4"),
        ({"sample_size": 36}, "sample_size 36"),
    ],
)
def test_unet_refuses_what_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        unet.denoiser(replace(unet.UNetConfig(), **change), 10)


def test_text_encoder_refuses_what_does_not_fit():
    config = clip.CLIPTextConfig()
    with pytest.raises(InputError, match="relu"):
        clip.text_encoder(replace(config, hidden_act="relu"))
    with pytest.raises(InputError, match="5 heads"):
        clip.text_encoder(replace(config, num_attention_heads=5))
    with pytest.raises(InputError, match="78 tokens"):
        clip.text_encoder(config).apply({}, np.zeros((1, 78), np.int32))
