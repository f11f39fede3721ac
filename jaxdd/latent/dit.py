"""The diffusion transformer with adaLN-Zero (Peebles and Xie 2023, arXiv 2212.09748, section 3.2)."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.ground.settings import CHANNELS, LATENT_SIDE, LAYERS, Bounds, bounded
from jaxdd.latent.blocks import Attention, TimestepMLP, timestep_embedding
from jaxdd.latent.diffusion import Denoiser

_TIME_DIM = 256


@dataclass(frozen=True)
class DiTConfig:
    """Sizes, with the field names of published JSON files; the defaults are DiT-XL/2 for images of 256 pixels."""

    num_attention_heads: int = bounded(16, Bounds(1, 256))
    attention_head_dim: int = bounded(72, Bounds(1, 1024))
    num_layers: int = bounded(28, LAYERS)
    patch_size: int = bounded(2, LATENT_SIDE)
    in_channels: int = bounded(4, CHANNELS)
    out_channels: int = bounded(8, CHANNELS)
    """Twice ``in_channels`` for noise and variance (learned sigma), or ``in_channels`` for the noise only."""
    sample_size: int = bounded(32, LATENT_SIDE)
    """Side of the latents."""
    num_embeds_ada_norm: int = bounded(1000, Bounds(1, 10**6))
    """The number of classes. There is one more embedding, of the null class of classifier-free guidance."""

    @property
    def width(self) -> int:
        """The width of a token."""
        return self.num_attention_heads * self.attention_head_dim


# Heads, width of a head and layers: Peebles and Xie, table 1, and a smaller size for small images.
SIZES = {
    "Ti": (3, 64, 6),
    "S": (6, 64, 12),
    "B": (12, 64, 12),
    "L": (16, 64, 24),
    "XL": (16, 72, 28),
}
# Of one layer for one image, 64 MiB. The largest published models have about 2^20.
_MOST_ACTIVATIONS = 2**24


def named(name: str, num_classes: int, sample_size: int, channels: int = 4) -> DiTConfig:
    """The config of a name such as "DiT-XL/2" (size, side of a patch in latent pixels), with learned sigma.

    Raises:
      InputError: no such size, or a patch that does not divide the latents.
    """
    size, _, patch = name.removeprefix("DiT-").partition("/")
    if not name.startswith("DiT-") or size not in SIZES or not patch.isdecimal() or int(patch) < 1:
        raise InputError(f"unknown DiT {name!r}; use DiT-{'|'.join(SIZES)}/PATCH, such as DiT-Ti/2")
    heads, head, layers = SIZES[size]
    config = DiTConfig(heads, head, layers, int(patch), channels, 2 * channels, sample_size, num_classes)
    check(config, name)
    return config


def check(config: DiTConfig, name: str = "DiT") -> None:
    """Raise InputError for sizes that do not go together: the patch and the latents, the width, or too many tokens."""
    if config.sample_size % config.patch_size:
        raise InputError(
            f"{name}: patches of {config.patch_size} (patch_size) do not divide latents of side {config.sample_size} "
            "(sample_size); use others"
        )
    if config.width % 4:
        raise InputError(
            f"{name}: width {config.width} is no multiple of 4, sine and cosine of row and column; change it"
        )
    tokens = (config.sample_size // config.patch_size) ** 2
    if tokens * config.width > _MOST_ACTIVATIONS:
        raise InputError(
            f"{name}: {tokens} tokens of width {config.width} take too much memory; use larger patches or fewer heads"
        )


@cache
def denoiser(config: DiTConfig, dtype: jnp.dtype | None = None) -> Denoiser:
    """The DiT of these sizes as pure functions; the null class is ``num_embeds_ada_norm``.

    Raises:
      InputError: see `check`.
    """
    check(config)
    module = DiT(config, dtype)
    side, channels = config.sample_size, config.in_channels
    compiled = standard(jax.jit(module.init))

    def init(key):
        one = jnp.zeros(1, jnp.int32)
        return compiled(key, jnp.zeros((1, side, side, channels), jnp.float32), one, one)

    # Flax declares the variables of `apply` more narrowly than it takes them.
    applied: Any = standard(module.apply)
    return Denoiser(init, applied, (side, side, channels), config.num_embeds_ada_norm)


class DiT(nn.Module):
    """A transformer of latent patches, modulated by time and class: x [N, h, w, c] -> float32 [N, h, w, out]."""

    config: DiTConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        c, p = self.config, self.config.patch_size
        n, side = x.shape[0], x.shape[1] // p
        # A matrix product, which equals the published strided convolution.
        x = x.reshape(n, side, p, side, p, c.in_channels).transpose(0, 1, 3, 2, 4, 5).reshape(n, side * side, -1)
        x = nn.Dense(c.width, dtype=self.dtype, name="pos_embed.proj")(x)
        x += jnp.asarray(_positions(c.width, side), x.dtype)

        time = TimestepMLP(c.width, self.dtype, name="timestep_embedder")(timestep_embedding(t, _TIME_DIM, shift=1.0))
        table = nn.Embed(c.num_embeds_ada_norm + 1, c.width, name="class_embedder.embedding_table",
                         embedding_init=nn.initializers.normal(0.02))  # fmt: skip
        condition = nn.silu(time + table(labels).astype(time.dtype))
        for i in range(c.num_layers):
            x = Block(c.num_attention_heads, self.dtype, name=f"transformer_blocks.{i}")(x, condition)

        shift, scale = jnp.split(_zero(2 * c.width, "proj_out_1", self.dtype)(condition)[:, None], 2, axis=-1)
        x = _norm(1e-6, self.dtype)(x) * (1 + scale) + shift
        x = _zero(p * p * c.out_channels, "proj_out_2", self.dtype)(x).astype(jnp.float32)
        x = x.reshape(n, side, side, p, p, c.out_channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(n, side * p, side * p, c.out_channels)


class Block(nn.Module):
    """Attention and MLP, each with shift, scale and gate computed from the condition [N, d]; initial gates are zero."""

    heads: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        d = x.shape[-1]
        modulation = _zero(6 * d, "norm1.linear", self.dtype)(condition)[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)
        y = _norm(1e-6, self.dtype)(x) * (1 + scale1) + shift1
        x = x + gate1 * Attention(self.heads, d, dtype=self.dtype, name="attn1")(y)
        y = _norm(1e-5, self.dtype)(x) * (1 + scale2) + shift2
        y = nn.Dense(4 * d, dtype=self.dtype, name="ff.net.0.proj")(y)
        return x + gate2 * nn.Dense(d, dtype=self.dtype, name="ff.net.2")(nn.gelu(y, approximate=True))


def _norm(eps, dtype):
    return nn.LayerNorm(epsilon=eps, use_bias=False, use_scale=False, dtype=dtype)


def _zero(dim, name, dtype):
    return nn.Dense(dim, kernel_init=nn.initializers.zeros, dtype=dtype, name=name)


def _positions(dim: int, side: int) -> np.ndarray:
    """Sinusoidal embeddings of the column, then the row, of each patch: [side^2, dim]."""
    frequencies = 10_000.0 ** -(np.arange(dim // 4) / (dim / 4))
    angles = np.arange(side)[:, None] * frequencies
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    column = np.broadcast_to(axis[None], (side, side, dim // 2))
    row = np.broadcast_to(axis[:, None], (side, side, dim // 2))
    return np.concatenate([column, row], axis=-1).reshape(side * side, dim).astype(np.float32)
