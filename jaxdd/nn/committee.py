"""Several classifiers as one, and a classifier of more classes than are wanted as one of those that are."""

from functools import cache

import jax
import jax.numpy as jnp

from jaxdd.nn.classifier import Apply, Classifier, Output, Variables


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
def mean_in_training(applies: tuple) -> object:
    """`mean_of` for `Classifier.apply_train`; the variables stay as they are."""

    def apply_train(variables, images):
        logits = [one(part, images)[0] for one, part in zip(applies, variables, strict=True)]
        logits = [part - part.mean(-1, keepdims=True) for part in logits]
        return sum(logits[1:], logits[0]) / len(logits), variables

    return apply_train


@cache
def of_classes(model: Classifier, places: tuple[int, ...]) -> Classifier:
    """A classifier that answers for some of its classes alone: logit k is that of class ``places[k]`` of ``model``."""
    chosen = lambda logits: jnp.take(logits, jnp.asarray(places, jnp.int32), -1)

    def apply(variables, images):
        out = model.apply(variables, images)
        return out._replace(logits=chosen(out.logits))

    def apply_train(variables, images):
        logits, variables = model.apply_train(variables, images)
        return chosen(logits), variables

    return Classifier(model.init, apply, apply_train)
