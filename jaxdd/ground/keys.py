"""PRNG keys as users give them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.tracing import shapes_of


def as_key(key: jax.Array | int) -> jax.Array:
    """A scalar PRNG key: the key itself, of the new or the old style, or that of an integer seed.

    Raises:
      InputError: anything else, such as several keys or a floating number.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool) and 0 <= key < 2**63:
        # Seeds above 32 bits exist only with 64-bit integers; folding in the upper half gives each its own key.
        low, high = int(key) % 2**32, int(key) // 2**32
        return jax.random.fold_in(jax.random.key(low), high) if high else jax.random.key(low)
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return key  # type: ignore[return-value]
    if dtype == np.uint32 and shape == shapes_of(jax.random.PRNGKey, 0).shape:
        return key  # type: ignore[return-value]
    what = f"{type(key).__name__} {key!r:.20}" if shape is None else f"{dtype} {list(shape)}"
    raise InputError(f"`key` is {what}; give jax.random.key(0), or an integer seed from 0 on")
