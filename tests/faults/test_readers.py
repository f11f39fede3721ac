"""Faults that fuzzing found, one of each kind: what is read ends in a value or one line, soon and in little memory."""

import io
import json
import time

import numpy as np
import pytest
from helpers import message
from PIL import Image
from safetensors.numpy import save

from jaxdd import pretrained
from jaxdd.data import image
from jaxdd.ground import manifest
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import map_array, write_json
from jaxdd.ground.reading import parse_json
from jaxdd.pretrained.tensors import Naming, fill, tensors
from jaxdd.reports import html, run_page
from jaxdd.stages.context import Teacher
from jaxdd.students.rows import read, row
from jaxdd.workspace import grid_file, teachers

LONG = "x" * 5000


def soon(call):
    """The one line of a call that must not take the square of a size in time."""
    begun = time.process_time()
    text = message(call)
    assert time.process_time() - begun < 2
    return text


def test_a_key_that_occurs_twice_is_found_among_many():
    keys = ",".join(f'"{k}": 0' for k in range(50_000))
    assert "'49999' occurs twice" in soon(lambda: parse_json(f'{{{keys}, "49999": 0}}', "a.json", "mend it"))


@pytest.mark.parametrize(
    "line", ["a" + ".a" * 20_000 + " = 1", "x = { a" + ".a" * 20_000 + " = 1 }", "[a" + ".a" * 60 + "]"]
)
def test_dotted_keys_of_a_grid_are_not_deep(line, tmp_path):
    (tmp_path / "a.toml").write_text(f"title = 'a'\n{line}\n")
    assert "a.toml, line 2, is nested too deep" in soon(lambda: grid_file.read("a", tmp_path / "a.toml", tmp_path))


def test_dots_of_a_grid_that_are_no_keys(tmp_path):
    values = ", ".join(f"{k / 8:.3f}" for k in range(1, 200))
    text = f"# {'A sentence. ' * 80}\n[methods.random]\n[methods.wmdd]\n[sweep]\nmethod = 'wmdd'\n"
    (tmp_path / "a.toml").write_text(f"{text}field = 'imager.feature_weight'\nvalues = [{values}]\n")
    assert len(grid_file.read("a", tmp_path / "a.toml", tmp_path).entries) == 201


def test_records_are_mapped_where_they_are_wanted(tmp_path):
    records = np.array([([1, 2], 0.5)], [("codes", "u1", (2,)), ("scale", "<f2")])
    np.save(tmp_path / "a.npy", records)
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy", records=True), records)
    assert "neither numbers nor text" in message(lambda: map_array(tmp_path / "a.npy"))
    # NumPy looks for numbers of Python 2 in a header that it cannot parse, and the tokenizer has errors of its own.
    content = (tmp_path / "a.npy").read_bytes()
    for old, new in ((b"'shape': (1,)", b"'shape': (1, "), (b"'codes'", b"3      "), (b"'<f2'", b"'|O' ")):
        (tmp_path / "a.npy").write_bytes(content.replace(old, new))
        assert "a.npy cannot be read" in message(lambda: map_array(tmp_path / "a.npy", records=True))


def test_names_that_no_file_can_have(tmp_path):
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": f"{LONG}.safetensors"}})
    assert "is missing" in message(lambda: tensors(tmp_path))
    write_json(tmp_path / "manifest.json", {"files": {f"a/{LONG}": {"bytes": 1, "sha256": "0" * 64}}})
    assert "is missing" in message(lambda: manifest.verify(tmp_path, "a"))


def test_what_a_library_says_in_several_lines(tmp_path):
    header = b'{"a": {"dtype": "F\\n32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "F\\n32" in message(lambda: tensors(tmp_path))


def test_names_of_several_lines(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save({"a\nb": np.zeros(1, np.float32)}))
    assert "a\\nb [1]" in message(lambda: fill({}, tensors(tmp_path), Naming(), tmp_path))
    assert str(InputError("a\x1b\u2028\udcff\u202eé")) == r"a\x1b\u2028\udcff\u202eé"


def test_tokens_that_are_no_text(tmp_path):
    write_json(tmp_path / "vocab.json", {"<|startoftext|>": 0, "<|endoftext|>": 1, "\ud800": 2})
    (tmp_path / "merges.txt").write_text("")
    assert "half of a surrogate pair" in message(lambda: pretrained.tokenizer(tmp_path))


def test_a_teacher_that_does_not_say_how_it_was_trained():
    assert "no `train`" in message(lambda: teachers.training_of(Teacher(None, None, None, {"model": "convnet3"})))


def test_a_small_file_of_a_huge_picture():
    file = io.BytesIO()
    Image.new("1", (6000, 6000)).save(file, "PNG")
    line = message(lambda: image.decode(("a.png", file.getvalue()), (8, 8, 1)))
    assert "6000 x 6000 pixels in" in line
    # Bytes enough for as many pixels: what follows the end of a picture is not read.
    assert image.decode(("a.png", file.getvalue() + bytes(360_000)), (8, 8, 1)).shape == (8, 8, 1)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "IM"])
def test_formats_of_other_programs_are_not_opened(kind):
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, kind)
    with pytest.raises(InputError, match="of no known format"):
        image.decode(("a.png", file.getvalue()), (4, 4, 1))


EXTREMES = [0.0, 5e-324, 1e-322, 1e-300, 1.0, 1e270, 1e308, -1e308, -5e-324, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("log", [False, True])
def test_a_curve_of_any_numbers_has_finite_axes(log):
    for first in EXTREMES:
        for second in EXTREMES:
            drawn = html.curve([0, 1], {"line": [first, second]}, "step", "loss", log)
            assert "nan" not in drawn and "inf" not in drawn


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400, "true"])
def test_losses_that_are_no_floats(value, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "a": {value}}}\n')
    assert "metrics.jsonl, line 1" in message(lambda: run_page._metrics(tmp_path / "metrics.jsonl"))


def many(place, rows):
    place.write_text(json.dumps([row("a", "digits", 1, "convnet3", "hard", [0.5]) | one for one in rows]))
    return place


def test_a_table_of_many_rows(tmp_path):
    place = tmp_path / "evaluation.json"
    begun = time.process_time()
    page = "".join(run_page.accuracies(read(many(place, ({"method": f"m{k}"} for k in range(5000))))))
    # All have the same accuracy, so that each is the best.
    assert page.count("<strong>") == 5000 and time.process_time() - begun < 4
    for rows in (({"method": f"m{k}"} for k in range(10_001)), ({"labels": f"soft{k}"} for k in range(101))):
        assert "too many for a table" in message(lambda rows=rows: read(many(place, rows)))
