"""Folding of BatchNorm, which is affine in evaluation mode, into the preceding convolution."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdd.ground.errors import InputError
from jaxdd.nn.batchnorm import EPSILON
from jaxdd.nn.classifier import Apply, Variables


def fold(variables: Variables) -> Variables:
    """Variables of the same network without BatchNorm, for logits and features only, without moments.

    In evaluation mode, a convolution of kernel k and bias b (0 if absent), followed by BatchNorm of running mean m and
    variance v, scale s and offset t, equals the convolution of

        k' = a k,        b' = t + a (b - m),        a = s / sqrt(v + 1e-5)    along the output channels.

    Args:
      variables: {"params", "batch_stats"} of a model of `jaxdd.nn.get`, or a tuple of such of a committee. Every
        BatchNorm must follow the convolution of the corresponding name (norm1 after conv1, shortcut_norm after
        shortcut_conv).

    Returns:
      Variables without "batch_stats" for `Classifier.apply` of the same model, whose output then has no moments.
      Variables that are already folded are returned unchanged.

    Raises:
      InputError: a BatchNorm without its convolution.
    """
    if isinstance(variables, tuple):
        return tuple(fold(part) if "batch_stats" in part else part for part in variables)
    params = flatten_dict(variables["params"], sep="/")
    stats = flatten_dict(variables.get("batch_stats", {}), sep="/")
    for norm in {name.rpartition("/")[0] for name in stats}:
        conv = norm.removesuffix("/bn").replace("norm", "conv")
        if f"{conv}/kernel" not in params:
            raise InputError(f"BatchNorm {norm} has no convolution {conv} to fold it into; use the variables of a "
                             "model of jaxdd.nn.get")  # fmt: skip
        factor = params.pop(f"{norm}/scale") * jax.lax.rsqrt(stats[f"{norm}/var"] + EPSILON)
        offset = params.pop(f"{norm}/bias") - factor * stats[f"{norm}/mean"]
        params[f"{conv}/bias"] = offset + factor * params.get(f"{conv}/bias", 0.0)
        params[f"{conv}/kernel"] = params[f"{conv}/kernel"] * factor
    rest = {name: part for name, part in variables.items() if name != "batch_stats"}
    return {**rest, "params": unflatten_dict(params, sep="/")}


def foldable(apply: Apply, variables: Variables, image_shape: tuple[int, int, int]) -> bool:
    """Whether the model has BatchNorm, and accepts the variables of `fold`."""
    parts = variables if isinstance(variables, tuple) else (variables,)
    if not all(isinstance(part, Mapping) for part in parts) or not any("batch_stats" in part for part in parts):
        return False
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        jax.eval_shape(lambda variables, image: apply(fold(variables), image).logits, variables, image)
    except (TypeError, ValueError, KeyError, FlaxError):
        return False
    return True


def folded(apply: Apply, variables: Variables, image_shape: tuple[int, int, int]) -> Variables:
    """The variables after `fold` if the model is `foldable`, otherwise unchanged; faster without moments."""
    return jax.jit(fold)(variables) if foldable(apply, variables, image_shape) else variables
