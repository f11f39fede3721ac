"""Atoms -> images by optimising pixels: the imager of WMDD, SRe2L, DM and the cells between them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.stages.context import Context, Problem
from jaxdd.stages.encode import class_means, global_moments
from jaxdd.stages.images.base import IMAGERS, Imager, Images, real_images
from jaxdd.stages.images.recover import chunks
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, group_size, noise
from jaxdd.stages.summarize.base import Summarizer, Summary


@IMAGERS.register("recover")
@dataclass(frozen=True)
class Recover(RecoverSettings, Imager):
    """Descent of the loss of `recover.loss` on the pixels of each class."""

    spaces: ClassVar[tuple[str, ...]] = ("features",)

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        atoms = {"atoms"} if self.feature_weight else set()
        return frozenset(atoms | ({"rows"} if self.starts_from_images else set()))

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """See `Imager.check`."""
        self.check_settings()
        if self.feature_weight and not summarizer.has_atoms:
            raise InputError(
                f"`summarizer` none gives {problem.method} nothing to match; use `imager.feature_weight` 0, or another "
                "summarizer"
            )
        super().check(problem, summarizer)

    def group_size(self, classes: int, ipc: int) -> int:
        """See `Imager.group_size`: global moments need whole groups of classes."""
        return group_size(self, classes, ipc)[0]

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Starts from the rows of the summary if it has some and ``start`` says so, else from noise."""
        labels, encoded, ipc = context.labels, context.classes.encoded, summary.atoms.points.shape[1]
        settings = replace(self, flip=self.flip and context.flip)
        draw = partial(noise, jax.random.fold_in(key, 0), shape=(ipc, *context.classes.image_shape))
        start = lambda places: draw(jnp.asarray(labels[places]))
        if self.starts_from_images and summary.rows is not None:
            start = lambda places: real_images(context, summary.rows[places])

        group, together = group_size(self, len(encoded.counts), ipc)
        resources = context.resources
        total = len(encoded.counts) * (ipc // together)
        placement = chunks.Placement(resources.mesh, resources.bytes_per_device, group, total)
        views, image_shape = jax.random.fold_in(key, 1), context.classes.image_shape
        run = lambda goal, start: chunks.run(views, context.teacher, settings, goal, start, image_shape, placement)
        goal = self._goal(context, summary)
        parts = run(goal, start) if together == ipc else chunks.in_slices(run, settings, goal, start, group, together)
        for part in parts:
            # Distances to means that nobody asked for have no meaning.
            terms = {name: term for name, term in part.terms._asdict().items() if name != "mean" or self.mean_weight}
            yield Images(part.places, part.images, terms)

    def _goal(self, context: Context, summary: Summary) -> Goal:
        """What the images shall match."""
        encoded, labels = context.classes.encoded, context.labels
        moments = global_moments(encoded)
        if self.per_class:
            moments = jax.tree.map(lambda x: x[labels], encoded.moments)
        means = np.zeros((len(labels), encoded.features.shape[1]), np.float32)
        if self.mean_weight:
            means = class_means(encoded, context.classes.groups, labels)
        return Goal(labels.astype(np.int32), summary.atoms, means, moments, np.float32(encoded.variance))
