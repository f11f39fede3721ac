"""Latent atoms -> images by a diffusion model: add noise, denoise given the class, decode."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.programs import Work
from jaxdd.latent import decoding, diffusion
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

    def work(self, context: Context, ipc: int) -> Work:
        """See `Imager.work`."""
        return work(context, self, ipc)

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Decode the atoms; the noise of atom j of class c comes from ``fold_in(fold_in(key, c), j)``."""
        return decoded(key, context, summary, self)


def work(context: Context, sampling: diffusion.Sampling, ipc: int) -> Work:
    """The work of `decoded`."""
    model, classes, resources = context.latent, len(context.labels), context.resources
    assert model is not None
    # The classes come in chunks, so a batch is not larger than one of them.
    chunk = len(next(class_chunks(context, ipc)))
    used = model if sampling.strength > 0 else model._replace(denoiser=None)
    size = decoding.batch_size(used, min(chunk, classes), ipc, resources)
    planned = decoding.program(model, sampling, context.classes.image_shape, size, resources.mesh)
    batches = -(-classes // chunk) * -(-chunk * ipc // size)
    shorter = decoding.SHORTER if sampling.strength > 0 else ""
    return Work("decode", "images", classes * ipc, 1, batches, 1, planned, decoding.BATCH, shorter, busy=0.5)


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
