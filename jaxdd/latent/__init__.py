"""Latent diffusion as pure functions: the autoencoder, the denoisers and the diffusion process."""

from jaxdd.latent import clip, diffusion, dit, unet, vae
from jaxdd.latent.clip import CLIPTextConfig, TextEncoder, text_encoder
from jaxdd.latent.diffusion import STABLE_DIFFUSION, Denoiser, Sampling, Schedule, sample
from jaxdd.latent.dit import DiTConfig
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
    "UNetConfig",
    "VAEConfig",
    "autoencoder",
    "clip",
    "diffusion",
    "dit",
    "sample",
    "text_encoder",
    "unet",
    "vae",
]
