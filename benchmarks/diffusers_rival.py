"""Stage 3b with diffusers: its autoencoder, diffusion transformer and scheduler. Importing this file needs both."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from benchmarks.harness import Mode
from benchmarks.torch_rivals import device, full_precision, has_gpu, memory, tensor, wait

__all__ = ["Decoder", "full_precision", "has_gpu", "memory", "wait"]
diffusers.utils.logging.set_verbosity_error()
logging.getLogger("diffusers").setLevel(logging.ERROR)


class Decoder:
    """Latents [N, h, w, c] to images [N, H, W, 3] in [-1, 1]: noised, denoised with guidance by DDIM, decoded."""

    def __init__(self, place: Path, settings: Any, mode: Mode):
        kind = torch.bfloat16 if mode.dtype == "bfloat16" else torch.float32
        with contextlib.redirect_stderr(None):
            load = {"torch_dtype": kind, "local_files_only": True}
            self.vae = AutoencoderKL.from_pretrained(place, subfolder="vae", **load).to(device()).eval()
            self.dit = DiTTransformer2DModel.from_pretrained(place, subfolder="transformer", **load).to(device()).eval()
        self.vae.to(memory_format=torch.channels_last)
        self.scheduler = DDIMScheduler.from_pretrained(place, subfolder="scheduler")
        self.settings, self.kind, self.null = settings, kind, self.dit.config.num_embeds_ada_norm
        self.scheduler.set_timesteps(settings.steps)
        self.times = self.scheduler.timesteps[settings.steps - round(settings.strength * settings.steps) :]
        self.denoiser = torch.compile(self.dit) if mode.compiled else self.dit
        self.decoder = torch.compile(self.vae.decode) if mode.compiled else self.vae.decode

    def predict(self, x: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """The noise, with classifier-free guidance; a learned variance is of no use to DDIM."""
        both = torch.cat([torch.full_like(labels, self.null), labels])
        times = torch.full_like(both, t)
        out = self.denoiser(torch.cat([x, x]).to(self.kind), timestep=times, class_labels=both).sample
        without, guided = out[:, : x.shape[1]].float().chunk(2)
        return without + self.settings.guidance * (guided - without)

    def pictures(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder((x / self.vae.config.scaling_factor).to(self.kind)).sample.float()

    @torch.inference_mode()
    def check(self, x: np.ndarray, t: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The guided prediction at x, and x decoded."""
        x, labels = tensor(x).permute(0, 3, 1, 2), tensor(labels).long()
        return tuple(y.permute(0, 2, 3, 1).cpu().numpy() for y in (self.predict(x, t, labels), self.pictures(x)))

    @torch.inference_mode()
    def decode(self, latents: np.ndarray, labels: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        x, labels = tensor(latents).permute(0, 3, 1, 2), tensor(labels).long()
        e = torch.randn_like(x) if noise is None else tensor(noise).permute(0, 3, 1, 2)
        x = self.scheduler.add_noise(x, e, self.times[:1])
        for t in self.times.tolist():
            x = self.scheduler.step(self.predict(x, t, labels), t, x).prev_sample
        return self.pictures(x).permute(0, 2, 3, 1).cpu().numpy()
