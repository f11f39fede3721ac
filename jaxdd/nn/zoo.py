"""The registry of models, and their pure functions by name."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry
from jaxdd.nn import swin, vit
from jaxdd.nn.classifier import Classifier, from_linen
from jaxdd.nn.convnet import ConvNet
from jaxdd.nn.efficientnet import EfficientNet
from jaxdd.nn.mobilenet import MobileNet
from jaxdd.nn.resnet import BasicBlock, Bottleneck, ResNet

MODELS = Registry("model", Callable)
"""Functions of a `Size` that return a Linen module, whose call gives (logits, features), or a `Classifier`."""

_DTYPES = {None: None, "bfloat16": jnp.bfloat16}


class Size(NamedTuple):
    """The arguments of a model builder.

    Attributes:
      name: the name of the model, for messages.
      num_classes: the number of logits.
      image_size: the side of the images in pixels.
      width: channels, see `get`; None is the default of the model.
      stem: "auto", "imagenet" or "small", see `get`.
      dtype: the dtype of activations; None is float32.
    """

    name: str
    num_classes: int
    image_size: int
    width: int | None = None
    stem: str = "auto"
    dtype: Any = None

    @property
    def small(self) -> bool:
        """Whether the first layers should keep the resolution of the images."""
        return self.stem == "small" or (self.stem == "auto" and self.image_size <= 64)


def get(
    name: str,
    num_classes: int,
    image_size: int,
    width: int | None = None,
    stem: str = "auto",
    dtype: str | None = None,
) -> Classifier:
    """The named model for square images of side ``image_size``. Equal networks are the same functions.

    Args:
      name: one of `MODELS`.
      num_classes: the number of logits.
      image_size: the side of the images in pixels. Each block of a ConvNet halves it.
      width: the channels of the first block, to which all others are proportional. Default: 128 for ConvNets, 64 for
        ResNets, 32 for MobileNetV2 and EfficientNet-B0, 96 for Swin. For a ViT, the channels of every token: 192 (tiny)
        or 384 (small). A ViT has one head per 64 channels, Swin one per 32.
      stem: "auto" is "small" up to 64 pixels and "imagenet" above; ConvNets ignore it. "imagenet" is the network as
        published. "small" reduces the resolution less at first: for ResNets, a 3x3 convolution without stride or
        pooling; for MobileNetV2 and EfficientNet-B0, stride 1 in the first convolution and in the first row of stride
        2; for Swin, patches of 2 pixels (1 below 16 pixels) instead of 4. The patches of a ViT have the side
        `vit.patch_size`, from 2 below 32 pixels to 16 from 128 on, or 16 with "imagenet".
      dtype: None computes in float32, and "bfloat16" computes all activations in bfloat16. Parameters, features, logits
        and moments are float32 in both cases, and the variables are the same.

    Raises:
      InputError: unknown name, stem or dtype, images too small for the network, or a width not divisible into heads.
    """
    if stem not in ("auto", "imagenet", "small"):
        raise InputError(f"unknown stem {stem!r} for {name}; use auto, imagenet or small")
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r} for {name}; use bfloat16, or None for float32")
    if width is not None and width < 1:
        raise InputError(f"width {width} of {name} is not a number of channels; use 1 or more")
    return _built(MODELS.find(name), Size(name, num_classes, image_size, width, stem, _DTYPES[dtype]))


@cache
def _built(builder: Callable[[Size], nn.Module | Classifier], size: Size) -> Classifier:
    """Cached, so that networks of equal size share their compilation."""
    network = builder(size)
    return network if isinstance(network, Classifier) else _wrapped(network)


# Equal modules share one classifier, even if their arguments were given in different forms.
_wrapped = cache(from_linen)


def _convnet(depth: int, size: Size) -> nn.Module:
    _can_halve(size, depth, "a shallower convnet")
    return ConvNet(size.num_classes, depth, size.width or 128, size.dtype)


def _resnet(block: type[nn.Module], blocks: tuple[int, ...], size: Size) -> nn.Module:
    return ResNet(size.num_classes, blocks, block, "small" if size.small else "imagenet", size.width or 64, size.dtype)


def _mobilenet(kind: Callable[..., nn.Module], size: Size) -> nn.Module:
    _can_halve(size, 3 if size.small else 5, "a resnet" if size.small else "stem small")
    stem = "small" if size.small else "imagenet"
    return kind(size.num_classes, stem=stem, width=size.width or 32, dtype=size.dtype)


def _vit(default_width: int, size: Size) -> nn.Module:
    width = size.width or default_width
    patch = 16 if size.stem == "imagenet" else vit.patch_size(size.image_size)
    if size.image_size < patch:
        raise InputError(f"{size.name} cuts patches of {patch} pixels, but images are only {size.image_size} pixels "
                         "wide; use stem auto or a larger `image_size`")  # fmt: skip
    return vit.ViT(size.num_classes, patch, width, 12, _heads(size, width, 64), size.dtype)


def _swin(size: Size) -> nn.Module:
    patch, width = swin.patch_size(size.image_size, size.small), size.width or 96
    _can_halve(size, 2 + patch.bit_length(), "a vit" if size.small else "stem small")
    for group in range(4):
        _heads(size._replace(width=width), width * 2**group, 32)
    return swin.Swin(size.num_classes, patch, width, dtype=size.dtype)


for _depth in (3, 4, 5, 6):
    MODELS.register(f"convnet{_depth}", partial(_convnet, _depth))
MODELS.register("resnet18", partial(_resnet, BasicBlock, (2, 2, 2, 2)))
MODELS.register("resnet34", partial(_resnet, BasicBlock, (3, 4, 6, 3)))
MODELS.register("resnet50", partial(_resnet, Bottleneck, (3, 4, 6, 3)))
MODELS.register("resnet101", partial(_resnet, Bottleneck, (3, 4, 23, 3)))
MODELS.register("mobilenet_v2", partial(_mobilenet, MobileNet))
MODELS.register("efficientnet_b0", partial(_mobilenet, EfficientNet))
MODELS.register("vit_tiny", partial(_vit, 192))
MODELS.register("vit_small", partial(_vit, 384))
MODELS.register("swin_tiny", _swin)


def _can_halve(size: Size, times: int, remedy: str) -> None:
    if size.image_size < 2**times:
        raise InputError(f"{size.name} halves the image {times} times, but images are only {size.image_size} pixels "
                         f"wide; use {remedy} or a larger `image_size`")  # fmt: skip


def _heads(size: Size, channels: int, head: int) -> int:
    heads = max(1, channels // head)
    if channels % heads:
        raise InputError(f"width {size.width} of {size.name} has no whole heads of {head} channels; use a multiple of "
                         f"{head}")  # fmt: skip
    return heads
