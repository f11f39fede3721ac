"""The vision transformer (Dosovitskiy et al. 2021, section 3.1) in the sizes of DeiT (Touvron et al. 2021, table 1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

INIT = nn.initializers.truncated_normal(0.02, jnp.float32)


def patch_size(image_size: int) -> int:
    """The side of a patch: the power of two that gives 8 to 16 patches per side, limited to [2, 16].

    That is 16 from 128 pixels on (the published 14 x 14 patches at 224), 8 at 64, 4 at 32, and 2 at 16 and below. At 64
    pixels, patches of 4 pixels would be 256 tokens, and each block four times as expensive, while 64 tokens suffice at
    32 pixels. Patches of one pixel carry too little information: on 8 x 8 digits such a network hardly learns in
    hundreds of steps.
    """
    return min(16, 1 << (max(image_size // 8, 2).bit_length() - 1))


class ViT(nn.Module):
    """Patches and a class token, learned positions, pre-norm blocks; the features are the token after the last norm.

    Sides that are not a multiple of ``patch`` are padded with zeros on the right and below. Dropout and stochastic
    depth are left out, so ``train`` has no effect. GELU is exact, the epsilon of LayerNorm is 1e-6, and the softmax is
    computed in float32.
    """

    num_classes: int
    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = dense(self.width, "embed", self.dtype)(patches(x, self.patch))
        n, d = x.shape[0], x.shape[-1]
        x = x.reshape(n, -1, d)
        token = self.param("token", INIT, (1, 1, d)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (n, 1, d)), x], 1)
        x += self.param("positions", INIT, (1, x.shape[1], d)).astype(x.dtype)
        x = checkpoint_name(x, "block")
        for i in range(self.depth):
            x = checkpoint_name(Block(self.heads, self.dtype, name=f"layer{i + 1}")(x), "block")
        x = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(x[:, 0])
        features = x.astype(jnp.float32)
        return dense(self.num_classes, "head")(features), features


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); x [N, T, d]."""

    heads: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, self.dtype, name="attention")(y)
        y = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm2")(x)
        return x + mlp(y, self.dtype)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d / heads) + bias) v over the tokens of x [..., T, d]; bias to [..., heads, T, T]."""

    heads: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x, bias=0.0):
        d = x.shape[-1]
        qkv = dense(3 * d, "qkv", self.dtype)(x).reshape(*x.shape[:-1], 3, self.heads, d // self.heads)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        scores = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores * (d // self.heads) ** -0.5 + bias).astype(v.dtype)
        y = jnp.einsum("...hqk,...khd->...qhd", weights, v)
        return dense(d, "out", self.dtype)(y.reshape(x.shape))


def dense(width, name, dtype=None, **kwargs):
    return nn.Dense(width, dtype=dtype, kernel_init=INIT, name=name, **kwargs)


def mlp(x, dtype):
    """Two linear layers with GELU and four times the width in between; to be called inside of a compact scope."""
    y = nn.gelu(dense(4 * x.shape[-1], "mlp1", dtype)(x), approximate=False)
    return dense(x.shape[-1], "mlp2", dtype)(y)


def patches(x: jax.Array, side: int) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / side), ceil(W / side), side * side * C], zeros beyond the right and lower border."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    return x.reshape(n, rows, side, columns, side, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)
