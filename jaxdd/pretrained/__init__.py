"""Conversion between published weights, in the layouts of diffusers and torchvision, and Flax variables; no pickles."""

from jaxdd.pretrained.hub import find
from jaxdd.pretrained.imagenet import class_names as imagenet_classes
from jaxdd.pretrained.latent import (
    Loaded,
    dit,
    save_dit,
    save_schedule,
    save_vae,
    schedule,
    text_encoder,
    unet,
    vae,
)
from jaxdd.pretrained.resnet import Network, resnet
from jaxdd.pretrained.text import class_context, tokenizer

__all__ = [
    "Loaded",
    "Network",
    "class_context",
    "dit",
    "find",
    "imagenet_classes",
    "resnet",
    "save_dit",
    "save_schedule",
    "save_vae",
    "schedule",
    "text_encoder",
    "tokenizer",
    "unet",
    "vae",
]
