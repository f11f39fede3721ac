"""What the stages ask of a classifier: three pure functions, from Linen or from anything else.

A stage never sees a module. A model of another library fits through one function that returns an `Output`::

    apply = lambda variables, images: Output(logits, features, moments)

where ``moments`` may be an empty dict if nothing asks for BatchNorm moments.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax

from jaxdd.ground.errors import InputError
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
    """Wrap a Linen module whose ``__call__(x, train)`` returns (logits [N, K], features [N, d]).

    If the module has an attribute ``folded``, variables without "batch_stats" are applied with it set: those are what
    `jaxdd.nn.fold` makes, and their output has no moments.
    """
    folded = module.clone(folded=True) if hasattr(module, "folded") else module

    def init(key, image_shape):
        return jax.jit(module.init, static_argnames="train")(key, jax.numpy.zeros((1, *image_shape)), train=False)

    def apply(variables, images):
        net = module if "batch_stats" in variables else folded
        if net is not module and any("bn" in path for path in flax.traverse_util.flatten_dict(variables["params"])):
            raise InputError("variables with BatchNorm but without batch_stats; give both, or what jaxdd.nn.fold makes")
        (logits, features), sown = net.apply(variables, images, train=False, mutable=["moments"])
        layers = flax.traverse_util.flatten_dict(sown.get("moments", {}), sep="/")
        return Output(logits, features, {name.removesuffix("/input"): layers[name] for name in layers})

    def apply_train(variables, images):
        (logits, _), stats = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **stats}

    return Classifier(init, apply, apply_train)


def first_norm(apply: Apply, variables: Variables, image_shape: tuple[int, ...]) -> str | None:
    """The name of the first BatchNorm layer that an image passes, or None: pytrees of moments are sorted by name."""
    names: list[str] = []
    # Transformations, such as `remat`, sort the dictionary that the model itself fills in the order of its layers.
    inner = inspect.unwrap(apply)

    def probe(variables, image):
        out = inner(variables, image)
        names.extend(out.moments)
        return out.logits

    jax.eval_shape(probe, variables, jax.ShapeDtypeStruct((1, *image_shape), jax.numpy.float32))
    return names[0] if names else None


@lru_cache(maxsize=16)
def remat(apply: Apply) -> Apply:
    """The same function, whose backward pass makes the inside of every block a second time instead of keeping it.

    Only the outputs of blocks (the values named "block") and the arguments wait for the backward pass: one activation
    a block instead of one a layer, for one more forward pass (Chen et al. 2016, section 4). A model without such
    names keeps nothing but its arguments.
    """
    return jax.checkpoint(apply, policy=jax.checkpoint_policies.save_only_these_names("block"))
