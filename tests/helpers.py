"""What several test files check with."""

import numpy as np
import pytest
from PIL import Image

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


def mutants(content, count, seed=0):
    """Copies of some bytes with a few of them changed, removed, repeated or replaced by extreme numbers."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at, end = np.sort(rng.integers(0, max(1, len(changed)), 2))
            match rng.integers(5):
                case 0:
                    changed[at] = rng.integers(256)
                case 1:
                    del changed[at : at + rng.integers(1, 9)]
                case 2:
                    del changed[end:]
                case 3:
                    changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
                case 4:
                    changed[at:at] = changed[at : min(end, at + 64)]
            changed = changed or bytearray(1)
        yield bytes(changed)


def write_images(root, files, size=(6, 6)):
    """Files by path: a grey level or a colour (an image of it; PNG whatever the extension, unless that is Pillow's) or
    bytes, as they are."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            picture = Image.new("L" if isinstance(content, int) else "RGB", size, content)
            known = path.suffix.lower() in Image.registered_extensions()
            picture.save(path, None if known else "PNG")
    return str(root)
