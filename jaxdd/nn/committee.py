"""Several classifiers as one, and a classifier of more classes than are wanted as one of those that are."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp

from jaxdd.nn.classifier import Apply, Output, Variables

Training = Callable[[Variables, jax.Array], tuple[jax.Array, Variables]]


@cache
def mean_of(applies: tuple[Apply, ...]) -> Apply:
    """A committee: its logits are the mean of those of its members, up to a constant of each image.

    Its variables are the tuple of theirs. Features and moments are those of the first.
    """

    def apply(variables: tuple[Variables, ...], images: jax.Array) -> Output:
        outputs = [one(part, images) for one, part in zip(applies, variables, strict=True)]
        # A constant in the logits of a member means nothing, so it has no vote.
        logits = [out.logits - out.logits.mean(-1, keepdims=True) for out in outputs]
        return outputs[0]._replace(logits=sum(logits[1:], logits[0]) / len(logits))

    return apply


@cache
def mean_in_training(applies: tuple[Training, ...]) -> Training:
    """`mean_of` for `Classifier.apply_train`; the variables stay as they are."""

    def apply_train(variables, images):
        logits = [one(part, images)[0] for one, part in zip(applies, variables, strict=True)]
        logits = [part - part.mean(-1, keepdims=True) for part in logits]
        return sum(logits[1:], logits[0]) / len(logits), variables

    return apply_train


@cache
def of_classes(apply: Apply, places: tuple[int, ...]) -> Apply:
    """A classifier that answers for some of its classes alone: logit k is that of class ``places[k]``."""

    def some(variables: Variables, images: jax.Array) -> Output:
        out = apply(variables, images)
        return out._replace(logits=_chosen(out.logits, places))

    return some


@cache
def of_classes_in_training(apply_train: Training, places: tuple[int, ...]) -> Training:
    """`of_classes` for `Classifier.apply_train`."""

    def some(variables: Variables, images: jax.Array) -> tuple[jax.Array, Variables]:
        logits, variables = apply_train(variables, images)
        return _chosen(logits, places), variables

    return some


def _chosen(logits: jax.Array, places: tuple[int, ...]) -> jax.Array:
    return jnp.take(logits, jnp.asarray(places, jnp.int32), -1)
