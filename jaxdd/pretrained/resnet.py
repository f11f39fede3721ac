"""ResNets with the tensor names of torchvision, as published by timm in safetensors."""

from pathlib import Path
from typing import NamedTuple

import jax

from jaxdd import nn
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.settings import CHANNELS, CLASSES
from jaxdd.nn.classifier import Variables
from jaxdd.pretrained.hub import find, patterns_of, read_json
from jaxdd.pretrained.tensors import Naming, dotted, fill, tensors

_STEMS = {7: "imagenet", 3: "small"}
_PARTS = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1", "head": "fc"}
# Beyond all normalisations of pixels in [0, 1] or [0, 255].
_FAR = 1e4
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(NamedTuple):
    """Arguments of `jaxdd.nn.get` for a model, the normalisation of its images, and its variables."""

    name: str
    stem: str
    width: int
    num_classes: int
    mean: tuple[float, ...]
    """Per channel, of images in [0, 1]."""
    std: tuple[float, ...]
    variables: Variables


def resnet(place: str | Path, name: str) -> Network:
    """A ResNet with the parameters and BatchNorm averages of a safetensors file, NumPy float32.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub, such as "timm/resnet18.tv_in1k". Mean and std
        are those of config.json beside the weights (timm's pretrained_cfg), or else of ImageNet.
      name: "resnet18", "resnet34", "resnet50" or "resnet101".

    Raises:
      InputError: no weights, damaged files, or weights of another network.
    """
    if not name.startswith("resnet") or name not in nn.MODELS:
        known = ", ".join(model for model in nn.MODELS if model.startswith("resnet"))
        raise InputError(f"published weights of {name!r} are not covered; use {known}")
    folder = find(place, patterns_of())
    weights = tensors(folder)
    for needed, rank in (("conv1.weight", 4), ("fc.weight", 2)):
        if needed not in weights or len(weights[needed].shape) != rank:
            raise InputError(f"the weights in {folder} have no {needed} of {rank} axes; give a ResNet with the names "
                             "of torchvision")  # fmt: skip
    width, channels, *kernel = weights["conv1.weight"].shape
    for what, size, most in (
        ("channels", max(width, channels), CHANNELS.high),
        ("classes", weights["fc.weight"].shape[0], CLASSES.longest),
    ):
        if not 1 <= size <= most:
            raise InputError(f"the weights in {folder} have {size} {what}; give a ResNet with 1 to {most}")
    stem = _STEMS.get(kernel[0])
    if stem is None:
        raise InputError(f"conv1.weight in {folder} has a kernel of {kernel[0]} pixels; a ResNet here has 7 or 3")
    num_classes = weights["fc.weight"].shape[0]
    model = nn.get(name, num_classes, 64, width, stem)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), (64, 64, channels)))
    mean, std = _normalisation(folder, channels)
    return Network(name, stem, width, num_classes, mean, std, fill(like, weights, Naming(_name), folder))


def _name(path):
    """The tensor's name of a leaf: layer1_0/norm1/bn/scale -> layer1.0.bn1.weight."""
    parts = (_PARTS.get(part, part.replace("norm", "bn").replace("_", ".")) for part in path[1:-1] if part != "bn")
    return dotted((path[0], *parts, path[-1]))


def _normalisation(folder, channels):
    file = folder / "config.json"
    record = read_json(file) if file.is_file() else {}
    record = record.get("pretrained_cfg", record)
    if not isinstance(record, dict):
        raise InputError(f"{file}: pretrained_cfg {shown(record)} is no record; download it again")
    values = [record.get(key, default) for key, default in zip(("mean", "std"), _IMAGENET)]
    for key, value in zip(("mean", "std"), values):
        numbers = isinstance(value, list | tuple) and all(type(v) in (int, float) and abs(v) < _FAR for v in value)
        if not numbers or len(value) != channels or (key == "std" and min(value) <= 0):
            raise InputError(f"{key} {shown(value)} of {file} does not fit images of {channels} channels; correct it "
                             "there, as the weights were trained with it")  # fmt: skip
    return tuple(tuple(float(v) for v in value) for value in values)
