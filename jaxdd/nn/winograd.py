"""3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3), for CPU (Lavin and Gray 2016).

A 4x4 tile of the output needs a 6x6 tile d of the input. With the matrices below, kernel k, and * element by element,

    y = A^T [ (G k G^T) * (B^T d B) ] A,

which is 36 products instead of 144. Summed over the channels they are 36 matrix products. The rounding error in float32
is about five times that of the plain convolution, 1e-6 of the result.

The gradients are the transposes of the same three steps, so they take a quarter of the products as well.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

TILE, REACH = 4, 6  # sides of a tile of the output and of the input
_COUNT = REACH**2


def _matrices(points: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T [4, 6], G [6, 3] and B^T [6, 6] in float64, for interpolation at five points and infinity (Toom and Cook)."""
    others = [[q for q in points if q != p] for p in points]
    gains = [math.prod(p - q for q in rest) for p, rest in zip(points, others)]
    at = np.array([[p**i for p in points] + [float(i == TILE - 1)] for i in range(TILE)])
    g = np.array([[p**j / gain for j in range(3)] for p, gain in zip(points, gains)] + [[0, 0, 1]])
    bt = np.array([[*np.poly(rest)[::-1], 0.0] for rest in others] + [np.poly(points)[::-1]])
    return at, g, bt


# These points halve the error of the usual 0, 1, -1, 2, -2, and A and B are still exact in binary.
_AT, _G, _BT = _matrices((0.0, 0.75, -0.75, 1.5, -1.5))
# The map from kernels [9] to G k G^T [36], columns first.
_KERNEL = np.einsum("ia,jb->jiab", _G, _G).reshape(_COUNT, 9).astype(np.float32)


def _mix(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """The sums sum_j matrix[i, j] parts[j], one for each row i."""
    rows = [[(m, part) for m, part in zip(row, parts) if m != 0] for row in matrix]
    return [sum(part if m == 1 else np.float32(m) * part for m, part in row) for row in rows]  # type: ignore[misc]


def _stack(parts: Sequence[jax.Array]) -> jax.Array:
    """The parts along a new first axis, in memory: fused further, XLA would compute each part many times."""
    return jax.lax.optimization_barrier(jnp.stack(parts))


def _pixels(x: jax.Array, axis: int) -> list[jax.Array]:
    """Pixel r of all overlapping tiles along an axis of length 4 t + 2, for r = 0 .. 5: of length t each."""
    last = x.shape[axis] // TILE * TILE - TILE
    return [jax.lax.slice_in_dim(x, r, r + last + 1, TILE, axis) for r in range(REACH)]


def _pixels_transposed(pixels: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """The transpose of `_pixels`, without the border: pixel r of overlapping tiles -> pixel s of adjacent tiles."""
    last, middle, first = pixels[5], pixels[1:5], pixels[0]
    return [middle[0] + _moved(last, axis, 1), middle[1], middle[2], middle[3] + _moved(first, axis, -1)]


def _moved(x: jax.Array, axis: int, by: int) -> jax.Array:
    """x[i - by] along an axis, and zero beyond its ends."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (by, -by, 0)
    return jax.lax.pad(x, np.float32(0), pads)


def _input(x: jax.Array) -> jax.Array:
    """B^T d B of all tiles: x [N, 4 h, 4 w, C] -> [6, 6, N, h, w, C], columns first."""
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    rows = _stack(_mix(_BT, _pixels(x, 1)))
    return _stack(_mix(_BT, _pixels(rows, 3)))


def _input_transposed(tiles: jax.Array) -> jax.Array:
    columns = _stack(_pixels_transposed(_mix(_BT.T, list(tiles)), 3))
    rows = _mix(_BT.T, [columns[:, i] for i in range(REACH)])
    return _image(_stack(_pixels_transposed(rows, 2)))


def _output(products: jax.Array) -> jax.Array:
    """A^T m A of all tiles: [6, 6, N, h, w, D] -> [N, 4 h, 4 w, D]."""
    columns = _stack(_mix(_AT, list(products)))
    return _image(_stack(_mix(_AT, [columns[:, i] for i in range(REACH)])))


def _output_transposed(g: jax.Array) -> jax.Array:
    n, h, w, c = g.shape
    split = g.reshape(n, h // TILE, TILE, w, c)
    rows = _stack(_mix(_AT.T, [split[:, :, i] for i in range(TILE)]))
    split = rows.reshape(REACH, n, h // TILE, w // TILE, TILE, c)
    return _stack(_mix(_AT.T, [split[..., i, :] for i in range(TILE)]))


def _image(tiles: jax.Array) -> jax.Array:
    """Adjacent tiles [4, 4, N, h, w, C], rows first -> [N, 4 h, 4 w, C]."""
    _, _, n, h, w, c = tiles.shape
    return tiles.transpose(2, 3, 0, 4, 1, 5).reshape(n, TILE * h, TILE * w, c)


def _summed(tiles: jax.Array, products: jax.Array) -> jax.Array:
    """The sums over all tiles of tiles^T products: [36, T, C] and [36, T, D] -> [36, C, D]."""
    _, t, c = tiles.shape
    if c > 64:
        return jnp.einsum("ptc,ptd->pcd", tiles, products)
    # With few channels, a product is fastest with them first, and in parts that fit in the cache.
    parts = max(k for k in range(1, max(1, t // 256) + 1) if t % k == 0)
    turned = jax.lax.optimization_barrier(tiles.reshape(_COUNT, parts, -1, c).swapaxes(2, 3))
    return jnp.einsum("psct,pstd->pscd", turned, products.reshape(_COUNT, parts, t // parts, -1)).sum(1)


@jax.custom_vjp
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    tiles = _input(x)
    shape = tiles.shape
    tiles, weights = tiles.reshape(_COUNT, -1, shape[-1]), _KERNEL @ kernel.reshape(9, -1)
    weights = weights.reshape(_COUNT, *kernel.shape[2:])
    products = jnp.einsum("ptc,pcd->ptd", tiles, weights)
    return _output(products.reshape(*shape[:-1], -1)), (tiles, weights)


def _backward(residuals, g):
    tiles, weights = residuals
    products = _output_transposed(g)
    shape = products.shape
    products = products.reshape(_COUNT, -1, shape[-1])
    image = _input_transposed(jnp.einsum("ptd,pcd->ptc", products, weights).reshape(*shape[:-1], -1))
    kernel = _KERNEL.T @ _summed(tiles, products).reshape(_COUNT, -1)
    return image, kernel.reshape(3, 3, *weights.shape[1:])


_convolve.defvjp(_forward, _backward)


def pays(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether a 3x3 convolution of these shapes is faster by `convolution`, as measured on two cores."""
    n, h, w, c = x.shape
    tiles = -(-h // TILE) * -(-w // TILE)
    # Padding to whole tiles, and 36 numbers for the 9 of a kernel, must be worth their while.
    return min(c, kernel.shape[-1]) >= 32 and tiles * TILE**2 <= 1.5 * h * w and n * tiles >= 32


@jax.jit  # traced once for equal shapes, which occur many times
def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 with a border of one zero; for reverse mode only.

    Args:
      x: float32 [N, H, W, C].
      kernel: float32 [3, 3, C, D].

    Returns:
      float32 [N, H, W, D].
    """
    h, w = x.shape[1:3]
    if h % TILE == w % TILE == 0:
        return _convolve(x, kernel)
    whole = jnp.pad(x, ((0, 0), (0, -h % TILE), (0, -w % TILE), (0, 0)))
    return _convolve(whole, kernel)[:, :h, :w]
