"""Latent atoms -> images by the autoencoder alone, without diffusion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxdd.ground.programs import Work
from jaxdd.latent.diffusion import Sampling
from jaxdd.stages.context import Context
from jaxdd.stages.images.base import IMAGERS, Imager, Images
from jaxdd.stages.images.diffusion import decoded, work
from jaxdd.stages.summarize.base import Summary


@IMAGERS.register("vae")
@dataclass(frozen=True)
class Vae(Imager):
    """The decoded atoms without diffusion. A mean of several latents decodes to a blurred image."""

    spaces: ClassVar[tuple[str, ...]] = ("latents",)

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        return frozenset({"atoms", "autoencoder"})

    def work(self, context: Context, ipc: int) -> Work:
        """See `Imager.work`."""
        return work(context, Sampling(strength=0.0), ipc)

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Decode the atoms; the key is unused."""
        return decoded(key, context, summary, Sampling(strength=0.0))
