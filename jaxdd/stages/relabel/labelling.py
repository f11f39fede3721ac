"""The relabel stage: the targets that a student learns to predict.

A criterion maps (logits of the student, the augmented images, their mixed one-hot targets, context) to a loss [N].
Soft labels are the teacher's logits on exactly the augmented images that the student sees. Every augmentation is a pure
function of a key, so images and labels are regenerated inside the training step, and nothing has to be stored. To train
without the teacher, store its logits on disk first, see `jaxdd.stages.relabel.stored`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground import losses
from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import EPOCHS, SHARE, bounded
from jaxdd.nn.classifier import Apply, Output
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.forms import LabelForm, coded, record

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
    per_image: ClassVar[bool] = False
    """Whether each image has one soft label from the teacher, which takes the place of its one-hot target."""

    @property
    def repeats_after(self) -> int:
        """The number of epochs after which batches, views and labels repeat; 0: never."""
        return 0

    def answering(self, teacher: Teacher) -> Apply:
        """The function of the teacher that gives the labels."""
        return teacher.apply

    def label_bytes(self, num_classes: int, epochs: int) -> int:
        """The bytes of labels that travel with an image for a student of so many epochs, besides its class.

        The views to which they belong are drawn again from a seed, and take none.
        """
        return 0

    def check(self) -> None:
        """Raise InputError for settings out of range."""

    def targets(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What images are called, float32 [n, K], if `per_image`: from the teacher's logits [n, K] and classes [n]."""
        raise TypeError(f"{type(self).__name__} defines no targets(logits, labels)")

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


@dataclass(frozen=True)
class TeacherLabels(Labelling):
    """The teacher's answers on the augmented images that the student sees (FKD, Shen and Xing 2022).

    A subclass defines `loss`, to which a share s of the hard label is added, as in GIFT (arXiv 2405.14736) and HALD
    (arXiv 2512.15647): (1 - s) loss + s CE(student, mixed label).
    """

    hard_share: float = bounded(0.0, SHARE)
    """The share s of the cross-entropy with the (mixed) class labels."""
    pool: int = bounded(0, EPOCHS)
    """Epochs of views that have labels. A student that is trained for longer sees them again (LPLD, arXiv 2406.13642);
    0: as many as it is trained for."""
    form: LabelForm = field(default_factory=LabelForm)
    """How labels are rounded to travel, see `stages.relabel.forms.encode`."""
    batch_statistics: bool = False
    """Let BatchNorm of the teacher use the moments of the batch, not of its training (CV-DD, arXiv 2501.07575)."""

    asks_teacher: ClassVar[bool] = True

    @property
    def repeats_after(self) -> int:
        """See `Labelling.repeats_after`."""
        return self.pool

    def label_bytes(self, num_classes: int, epochs: int) -> int:
        """See `Labelling.label_bytes`: one label for each view."""
        return record(self.form, num_classes).itemsize * (self.pool or epochs)

    def answering(self, teacher: Teacher) -> Apply:
        """See `Labelling.answering`.

        Raises:
          InputError: ``batch_statistics``, of a teacher that cannot be trained.
        """
        return answering(teacher, self.batch_statistics)

    def loss(self, logits: jax.Array, answers: jax.Array) -> jax.Array:
        """The loss [N] of the student's logits, given those of the teacher, [N, K] each."""
        raise TypeError(f"{type(self).__name__} defines no loss(logits, answers)")

    def criterion(self, teacher_apply: Apply | None) -> Criterion:
        """The context is the teacher's variables.

        Raises:
          InputError: there is no teacher.
        """
        if teacher_apply is None:
            raise InputError("soft labels come from a teacher; give `teacher_apply`, or stored labels")

        def criterion(logits, images, targets, context):
            answers = jax.lax.stop_gradient(teacher_apply(context, images).logits)
            return self._with_hard(logits, coded(self.form, answers, self._temperature), targets)

        return criterion

    def stored_criterion(self, decode: Callable[[Any], jax.Array]) -> Criterion:
        """See `Labelling.stored_criterion`."""

        def criterion(logits, images, targets, context):
            return self._with_hard(logits, decode(context), targets)

        return criterion

    @property
    def _temperature(self) -> float:
        return getattr(self, "temperature", 1.0)

    def _with_hard(self, logits: jax.Array, answers: jax.Array, targets: jax.Array) -> jax.Array:
        loss = self.loss(logits, answers)
        if not self.hard_share:
            return loss
        return (1 - self.hard_share) * loss + self.hard_share * losses.cross_entropy(logits, targets)


@LABELLINGS.register("soft")
@dataclass(frozen=True)
class SoftLabels(TeacherLabels):
    """T^2 KL(teacher || student) at temperature T (FKD, Shen and Xing 2022)."""

    temperature: float = 20.0
    """The temperature T of the KL divergence."""

    def check(self) -> None:
        """See `Labelling.check`."""
        _check_temperature(self.temperature)

    def loss(self, logits: jax.Array, answers: jax.Array) -> jax.Array:
        """See `TeacherLabels.loss`."""
        return losses.distillation(logits, answers, self.temperature)


@LABELLINGS.register("mse")
@dataclass(frozen=True)
class MseLabels(TeacherLabels):
    """(1/K) ||z - z*||^2 of logits, with a little cross-entropy (EDC, arXiv 2404.13733)."""

    hard_share: float = bounded(0.025, SHARE)
    """The share s of the cross-entropy with the (mixed) class labels."""

    def loss(self, logits: jax.Array, answers: jax.Array) -> jax.Array:
        """See `TeacherLabels.loss`."""
        # Stored logits have no constant, which the softmax does not see either.
        centred = lambda z: z - z.mean(-1, keepdims=True)
        return jnp.square(centred(logits) - centred(answers)).mean(-1)


@LABELLINGS.register("fixed")
@dataclass(frozen=True)
class FixedLabels(Labelling):
    """One soft label an image: the teacher's answer on the image as it is, whatever view of it the student sees.

    The loss is T^2 times the cross-entropy of softmax(student / T) with the mixed softmax(teacher / T). With a share s
    of the hard label, the target is (1 - s) times that plus s times the class.
    """

    temperature: float = 4.0
    """The temperature T."""
    hard_share: float = bounded(0.0, SHARE)
    """The share s of the class in the label."""
    form: LabelForm = field(default_factory=LabelForm)
    """How labels are rounded to travel, see `stages.relabel.forms.encode`."""

    per_image: ClassVar[bool] = True

    def label_bytes(self, num_classes: int, epochs: int) -> int:
        """See `Labelling.label_bytes`: one label for all views."""
        return record(self.form, num_classes).itemsize

    def check(self) -> None:
        """See `Labelling.check`."""
        _check_temperature(self.temperature)

    def targets(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The labels of images, float32 [n, K], from the teacher's logits [n, K] and the classes [n]."""
        soft = jax.nn.softmax(coded(self.form, jnp.asarray(logits), self.temperature) / self.temperature)
        hard = np.eye(logits.shape[-1], dtype=np.float32)[labels]
        return np.asarray((1 - self.hard_share) * soft + self.hard_share * hard, np.float32)

    def criterion(self, teacher_apply: Apply | None = None) -> Criterion:
        """The context is unused; the targets are those of `targets`, mixed."""

        def criterion(logits, images, targets, context):
            return self.temperature**2 * losses.cross_entropy(logits / self.temperature, targets)

        return criterion


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise InputError(f"`temperature` {temperature} is out of range; use a positive one")


def answering(teacher: Teacher, batch_statistics: bool) -> Apply:
    """The function of a teacher that gives labels.

    Raises:
      InputError: ``batch_statistics``, of a teacher that cannot be trained.
    """
    if not batch_statistics:
        return teacher.apply
    if teacher.apply_train is None:
        raise InputError("`labels.batch_statistics` needs a teacher that can be trained; this one has no apply_train")
    return _in_batch_mode(teacher.apply_train)


@cache
def _in_batch_mode(apply_train: Callable) -> Apply:
    """A classifier whose BatchNorm layers use the moments of the batch; its output has logits alone."""

    def apply(variables, images):
        logits, _ = apply_train(variables, images)
        return Output(logits, logits, {})

    return apply
