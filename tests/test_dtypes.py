"""float32 stays float32 with jax_enable_x64, and every promotion of dtypes is stated: nothing here is compiled."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import nn
from jaxdd.data.augment import CROPS, MIXES, Augment, pipeline
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.latent import TinyConfig, VAEConfig, autoencoder, diffusion, dit, tiny, training, unet
from jaxdd.latent.clip import CLIPTextConfig, text_encoder
from jaxdd.latent.decoding import LatentModel
from jaxdd.latent.diffusion import Sampling, Schedule
from jaxdd.stages import encode
from jaxdd.stages.images import Diffusion, crops, together
from jaxdd.stages.images.recover import Goal, RecoverSettings, descent
from jaxdd.stages.relabel import forms
from jaxdd.stages.relabel.labelling import HardLabels, SoftLabels
from jaxdd.students import train

NORM = Normalisation(np.zeros(3, np.float32), np.ones(3, np.float32))


@pytest.fixture(autouse=True)
def mode():
    """Strict promotion raises an error wherever a dtype is left to chance, and 64 bits show in the results."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


def images(n=4, side=32):
    return jax.ShapeDtypeStruct((n, side, side, 3), jnp.float32)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def key():
    return jax.eval_shape(lambda: jax.random.key(0))


def traced(function, *arguments):
    """The results as shapes, none of them of 64 bits."""
    out = jax.eval_shape(lambda *arguments: function(*arguments), *arguments)
    wide = [leaf for leaf in jax.tree.leaves(out) if leaf.dtype in (jnp.float64, jnp.int64)]
    assert not wide, wide
    return out


@pytest.mark.parametrize(("crop", "mix"), itertools.zip_longest(CROPS, MIXES, fillvalue="none"))
def test_augmentation(crop, mix):
    traced(pipeline(Augment(crop=crop, mix=mix)), key(), images(), shape(4, 10))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_tiny", "swin_tiny"])
def test_models(name):
    model = nn.get(name, 10, 32, width=32, dtype="bfloat16")
    traced(model.apply, traced(lambda key: model.init(key, (32, 32, 3)), key()), images())


@pytest.mark.parametrize("optimizer", train.OPTIMIZERS)
def test_training(optimizer):
    model = nn.get("convnet3", 10, 32, width=8)
    soft = optimizer == "adamw"
    criterion = SoftLabels().criterion(model.apply) if soft else HardLabels(0.1).criterion()
    settings = train.TrainSettings(optimizer=optimizer, warmup=0.1, augment=Augment(mix="cutmix"))
    trainer = train.trainer(model, settings, 100, criterion, NORM)
    state = traced(lambda key: trainer.init(key, (32, 32, 3)), key())
    batch = shape(4, 32, 32, 3, dtype=jnp.uint8), shape(4, 10), shape(4)
    after, _ = traced(trainer.step, state, key(), *batch, state.variables if soft else None)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        RecoverSettings(roll=0.1, cross_entropy_weight=1.0, mean_weight=1.0, schedule="plateau"),
        RecoverSettings(moments="global", weighted_moments=False, scale="absolute", first_layer_weight=10.0),
    ],
)
def test_encoding_and_recovery(settings):
    model = nn.get("convnet3", 10, 32, width=8)
    variables = traced(lambda key: model.init(key, (32, 32, 3)), key())
    state = traced(lambda: encode.init(model.apply, variables_of(model), (32, 32, 3), 2))
    state, features = traced(partial(encode.step, model.apply), variables, state, images(),
                             shape(4, dtype=jnp.int32), shape(4))  # fmt: skip
    moments = jax.eval_shape(lambda state: state.moments, state)
    if not settings.per_class:
        moments = jax.tree.map(lambda x: shape(*x.shape[1:]), moments)
    d = features.shape[-1]
    goal = Goal(shape(2, dtype=jnp.int32), Measure(shape(2, 2, d), shape(2, 2)), shape(2, d), moments, shape())
    with jax.ensure_compile_time_eval():
        solver = descent.recovery(model.apply, jax.random.key(0), NORM, settings)
    start = traced(solver.init, shape(2, 2, 32, 32, 3))
    for count in (1, 2):
        after, _ = traced(partial(solver.step, count=count), variables, start, goal)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, start)


def variables_of(model):
    return jax.eval_shape(lambda key: model.init(key, (32, 32, 3)), key())


@pytest.mark.parametrize("form", ["float32", "float16", "int8", "topk"])
def test_stored_labels(form):
    settings = forms.LabelForm(form, 3)
    kept = traced(lambda logits: forms.encode(settings, logits, 2.0), shape(4, 10))
    traced(lambda kept: forms.decode(kept, 10), kept)


def test_crops():
    traced(lambda key: crops._boxes(key, 3, 2, 0.1), key())
    traced(crops._collage((16, 16)), shape(2, 4, 32, 32, 3), shape(2, 4, 2), shape(2, 4, 2))


@pytest.mark.slow
def test_latent_models():
    vae = autoencoder(VAEConfig(3, 4, (8, 16), 1, 8, 0.5, 32), jnp.bfloat16)
    weights = traced(lambda key: vae.init(key, (32, 32, 3)), key())
    traced(vae.decode, weights, traced(vae.encode, weights, images()).mean)
    least = tiny.autoencoder(TinyConfig(encoder_pools=(0, 0, 0, 8)), jnp.bfloat16)
    weights_of_least = traced(lambda key: least.init(key, (32, 32, 3)), key())
    traced(least.decode, weights_of_least, traced(least.encode, weights_of_least, images()).mean)
    step = training.vae_trainer(vae, training.VAETraining(), (32, 32, 3), True)
    state = traced(step.init, key())
    traced(step.step, state, key(), images(), shape(4, dtype=jnp.int32), shape(4), None)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 8,
              "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 8,
              "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 2}  # fmt: skip
    small = dit.denoiser(dit.DiTConfig(2, 8, 1, 2, 4, 8, 8, 10), jnp.bfloat16)
    latents, labels = shape(4, 8, 8, 4), shape(4, dtype=jnp.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    for net in (small, unet.denoiser(unet.UNetConfig(sample_size=8, **blocks), 10, jnp.bfloat16)):
        weights = traced(net.init, key())
        loss = lambda w, k, x, y, net=net: diffusion.loss(net, w, Schedule(), k, x, y)
        traced(loss, weights, key(), latents, labels)
        for sampler in ("ddim", "ddpm"):
            sampling = Sampling(steps=5, strength=0.7, guidance=3.0, sampler=sampler)
            sample = lambda w, k, x, y, net=net, how=sampling: diffusion.sample(net, w, Schedule(), how, k, x, y)
            traced(sample, weights, keys, latents, labels)
    whole = LatentModel(vae, {}, (64, 64, 3), small, traced(small.init, key()))
    guided = Diffusion(steps=5, transport=0.5, per_atom=2, candidates=2)
    program = together.program(whole, guided, (4, 6), together.Sizes(1, 3), parallel.mesh(jax.devices()[:1]))
    traced(program.function, *program.arguments)
    trainer = training.dit_trainer(small, Schedule(), training.DiTTraining())
    traced(trainer.step, traced(trainer.init, key()), key(), latents, labels, shape(4), None)
    text = text_encoder(CLIPTextConfig(11, 8, 16, 1, 2, 7), jnp.bfloat16)
    traced(text.apply, traced(text.init, key()), shape(2, 7, dtype=jnp.int32))
