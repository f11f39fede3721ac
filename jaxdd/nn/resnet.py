"""Residual networks (He et al. 2016), with the ImageNet stem and with the 3x3 stem for small images."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.nn.batchnorm import BatchNorm

# Padding is explicit: "SAME" pads a strided convolution on one side only, published weights expect both.
_conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())


def _conv3(width, stride, **kwargs):
    return _conv(width, (3, 3), (stride, stride), padding=((1, 1), (1, 1)), **kwargs)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity."""

    width: int
    stride: int
    dtype: jnp.dtype | None = None
    expansion = 1

    @nn.compact
    def __call__(self, x, train):
        y = _conv3(self.width, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y, train))
        y = _conv3(self.width, 1, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="norm2")(y, train)
        return nn.relu(y + shortcut(x, self.width, self.stride, self.dtype, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolution and the identity."""

    width: int
    stride: int
    dtype: jnp.dtype | None = None
    expansion = 4

    @nn.compact
    def __call__(self, x, train):
        out = self.width * self.expansion
        y = _conv(self.width, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y, train))
        y = _conv3(self.width, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(y, train))
        y = _conv(out, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(dtype=self.dtype, name="norm3")(y, train)
        return nn.relu(y + shortcut(x, out, self.stride, self.dtype, train))


def shortcut(x, out, stride, dtype, train):
    """The identity, or a strided 1x1 convolution where the shape changes; called inside a block's compact scope."""
    if stride == 1 and x.shape[-1] == out:
        return x
    x = _conv(out, (1, 1), (stride, stride), dtype=dtype, name="shortcut_conv")(x)
    return BatchNorm(dtype=dtype, name="shortcut_norm")(x, train)


class ResNet(nn.Module):
    """Four groups of residual blocks, global average pooling (the features), one linear layer."""

    num_classes: int
    blocks: tuple[int, ...]
    block: type[nn.Module] = BasicBlock
    stem: str = "imagenet"  # or "small": 3x3, no stride, no pooling
    width: int = 64
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        if self.stem == "imagenet":
            x = _conv(self.width, (7, 7), (2, 2), padding=((3, 3), (3, 3)), dtype=self.dtype, name="conv1")(x)
        else:
            x = _conv3(self.width, 1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(x, train))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for group, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if group > 0 and i == 0 else 1
                name = f"layer{group + 1}_{i}"
                x = self.block(self.width * 2**group, stride, self.dtype, name=name)(x, train)
        features = x.mean((1, 2)).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(features), features
