"""The convolution and attention blocks of the autoencoder and the UNet of latent diffusion.

Submodules have the names of the published checkpoints, dots included, so that the path of a leaf is its tensor's name.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

conv1 = partial(nn.Conv, kernel_size=(1, 1))
conv3 = partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)))


def timestep_embedding(t: jax.Array, dim: int, shift: float = 0.0) -> jax.Array:
    r"""Sinusoidal embedding of times: cos and sin of :math:`t \, 10^{-4 i / (d/2 - \mathrm{shift})}`, i < d/2.

    Args:
      t: times, [N].
      dim: the width d, even.
      shift: as published checkpoints differ, 0 for Stable Diffusion's UNet and 1 for the DiTs converted to diffusers.

    Returns:
      float32 [N, d], cosines first (Ho et al. 2020, as in Vaswani et al. 2017, section 3.5).
    """
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepMLP(nn.Module):
    """Two linear layers with SiLU in between."""

    dim: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(nn.Dense(self.dim, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.dim, dtype=self.dtype, name="linear_2")(x)


class ResnetBlock(nn.Module):
    """Twice GroupNorm, SiLU and 3x3 convolution, and a shortcut; a time embedding [N, e] is added in between."""

    channels: int
    groups: int
    eps: float
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        norm = partial(nn.GroupNorm, self.groups, epsilon=self.eps, dtype=self.dtype)
        y = conv3(self.channels, dtype=self.dtype, name="conv1")(nn.silu(norm(name="norm1")(x)))
        if time is not None:
            y += nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))[:, None, None]
        y = conv3(self.channels, dtype=self.dtype, name="conv2")(nn.silu(norm(name="norm2")(y)))
        if x.shape[-1] != self.channels:
            x = conv1(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, with ``padding`` (before, after) of both sides."""

    channels: int
    padding: tuple[int, int]
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(
            self.channels, (3, 3), (2, 2), padding=(self.padding, self.padding), dtype=self.dtype, name="conv"
        )(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    channels: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return conv3(self.channels, dtype=self.dtype, name="conv")(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))


class Attention(nn.Module):
    """Multi-head attention of x [N, q, d] to a context [N, k, e]; default: self-attention."""

    heads: int
    dim: int
    qkv_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        return attend(x, x if context is None else context, self.heads, self.dim, self.qkv_bias, self.dtype)


class ImageAttention(nn.Module):
    """GroupNorm, one head of self-attention over the positions of an image [N, H, W, C], and a shortcut."""

    groups: int
    eps: float
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.GroupNorm(self.groups, epsilon=self.eps, dtype=self.dtype, name="group_norm")(x)
        y = y.reshape(x.shape[0], -1, x.shape[-1])
        return x + attend(y, y, 1, x.shape[-1], True, self.dtype).reshape(x.shape)


def attend(x, context, heads, dim, qkv_bias, dtype):
    """The layers of `Attention`; to be called inside of a compact scope."""

    def split(name, y):
        y = nn.Dense(dim, use_bias=qkv_bias, dtype=dtype, name=name)(y)
        return y.reshape(*y.shape[:2], heads, dim // heads)

    y = jax.nn.dot_product_attention(split("to_q", x), split("to_k", context), split("to_v", context))
    return nn.Dense(x.shape[-1], dtype=dtype, name="to_out.0")(y.reshape(*x.shape[:2], dim))
