"""A classifier as three pure functions, made from a Linen module or in any other way.

The stages use no modules. A model of another library needs one function that returns an `Output`::

    apply = lambda variables, images: Output(logits, features, moments)

where ``moments`` may be an empty dict if BatchNorm moments are not used.
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
    """The results of an evaluation-mode pass over N images; unused ones are not computed under `jax.jit`."""

    logits: jax.Array  # [N, K]
    features: jax.Array  # [N, d], the penultimate layer
    moments: dict[str, Moments]  # the moments of the input of each BatchNorm layer, [N, ch] each


class Classifier(NamedTuple):
    """A trainable model as pure functions, in the style of `optax.GradientTransformation`."""

    init: Callable[[jax.Array, tuple[int, int, int]], Variables]  # key, (H, W, C) -> variables
    apply: Apply  # evaluation mode
    apply_train: Callable[[Variables, jax.Array], tuple[jax.Array, Variables]]  # -> logits, updated statistics


def from_linen(module: nn.Module) -> Classifier:
    """Wrap a Linen module whose ``__call__(x, train)`` returns (logits [N, K], features [N, d]).

    If the module has an attribute ``folded``, variables without "batch_stats", as `jaxdd.nn.fold` returns them, are
    applied with ``folded=True``. Their output has no moments.
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
    """The name of the first BatchNorm layer in the order of execution, or None without BatchNorm.

    Pytrees sort the dictionary of moments by name, so its order is not that of the layers.
    """
    names: list[str] = []
    # Only the original function returns the dictionary in the order of the layers; `remat` and others sort it.
    inner = inspect.unwrap(apply)

    def probe(variables, image):
        out = inner(variables, image)
        names.extend(out.moments)
        return out.logits

    jax.eval_shape(probe, variables, jax.ShapeDtypeStruct((1, *image_shape), jax.numpy.float32))
    return names[0] if names else None


@lru_cache(maxsize=16)
def remat(apply: Apply) -> Apply:
    """The same function with rematerialisation: the backward pass recomputes the activations inside of blocks.

    Only the outputs of blocks (the values named "block") and the arguments are kept for the backward pass. That is one
    activation per block instead of one per layer, for one more forward pass (Chen et al. 2016, section 4). For a model
    without such names only the arguments are kept.
    """
    return jax.checkpoint(apply, policy=jax.checkpoint_policies.save_only_these_names("block"))
