"""A classifier as three pure functions, made from a Linen module or in any other way.

The stages use no modules. A model of another library needs one function that returns an `Output`::

    apply = lambda variables, images: Output(logits, features, moments)

where ``moments`` has `image_moments` of the input of each BatchNorm layer, by any name. It may be empty if they are not
matched. `from_linen` and `jaxdd.nn.from_nnx` make all of this from a module of Flax.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
from flax.errors import FlaxError

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.ground.tracing import shapes_of
from jaxdd.nn.batchnorm import Moments
from jaxdd.nn.interception import Interceptor, strict

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

    The output of ``apply`` has the moments of all `flax.linen.BatchNorm` layers, wherever they are in the module. An
    `nn.scan` or `nn.vmap` around them needs ``variable_axes={"moments": 0}``, besides what the layers themselves need.

    If the module has an attribute ``folded``, variables without "batch_stats", as `jaxdd.nn.fold` returns them, are
    applied with ``folded=True``. Their output has no moments.
    """
    folded = module.clone(folded=True) if hasattr(module, "folded") else module
    compiled = standard(jax.jit(module.init, static_argnames="train"))

    def init(key, image_shape):
        return compiled(key, jax.numpy.zeros((1, *image_shape), jax.numpy.float32), train=False)

    def apply(variables, images):
        net = module if "batch_stats" in variables else folded
        if net is not module and any("bn" in path for path in flax.traverse_util.flatten_dict(variables["params"])):
            raise InputError("variables with BatchNorm but without batch_stats; give both, or what jaxdd.nn.fold makes")
        interceptor = Interceptor(len(images))
        with nn.intercept_methods(interceptor):
            pair, sown = standard(net.apply)(variables, images, train=False, mutable=["moments"])
        return Output(*logits_and_features(pair), interceptor.layers(sown.get("moments", {})))

    def apply_train(variables, images):
        (logits, _), stats = standard(module.apply)(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **stats}

    return Classifier(init, apply, apply_train)


def logits_and_features(result: Any) -> tuple[jax.Array, jax.Array]:
    """The result of a module, if it is such a pair.

    Raises:
      InputError: it is something else.
    """
    if not isinstance(result, tuple | list) or len(result) != 2 or any(getattr(x, "ndim", 0) != 2 for x in result):
        shapes = jax.tree.map(lambda x: getattr(x, "shape", x), result)
        raise InputError(f"the model returns {shapes}, not logits [N, K] and features [N, d]; return this pair")
    return result[0], result[1]


def moment_layers(
    apply: Apply, variables: Variables, image_shape: tuple[int, ...], complete: bool = False
) -> list[str]:
    """The names of the layers whose moments a model outputs, in the order of execution; nothing is computed.

    Pytrees sort the dictionary of moments by name, so its order is not that of the layers.

    Args:
      variables: arrays, or only their shapes.
      complete: whether all BatchNorm layers must be among them.

    Raises:
      InputError: the moments of some BatchNorm layer cannot be taken, and ``complete``.
    """
    names: list[str] = []
    # Only the original function returns the dictionary in the order of the layers; `remat` and others sort it.
    inner = inspect.unwrap(apply)

    def probe(variables, image):
        out = inner(variables, image)
        names.extend(out.moments)
        return out.logits

    with strict() if complete else nullcontext():
        jax.eval_shape(probe, variables, jax.ShapeDtypeStruct((1, *image_shape), jax.numpy.float32))
    return names


def takes(apply: Apply, variables: Variables, image_shape: tuple[int, ...]) -> bool:
    """Whether a model takes images of a shape (H, W, ch); nothing is computed, and variables may be only shapes."""
    try:
        shapes_of(apply, variables, jax.ShapeDtypeStruct((1, *image_shape), jax.numpy.float32))
    except (TypeError, ValueError, ZeroDivisionError, FlaxError):
        return False
    return True


@lru_cache(maxsize=16)
def remat(apply: Apply) -> Apply:
    """The same function with rematerialisation: the backward pass recomputes the activations inside of blocks.

    Only the outputs of blocks (the values named "block") and the arguments are kept for the backward pass. That is one
    activation per block instead of one per layer, for one more forward pass (Chen et al. 2016, section 4). For a model
    without such names only the arguments are kept.
    """
    return jax.checkpoint(apply, policy=jax.checkpoint_policies.save_only_these_names("block"))
