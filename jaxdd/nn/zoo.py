"""From a model's name to its pure functions."""

import difflib
from functools import cache

import flax.linen as nn
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.nn import swin, vit
from jaxdd.nn.classifier import Classifier, from_linen
from jaxdd.nn.convnet import ConvNet
from jaxdd.nn.efficientnet import EfficientNet
from jaxdd.nn.mobilenet import MobileNet
from jaxdd.nn.resnet import BasicBlock, Bottleneck, ResNet

_RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
_CONVNETS = {f"convnet{depth}": depth for depth in (3, 4, 5, 6)}
_MOBILENETS = {"mobilenet_v2": MobileNet, "efficientnet_b0": EfficientNet}
_VITS = {"vit_tiny": 192, "vit_small": 384}
MODELS = (*_CONVNETS, *_RESNETS, *_MOBILENETS, *_VITS, "swin_tiny")
_DTYPES = {None: None, "bfloat16": jnp.bfloat16}


def get(
    name: str,
    num_classes: int,
    image_size: int,
    width: int | None = None,
    stem: str = "auto",
    dtype: str | None = None,
) -> Classifier:
    """The named model for square images of side ``image_size``; equal networks are the very same functions.

    Args:
      name: one of `MODELS`.
      num_classes: number of logits.
      image_size: side of the images in pixels; a ConvNet halves it once a block.
      width: channels of the first block, which scale all others; default 128 for ConvNets, 64 for ResNets, 32 for
        MobileNetV2 and EfficientNet-B0, 96 for Swin; of a ViT, of every token: 192 (tiny), 384 (small). A ViT has a
        head for every 64 channels, Swin for every 32.
      stem: "auto" is "small" up to 64 pixels and "imagenet" above; without meaning for ConvNets. "imagenet" is the
        network as published. "small" takes less of the resolution away at first: for ResNets a 3x3 convolution
        without stride or pooling; for MobileNetV2 and EfficientNet-B0 no stride in the first convolution and the first
        row of blocks that halves; for Swin patches of 2 pixels (1 below 16 pixels) instead of 4. A ViT's patches
        follow the size of the images, `vit.patch_size`, 2 below 32 pixels to 16 from 128 on, unless "imagenet" asks
        for 16.
      dtype: None computes in float32, "bfloat16" all activations in bfloat16. Parameters, features, logits and
        moments are float32 either way, and the variables are the same.

    Raises:
      InputError: unknown name, stem or dtype, images too small for the network, or a width that has no whole heads.
    """
    if stem not in ("auto", "imagenet", "small"):
        raise InputError(f"unknown stem {stem!r} for {name}; use auto, imagenet or small")
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r} for {name}; use bfloat16, or None for float32")
    if width is not None and width < 1:
        raise InputError(f"width {width} of {name} is not a number of channels; use 1 or more")
    return _wrapped(_module(name, num_classes, image_size, width, stem, _DTYPES[dtype]))


# Equal modules are one classifier, however their arguments were said.
_wrapped = cache(from_linen)


def _module(name, num_classes, image_size, width, stem, dtype) -> nn.Module:
    small = stem == "small" or (stem == "auto" and image_size <= 64)
    if name in _CONVNETS:
        depth = _CONVNETS[name]
        _can_halve(name, image_size, depth, "a shallower convnet")
        return ConvNet(num_classes, depth, width or 128, dtype)
    if name in _RESNETS:
        block, blocks = _RESNETS[name]
        return ResNet(num_classes, blocks, block, "small" if small else "imagenet", width or 64, dtype)
    if name in _MOBILENETS:
        _can_halve(name, image_size, 3 if small else 5, "a resnet" if small else "stem small")
        stem = "small" if small else "imagenet"
        return _MOBILENETS[name](num_classes, stem=stem, width=width or 32, dtype=dtype)
    if name in _VITS:
        patch, width = 16 if stem == "imagenet" else vit.patch_size(image_size), width or _VITS[name]
        if image_size < patch:
            raise InputError(f"{name} cuts patches of {patch} pixels, but images are only {image_size} pixels wide; "
                             "use stem auto or a larger --image-size")  # fmt: skip
        return vit.ViT(num_classes, patch, width, 12, _heads(name, width, width, 64), dtype)
    if name == "swin_tiny":
        patch, width = swin.patch_size(image_size, small), width or 96
        _can_halve(name, image_size, 2 + patch.bit_length(), "a vit" if small else "stem small")
        for group in range(4):
            _heads(name, width, width * 2**group, 32)
        return swin.Swin(num_classes, patch, width, dtype=dtype)
    near = difflib.get_close_matches(name, MODELS, 3, 0.3)
    raise InputError(f"unknown model {name!r}; nearest: {', '.join(near or MODELS)}")


def _can_halve(name, image_size, times, remedy):
    if image_size < 2**times:
        raise InputError(f"{name} halves the image {times} times, but images are only {image_size} pixels wide; "
                         f"use {remedy} or a larger --image-size")  # fmt: skip


def _heads(name, width, channels, head):
    heads = max(1, channels // head)
    if channels % heads:
        raise InputError(f"width {width} of {name} has no whole heads of {head} channels; use a multiple of {head}")
    return heads
