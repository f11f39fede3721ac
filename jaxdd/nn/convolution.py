"""Convolutions as they are fastest on the platform: the same function, with the arguments that `nn.Conv` gives.

XLA on CPU runs a convolution at most at the speed of a matrix product, and the gradient of its kernel at a third of
that: it is a convolution with an image for a kernel, before which both arrays are transposed. Here 3x3 convolutions
take fewer products, see `jaxdd.nn.winograd`, and the gradients of other kernels are matrix products.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from jaxdd.nn import winograd

Window = tuple[tuple[int, int], tuple[tuple[int, int], ...]]  # strides and padding


def convolution(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of x [N, H, W, C] and kernel [k, k, C, D]."""
    plain = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    dilated = any(set(options.get(name) or (1,)) != {1} for name in ("lhs_dilation", "rhs_dilation"))
    if dilated or options.get("feature_group_count", 1) != 1 or not x.dtype == kernel.dtype == jnp.float32:
        return plain(x, kernel)
    window = (tuple(strides), tuple(map(tuple, padding)))
    square = (*kernel.shape[:2], *window) == (3, 3, (1, 1), ((1, 1), (1, 1)))
    on_cpu = winograd.convolution if square and winograd.pays(x, kernel) else partial(_convolve, window)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _plain(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain(window, x, kernel)


def _forward(window, x, kernel):
    return _plain(window, x, kernel), (x, kernel)


def _backward(window, residuals, g):
    x, kernel = residuals
    _, pull = jax.vjp(lambda x: _plain(window, x, kernel), x)
    seen = _patches(window, x, kernel.shape[:2], g.shape[1:3])
    gradient = jnp.einsum("ptc,td->pcd", seen, g.reshape(-1, g.shape[-1]))
    return *pull(g), gradient.reshape(kernel.shape)


_convolve.defvjp(_forward, _backward)


def _patches(window: Window, x: jax.Array, kernel: Sequence[int], out: Sequence[int]) -> jax.Array:
    """The pixels under each position of the kernel: x [N, H, W, C] -> [positions, N * out, C]."""
    (down, right), padding = window
    if any(map(any, padding)):
        x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    n, _, _, c = x.shape
    seen = []
    for i, j in product(*map(range, kernel)):
        last = (i + down * (out[0] - 1) + 1, j + right * (out[1] - 1) + 1)
        seen.append(jax.lax.slice(x, (0, i, j, 0), (n, *last, c), (1, down, right, 1)).reshape(-1, c))
    return jax.lax.optimization_barrier(jnp.stack(seen))
