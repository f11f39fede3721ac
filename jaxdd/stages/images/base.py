"""The image stage: atoms, or real images, -> distilled images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.summarize.base import Summarizer, Summary

IMAGERS = Registry("imager")


class Images(NamedTuple):
    """The images of some classes.

    Attributes:
      places: which classes these are, as places in ``context.labels``, [k].
      images: float32 [k, m, H, W, ch], in the teacher's normalised space.
      curve: terms of a loss along the steps, name -> [steps, k]; empty where nothing was optimised.
    """

    places: np.ndarray
    images: np.ndarray
    curve: dict[str, np.ndarray] = {}


@dataclass(frozen=True)
class Imager:
    """The settings of an imager, which are also the function: ``imager(key, context, summary)`` yields `Images`.

    A subclass is a frozen dataclass with settings of its own and a `__call__`. Register it to give it a name.
    """

    spaces: ClassVar[tuple[str, ...]] = ("features", "latents")
    """Where its atoms may lie."""
    is_real: ClassVar[bool] = False
    """Whether its pixels are those of real images."""

    @property
    def needs(self) -> frozenset[str]:
        """What it asks for, beside the teacher and the real images.

        "atoms": a summary with atoms. "rows": the real image nearest to each atom. "autoencoder" and "denoiser": a
        latent model.
        """
        return frozenset({"atoms"})

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """Raise InputError for settings that do not exist, or for a summarizer that gives it nothing to work on."""
        name, other = IMAGERS.name_of(self), type(summarizer).__name__
        if "atoms" in self.needs and not summarizer.has_atoms:
            raise InputError(f"`summarizer` {other} gives {problem.method} no atoms, and `imager` {name} needs some; "
                             "use another of the two")  # fmt: skip
        if summarizer.space not in self.spaces:
            raise InputError(f"`imager` {name} takes atoms of {' or '.join(self.spaces)}, not of {summarizer.space}; "
                             f"use `summarizer.space` {self.spaces[0]}, or another imager")  # fmt: skip

    def group_size(self, classes: int, ipc: int) -> int:
        """How many neighbouring classes one process must make together, of so many."""
        return 1

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Make the images of the classes ``context.labels``; class c draws from a key folded with c."""
        raise TypeError(f"{type(self).__name__} defines no __call__(key, context, summary)")


def class_chunks(context: Context, ipc: int) -> Iterator[np.ndarray]:
    """The places of ``context.labels``, some at a time: about 64 images a device."""
    count = len(context.labels)
    size = max(1, 64 * context.resources.mesh.devices.size // ipc)
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def real_images(context: Context, rows: np.ndarray) -> np.ndarray:
    """The real images of encoded rows [k, m], float32 [k, m, H, W, ch]."""
    return context.classes.images(rows.reshape(-1)).reshape(*rows.shape, *context.classes.image_shape)
