"""Latent atoms -> images by a diffusion model: add noise, denoise given the class, decode."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.latent import diffusion
from jaxdd.latent.decoding import Pixels, decode
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.images.base import IMAGERS, Imager, Images, class_chunks
from jaxdd.stages.summarize.base import Summarizer, Summary


@IMAGERS.register("diffusion")
@dataclass(frozen=True)
class Diffusion(diffusion.Sampling, Imager):
    """`latent.decoding.decode` of each atom, as in D4M and DDOQ."""

    spaces: ClassVar[tuple[str, ...]] = ("latents",)

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        return frozenset({"atoms", "autoencoder", "denoiser"})

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """See `Imager.check`."""
        super().check(problem, summarizer)
        diffusion.check(self, diffusion.Schedule())

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Decode the atoms; the noise of atom j of class c comes from ``fold_in(fold_in(key, c), j)``."""
        return decoded(key, context, summary, self)


def decoded(key: jax.Array, context: Context, summary: Summary, sampling: diffusion.Sampling) -> Iterator[Images]:
    """Decode the atoms of some classes at a time.

    Raises:
      InputError: the context has no latent model.
    """
    if context.latent is None:
        raise InputError("decoding latent atoms needs a latent model; give `latent`")
    local = context.resources.mesh
    weights = parallel.put((context.latent.vae_variables, context.latent.variables), local, parallel.SAME)
    model = context.latent._replace(vae_variables=weights[0], variables=weights[1])
    pixels = Pixels(context.teacher.norm, context.classes.image_shape)
    points = np.asarray(summary.atoms.points)
    for places in class_chunks(context, points.shape[1]):
        labels = context.labels[places]
        yield Images(places, decode(key, model, sampling, points[places], pixels, labels, context.resources))
