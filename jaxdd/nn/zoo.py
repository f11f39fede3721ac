"""From a model's name to its pure functions."""

import difflib
from functools import cache

import jax.numpy as jnp

from jaxdd.errors import InputError
from jaxdd.nn.classifier import Classifier, from_linen
from jaxdd.nn.convnet import ConvNet
from jaxdd.nn.resnet import BasicBlock, Bottleneck, ResNet

_RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
_CONVNETS = {f"convnet{depth}": depth for depth in (3, 4, 5, 6)}
MODELS = (*_CONVNETS, *_RESNETS)
_DTYPES = {None: None, "bfloat16": jnp.bfloat16}


@cache
def get(
    name: str,
    num_classes: int,
    image_size: int,
    width: int | None = None,
    stem: str = "auto",
    dtype: str | None = None,
) -> Classifier:
    """The named model for square images of side ``image_size``; equal arguments give the very same functions.

    Args:
      name: one of `MODELS`.
      num_classes: number of logits.
      image_size: side of the images in pixels; a ConvNet halves it once a block, and ``stem="auto"`` gives a ResNet
        the 3x3 stem up to 64 pixels and the ImageNet stem above.
      width: channels of the first block; default 128 for ConvNets, 64 for ResNets.
      stem: "auto", "imagenet" or "small"; ResNets only.
      dtype: None computes in float32, "bfloat16" all activations in bfloat16. Parameters, features, logits and
        moments are float32 either way, and the variables are the same.

    Raises:
      InputError: unknown name, stem or dtype, or images too small for the depth.
    """
    if stem not in ("auto", "imagenet", "small"):
        raise InputError(f"unknown stem {stem!r} for {name}; use auto, imagenet or small")
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r} for {name}; use bfloat16, or None for float32")
    if width is not None and width < 1:
        raise InputError(f"width {width} of {name} is not a number of channels; use 1 or more")
    if name in _CONVNETS:
        depth = _CONVNETS[name]
        if image_size < 2**depth:
            raise InputError(f"{name} halves the image {depth} times, but images are only {image_size} pixels wide; "
                             "use a shallower convnet or a larger --image-size")  # fmt: skip
        return from_linen(ConvNet(num_classes, depth, width or 128, _DTYPES[dtype]))
    if name in _RESNETS:
        block, blocks = _RESNETS[name]
        if stem == "auto":
            stem = "small" if image_size <= 64 else "imagenet"
        return from_linen(ResNet(num_classes, blocks, block, stem, width or 64, _DTYPES[dtype]))
    near = difflib.get_close_matches(name, MODELS, 3, 0.3)
    raise InputError(f"unknown model {name!r}; nearest: {', '.join(near or MODELS)}")
