"""Latent atoms -> images by a diffusion model: add noise, denoise given the class, decode."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.programs import Work
from jaxdd.latent import decoding, diffusion
from jaxdd.latent.decoding import LatentModel, Pixels, decode
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.images import together
from jaxdd.stages.images.base import IMAGERS, Imager, Images, class_chunks
from jaxdd.stages.images.together import Together
from jaxdd.stages.summarize.base import Summarizer, Summary
from jaxdd.stages.summarize.quantization import Quantization


@IMAGERS.register("diffusion")
@dataclass(frozen=True)
class Diffusion(Together, Imager):
    """`latent.decoding.decode` of each atom, as in D4M and DDOQ.

    The latents of a class may also be moved towards its measure while they are denoised, and chosen so that they do not
    repeat each other: see `together.denoised`.
    """

    spaces: ClassVar[tuple[str, ...]] = ("latents",)

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        return frozenset({"atoms", "autoencoder", "denoiser"})

    @property
    def repeats(self) -> int:
        """See `Imager.repeats`."""
        return self.per_atom

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """See `Imager.check`."""
        super().check(problem, summarizer)
        diffusion.check(self, diffusion.Schedule())
        if (self.knows_others or self.per_atom > 1) and not self.takes_steps:
            raise InputError(
                f"`imager.strength` {self.strength} adds no noise, so all images of an atom are equal; use more with "
                "`imager.transport`, `imager.per_atom` or `imager.candidates`"
            )

    def works(self, context: Context, ipc: int) -> list[Work]:
        """See `Imager.works`."""
        return _works_together(context, self, ipc) if self.knows_others else [work(context, self, ipc)]

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Decode the atoms; the noise of atom j of class c comes from ``fold_in(fold_in(key, c), j)``."""
        return _together(key, context, summary, self) if self.knows_others else decoded(key, context, summary, self)


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
    model = _placed(context)
    pixels = Pixels(context.teacher.norm, context.classes.image_shape)
    points = np.asarray(summary.atoms.points)
    for places in class_chunks(context, points.shape[1]):
        labels = context.labels[places]
        yield Images(places, decode(key, model, sampling, points[places], pixels, labels, context.resources))


def _placed(context: Context) -> LatentModel:
    """The latent model of the context, with its variables on the devices."""
    if context.latent is None:
        raise InputError("decoding latent atoms needs a latent model; give `latent`")
    local = context.resources.mesh
    weights = parallel.put((context.latent.vae_variables, context.latent.variables), local, parallel.SAME)
    return context.latent._replace(vae_variables=weights[0], variables=weights[1])


_PLAIN = diffusion.Sampling(strength=0.0)


def _together(key: jax.Array, context: Context, summary: Summary, settings: Together) -> Iterator[Images]:
    """Denoise the latents of each class together, then decode them."""
    model = _placed(context)
    if model.denoiser is None:
        raise InputError(f"strength {settings.strength} of noise, but no denoiser; give one")
    pixels = Pixels(context.teacher.norm, context.classes.image_shape)
    atoms = jax.tree.map(np.asarray, summary.atoms)
    target = _target(key, context, atoms, settings) if settings.transport > 0 else None
    for places in class_chunks(context, atoms.points.shape[1]):
        labels, (some, towards) = context.labels[places], jax.tree.map(lambda x, at=places: x[at], (atoms, target))
        latents = together.denoised(key, model, settings, some, towards, labels, context.resources)
        yield Images(places, decode(key, model, _PLAIN, latents, pixels, labels, context.resources))


def _target(key: jax.Array, context: Context, atoms: Measure, settings: Together) -> Measure:
    """The measure of each class towards which its latents are moved, points [C, n, d] and weights [C, n]."""
    if not settings.targets:
        return atoms
    points = _target_size(context, settings, atoms.points.shape[1])
    return jax.tree.map(np.asarray, _QUANTIZED(jax.random.fold_in(key, _TARGETS), context, points).atoms)


_QUANTIZED = Quantization(space="latents", weights="free")
# Classes have smaller numbers, so that their noise is of other keys.
_TARGETS = 2**32 - 1


def _target_size(context: Context, settings: Together, m: int) -> int:
    """The points of a target for m images: as many for all classes of the data, whichever are distilled."""
    if not settings.targets:
        return m
    return max(1, min(int(context.classes.encoded.counts.min()), settings.targets * m // settings.per_atom))


def _works_together(context: Context, settings: Together, ipc: int) -> list[Work]:
    """The work of `_together`: the targets, the denoising, and the decoding."""
    model, classes, resources = context.latent, len(context.labels), context.resources
    assert model is not None
    points = _target_size(context, settings, ipc)
    chunk, images = len(next(class_chunks(context, ipc))), settings.rounds(ipc) * ipc
    size = together.sizes(model, settings, min(chunk, classes), ipc, resources)
    planned = together.program(model, settings, (ipc, points), size, resources.mesh)
    chunks = -(-classes // chunk) * -(-chunk // size.classes)
    most = max(images, decoding.BATCH // images * images)
    denoising = Work("denoise", "images", classes * images, 1, chunks, 1, planned, most, decoding.SHORTER,
                     busy=0.5, least=images)  # fmt: skip
    works = [denoising, work(context, _PLAIN, ipc)]
    if settings.transport > 0 and settings.targets:
        works.insert(0, _QUANTIZED.work(context, points).titled("targets"))
    return works
