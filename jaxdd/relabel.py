"""Stage 4: what a student is asked to predict.

A criterion maps (logits of the student, the augmented images, their mixed one-hot targets, context) to a loss [N].
Soft labels are the teacher's logits on the very images that the student sees: since every augmentation is a pure
function of a key, the pair is regenerated inside the training step and nothing is stored. FKD (Shen and Xing 2022)
writes the same labels to disk, 6 GB for ImageNet-1K at ten images per class.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxdd import losses
from jaxdd.nn.classifier import Apply

Criterion = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]


def hard(smoothing: float = 0.0) -> Criterion:
    """Cross-entropy to the (mixed, smoothed) class labels; the context is unused."""

    def criterion(logits, images, targets, context):
        return losses.cross_entropy(logits, (1 - smoothing) * targets + smoothing / targets.shape[-1])

    return criterion


def soft(teacher_apply: Apply, temperature: float = 20.0) -> Criterion:
    """KL at ``temperature`` to the teacher's logits on the same augmented images; the context is its variables."""

    def criterion(logits, images, targets, context):
        return losses.distillation(logits, jax.lax.stop_gradient(teacher_apply(context, images).logits), temperature)

    return criterion
