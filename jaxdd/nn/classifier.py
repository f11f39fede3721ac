"""What the stages ask of a classifier: three pure functions, from Linen or from anything else.

A stage never sees a module. A model of another library fits through one function that returns an `Output`::

    apply = lambda variables, images: Output(logits, features, moments)

where ``moments`` may be an empty dict if nothing asks for BatchNorm moments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax

from jaxdd.nn.batchnorm import Moments

Variables = Any
Apply = Callable[[Variables, jax.Array], "Output"]


class Output(NamedTuple):
    """What one evaluation-mode pass over N images knows; unused parts cost nothing under `jax.jit`."""

    logits: jax.Array  # [N, K]
    features: jax.Array  # [N, d], the penultimate layer
    moments: dict[str, Moments]  # BatchNorm layer -> the moments of its input, [N, ch] each


class Classifier(NamedTuple):
    """A trainable model as pure functions, in the manner of `optax.GradientTransformation`."""

    init: Callable[[jax.Array, tuple[int, int, int]], Variables]  # key, (H, W, C) -> variables
    apply: Apply  # evaluation mode
    apply_train: Callable[[Variables, jax.Array], tuple[jax.Array, Variables]]  # -> logits, updated statistics


def from_linen(module: nn.Module) -> Classifier:
    """Wrap a Linen module whose ``__call__(x, train)`` returns (logits [N, K], features [N, d])."""

    def init(key, image_shape):
        return jax.jit(module.init, static_argnames="train")(key, jax.numpy.zeros((1, *image_shape)), train=False)

    def apply(variables, images):
        (logits, features), sown = module.apply(variables, images, train=False, mutable=["moments"])
        layers = flax.traverse_util.flatten_dict(sown.get("moments", {}), sep="/")
        return Output(logits, features, {name.removesuffix("/input"): layers[name] for name in layers})

    def apply_train(variables, images):
        (logits, _), stats = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **stats}

    return Classifier(init, apply, apply_train)
