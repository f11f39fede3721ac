"""What all imagers share: the registry, the result `Images`, and the base class `Imager`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.programs import Work
from jaxdd.ground.registry import Registry
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.summarize.base import Summarizer, Summary

IMAGERS = Registry("imager")


class Images(NamedTuple):
    """The images of some classes.

    Attributes:
      places: the indices of these classes in ``context.labels``, [k].
      images: float32 [k, m, H, W, ch], in the teacher's normalised space.
      curve: the terms of the loss at each step, name -> [steps, k]; empty if nothing was optimised.
    """

    places: np.ndarray
    images: np.ndarray
    curve: dict[str, np.ndarray] = {}


@dataclass(frozen=True)
class Imager:
    """The settings of an imager. They are also the function: ``imager(key, context, summary)`` yields `Images`.

    A subclass is a frozen dataclass with its settings as fields and a `__call__`. Register it to give it a name.
    """

    spaces: ClassVar[tuple[str, ...]] = ("features", "latents")
    """The spaces in which the atoms may lie."""
    is_real: ClassVar[bool] = False
    """Whether its pixels are those of real images."""
    takes_committee: ClassVar[bool] = False
    """Whether it makes use of the committee of a context."""

    @property
    def needs(self) -> frozenset[str]:
        """What it needs besides the teacher and the real images.

        "atoms": a summary with atoms. "rows": the real image nearest to each atom. "autoencoder" and "denoiser": a
        latent model.
        """
        return frozenset({"atoms"})

    @property
    def repeats(self) -> int:
        """How many images it makes of each atom. The summary that it gets has each atom so many times in a row."""
        return 1

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """Raise InputError for unknown settings, or for a summarizer whose result it cannot use."""
        name, other = IMAGERS.name_of(self), type(summarizer).__name__
        if "atoms" in self.needs and not summarizer.has_atoms:
            raise InputError(f"`summarizer` {other} gives {problem.method} no atoms, and `imager` {name} needs some; "
                             "use another of the two")  # fmt: skip
        if summarizer.space not in self.spaces:
            raise InputError(f"`imager` {name} takes atoms of {' or '.join(self.spaces)}, not of {summarizer.space}; "
                             f"use `summarizer.space` {self.spaces[0]}, or another imager")  # fmt: skip
        if self.repeats < 1 or problem.ipc % self.repeats:
            raise InputError(f"{problem.ipc} images per class are no multiple of the {self.repeats} of each atom; "
                             "change `ipc`, or the images of an atom")  # fmt: skip

    def group_size(self, classes: int, ipc: int) -> int:
        """The number of neighbouring classes, out of ``classes``, that one process must make together."""
        return 1

    def work(self, context: Context, ipc: int) -> Work | None:
        """What `__call__` has to do, see `Summarizer.work`."""
        return None

    def works(self, context: Context, ipc: int) -> list[Work]:
        """All that `__call__` has to do, one after the other, where that is more than `work`."""
        one = self.work(context, ipc)
        return [] if one is None else [one]

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Make the images of the classes ``context.labels``; class c draws its random numbers from fold_in(key, c)."""
        raise TypeError(f"{type(self).__name__} defines no __call__(key, context, summary)")


def class_chunks(context: Context, ipc: int) -> Iterator[np.ndarray]:
    """The indices into ``context.labels`` in chunks of about 64 images per device."""
    count = len(context.labels)
    size = max(1, 64 * context.resources.mesh.devices.size // ipc)
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def real_images(context: Context, rows: np.ndarray) -> np.ndarray:
    """The real images of encoded rows [k, m], float32 [k, m, H, W, ch]."""
    return context.classes.images(rows.reshape(-1)).reshape(*rows.shape, *context.classes.image_shape)
