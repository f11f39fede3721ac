"""The UNet of Stable Diffusion v1: residual blocks and cross-attention to text (Rombach et al. 2022, section 3.3)."""

from dataclasses import dataclass
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.ground.settings import CHANNELS, LATENT_SIDE, LEVEL_LAYERS, LEVELS, SHARE, bounded
from jaxdd.latent.blocks import (
    Attention,
    Downsample,
    ResnetBlock,
    TimestepMLP,
    Upsample,
    conv1,
    conv3,
    timestep_embedding,
)
from jaxdd.latent.diffusion import Denoiser

_TOKENS = 77
_DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True)
class UNetConfig:
    """Sizes, with the field names of published JSON files; the defaults are Stable Diffusion v1.5."""

    in_channels: int = bounded(4, CHANNELS)
    out_channels: int = bounded(4, CHANNELS)
    sample_size: int = bounded(64, LATENT_SIDE)
    """Side of the latents."""
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    """The block of each level, from the finest, with or without attention."""
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    """The block of each level on the way up, from the coarsest."""
    block_out_channels: tuple[int, ...] = bounded((320, 640, 1280, 1280), LEVELS)
    """Channels of each level. Every level but the last halves the resolution."""
    layers_per_block: int = bounded(2, LEVEL_LAYERS)
    """Residual blocks per level on the way down; there is one more on the way up."""
    cross_attention_dim: int = bounded(768, CHANNELS)
    """Width of the text embedding."""
    attention_head_dim: int = bounded(8, CHANNELS)
    """The number of heads of every attention, in spite of the published name."""
    norm_num_groups: int = bounded(32, CHANNELS)
    norm_eps: float = bounded(1e-5, SHARE)


def check(config: UNetConfig) -> None:
    """Raise InputError for inconsistent sizes, or a kind of block that is not supported."""
    levels = len(config.block_out_channels)
    for field, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        kinds = getattr(config, field)
        if unknown := [kind for kind in kinds if kind not in known]:
            raise InputError(f"unknown block {unknown[0]!r} in {field} of the UNet; use {' or '.join(known)}")
        if len(kinds) != levels:
            raise InputError(f"{len(kinds)} {field} for a UNet of {levels} levels (block_out_channels); give one each")
    for channels in config.block_out_channels:
        for field in ("norm_num_groups", "attention_head_dim"):
            if channels % getattr(config, field):
                raise InputError(f"{channels} channels of the UNet do not divide by {field} {getattr(config, field)}")
    if config.block_out_channels[0] % 2:
        raise InputError(f"{config.block_out_channels[0]} channels of the UNet's first level: give an even number")
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"out_channels {config.out_channels} of the UNet: give in_channels {config.in_channels} or twice"
        )
    if config.sample_size % 2 ** (levels - 1):
        raise InputError(f"sample_size {config.sample_size} of the UNet: give a multiple of {2 ** (levels - 1)}")


@cache
def denoiser(config: UNetConfig, num_classes: int, dtype: jnp.dtype | None = None) -> Denoiser:
    """The UNet of these sizes as pure functions, conditioned on the text of a class.

    Its variables are ``params`` and ``context``, float [num_classes + 1, tokens, cross_attention_dim]. Row k of the
    context is the embedding of the text of class k, and the last row, of the null class, is that of the empty text.
    ``init`` also draws the context, from N(0, 1) for 77 tokens.

    Raises:
      InputError: see `check`.
    """
    check(config)
    module = UNet(config, dtype)
    shape = (config.sample_size, config.sample_size, config.in_channels)

    def init(key):
        k_params, k_context = jax.random.split(key)
        context = jax.random.normal(k_context, (num_classes + 1, _TOKENS, config.cross_attention_dim), jnp.float32)
        one = jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.int32), context[:1]
        return {"params": standard(jax.jit(module.init))(k_params, *one)["params"], "context": context}

    def apply(variables, x, t, labels):
        return standard(module.apply)({"params": variables["params"]}, x, t, variables["context"][labels])

    return Denoiser(init, apply, shape, num_classes)


class UNet(nn.Module):
    """Latents x [N, h, w, c], times t [N] and texts [N, tokens, e] -> [N, h, w, out]."""

    config: UNetConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, context: jax.Array) -> jax.Array:
        c, dtype = self.config, self.dtype
        resnet = partial(ResnetBlock, groups=c.norm_num_groups, eps=c.norm_eps, dtype=dtype)
        transformer = partial(Transformer, c.attention_head_dim, c.norm_num_groups, dtype)
        first = c.block_out_channels[0]
        time = TimestepMLP(4 * first, dtype, name="time_embedding")(timestep_embedding(t, first))

        x = conv3(first, dtype=dtype, name="conv_in")(x)
        skips = [x]
        for level, (channels, kind) in enumerate(zip(c.block_out_channels, c.down_block_types)):
            block = f"down_blocks.{level}"
            for i in range(c.layers_per_block):
                x = resnet(channels, name=f"{block}.resnets.{i}")(x, time)
                if _DOWN[kind]:
                    x = transformer(name=f"{block}.attentions.{i}")(x, context)
                skips.append(x)
            if level < len(c.block_out_channels) - 1:
                x = Downsample(channels, (1, 1), dtype, name=f"{block}.downsamplers.0")(x)
                skips.append(x)

        x = resnet(c.block_out_channels[-1], name="mid_block.resnets.0")(x, time)
        x = transformer(name="mid_block.attentions.0")(x, context)
        x = resnet(c.block_out_channels[-1], name="mid_block.resnets.1")(x, time)

        for level, (channels, kind) in enumerate(zip(reversed(c.block_out_channels), c.up_block_types)):
            block = f"up_blocks.{level}"
            for i in range(c.layers_per_block + 1):
                x = resnet(channels, name=f"{block}.resnets.{i}")(jnp.concatenate([x, skips.pop()], -1), time)
                if _UP[kind]:
                    x = transformer(name=f"{block}.attentions.{i}")(x, context)
            if level < len(c.block_out_channels) - 1:
                x = Upsample(channels, dtype, name=f"{block}.upsamplers.0")(x)

        x = nn.silu(nn.GroupNorm(c.norm_num_groups, epsilon=c.norm_eps, dtype=dtype, name="conv_norm_out")(x))
        return conv3(c.out_channels, dtype=dtype, name="conv_out")(x).astype(jnp.float32)


class Transformer(nn.Module):
    """Attention of the positions of an image [N, H, W, C] to each other and to a text [N, k, e], with a shortcut."""

    heads: int
    groups: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        c = x.shape[-1]
        y = nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = conv1(c, dtype=self.dtype, name="proj_in")(y).reshape(x.shape[0], -1, c)
        y = TransformerBlock(self.heads, self.dtype, name="transformer_blocks.0")(y, context)
        return x + conv1(c, dtype=self.dtype, name="proj_out")(y.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a gated MLP (GEGLU, Shazeer 2020) of x [N, n, d], each after a LayerNorm."""

    heads: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        d = x.shape[-1]
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        attention = partial(Attention, self.heads, d, qkv_bias=False, dtype=self.dtype)
        x += attention(name="attn1")(norm(name="norm1")(x))
        x += attention(name="attn2")(norm(name="norm2")(x), context)
        y, gate = jnp.split(nn.Dense(8 * d, dtype=self.dtype, name="ff.net.0.proj")(norm(name="norm3")(x)), 2, axis=-1)
        return x + nn.Dense(d, dtype=self.dtype, name="ff.net.2")(y * nn.gelu(gate, approximate=False))
