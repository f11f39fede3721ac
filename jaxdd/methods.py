"""The methods as data: a method is a choice of function at each stage, and `distill` is their one composition.

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> images

Only crops go straight from images to images.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import choice
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.encode import SPACES
from jaxdd.stages.images import IMAGERS, Imager, Recover
from jaxdd.stages.images.nearest import nearest_rows
from jaxdd.stages.summarize import SUMMARIZERS, Barycenter, Summarizer


@dataclass(frozen=True)
class Recipe:
    """What a method does at each stage."""

    summarizer: Summarizer = choice(SUMMARIZERS, Barycenter())
    """Each class's cloud of points to a few weighted atoms, or to chosen real images."""
    imager: Imager = choice(IMAGERS, Recover())
    """Atoms, or real images, to distilled images."""

    @property
    def needs(self) -> frozenset[str]:
        """The models that it needs beside the teacher, of "autoencoder" and "denoiser"."""
        wanted = SPACES.find(self.summarizer.space).needs | self.imager.needs
        return wanted & {"autoencoder", "denoiser"}

    @property
    def is_redrawn(self) -> bool:
        """Whether the images are drawn anew for each student: those that are nothing but a random choice."""
        return self.summarizer.is_random and self.imager.is_real


RECIPES = Registry("method", Recipe)
"""The methods by their names; the named ones are in `jaxdd.recipes`."""


class Result(NamedTuple):
    """What a method makes of some classes, with the evidence.

    Attributes:
      images: float32 [C, m, H, W, ch], in the teacher's normalised space.
      atoms: points [C, m, d], weights [C, m].
      costs: W2^2 along the solver's rounds, [C, rounds]; [C, 0] where nothing was solved.
      curve: the terms of the recover loss, name -> [steps, C]; empty without recovery.
      classes: which classes these are, [C].
    """

    images: np.ndarray
    atoms: Measure
    costs: np.ndarray
    curve: dict[str, np.ndarray]
    classes: np.ndarray


def joined(parts: Iterable[Result]) -> Result:
    """Results of different classes as one, in the order of the classes."""
    parts = sorted(parts, key=lambda part: part.classes[0])
    steps = max((len(values) for part in parts for values in part.curve.values()), default=0)
    # A part that stopped early stays at its last loss.
    pad = lambda values: np.pad(values, ((0, steps - len(values)), (0, 0)), "edge")
    curve = {name: np.concatenate([pad(part.curve[name]) for part in parts], 1) for name in parts[0].curve}
    rows = lambda *arrays: np.concatenate(arrays)
    first, *rest = [part._replace(curve={}) for part in parts]
    return jax.tree.map(rows, first, *rest)._replace(curve=curve)


def check(recipe: Recipe, problem: Problem) -> None:
    """Raise InputError for settings that do not exist or go together, and for a class of too few real images."""
    if problem.ipc < 1:
        raise InputError(f"`ipc` {problem.ipc} is not a number of images per class; use 1 or more")
    recipe.imager.check(problem, recipe.summarizer)
    recipe.summarizer.check(problem)


def distill(key: jax.Array, recipe: Recipe, ipc: int, context: Context) -> Result:
    """Distil to ``ipc`` images a class: summarize, then real images, recovered or decoded ones; or crops.

    Args:
      key: every draw comes from it, folded with stage, class and step.
      recipe: the choice at each stage.
      ipc: images per class.
      context: the teacher, the real data as encoded in the recipe's space, a latent model if the recipe needs one, and
        the machine. Unused images are never read.
    """
    return joined(distill_parts(key, recipe, ipc, context))


def distill_parts(key: jax.Array, recipe: Recipe, ipc: int, context: Context) -> Iterator[Result]:
    """`distill`, some classes at a time as they are finished, so that they can be kept.

    A class comes out the same whichever others are in ``context.subset``, but global moments need undivided groups of
    ``recipe.imager.group_size`` neighbouring classes.
    """
    k_atoms, k_images = jax.random.split(key)
    summary = recipe.summarizer(k_atoms, context, ipc)
    if "rows" in recipe.imager.needs and summary.rows is None and recipe.summarizer.has_atoms:
        summary = summary._replace(rows=nearest_rows(context, summary.atoms.points))
    for part in recipe.imager(k_images, context, summary):
        atoms = jax.tree.map(lambda x, places=part.places: np.asarray(x)[places], summary.atoms)
        yield Result(part.images, atoms, summary.costs[part.places], dict(part.curve), context.labels[part.places])
