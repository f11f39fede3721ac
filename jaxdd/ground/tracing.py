"""What functions would return and compute, without computing it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax


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


@lru_cache(maxsize=64)
def _jitted(function: Callable) -> Any:
    return jax.jit(function)
