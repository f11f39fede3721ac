"""Folders of images: trees of odd names, links and annotations."""

import io
import os
import random
import shutil
from unittest import mock

import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target
from PIL import Image

from jaxdd.data import folder as folders

# An input has a line for each entry: a kind, and the path below the root up to the end of the line.
# A picture, an image that is none, annotations, some that are not UTF-8, a folder, a link to itself, one upwards.
_KINDS = b"pitudls"
_NAMES = [
    b"train", b"val", b"test", b"images", b"cat", b"dog", b"0.png", b"1.JPG", b"a.jpeg", b"b.txt",
    b"val_annotations.txt", b".hidden", b"\xff\xfe", b"\xff.png", "é".encode(), "e\u0301.png".encode(), b"a b",
    b"a\tb.png",
    b"\x1b[31m", b"-", b"x" * 250, b"x" * 251 + b".png", "\u202e.png".encode(), "\u2028".encode(), b"~", b"*",
    b"$HOME", b"%s.png", b"{}",
    b".png", b"CON",
]  # fmt: skip
_TREE = b"p train/cat/0.png\np train/dog/0.png\np val/cat/0.png\np val/dog/1.JPG\n"
_ANNOTATED = b"p train/cat/images/0.png\np train/dog/0.png\np val/images/0.png\nt val/val_annotations.txt\n"
_FILE = io.BytesIO()
Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(_FILE, "PNG")
_CONTENTS = {b"p": _FILE.getvalue(), b"i": b"GIF89a", b"t": b"0.png\tcat\t1\n1.JPG\tdog\n", b"u": b"\xff\tcat\n"}


def change(rng: random.Random, data: bytes) -> bytes:
    """A tree with entries changed, renamed, removed or added."""
    lines = [line for line in data.split(b"\n") if line]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines) + 1)
        match rng.randrange(5):
            case 0 if at < len(lines):
                del lines[at]
            case 1 if at < len(lines):
                lines[at] = bytes([rng.choice(_KINDS)]) + lines[at][1:]
            case 2 if at < len(lines):
                parts = lines[at][2:].split(b"/")
                parts[rng.randrange(len(parts))] = rng.choice(_NAMES)
                lines[at] = lines[at][:2] + b"/".join(parts)
            case _:
                depth = rng.choice((1, 2, 3, 3, 4, 6))
                path = [rng.choice(_NAMES[:6] if rng.random() < 0.7 else _NAMES) for _ in range(depth)]
                lines.insert(at, bytes([rng.choice(_KINDS)]) + b" " + b"/".join([*path, rng.choice(_NAMES)]))
    return b"\n".join(lines)


def make(root: bytes, line: bytes) -> None:
    """One entry; those that the file system refuses are left out."""
    kind, path = line[:1], line[2:]
    parts = path.split(b"/")
    if not kind or kind not in _KINDS or {b"", b".", b".."} & set(parts) or b"\0" in path:
        return
    place = os.path.join(root, *parts)
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if kind == b"d":
            os.makedirs(place, exist_ok=True)
        elif kind == b"l":
            os.symlink(parts[-1], place)
        elif kind == b"s":
            os.symlink(b"..", place)
        else:
            with open(place, "wb") as file:
                file.write(_CONTENTS[kind])
    except OSError:
        return


def read(folder, data):
    root = folder / "data"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for line in data.split(b"\n")[:40]:
        make(os.fsencode(root), line)
    # Whether this is the first of several processes is asked of a device.
    with mock.patch.object(folders, "note", lambda text: text.encode()):
        for needs_test in (True, False):
            source = folders.load_folder(str(root), needs_test=needs_test)
            for split, labels in source.labels.items():
                assert len(source.read(split, np.arange(min(3, len(labels))))) == min(3, len(labels))


TARGET = Target("folders", lambda: [_TREE, _ANNOTATED], mutate.either(change, mutate.raw), read)
