"""Promotion of dtypes by libraries that rely on JAX's standard rules.

This package states its dtypes, so that it computes in float32 also with `jax_enable_x64`, and runs with
`jax_numpy_dtype_promotion` "strict". Other libraries do not: Optax multiplies integer counts by floats, and Flax mixes
bfloat16 activations with float32 statistics.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
import optax

_P = ParamSpec("_P")
_R = TypeVar("_R")


def standard(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function under the standard rules of promotion, whatever the user set for the process."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call


def standard_optimizer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer with `standard` functions."""
    return optax.GradientTransformation(standard(tx.init), standard(tx.update))
