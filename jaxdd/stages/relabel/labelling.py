"""The relabel stage: the targets that a student learns to predict.

A criterion maps (logits of the student, the augmented images, their mixed one-hot targets, context) to a loss [N].
Soft labels are the teacher's logits on exactly the augmented images that the student sees. Every augmentation is a pure
function of a key, so images and labels are regenerated inside the training step, and nothing has to be stored. To train
without the teacher, store its logits on disk first, see `jaxdd.stages.relabel.stored`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxdd.ground import losses
from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry
from jaxdd.nn.classifier import Apply

Criterion = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]

LABELLINGS = Registry("labels")


@dataclass(frozen=True)
class Labelling:
    """The kind of labels that students learn from.

    A subclass is a frozen dataclass of hashable fields that defines `criterion`. Register it to give it a name.
    Equal ones share what is compiled.
    """

    asks_teacher: ClassVar[bool] = False
    """Whether the labels come from the teacher; the context of the criterion is then the teacher's variables."""

    def check(self) -> None:
        """Raise InputError for settings out of range."""

    def criterion(self, teacher_apply: Apply | None) -> Criterion:
        """The loss of a student; ``teacher_apply`` is the teacher's function if `asks_teacher`, otherwise unused."""
        raise TypeError(f"{type(self).__name__} defines no criterion(teacher_apply)")

    def stored_criterion(self, decode: Callable[[Any], jax.Array]) -> Criterion:
        """The same loss from stored labels: ``decode`` turns the context into the teacher's logits [N, K].

        Raises:
          InputError: these labels need no teacher, so there is nothing to store.
        """
        raise InputError(f"{LABELLINGS.name_of(self)} labels need no teacher, so none are stored; use soft labels")


@LABELLINGS.register("hard")
@dataclass(frozen=True)
class HardLabels(Labelling):
    """Cross-entropy to the (mixed, smoothed) class labels."""

    smoothing: float = 0.0
    """The share of a label that is spread evenly over all classes."""

    def check(self) -> None:
        """See `Labelling.check`."""
        if not 0 <= self.smoothing < 1:
            raise InputError(f"`smoothing` {self.smoothing} is out of range; use a share in [0, 1)")

    def criterion(self, teacher_apply: Apply | None = None) -> Criterion:
        """The context is unused."""

        def criterion(logits, images, targets, context):
            targets = (1 - self.smoothing) * targets + self.smoothing / targets.shape[-1]
            return losses.cross_entropy(logits, targets)

        return criterion


@LABELLINGS.register("soft")
@dataclass(frozen=True)
class SoftLabels(Labelling):
    """KL divergence to the teacher on the same augmented images (FKD, Shen and Xing 2022)."""

    temperature: float = 20.0
    """The temperature T of the KL divergence."""

    asks_teacher: ClassVar[bool] = True

    def check(self) -> None:
        """See `Labelling.check`."""
        if self.temperature <= 0:
            raise InputError(f"`temperature` {self.temperature} is out of range; use a positive one")

    def criterion(self, teacher_apply: Apply | None) -> Criterion:
        """The context is the teacher's variables.

        Raises:
          InputError: there is no teacher.
        """
        if teacher_apply is None:
            raise InputError("soft labels come from a teacher; give `teacher_apply`, or stored labels")

        def criterion(logits, images, targets, context):
            answers = jax.lax.stop_gradient(teacher_apply(context, images).logits)
            return losses.distillation(logits, answers, self.temperature)

        return criterion

    def stored_criterion(self, decode: Callable[[Any], jax.Array]) -> Criterion:
        """See `Labelling.stored_criterion`."""

        def criterion(logits, images, targets, context):
            return losses.distillation(logits, decode(context), self.temperature)

        return criterion
