"""The Swin transformer (Liu et al. 2021, section 3): attention in windows, which are shifted in every second block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdd.nn.vit import INIT, Attention, dense, mlp, patches


def patch_size(image_size: int, small: bool) -> int:
    """The side of a patch: 4 as published; with the small stem 2, or 1 below 16 pixels.

    The small stem has at least 8 patches per side for images of 8 pixels or more, which are halved three times.
    """
    return (2 if image_size >= 16 else 1) if small else 4


class Swin(nn.Module):
    """Groups of windowed blocks, 2x2 patches merged between groups, LayerNorm, average pooling (the features).

    A grid with sides of g positions is covered by k = ceil(g / window) windows per side, of ceil(g / k) positions each.
    These are the published windows of 7 if 7 divides g, and one window if g < 7. Otherwise the grid is padded by a few
    zeros, after the norm and on the right and below, as published. The table of relative positions has the size of the
    full window, so that variables fit images of any size. A grid of one window is not shifted. Attention has one head
    per ``head`` channels. Stochastic depth is left out, so ``train`` has no effect.
    """

    num_classes: int
    patch: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    head: int = 32
    window: int = 7
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = dense(self.width, "embed", self.dtype)(patches(x, self.patch))
        x = checkpoint_name(layer_norm("embed_norm", self.dtype)(x), "block")
        for group, count in enumerate(self.depths):
            if group > 0:
                x = layer_norm(f"merge{group}_norm", self.dtype)(patches(x, 2))
                x = dense(self.width * 2**group, f"merge{group}", self.dtype, use_bias=False)(x)
            for i in range(count):
                heads = max(1, x.shape[-1] // self.head)
                block = Block(heads, self.window, i % 2 == 1, self.dtype, name=f"layer{group + 1}_{i}")
                x = checkpoint_name(block(x), "block")
        features = layer_norm("norm", self.dtype)(x).astype(jnp.float32).mean((1, 2))
        return dense(self.num_classes, "head")(features), features


class Block(nn.Module):
    """x + attention in windows(norm(x)), then x + mlp(norm(x)); x [N, h, w, d]."""

    heads: int
    window: int
    shifted: bool
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        table = self.param("relative", INIT, (2 * self.window - 1, 2 * self.window - 1, self.heads))
        grid, d = x.shape[1:3], x.shape[-1]
        counts, sides = zip(*(cover(g, self.window) for g in grid))
        shifts = [side // 2 if self.shifted and k > 1 else 0 for side, k in zip(sides, counts)]

        y = layer_norm("norm1", self.dtype)(x)
        y = jnp.pad(y, ((0, 0), *((0, k * s - g) for k, s, g in zip(counts, sides, grid)), (0, 0)))
        y = windows(jnp.roll(y, [-s for s in shifts], (1, 2)), sides)
        bias = relative_bias(table, sides)
        if any(shifts):
            region = regions(counts, sides, shifts)
            bias = jnp.where(region[:, None, :, None] == region[:, None, None], bias, -jnp.inf)
        y = Attention(self.heads, self.dtype, name="attention")(y, bias)
        y = y.reshape(-1, *counts, *sides, d).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, counts[0] * sides[0], counts[1] * sides[1], d)
        x = x + jnp.roll(y, shifts, (1, 2))[:, : grid[0], : grid[1]]
        return x + mlp(layer_norm("norm2", self.dtype)(x), self.dtype)


def layer_norm(name, dtype):
    return nn.LayerNorm(1e-5, dtype=dtype, name=name)


def cover(grid: int, window: int) -> tuple[int, int]:
    """The number and the side of the windows that cover ``grid`` positions: first as few, then as small as possible."""
    count = -(-grid // window)
    return count, -(-grid // count)


def windows(x, sides):
    """[N, h, w, d] -> [N, number of windows, positions of a window, d], row by row."""
    n, h, w, d = x.shape
    x = x.reshape(n, h // sides[0], sides[0], w // sides[1], sides[1], d).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, -1, sides[0] * sides[1], d)


def relative_bias(table, sides):
    """The bias [heads, T, T] of T positions of a window: the entry at query minus key of a table with centre 0."""
    rows, columns = np.divmod(np.arange(sides[0] * sides[1]), sides[1])
    apart = [p[:, None] - p[None] + table.shape[0] // 2 for p in (rows, columns)]
    return table[apart[0], apart[1]].transpose(2, 0, 1)


def regions(counts, sides, shifts):
    """Numbers [number of windows, T], equal for positions of a shifted window that were adjacent before the roll."""
    rows, columns = (
        np.where(np.arange(k * side) < k * side - shift, 0, 1) for k, side, shift in zip(counts, sides, shifts)
    )
    return windows((2 * rows[:, None] + columns[None])[None, :, :, None], sides)[0, :, :, 0]
