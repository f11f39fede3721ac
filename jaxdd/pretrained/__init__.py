"""Conversion between published weights, of diffusers, torchvision and TAESD, and Flax variables; no pickles."""

from jaxdd.pretrained.autoencoders import autoencoder, build, save_autoencoder
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
from jaxdd.pretrained.tiny import save_tiny, tiny

__all__ = [
    "Loaded",
    "Network",
    "autoencoder",
    "build",
    "class_context",
    "dit",
    "find",
    "imagenet_classes",
    "resnet",
    "save_autoencoder",
    "save_dit",
    "save_schedule",
    "save_tiny",
    "save_vae",
    "schedule",
    "text_encoder",
    "tiny",
    "tokenizer",
    "unet",
    "vae",
]
