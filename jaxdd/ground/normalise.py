"""Conversion between uint8 pixels, as datasets and files hold them, and the normalised float32 of the computations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Array


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of the data in [0, 1] units, each [C]."""

    mean: Array
    std: Array


def normalise(norm: Normalisation, images: Array) -> Array:
    """x = (u / 255 - mean) / std for uint8 images [..., H, W, C]; floating images pass through unchanged."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return (images.astype(jnp.float32) / 255.0 - norm.mean) / norm.std


def denormalise(norm: Normalisation, images: Array) -> jax.Array:
    """The nearest uint8 image: u = round(255 clip(x std + mean, 0, 1)) for normalised images x [..., H, W, C]."""
    return jnp.round(255.0 * jnp.clip(images * norm.std + norm.mean, 0.0, 1.0)).astype(jnp.uint8)


def valid_range(norm: Normalisation) -> tuple[Array, Array]:
    """The normalised values of black and white, [C] each."""
    return (0.0 - norm.mean) / norm.std, (1.0 - norm.mean) / norm.std
