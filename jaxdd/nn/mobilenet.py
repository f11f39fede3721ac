"""MobileNetV2 (Sandler et al. 2018, table 2): inverted residual blocks around depthwise convolutions."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdd.nn.batchnorm import ConvNorm

# Expansion, kernel, channels, blocks, stride of the first block.
ROWS = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)


class MobileNet(nn.Module):
    """A 3x3 convolution, ``rows`` of inverted residual blocks, a 1x1 convolution, average pooling (the features).

    The network reduces the resolution by 32. With the small stem, the first convolution and the first row of stride 2
    have stride 1, so that the factor is 8, with the same parameters. Dropout and stochastic depth are left out.
    ``width`` is the number of channels of the first convolution. With width w every row has w/32 of its channels,
    rounded to the nearest integer (not to a multiple of 8). As published, the last convolution has at least ``last``.
    """

    num_classes: int
    rows: tuple[tuple[int, ...], ...] = ROWS
    activation: Callable = nn.relu6
    gate: type[nn.Module] | None = None
    stem: str = "imagenet"  # or "small"
    width: int = 32
    last: int = 1280
    dtype: jnp.dtype | None = None
    folded: bool = False  # evaluation mode only, with variables of `jaxdd.nn.fold`

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        small = self.stem == "small"
        x = conv_norm(x, "conv1", self.width, 3, 1 if small else 2)
        x = checkpoint_name(self.activation(x), "block")
        for row, (expansion, kernel, channels, count, stride) in enumerate(self.rows):
            if small and stride == 2:
                small, stride = False, 1
            for i in range(count):
                block = InvertedResidual(max(1, (channels * self.width + 16) // 32), stride if i == 0 else 1, expansion,
                                         kernel, self.activation, self.gate, self.dtype, self.folded,
                                         name=f"layer{row + 1}_{i}")  # fmt: skip
                x = checkpoint_name(block(x, train), "block")
        x = conv_norm(x, "conv2", max(self.last, self.last * self.width // 32), 1)
        features = self.activation(x).astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


class InvertedResidual(nn.Module):
    """1x1 convolution to ``expansion`` times the channels, depthwise convolution, gate, linear 1x1 convolution.

    The first convolution is left out if the expansion is 1. The input is added if the shape does not change.
    """

    width: int
    stride: int
    expansion: int
    kernel: int = 3
    activation: Callable = nn.relu6
    gate: type[nn.Module] | None = None
    dtype: jnp.dtype | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, x, train):
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        inputs, y = x.shape[-1], x
        hidden = inputs * self.expansion
        if self.expansion != 1:
            y = self.activation(conv_norm(y, "conv1", hidden, 1))
        depthwise = {"feature_group_count": hidden, "conv_general_dilated": depthwise_convolution}
        y = self.activation(conv_norm(y, "conv2", hidden, self.kernel, self.stride, **depthwise))
        if self.gate is not None:
            y = self.gate(max(1, inputs // 4), self.dtype, name="gate")(y)
        y = conv_norm(y, "conv3", self.width, 1)
        return x + y if self.stride == 1 and inputs == self.width else y


def depthwise_convolution(x, kernel, strides, padding, **_):
    """`jax.lax.conv_general_dilated` of x [N, H, W, C] and kernel [k, k, 1, C], as is fastest on the platform."""
    return _depthwise(x, kernel, tuple(strides), tuple(padding))


@partial(jax.jit, static_argnums=(2, 3))  # traced once for equal shapes, which occur many times
def _depthwise(x, kernel, strides, padding):
    # On CPU, XLA's grouped convolution, and even more its gradient, is many times slower than shifts and products.
    ways = [lambda x, kernel, way=way: way(x, kernel, strides, padding) for way in (taps, convolution)]
    return jax.lax.platform_dependent(x, kernel, cpu=ways[0], default=ways[1])


def convolution(x, kernel, strides, padding):
    """The depthwise convolution by `jax.lax.conv_general_dilated`."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


def taps(x, kernel, strides, padding):
    """The depthwise convolution as a sum of shifted images over the positions of the kernel, in float32."""
    dtype, (h, w) = x.dtype, kernel.shape[:2]
    x, kernel = jnp.pad(x.astype(jnp.float32), ((0, 0), *padding, (0, 0))), kernel.astype(jnp.float32)
    n, height, width, c = x.shape
    total = 0.0
    for i in range(h):
        for j in range(w):
            shifted = jax.lax.slice(x, (0, i, j, 0), (n, height - h + 1 + i, width - w + 1 + j, c), (1, *strides, 1))
            total += shifted * kernel[i, j, 0]
    return total.astype(dtype)
