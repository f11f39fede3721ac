"""Atoms -> images by optimising pixels: the imager of WMDD, SRe2L, DM and the ablations between them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.programs import Work
from jaxdd.stages.context import Classes, Context, Problem
from jaxdd.stages.encode import class_means, global_moments, is_constant
from jaxdd.stages.images.base import IMAGERS, Imager, Images
from jaxdd.stages.images.recover import chunks, fitting, starts
from jaxdd.stages.images.recover.chunks import Task
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, group_size
from jaxdd.stages.images.recover.slices import in_slices
from jaxdd.stages.summarize.base import Summarizer, Summary


@IMAGERS.register("recover")
@dataclass(frozen=True)
class Recover(RecoverSettings, Imager):
    """Minimises the loss of `recover.loss` over the pixels of each class."""

    spaces: ClassVar[tuple[str, ...]] = ("features",)
    takes_committee: ClassVar[bool] = True

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
                f"`summarizer` none gives {problem.method} no atoms to match; use `imager.feature_weight` 0, or "
                "another summarizer"
            )
        if self.moment_weight and problem.moment_layers is not None and not problem.moment_layers():
            raise InputError(
                f"`imager.moment_weight` {self.moment_weight} but the teacher outputs no BatchNorm moments; use "
                "`imager.moment_weight` 0, or a teacher with BatchNorm (wrapped by jaxdd.nn.from_linen or from_nnx)"
            )
        if problem.takes is not None and problem.image_shape is not None:
            self.check_shapes(problem.image_shape, problem.takes)
        super().check(problem, summarizer)

    def group_size(self, classes: int, ipc: int) -> int:
        """See `Imager.group_size`; only global moments need more than one class at a time."""
        return group_size(self, classes, ipc)[0]

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Recover the images of each class.

        With ``start`` "real" the pixels start from ``summary.rows``, with "crops" from what `Crops` cuts with
        fold_in(key, 2). Otherwise, or if the summary has no rows, they start from noise drawn from fold_in(key, 0). The
        random views are drawn from fold_in(key, 1). With a committee in the context the teachers take turns, a step
        each; an atom is in the eyes of another teacher the mean of the images in its cell.
        """
        encoded, ipc = context.classes.encoded, summary.atoms.points.shape[1]
        if (self.feature_weight or self.mean_weight) and is_constant(encoded):
            raise InputError(
                "the teacher's features are equal for all real images, so there are none to match; train the teacher "
                "longer, or use `imager.feature_weight` 0 and `imager.mean_weight` 0"
            )
        settings = replace(self, flip=self.flip and context.flip)
        pictures = starts.pictures(key, settings, context, summary)
        placement, together = self._placement(context, ipc)
        group = placement.group
        views, image_shape = jax.random.fold_in(key, 1), context.classes.image_shape
        run = lambda tasks, pictures: chunks.in_turn(views, tasks, settings, pictures, image_shape, placement)
        tasks = [Task(context.teacher, self._goal(context, summary))]
        for teacher, classes in context.committee:
            theirs = context._replace(teacher=teacher, classes=classes)
            tasks.append(Task(teacher, self._goal(theirs, seen_by(classes, context, summary))))
        parts = run(tasks, pictures) if together == ipc else in_slices(run, settings, tasks, pictures, group, together)
        for part in parts:
            # Without a weight the target means are zeros, so the term has no meaning.
            terms = {name: term for name, term in part.terms._asdict().items() if name != "mean" or self.mean_weight}
            yield Images(part.places, part.images, terms)

    def work(self, context: Context, ipc: int) -> Work:
        """See `Imager.work`."""
        classes, image_shape = len(context.labels), context.classes.image_shape
        placement, together = self._placement(context, ipc)
        problems = classes * (ipc // together)
        placement = placement.beside(problems)
        zeros = lambda *shape: np.broadcast_to(np.float32(0), shape)
        atoms = Measure(zeros(classes, ipc, context.classes.encoded.features.shape[1]), zeros(classes, ipc))
        goal = self._goal(context, Summary(atoms, zeros(classes, 0)))
        if together < ipc:  # the slices of a class are problems of their own
            each = lambda x: np.broadcast_to(x[:1], (problems, *x.shape[1:]))
            labels, atoms = each(goal.classes), jax.tree.map(lambda x: each(x)[:, :together], goal.atoms)
            goal = Goal(labels, atoms, each(goal.means), goal.moments, goal.feature_variance, labels)
        fitted = fitting.fitted(jax.random.key(0), context.teacher, self, goal, (together, *image_shape), placement)
        parts = -(-problems // (fitted.size * placement.unit))
        launch, most = fitted.launches[0][0], -(-problems // placement.local.devices.size) * together
        return Work("recover", "images", classes * ipc, self.steps, parts, launch, fitted.program, most,
                    chunks.SHORTER, trains=True, least=placement.group * together)  # fmt: skip

    def _placement(self, context: Context, ipc: int) -> tuple[fitting.Placement, int]:
        """The devices and memory, and how many images of a class are optimised together."""
        count, resources = len(context.classes.encoded.counts), context.resources
        group, together = group_size(self, count, ipc)
        total = count * (ipc // together)
        kept, seen = context.scratch, context.on_snapshot
        return fitting.Placement(resources.mesh, resources.bytes_per_device, group, total, kept, seen), together

    def _goal(self, context: Context, summary: Summary) -> Goal:
        """What the images have to match."""
        encoded, labels = context.classes.encoded, context.labels
        moments = global_moments(encoded)
        if self.per_class:
            moments = jax.tree.map(lambda x: x[labels], encoded.moments)
        means = np.zeros((len(labels), encoded.features.shape[1]), np.float32)
        if self.mean_weight:
            means = class_means(encoded, context.classes.groups, labels)
        variance = np.asarray(encoded.variance, np.float32)
        return Goal(labels.astype(np.int32), summary.atoms, means, moments, variance)


def seen_by(classes: Classes, context: Context, summary: Summary) -> Summary:
    """A summary in the features of another teacher: each atom is the mean of the real images that are nearest to it.

    An atom to which no image is nearest is the image that is nearest to it. Weights and real images stay.
    """
    if not summary.atoms.points.shape[-1]:
        return summary
    points = []
    for label, atoms in zip(context.labels, np.asarray(summary.atoms.points)):
        cost = np.asarray(ot.squared_distances(jnp.asarray(context.points(label)), jnp.asarray(atoms)))
        cells, theirs = cost.argmin(1), classes.encoded.features[classes.groups.rows(label)]
        means = [theirs[cells == j].mean(0) if (cells == j).any() else theirs[cost[:, j].argmin()]
                 for j in range(len(atoms))]  # fmt: skip
        points.append(np.stack(means))
    return summary._replace(atoms=summary.atoms._replace(points=np.stack(points)))
