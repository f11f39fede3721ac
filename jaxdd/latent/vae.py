"""The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752, section 3.1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.promotion import standard
from jaxdd.ground.settings import CHANNELS, LEVEL_LAYERS, LEVELS, SIDE, Bounds, bounded
from jaxdd.latent.blocks import Downsample, ImageAttention, ResnetBlock, Upsample, conv1, conv3
from jaxdd.nn.classifier import Variables

_EPS = 1e-6
# The images of the autoencoder lie in [-1, 1].
RANGE = Normalisation(np.array([0.5], np.float32), np.array([0.5], np.float32))


@dataclass(frozen=True)
class VAEConfig:
    """Sizes, with the field names of published JSON files; the defaults are Stable Diffusion."""

    in_channels: int = bounded(3, CHANNELS)
    latent_channels: int = bounded(4, CHANNELS)
    block_out_channels: tuple[int, ...] = bounded((128, 256, 512, 512), LEVELS)
    """Channels of each level. Every level but the last halves the resolution."""
    layers_per_block: int = bounded(2, LEVEL_LAYERS)
    norm_num_groups: int = bounded(32, CHANNELS)
    scaling_factor: float = bounded(0.18215, Bounds(1e-6, 1e6))
    """The factor from the mean of the encoder to a latent, which makes the variance of latents about one."""
    sample_size: int = bounded(512, SIDE)
    """Side of the training images."""

    @property
    def reduction(self) -> int:
        """The ratio of the side of an image to that of its latent."""
        return 2 ** (len(self.block_out_channels) - 1)


def small(image_shape: tuple[int, int, int], latent_channels: int = 4) -> VAEConfig:
    """The sizes of an autoencoder that can be trained in minutes on a CPU.

    The side of the latents is half that of the images below 16 pixels, a quarter below 128, and an eighth otherwise.

    Raises:
      InputError: a side that is not divisible by that ratio.
    """
    side = image_shape[0]
    channels = (32, 64) if side < 16 else (16, 32, 64) if side < 128 else (16, 32, 64, 64)
    if side % 2 ** (len(channels) - 1):
        raise InputError(
            f"images of {side} pixels cannot be halved {len(channels) - 1} times; use another `image_size`"
        )
    return VAEConfig(image_shape[2], latent_channels, channels, 1, 8, 1.0, side)


class Gaussian(NamedTuple):
    """A diagonal normal distribution: mean and log variance, [N, h, w, c] each."""

    mean: jax.Array
    log_variance: jax.Array


class Autoencoder(NamedTuple):
    """Pure functions between images [N, H, W, C] in [-1, 1] and scaled latents [N, H / r, W / r, c], r = 2^(levels-1).

    Attributes:
      init: (key, image_shape) -> variables.
      encode: (variables, images) -> the posterior of the scaled latents; its mean is the latent.
      decode: (variables, latents) -> images, which are not clipped.
    """

    init: Callable[[jax.Array, tuple[int, int, int]], Variables]
    encode: Callable[[Variables, jax.Array], Gaussian]
    decode: Callable[[Variables, jax.Array], jax.Array]


@cache
def autoencoder(config: VAEConfig, dtype: jnp.dtype | None = None) -> Autoencoder:
    """The autoencoder of these sizes; ``dtype`` is the dtype of activations, and parameters are float32.

    Raises:
      InputError: channels that are not divisible by the number of normalisation groups.
    """
    for channels in config.block_out_channels:
        if channels % config.norm_num_groups:
            raise InputError(f"{channels} channels do not divide into {config.norm_num_groups} groups; change either")
    module = AutoencoderKL(config, dtype)
    shift = 2 * math.log(config.scaling_factor)

    compiled, applied = standard(jax.jit(module.init)), standard(module.apply)

    def init(key, image_shape):
        return compiled(key, jnp.zeros((1, *image_shape), jnp.float32))

    def encode(variables, images):
        mean, log_variance = applied(variables, images, method="encode")
        return Gaussian(config.scaling_factor * mean, log_variance + shift)

    def decode(variables, latents):
        return applied(variables, latents / config.scaling_factor, method="decode")

    return Autoencoder(init, encode, decode)


class AutoencoderKL(nn.Module):
    """Encoder, decoder, and the 1x1 convolutions before and after the unscaled latents."""

    config: VAEConfig
    dtype: jnp.dtype | None = None

    def setup(self):
        c = self.config
        self.encoder = Encoder(c, self.dtype)
        self.decoder = Decoder(c, self.dtype)
        self.quant_conv = conv1(2 * c.latent_channels, dtype=self.dtype)
        self.post_quant_conv = conv1(c.latent_channels, dtype=self.dtype)

    def __call__(self, images):
        return self.decode(self.encode(images)[0])

    def encode(self, images):
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents):
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


class Encoder(nn.Module):
    config: VAEConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        c = self.config
        x = conv3(c.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        for level, channels in enumerate(c.block_out_channels):
            last = level == len(c.block_out_channels) - 1
            x = Level(channels, c.layers_per_block, c.norm_num_groups, "" if last else "downsamplers.0", self.dtype,
                      name=f"down_blocks.{level}")(x)  # fmt: skip
        x = Middle(c.norm_num_groups, self.dtype, name="mid_block")(x)
        return _head(x, 2 * c.latent_channels, c.norm_num_groups, self.dtype)


class Decoder(nn.Module):
    config: VAEConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        c = self.config
        x = conv3(c.block_out_channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = Middle(c.norm_num_groups, self.dtype, name="mid_block")(x)
        for level, channels in enumerate(reversed(c.block_out_channels)):
            last = level == len(c.block_out_channels) - 1
            x = Level(channels, c.layers_per_block + 1, c.norm_num_groups, "" if last else "upsamplers.0", self.dtype,
                      name=f"up_blocks.{level}")(x)  # fmt: skip
        return _head(x, c.in_channels, c.norm_num_groups, self.dtype)


class Level(nn.Module):
    """Residual blocks, then a layer named ``resize`` that changes the resolution; none if it is empty."""

    channels: int
    layers: int
    groups: int
    resize: str
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        for i in range(self.layers):
            x = ResnetBlock(self.channels, self.groups, _EPS, self.dtype, name=f"resnets.{i}")(x)
        if self.resize == "downsamplers.0":
            # Padding on one side, as in the training of published weights.
            x = Downsample(self.channels, (0, 1), self.dtype, name=self.resize)(x)
        elif self.resize:
            x = Upsample(self.channels, self.dtype, name=self.resize)(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    groups: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        x = ResnetBlock(x.shape[-1], self.groups, _EPS, self.dtype, name="resnets.0")(x)
        x = ImageAttention(self.groups, _EPS, self.dtype, name="attentions.0")(x)
        return ResnetBlock(x.shape[-1], self.groups, _EPS, self.dtype, name="resnets.1")(x)


def _head(x, channels, groups, dtype):
    x = nn.silu(nn.GroupNorm(groups, epsilon=_EPS, dtype=dtype, name="conv_norm_out")(x))
    return conv3(channels, dtype=dtype, name="conv_out")(x)
