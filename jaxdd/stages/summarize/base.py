"""What all summarizers share: the registry, the result `Summary`, and the base class `Summarizer`."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import POWERS, Measure
from jaxdd.ground.programs import Work
from jaxdd.ground.registry import Registry
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.encode import SPACES

SUMMARIZERS = Registry("summarizer")


class Summary(NamedTuple):
    """A few weighted atoms that represent each class.

    Attributes:
      atoms: points float32 [C, m, d], weights float32 [C, m].
      costs: W2^2 after each round of the solver, [C, rounds]; [C, 0] if there was no solver.
      rows: for each atom the row of the real image that it equals or that is nearest to it, [C, m]; None if unknown.
    """

    atoms: Measure
    costs: np.ndarray
    rows: np.ndarray | None = None

    def repeated(self, count: int) -> "Summary":
        """Each atom so many times in a row, its weight divided among them: the same measure, [C, m count]."""
        (points, weights), again = self.atoms, lambda x: np.repeat(np.asarray(x), count, 1)
        atoms = Measure(again(points), again(weights) / np.float32(count))
        return Summary(atoms, self.costs, None if self.rows is None else again(self.rows))


@dataclass(frozen=True)
class Summarizer:
    """The settings of a summarizer. They are also the function: ``summarizer(key, context, ipc) -> Summary``.

    A subclass is a frozen dataclass with its settings as fields and a `__call__`. Register it to give it a name.
    """

    space: str = "features"
    """Where the classes are summarized: the teacher's "features" or an autoencoder's "latents"."""
    weights: str = "free"
    """Weights of the images: as the summarizer computes them ("free"), proportional to their square roots ("sqrt"), or
    equal ("uniform"). For "uniform" the barycenter optimises its atoms under equal weights; a quantizer optimises with
    free masses and drops them afterwards."""

    has_atoms: ClassVar[bool] = True
    """Whether the atoms represent the class; if not, only the label does."""
    is_random: ClassVar[bool] = False
    """Whether the atoms are drawn at random instead of computed: a baseline, with a new draw for each student."""

    def check(self, problem: Problem) -> None:
        """Raise InputError for unknown settings, or if a class has fewer real images than atoms."""
        SPACES.find(self.space)
        if self.weights not in POWERS:
            raise InputError(f"unknown `weights` {self.weights!r} for {problem.method}; use {' or '.join(POWERS)}")
        if self.has_atoms and problem.counts.min() < problem.ipc:
            worst = int(problem.counts.argmin())
            raise InputError(
                f"class {problem.class_names[worst]!r} has {problem.counts[worst]} real images, fewer than the "
                f"{problem.ipc} per class that {problem.method} needs; lower `ipc` or add images"
            )

    def work(self, context: Context, ipc: int) -> Work | None:
        """What `__call__` has to do, for a plan of the run; None if it is little or unknown.

        Args:
          context: with zeros in the place of features and moments, and shapes in that of variables.
        """
        return None

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """Summarize the classes ``context.labels``; class c draws its random numbers from ``fold_in(key, c)``."""
        raise TypeError(f"{type(self).__name__} defines no __call__(key, context, ipc)")
