"""Atoms of the latent space to images: the same whatever the batches, and the autoencoder's alone without noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation, normalise, valid_range
from jaxdd.latent import Sampling, VAEConfig, autoencoder, decoding, unet
from jaxdd.latent.decoding import LatentModel, Pixels, decode, encoder, fitted, latent_shape
from jaxdd.latent.vae import RANGE

KEY, SHAPE = jax.random.key(3), (8, 8, 1)
FEW = Sampling(steps=4, strength=0.5, guidance=2.0)


@pytest.fixture(scope="module")
def norm():
    return Normalisation(np.array([0.3], np.float32), np.array([0.4], np.float32))


@pytest.fixture(scope="module")
def pixels(norm):
    return Pixels(norm, SHAPE)


@pytest.fixture(scope="module")
def atoms():
    return np.random.default_rng(0).normal(size=(3, 4, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def diffused(latent, pixels, atoms):
    return decode(KEY, latent, FEW, atoms, pixels)


@pytest.mark.slow
def test_features_are_the_flattened_latents(latent):
    images = normalise(RANGE, np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8))
    out = encoder(latent)(latent.vae_variables, images)
    mean = latent.autoencoder.encode(latent.vae_variables, images).mean
    assert latent_shape(latent) == mean.shape[1:] == (4, 4, 2)
    np.testing.assert_array_equal(out.features.reshape(mean.shape), mean)
    assert out.moments == {} and out.logits.shape == (5, 0)


@pytest.mark.slow
def test_without_strength_an_atom_is_decoded_as_it_is(latent, norm, pixels, atoms):
    images = decode(KEY, latent, replace(FEW, strength=0.0), atoms, pixels)
    plain = latent.autoencoder.decode(latent.vae_variables, atoms.reshape(12, 4, 4, 2))
    expected = np.clip((np.asarray(plain) + 1) / 2, 0, 1)
    np.testing.assert_allclose(images.reshape(12, *SHAPE) * norm.std + norm.mean, expected, atol=1e-5)
    # Then no denoiser is needed either.
    bare = latent._replace(denoiser=None, variables=None)
    np.testing.assert_array_equal(decode(KEY, bare, replace(FEW, strength=0.0), atoms, pixels), images)


def test_noise_moves_the_images_and_the_key_decides_how(latent, norm, pixels, atoms, diffused):
    assert diffused.shape == (3, 4, *SHAPE) and diffused.dtype == np.float32
    low, high = valid_range(norm)
    assert (diffused >= low - 1e-5).all() and (diffused <= high + 1e-5).all()
    np.testing.assert_array_equal(decode(KEY, latent, FEW, atoms, pixels), diffused)
    assert np.abs(decode(jax.random.key(4), latent, FEW, atoms, pixels) - diffused).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [5, 12])
def test_batches_of_any_size_make_the_same_images(latent, pixels, atoms, diffused, monkeypatch, batch_size):
    monkeypatch.setattr(decoding, "BATCH", batch_size)
    images = decode(KEY, latent, FEW, atoms, pixels)
    np.testing.assert_allclose(images, diffused, atol=1e-4)


@pytest.mark.slow
def test_little_memory_takes_one_at_a_time(latent, pixels, atoms, diffused):
    np.testing.assert_allclose(decode(KEY, latent, FEW, atoms, pixels, resources=Resources(1)), diffused, atol=1e-4)


@pytest.mark.slow
def test_batches_of_a_large_denoiser_leave_room_for_its_attention():
    net = unet.denoiser(unet.UNetConfig(), 10, jnp.bfloat16)
    config = VAEConfig(sample_size=512)
    images = autoencoder(config, jnp.bfloat16)
    variables = jax.eval_shape(lambda key: images.init(key, (512, 512, 3)), KEY)
    large = LatentModel(images, variables, (512, 512, 3), net, jax.eval_shape(net.init, KEY))
    logits = 2 * 8 * 4096**2 * 4  # float32, of both halves of guidance and 8 heads of 64 x 64 queries and keys
    sizes = {gib: decoding.batch_size(large, 100, 10, Resources(gib * 2**30)) for gib in (4, 16, 64)}
    # On a CPU no more than about ten.
    assert sizes == {gib: min(10, gib * 2**30 // (4 * logits)) for gib in sizes} and sizes[16] == 4
    # The same autoencoder alone decodes more at a time on a CPU: whole classes, about ten atoms.
    assert decoding.batch_size(large._replace(denoiser=None), 100, 10, Resources(16 * 2**30)) == 10


@pytest.mark.slow
def test_an_image_depends_on_its_own_class_and_place_only(latent, pixels, atoms, diffused):
    fewer = decode(KEY, latent, FEW, atoms[:2, :3], pixels)
    np.testing.assert_allclose(fewer, diffused[:2, :3], atol=1e-4)
    changed = atoms.copy()
    changed[1, 2] += 1.0
    images = decode(KEY, latent, FEW, changed, pixels)
    same = np.ones((3, 4), bool)
    same[1, 2] = False
    np.testing.assert_allclose(images[same], diffused[same], atol=1e-4)
    assert np.abs(images[1, 2] - diffused[1, 2]).max() > 1e-3


def test_labels_say_which_class_the_denoiser_knows(latent, pixels, atoms, diffused):
    as_they_are = decode(KEY, latent._replace(labels=np.arange(3)), FEW, atoms, pixels)
    np.testing.assert_array_equal(as_they_are, diffused)
    others = decode(KEY, latent._replace(labels=np.array([0, 7, 2])), FEW, atoms, pixels)
    np.testing.assert_allclose(others[[0, 2]], diffused[[0, 2]], atol=1e-4)
    assert np.abs(others[1] - diffused[1]).max() > 1e-4


def test_a_setting_that_does_not_exist_is_refused(latent, pixels, atoms):
    bare = latent._replace(denoiser=None, variables=None)
    assert "no denoiser" in message(lambda: decode(KEY, bare, FEW, atoms, pixels))
    assert "'euler'" in message(lambda: decode(KEY, latent, replace(FEW, sampler="euler"), atoms, pixels))


@pytest.mark.slow
def test_images_are_clipped_resized_and_recoloured():
    norm = Normalisation(np.float32([0.5, 0.5, 0.5]), np.float32([0.5, 0.5, 0.5]))
    x = np.random.default_rng(0).uniform(-2, 2, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(fitted(jnp.asarray(x), norm, (16, 16, 3)), np.clip(x, -1, 1), atol=1e-6)
    smaller = np.asarray(fitted(jnp.asarray(np.clip(x, -1, 1)), norm, (4, 4, 3)))
    assert smaller.shape == (2, 4, 4, 3)
    # An antialiased filter keeps a picture's mean but for its borders, and takes most of white noise away.
    np.testing.assert_allclose(smaller.mean((1, 2)), np.clip(x, -1, 1).mean((1, 2)), atol=0.08)
    assert smaller.std() < 0.5 * np.clip(x, -1, 1).std()
    flat = np.broadcast_to(np.float32([0.2, -0.4, 0.8]), (1, 8, 8, 3))
    np.testing.assert_allclose(fitted(jnp.asarray(flat), norm, (4, 4, 3)), flat[:, :4, :4], atol=1e-6)
    one = Normalisation(np.float32([0.5]), np.float32([0.5]))
    np.testing.assert_allclose(fitted(jnp.asarray(flat), one, (8, 8, 1)), np.full((1, 8, 8, 1), 0.2), atol=1e-6)
    np.testing.assert_allclose(
        fitted(jnp.asarray(flat[..., :1]), norm, (8, 8, 3)), np.full((1, 8, 8, 3), 0.2), atol=1e-6
    )
