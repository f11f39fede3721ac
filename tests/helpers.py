"""What several test files check with."""

import pytest

from jaxdd.ground.errors import InputError


def message(call):
    """The one line of the InputError that `call` must raise."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert text and "\n" not in text
    return text
