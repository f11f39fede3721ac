"""Files that anybody may have written."""

import os

import pytest
from helpers import message

from jaxdd.ground.errors import one_line, shown
from jaxdd.ground.reading import read_json, read_text


@pytest.mark.parametrize(
    "text", ["{}", "[1, 2.5, null, true]", '{"a": {"b": [""]}, "c": "\\ud83d\\ude00"}', "[" * 50 + "]" * 50]
)
def test_json_is_read(text, tmp_path):
    import json

    (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json") == json.loads(text)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "no JSON"), (b"{", "no JSON"), (b"\xff", "UTF-8"), (b"NaN", "NaN"), (b"[-Infinity]", "Infinity"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"), (b"[" * 52 + b"]" * 52, "deep"),
    (b"[" * 10**6, "deep"), (b"9" * 5000, "5000 digits"), (b"{} {}", "no JSON"),
])  # fmt: skip
def test_what_is_no_json_is_refused(content, words, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    text = message(lambda: read_json(tmp_path / "a.json", "mend it"))
    assert words in text and str(tmp_path / "a.json") in text and text.endswith("; mend it")


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**24 + 1)
    names = {"pipe": "no regular file", ".": "no regular file", "loop": "symbolic links", "nowhere": "No such file",
             "large": "16 MiB", "a" * 300: "too long", "\0": "embedded null"}  # fmt: skip
    for name, words in names.items():
        assert words in message(lambda name=name: read_text(tmp_path / name))
    assert "no regular file" in message(lambda: read_text(tmp_path / "../../../../../../dev/zero"))


def test_messages_fit_on_a_line():
    assert one_line("a\nb\x1b[31m\udcff\u202eé") == "a\\nb\\x1b[31m\\udcff\\u202eé"
    assert len(one_line("a" * 10**6)) < 2100 and one_line("a" * 10**6).startswith("aaa")
    assert shown(10**5000) == "a number of thousands of digits"
    assert shown("a" * 100) == "'" + "a" * 79 + "..."
