"""The line that installs an extra fits how the package was installed."""

import importlib.metadata
import json

import pytest

from jaxdd.ground import extras


class Distribution:
    """An installed package with this direct_url.json, or none."""

    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.origin


def line(monkeypatch, origin):
    """The line for the extra tfds of a package that was installed from there."""
    text = origin if origin is None or isinstance(origin, str) else json.dumps(origin)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution(text))
    return extras.install("tfds")


def test_a_folder_is_installed_from_again(monkeypatch, tmp_path):
    folder = tmp_path / "my clone"
    folder.mkdir()
    origin = {"url": folder.as_uri(), "dir_info": {}}
    assert "%20" in origin["url"] and line(monkeypatch, origin) == f'pip install "{folder}[tfds]"'
    assert line(monkeypatch, origin | {"dir_info": {"editable": True}}) == f'pip install -e "{folder}[tfds]"'
    folder.rename(tmp_path / "$HOME")
    moved = {"url": (tmp_path / "$HOME").as_uri(), "dir_info": {}}
    assert line(monkeypatch, moved) == f"pip install '{tmp_path}/$HOME[tfds]'"
    # The clone was removed after it was installed.
    assert line(monkeypatch, origin) == 'pip install "jaxdd[tfds]"'


@pytest.mark.parametrize("origin", [None, "{", "[]", '{"url": 3, "dir_info": {}}', '{"vcs_info": {}}', "{}"])
def test_a_package_of_an_index_is_named(monkeypatch, origin):
    assert line(monkeypatch, origin) == 'pip install "jaxdd[tfds]"'


def test_a_repository_or_a_file_is_installed_from_again(monkeypatch):
    git = {"vcs": "git", "commit_id": "0123abc"}
    address = "https://example.org/owner/jaxdd"
    assert line(monkeypatch, {"url": address, "vcs_info": git}) == f'pip install "jaxdd[tfds] @ git+{address}@0123abc"'
    asked = {"url": address, "vcs_info": git | {"requested_revision": "main"}}
    assert line(monkeypatch, asked) == f'pip install "jaxdd[tfds] @ git+{address}@main"'
    wheel = {"url": "file:///a/jaxdd-1-py3-none-any.whl", "archive_info": {}}
    assert line(monkeypatch, wheel) == f'pip install "jaxdd[tfds] @ {wheel["url"]}"'


def test_a_clone_that_was_not_installed(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    folder = extras.Path(extras.__file__).parents[2]
    assert extras.install("hub") == f'pip install "{folder}[hub]"'
