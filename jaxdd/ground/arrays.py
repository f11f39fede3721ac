"""Arrays as users give them: lists, tables and arrays of other libraries, read by NumPy or refused."""

from typing import Any

import numpy as np

from jaxdd.ground.errors import InputError


def as_array(values: Any, what: str) -> np.ndarray:
    """Numbers that a user gives, as an array without a copy.

    Args:
      what: their name in the plural, for messages.

    Raises:
      InputError: parts of several shapes, what makes no array otherwise, or a masked array, see `check_unmasked`.
    """
    for part in values if isinstance(values, list | tuple) else (values,):
        check_unmasked(part, what)
    try:
        return np.asarray(values)
    # Arrays of other libraries, which may lie on a device, raise errors of several types.
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        if "inhomogeneous" in reason or "setting an array element" in reason:
            reason = "their parts have several shapes"
        raise InputError(f"{what} are no array: {reason}; give one array") from None


def check_unmasked(array: Any, what: str) -> None:
    """Raise InputError for a masked array, whose masked values would be taken for sound ones."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{what} are a masked array; leave out what is masked, or fill it with .filled(value)")


def check_native(array: Any, what: str) -> None:
    """Raise InputError for an array of NumPy that JAX would misread: a masked one, or one in another byte order."""
    check_unmasked(array, what)
    if isinstance(array, np.ndarray) and not array.dtype.isnative:
        raise InputError(f"{what} have dtype {array.dtype.str} in another byte order; use astype({array.dtype.name!r})")


def is_integer(values: np.ndarray) -> bool:
    """Whether an array holds integers. NumPy counts spans of time among them."""
    return values.dtype.kind in "iu"
