"""Methods as data: a method chooses one function for each stage, and `distill` composes them.

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> images

The crops of RDED have no atoms: they are cut from the real images directly.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import choice
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.encode import SPACES
from jaxdd.stages.images import IMAGERS, Imager, Recover
from jaxdd.stages.images.nearest import nearest_rows
from jaxdd.stages.summarize import SUMMARIZERS, Barycenter, Summarizer
from jaxdd.stages.usable import check_images, check_summary


@dataclass(frozen=True)
class Recipe:
    """What a method does at each stage."""

    summarizer: Summarizer = choice(SUMMARIZERS, Barycenter())
    """Turns the points of each class into a few weighted atoms, or chooses real images."""
    imager: Imager = choice(IMAGERS, Recover())
    """Turns atoms or real images into distilled images."""

    @property
    def needs(self) -> frozenset[str]:
        """The models needed besides the teacher: a subset of {"autoencoder", "denoiser"}."""
        wanted = SPACES.find(self.summarizer.space).needs | self.imager.needs
        return wanted & {"autoencoder", "denoiser"}

    @property
    def is_redrawn(self) -> bool:
        """Whether each student gets a new draw of the images, because they are real images chosen at random."""
        return self.summarizer.is_random and self.imager.is_real


RECIPES = Registry("method", Recipe, home="jaxdd.recipes")
"""The methods by name; `jaxdd.recipes` has those of the library."""


class Result(NamedTuple):
    """The distilled images of some classes, with the atoms and the costs and losses behind them.

    Attributes:
      images: float32 [C, m, H, W, ch], in the teacher's normalised space.
      atoms: points [C, m, d], weights [C, m].
      costs: W2^2 after each round of the solver, [C, rounds]; [C, 0] if there was no solver.
      curve: the terms of the recover loss, name -> [steps, C]; empty if nothing was recovered.
      classes: the labels of these classes, [C].
    """

    images: np.ndarray
    atoms: Measure
    costs: np.ndarray
    curve: dict[str, np.ndarray]
    classes: np.ndarray


def joined(parts: Iterable[Result]) -> Result:
    """Merge results of different classes into one, in the order of the classes."""
    parts = sorted(parts, key=lambda part: part.classes[0])
    steps = max((len(values) for part in parts for values in part.curve.values()), default=0)
    # A part that stopped early is padded with its last loss.
    pad = lambda values: np.pad(values, ((0, steps - len(values)), (0, 0)), "edge")
    curve = {name: np.concatenate([pad(part.curve[name]) for part in parts], 1) for name in parts[0].curve}
    rows = lambda *arrays: np.concatenate(arrays)
    first, *rest = [part._replace(curve={}) for part in parts]
    return jax.tree.map(rows, first, *rest)._replace(curve=curve)


def check(recipe: Recipe, problem: Problem) -> None:
    """Raise InputError for bad or unbounded settings, too few images of a class, or a teacher without moments."""
    settings.check(recipe)
    if problem.ipc < 1:
        raise InputError(f"`ipc` {problem.ipc} is no valid number of images per class; use 1 or more")
    recipe.imager.check(problem, recipe.summarizer)
    recipe.summarizer.check(problem._replace(ipc=problem.ipc // recipe.imager.repeats))


def distill(key: jax.Array, recipe: Recipe, ipc: int, context: Context) -> Result:
    """Distil to ``ipc`` images per class: summarize the classes, then make images from the summary.

    Args:
      key: all random numbers derive from it, by folding in stage, class and step.
      recipe: the function chosen for each stage.
      ipc: images per class.
      context: the teacher, the real data encoded in the recipe's space, a latent model if the recipe needs one, and
        the memory and devices. Images that the recipe does not use are never read.

    Raises:
      InputError: see `check`.
    """
    return joined(distill_parts(key, recipe, ipc, context))


def distill_parts(key: jax.Array, recipe: Recipe, ipc: int, context: Context) -> Iterator[Result]:
    """`distill`, but yields some classes at a time as soon as they are finished, so that they can be saved.

    The result of a class does not depend on which other classes are in ``context.subset``. Global moments are the one
    exception: they need whole groups of ``recipe.imager.group_size`` neighbouring classes.

    Raises:
      DivergenceError: a summary or images that are not usable; the classes that were yielded before are.
    """
    check(recipe, context.problem("this recipe", ipc))
    k_atoms, k_images = jax.random.split(key)
    repeats = recipe.imager.repeats
    summary = recipe.summarizer(k_atoms, context, ipc // repeats)
    check_summary(context, recipe.summarizer, summary)
    summary = summary.repeated(repeats) if repeats > 1 else summary
    if "rows" in recipe.imager.needs and summary.rows is None and recipe.summarizer.has_atoms:
        summary = summary._replace(rows=nearest_rows(context, summary.atoms.points))
    for part in recipe.imager(k_images, context, summary):
        check_images(context, recipe.imager, part)
        atoms = jax.tree.map(lambda x, places=part.places: np.asarray(x)[places], summary.atoms)
        yield Result(part.images, atoms, summary.costs[part.places], dict(part.curve), context.labels[part.places])
