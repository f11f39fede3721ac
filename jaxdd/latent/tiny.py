"""The tiny autoencoders of the TAESD family (https://github.com/madebyollin/taesd): convolutions and little else.

Each was trained to encode and decode as the autoencoder of one large diffusion model does. Encoder and decoder are
deterministic, and an encoded image is the latent itself, at the scale of that diffusion model.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.ground.settings import CHANNELS, Bounds, bounded
from jaxdd.latent.blocks import conv1, conv3
from jaxdd.latent.vae import RANGE, Autoencoder, Gaussian

GROUPS = 4
"""The groups of every normalisation."""
_BLOCKS, _POOLS = Bounds(1, 8, longest=6), Bounds(0, CHANNELS.high, longest=6)
_CERTAIN = -30.0  # the least log variance of a `Gaussian` of the other autoencoders


@dataclass(frozen=True)
class TinyConfig:
    """Sizes; the defaults are TAESD, the member for Stable Diffusion's latents."""

    in_channels: int = bounded(3, CHANNELS)
    latent_channels: int = bounded(4, CHANNELS)
    width: int = bounded(64, CHANNELS)
    """Channels between the first and the last convolution."""
    encoder_blocks: tuple[int, ...] = bounded((1, 3, 3, 3), _BLOCKS)
    """Blocks of each level of the encoder. Every level but the first begins with halving the resolution."""
    decoder_blocks: tuple[int, ...] = bounded((3, 3, 3, 1), _BLOCKS)
    """Blocks of each level of the decoder. Every level but the first begins with doubling the resolution."""
    encoder_pools: tuple[int, ...] = bounded((0, 0, 0, 0), _POOLS)
    """Channels inside the pool of the blocks of each level; 0 for blocks without one."""
    decoder_pools: tuple[int, ...] = bounded((0, 0, 0, 0), _POOLS)

    sample_size: ClassVar[None] = None
    """No side of images is preferred: any multiple of the reduction will do."""

    @property
    def reduction(self) -> int:
        """The ratio of the side of an image to that of its latent."""
        return 2 ** (len(self.encoder_blocks) - 1)


def check(config: TinyConfig, where: str = "tiny autoencoder") -> None:
    """Raise InputError for levels of encoder and decoder that do not match, or pools that do not divide into groups."""
    levels = {len(part) for part in (config.encoder_blocks, config.decoder_blocks)}
    if len(levels) > 1:
        raise InputError(f"{where}: the encoder has {len(config.encoder_blocks)} levels and the decoder "
                         f"{len(config.decoder_blocks)}; give two of the same model")  # fmt: skip
    for part, pools in (("encoder", config.encoder_pools), ("decoder", config.decoder_pools)):
        if {len(pools)} != levels:
            raise InputError(f"{where}: {len(pools)} {part}_pools for {levels.pop()} levels; give one each")
        for channels in pools:
            if channels % GROUPS:
                raise InputError(f"{where}: a pool of {channels} channels does not divide into {GROUPS} groups; "
                                 "use others")  # fmt: skip


@cache
def autoencoder(config: TinyConfig, dtype: jnp.dtype | None = None) -> Autoencoder:
    r"""The tiny autoencoder of these sizes: :math:`z = E((x + 1) / 2)` and :math:`x = 2 D(3 \tanh(z / 3)) - 1`.

    A block is :math:`\mathrm{relu}(f(x) + x)` with f three 3x3 convolutions and a ReLU between each two; with a pool,
    x is first replaced by x + p(x), where p is a 1x1 convolution, group normalisation, ReLU and a 1x1 convolution.

    Args:
      config: the sizes.
      dtype: of activations; parameters are float32.

    Returns:
      Functions between images [N, H, W, ch] in [-1, 1] and latents float32 [N, H / r, W / r, c]. H and W are multiples
      of r = ``config.reduction``. The posterior is certain: its log variance is the constant -30.

    Raises:
      InputError: see `check`.
    """
    check(config)
    module = Tiny(config, dtype)
    compiled, applied = standard(jax.jit(module.init)), standard(module.apply)

    def init(key, image_shape):
        return compiled(key, jnp.zeros((1, *image_shape), jnp.float32))

    def encode(variables, images):
        latents = applied(variables, images * RANGE.std + RANGE.mean, method="encode")
        return Gaussian(latents, jnp.full_like(latents, _CERTAIN))

    def decode(variables, latents):
        return (applied(variables, latents, method="decode") - RANGE.mean) / RANGE.std

    return Autoencoder(init, encode, decode)


class Tiny(nn.Module):
    """Encoder and decoder of images in [0, 1]."""

    config: TinyConfig
    dtype: jnp.dtype | None = None

    def setup(self):
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def __call__(self, images):
        return self.decode(self.encode(images))

    def encode(self, images):
        return self.encoder(images).astype(jnp.float32)

    def decode(self, latents):
        return self.decoder(latents).astype(jnp.float32)


# Layers are named by their places in the published sequences, in which activations and upsampling have places too.


class Encoder(nn.Module):
    config: TinyConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, conv = self.config, partial(conv3, dtype=self.dtype)
        place = 0
        for level, (blocks, pool) in enumerate(zip(c.encoder_blocks, c.encoder_pools)):
            halving = {"strides": (2, 2), "use_bias": False} if level else {}
            x = conv(c.width, **halving, name=str(place))(x)
            for i in range(place + 1, place + 1 + blocks):
                x = Block(pool, self.dtype, name=str(i))(x)
            place += 1 + blocks
        return conv(c.latent_channels, name=str(place))(x)


class Decoder(nn.Module):
    config: TinyConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        c, conv = self.config, partial(conv3, dtype=self.dtype)
        # The clamp has place 0, and the ReLU place 2.
        x = nn.relu(conv(c.width, name="1")(3 * jnp.tanh(z / 3)))
        place = 3
        for level, (blocks, pool) in enumerate(zip(c.decoder_blocks, c.decoder_pools)):
            if level:
                x = conv(c.width, use_bias=False, name=str(place + 1))(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
                place += 2
            for i in range(place, place + blocks):
                x = Block(pool, self.dtype, name=str(i))(x)
            place += blocks
        return conv(c.in_channels, name=str(place))(x)


class Block(nn.Module):
    """Three convolutions with a shortcut; a pool of so many channels before them if it is not 0."""

    pool: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        if self.pool:
            y = conv1(self.pool, use_bias=False, dtype=self.dtype, name="pool.0")(x)
            y = nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=self.dtype, name="pool.1")(y)
            x = x + conv1(width, use_bias=False, dtype=self.dtype, name="pool.3")(nn.relu(y))
        y = nn.relu(conv3(width, dtype=self.dtype, name="conv.0")(x))
        y = nn.relu(conv3(width, dtype=self.dtype, name="conv.2")(y))
        return nn.relu(conv3(width, dtype=self.dtype, name="conv.4")(y) + x)
