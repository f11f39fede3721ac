"""What several test files check with."""

import pytest

from jaxdd.ground.errors import DivergenceError, InputError


def message(call):
    """The one line of the InputError that `call` must raise."""
    return _message(InputError, call)


def diverged(call):
    """The one line of the DivergenceError that `call` must raise."""
    return _message(DivergenceError, call)


def _message(kind, call):
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert text and "\n" not in text
    return text
