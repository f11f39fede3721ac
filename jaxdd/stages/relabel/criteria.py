"""Stage 4: what a student is asked to predict.

A criterion maps (logits of the student, the augmented images, their mixed one-hot targets, context) to a loss [N].
Soft labels are the teacher's logits on the very images that the student sees. Since every augmentation is a pure
function of a key, the pair is regenerated inside the training step and nothing has to be stored: `soft`. Where there is
no teacher at hand, or no time for it, its answers come from the disk: `stored`, see `stored`'s file.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxdd.ground import losses
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


def stored(decode: Callable[[Any], jax.Array], temperature: float = 20.0) -> Criterion:
    """KL at ``temperature`` to logits kept earlier; the context is what was kept, which ``decode`` makes [N, K] of."""

    def criterion(logits, images, targets, context):
        return losses.distillation(logits, decode(context), temperature)

    return criterion
