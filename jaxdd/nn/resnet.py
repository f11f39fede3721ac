"""Residual networks (He et al. 2016), with the ImageNet stem and with the 3x3 stem for small images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdd.nn.batchnorm import ConvNorm


def shortcut(conv_norm, x, width, stride):
    """The identity, or a strided 1x1 convolution if the shape changes; to be called inside of a compact scope."""
    if stride == 1 and x.shape[-1] == width:
        return x
    return conv_norm(x, "shortcut_conv", width, 1, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    dtype: jnp.dtype | None = None
    folded: bool = False
    expansion = 1

    @nn.compact
    def __call__(self, x, train):
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        y = nn.relu(conv_norm(x, "conv1", self.width, 3, self.stride))
        y = conv_norm(y, "conv2", self.width, 3)
        return nn.relu(y + shortcut(conv_norm, x, self.width, self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3 (of the given stride) and 1x1 convolution, and a shortcut."""

    width: int
    stride: int
    dtype: jnp.dtype | None = None
    folded: bool = False
    expansion = 4

    @nn.compact
    def __call__(self, x, train):
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        out = self.width * self.expansion
        y = nn.relu(conv_norm(x, "conv1", self.width, 1))
        y = nn.relu(conv_norm(y, "conv2", self.width, 3, self.stride))
        y = conv_norm(y, "conv3", out, 1)
        return nn.relu(y + shortcut(conv_norm, x, out, self.stride))


class ResNet(nn.Module):
    """Four groups of residual blocks, global average pooling (the features), one linear layer."""

    num_classes: int
    blocks: tuple[int, ...]
    block: type[nn.Module] = BasicBlock
    stem: str = "imagenet"  # or "small": 3x3, no stride, no pooling
    width: int = 64
    dtype: jnp.dtype | None = None
    folded: bool = False  # evaluation mode only, with variables of `jaxdd.nn.fold`

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        x = nn.relu(conv_norm(x, "conv1", self.width, kernel, stride))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = checkpoint_name(x, "block")
        for group, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if group > 0 and i == 0 else 1
                block = self.block(self.width * 2**group, stride, self.dtype, self.folded, name=f"layer{group + 1}_{i}")
                x = checkpoint_name(block(x, train), "block")
        features = x.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features
