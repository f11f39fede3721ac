"""What functions would return and compute, without computing it."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np


def shapes_of(function: Callable, *arguments: Any) -> Any:
    """`jax.eval_shape` of a function that lives long and is asked often, such as that of a model.

    JAX keeps something of every `jax.eval_shape`, but of a jitted function only what differs.

    Args:
      arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.
    """
    return _jitted(function).eval_shape(*arguments)


def equations_of(function: Callable, *arguments: Any) -> Any:
    """The jaxpr of a function; `jax.make_jaxpr` for the same kind of function as `shapes_of`."""
    return _jitted(function).trace(*arguments).jaxpr.jaxpr


def dtypes_of(function: Callable, *arguments: Any) -> set:
    """The dtypes of all values that a function computes; see `shapes_of`."""
    return set(_dtypes(equations_of(function, *arguments)))


def _dtypes(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield from (variable.aval.dtype for variable in equation.outvars)
        for part in _inner(equation.params):
            yield from _dtypes(part)


@lru_cache(maxsize=64)
def _jitted(function: Callable) -> Any:
    return jax.jit(function)


def struct(*shape: int, dtype: Any = np.float32) -> Any:
    """The shape and dtype of an array, in the place of it."""
    return jax.ShapeDtypeStruct(shape, dtype)


def flops_in(jaxpr: Any, rounds: int | None = None) -> int:
    """Twice the multiply-adds of the convolutions and matrix products in a jaxpr.

    What a compiler makes of them is not asked, so custom calls count, and Winograd's tricks do not. Of a transposed
    convolution, the zeros between the dilated pixels are not counted; zeros of the padding are. Of a function that is
    mapped over devices, the parts of all are counted. What a platform computes in a form of its own is counted in
    the general form, and of a condition the longest branch.

    Args:
      rounds: how often loops of unknown length are taken to run.

    Raises:
      ValueError: there is such a loop with products in it, and no ``rounds``.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [flops_in(part, rounds) for part in _inner(params)]
        if name == "dot_general":
            contracted = math.prod(equation.invars[0].aval.shape[i] for i in params["dimension_numbers"][0][0])
            total += 2 * equation.outvars[0].aval.size * contracted
        elif name == "conv_general_dilated":
            kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
            taps = math.prod(kernel) // kernel[spec[0]]
            total += 2 * equation.outvars[0].aval.size * taps // math.prod(params["lhs_dilation"])
        elif inner:
            if name == "cond":
                # The branches are those of a condition, or of platforms, of which the last is the general one.
                total += inner[-1] if params.get("branches_platforms") else max(inner)
            else:
                total += _times(name, params, inner, rounds) * sum(inner)
    return total


def _times(name: str, params: dict, inner: list[int], rounds: int | None) -> int:
    """How often the inner jaxprs of an equation run."""
    if name == "shard_map":
        return params["mesh"].size
    if name != "while" or not any(inner):
        return params.get("length", 1)
    if rounds is None:
        raise ValueError("a loop of unknown length with matrix products in it cannot be counted")
    return rounds


def _inner(params: dict) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
