"""The summarize stage: each class's cloud of points -> a few weighted atoms."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import POWERS, Measure
from jaxdd.ground.registry import Registry
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.encode import SPACES

SUMMARIZERS = Registry("summarizer")


class Summary(NamedTuple):
    """What stands for each class.

    Attributes:
      atoms: points float32 [C, m, d], weights float32 [C, m].
      costs: W2^2 along the solver's rounds, [C, rounds]; [C, 0] where nothing was solved.
      rows: for each atom the row of a real image that it is, or that is nearest to it, [C, m]; None if unknown.
    """

    atoms: Measure
    costs: np.ndarray
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Summarizer:
    """The settings of a summarizer, which are also the function: ``summarizer(key, context, ipc) -> Summary``.

    A subclass is a frozen dataclass with settings of its own and a `__call__`. Register it to give it a name.
    """

    space: str = "features"
    """Where the classes are summarized: the teacher's "features" or an autoencoder's "latents"."""
    weights: str = "free"
    """Weights of the images: as the summarizer finds them ("free"), in proportion to their roots ("sqrt"), or equal
    ("uniform"). The barycenter places its atoms for equal weights if asked; a quantizer only forgets its masses."""

    has_atoms: ClassVar[bool] = True
    """Whether its atoms stand for anything; without, only labels do."""
    is_random: ClassVar[bool] = False
    """Whether it draws the atoms rather than solves for them: a baseline, to be drawn anew for each student."""

    def check(self, problem: Problem) -> None:
        """Raise InputError for settings that do not exist, or for fewer real images than atoms."""
        SPACES.find(self.space)
        if self.weights not in POWERS:
            raise InputError(f"unknown `weights` {self.weights!r} for {problem.method}; use {' or '.join(POWERS)}")
        if self.has_atoms and problem.counts.min() < problem.ipc:
            worst = int(problem.counts.argmin())
            raise InputError(
                f"class {problem.class_names[worst]!r} has {problem.counts[worst]} real images, fewer than the "
                f"{problem.ipc} per class that {problem.method} needs; lower `ipc` or add images"
            )

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """Summarize the classes ``context.labels``; class c draws from ``fold_in(key, c)``."""
        raise TypeError(f"{type(self).__name__} defines no __call__(key, context, ipc)")
