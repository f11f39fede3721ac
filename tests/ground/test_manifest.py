"""The manifest of a folder: what was written passes, and any change of what it lists is one line."""

import json
import os
import shutil

import pytest
from helpers import message

from jaxdd.ground.manifest import MANIFEST, verify, write

FILES = {"a": "one", "sub/b": "two", "sub/deeper/c": "", ".hidden": "three", "later": "four"}


@pytest.fixture
def folder(tmp_path):
    """A folder whose manifest lists two of its entries."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write(tmp_path, ("a", "sub", "none"))
    return tmp_path


@pytest.fixture
def nested(folder):
    """The same with a manifest in its subfolder."""
    write(folder / "sub")
    write(folder, ("a", "sub"))
    return folder


def listed(folder):
    return list(json.loads((folder / MANIFEST).read_text())["files"])


def test_what_is_listed(folder, nested):
    assert listed(nested) == ["a", f"sub/{MANIFEST}"] and listed(nested / "sub") == ["b", "deeper/c"]
    (nested / "sub" / MANIFEST).unlink()
    (folder / "link").symlink_to("a")
    write(folder)
    assert listed(folder) == ["a", "later", "sub/b", "sub/deeper/c"]
    entry = json.loads((folder / MANIFEST).read_text())["files"]["a"]
    assert entry == {"bytes": 3, "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}


def test_what_is_not_listed_may_change(folder):
    (folder / "later").write_text("other")
    (folder / "sub" / "new").write_text("other")
    verify(folder)
    verify(folder, "a", "later", "none", "sub/b", "sub/none")


def damages(place):
    """Call with each of several damages of a file, one after the other."""
    content = place.read_bytes()
    yield "damaged", lambda: place.write_bytes(content + b" ")
    yield "damaged", lambda: place.write_bytes(content[:-1] + b"?" if content else b"?")
    yield "missing", place.unlink
    yield "missing", place.mkdir
    place.rmdir()
    yield "missing", lambda: os.mkfifo(place)
    place.unlink()
    yield "missing", lambda: place.symlink_to(place)
    place.unlink()
    place.write_bytes(content)


@pytest.mark.parametrize("which", ["folder", "nested"])
@pytest.mark.parametrize(
    ("name", "seen", "unseen"),
    [
        ("a", [(), ("a",), ("sub", "a")], [("sub",), ("sub/b",), ("ab",)]),
        ("sub/b", [(), ("sub",), ("sub/b",), ("a", "sub/b")], [("a",), ("sub/deeper",), ("su",), ("b",)]),
        ("sub/deeper/c", [(), ("sub",), ("sub/deeper",), ("sub/deeper/c",)], [("a",), ("sub/b",), ("sub/deep",)]),
    ],
)
def test_any_change_is_one_line_for_those_who_read_the_file(request, which, name, seen, unseen):
    folder = request.getfixturevalue(which)
    for what, damage in damages(folder / name):
        damage()
        for names in seen:
            line = message(lambda names=names: verify(folder, *names))
            assert line.startswith(f"{folder / name} is {what}") and MANIFEST in line
        for names in unseen:
            verify(folder, *names)
    verify(folder)


def test_what_is_missing_is_noticed_without_reading_the_files(nested):
    (nested / "sub" / "b").write_text("other")
    verify(nested, content=False)
    (nested / "sub" / "b").unlink()
    for names in ((), ("sub",), ("sub/b",)):
        line = message(lambda names=names: verify(nested, *names, content=False))
        assert line.startswith(f"{nested / 'sub/b'} is missing") and f"{nested} is damaged" in line
    verify(nested, "a", "sub/deeper", content=False)


def test_a_subfolder_of_another_run_is_noticed(nested):
    (nested / "sub" / "b").write_text("another run")
    write(nested / "sub")
    verify(nested / "sub")
    for names in ((), ("sub",), ("sub/b",)):
        line = message(lambda names=names: verify(nested, *names))
        assert line.startswith(f"{nested / 'sub' / MANIFEST} is damaged")


def test_without_a_manifest_those_below_are_checked(nested):
    (nested / MANIFEST).unlink()
    (nested / "a").write_text("other")
    verify(nested, "a", "sub/b")
    (nested / "sub" / "b").write_text("other")
    assert "is damaged" in message(lambda: verify(nested, "sub/b"))
    (nested / "sub" / MANIFEST).unlink()
    verify(nested, "sub/b")


def test_a_copy_passes(nested, tmp_path_factory):
    copy = shutil.copytree(nested, tmp_path_factory.mktemp("copy") / "x")
    verify(copy)
    write(copy, ("a", "sub"))
    assert (copy / MANIFEST).read_bytes() == (nested / MANIFEST).read_bytes()
