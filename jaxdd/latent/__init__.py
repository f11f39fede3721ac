"""Latent diffusion as pure functions: the autoencoder, the denoisers and the diffusion process."""

from jaxdd.latent import clip, diffusion, dit, tiny, unet, vae
from jaxdd.latent.clip import CLIPTextConfig, TextEncoder, text_encoder
from jaxdd.latent.diffusion import STABLE_DIFFUSION, Denoiser, Sampling, Schedule, sample
from jaxdd.latent.dit import DiTConfig
from jaxdd.latent.tiny import TinyConfig
from jaxdd.latent.unet import UNetConfig
from jaxdd.latent.vae import Autoencoder, VAEConfig, autoencoder

__all__ = [
    "STABLE_DIFFUSION",
    "Autoencoder",
    "CLIPTextConfig",
    "Denoiser",
    "DiTConfig",
    "Sampling",
    "Schedule",
    "TextEncoder",
    "TinyConfig",
    "UNetConfig",
    "VAEConfig",
    "autoencoder",
    "clip",
    "diffusion",
    "dit",
    "sample",
    "text_encoder",
    "tiny",
    "unet",
    "vae",
]
