"""The relabel stage: what a student is asked to predict.

A criterion maps (logits of the student, the augmented images, their mixed one-hot targets, context) to a loss [N].
Soft labels are the teacher's logits on the very images that the student sees. Since every augmentation is a pure
function of a key, the pair is regenerated inside the training step and nothing has to be stored. Where there is no
teacher at hand, its answers come from the disk, see `jaxdd.stages.relabel.stored`.
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
    """What students are told. A subclass is a frozen dataclass that defines `criterion`; register it to name it."""

    asks_teacher: ClassVar[bool] = False
    """Whether the criterion's context is the teacher's variables."""

    def check(self) -> None:
        """Raise InputError for settings that do not exist."""

    def criterion(self, teacher_apply: Apply | None) -> Criterion:
        """The loss of a student; ``teacher_apply`` is the teacher's function where it `asks_teacher`."""
        raise TypeError(f"{type(self).__name__} defines no criterion(teacher_apply)")

    def stored_criterion(self, decode: Callable[[Any], jax.Array]) -> Criterion:
        """The same loss from answers that were stored: the context is what ``decode`` makes logits [N, K] of.

        Raises:
          InputError: these labels need no teacher, so there is nothing to store.
        """
        raise InputError(f"{LABELLINGS.name_of(self)} labels need no teacher, so none are stored; use soft ones")


@LABELLINGS.register("hard")
@dataclass(frozen=True)
class HardLabels(Labelling):
    """Cross-entropy to the (mixed, smoothed) class labels."""

    smoothing: float = 0.0
    """Share of a label that is spread over all classes."""

    def check(self) -> None:
        """See `Labelling.check`."""
        if not 0 <= self.smoothing < 1:
            raise InputError(f"label smoothing {self.smoothing}: give a share from 0 to below 1")

    def criterion(self, teacher_apply: Apply | None = None) -> Criterion:
        """The context is unused."""

        def criterion(logits, images, targets, context):
            targets = (1 - self.smoothing) * targets + self.smoothing / targets.shape[-1]
            return losses.cross_entropy(logits, targets)

        return criterion


@LABELLINGS.register("soft")
@dataclass(frozen=True)
class SoftLabels(Labelling):
    """KL to the teacher on the same augmented images (FKD, Shen and Xing 2022)."""

    temperature: float = 20.0
    """T of the KL divergence."""

    asks_teacher: ClassVar[bool] = True

    def check(self) -> None:
        """See `Labelling.check`."""
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature}: give one above 0")

    def criterion(self, teacher_apply: Apply | None) -> Criterion:
        """The context is the teacher's variables."""

        def criterion(logits, images, targets, context):
            answers = jax.lax.stop_gradient(teacher_apply(context, images).logits)
            return losses.distillation(logits, answers, self.temperature)

        return criterion

    def stored_criterion(self, decode: Callable[[Any], jax.Array]) -> Criterion:
        """See `Labelling.stored_criterion`."""

        def criterion(logits, images, targets, context):
            return losses.distillation(logits, decode(context), self.temperature)

        return criterion
