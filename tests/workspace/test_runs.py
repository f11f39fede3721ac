"""Run folders are entered clean: what a killed process left goes, at any depth, and what others do stays."""

import json
import os
import re

import pytest

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic
from jaxdd.ground.locks import LOCK
from jaxdd.workspace import runs


class Killed(BaseException):
    pass


def leave(path, monkeypatch):
    """Leave behind what a process leaves that is killed while it writes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("jaxdd.ground.files.remove", lambda place: None)
    with pytest.raises(Killed), atomic(path) as place:
        place.write_text("half")
        raise Killed
    monkeypatch.undo()
    (left,) = [entry for entry in path.parent.iterdir() if entry.name.endswith(".part")]
    return left


def test_leftovers_go_at_any_depth_but_not_those_of_others(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(Killed), runs.run_folder(out, {"a": 1}):
        raise Killed
    own = [leave(out / name, monkeypatch) for name in ("x.json", "parts/y.npz", "vae/z.safetensors", "a/b/c/d.png")]
    others = [leave(out / name, monkeypatch) for name in ("encoded/x.npz", "teachers/t/x.json", "locked/x.json")]
    (out / "locked" / LOCK).write_text("1")
    with runs.run_folder(out, {"a": 1}):
        assert not any(left.exists() for left in own) and all(left.exists() for left in others)


def test_the_place_of_a_run_does_not_identify_it(tmp_path):
    settings = {"ipc": 1, "rate": float("nan")}
    for k, request in enumerate(({"jax": "1", **settings}, {"jax": "1", "train": settings})):
        out = tmp_path / str(k)
        with runs.run_folder(out, request):
            pass
        place = out / "parts" / "request.json"
        # As earlier versions wrote it.
        inner = request.get("train", request)
        place.write_text(
            json.dumps(request | ({"train": inner | {"out": "x"}} if "train" in request else {"out": "x"}))
        )
        with runs.run_folder(out, request):
            assert not runs.begun_otherwise(out, request)
        other = request | {"jax": "2"}
        assert runs.begun_otherwise(out, other)
        line = "unfinished run of other settings: `jax` was 1 and is 2 now; choose another `out` or remove it"
        with pytest.raises(InputError, match=re.escape(line)), runs.run_folder(out, other):
            pass


def test_a_run_says_which_settings_are_others(tmp_path):
    request = {
        "config": "DistillConfig", "method": "wmdd", "ipc": 1, "teacher": None,
        "recipe": {"imager": {"name": "recover", "steps": 3}}, "computes in": None, "given teacher": None,
    }  # fmt: skip
    with runs.run_folder(tmp_path / "run", request):
        pass

    def line(**changes):
        return runs.begun_with(tmp_path / "run", request | changes)

    assert line() == "" and runs.begun_with(tmp_path, request) is None
    assert line(recipe={"imager": {"name": "recover", "steps": 4}}) == "`imager.steps` was 3 and is 4 now"
    assert line(**{"computes in": "bfloat16"}) == "`compute` was float32 and is bfloat16 now"
    assert line(**{"given teacher": {"model": "x"}}) == "`teacher` was another one"
    given = line(**{"teacher": "t", "given teacher": {"model": "x"}})
    assert given == "`teacher` was not given and is t now"
    place = tmp_path / "run" / "parts" / "request.json"
    # A field that only another version has makes another request, whatever its value.
    place.write_text(json.dumps(request | {"old": None}))
    assert line() == "`old` was not given and is absent now"
    for text in ("[]", '{"train": []}', "null"):
        place.write_text(text)
        assert line() != ""


def test_a_model_that_was_begun_otherwise_is_begun_anew_and_says_why(tmp_path, capfd):
    for device in ("cpu", "TPU v4"):
        with runs.cached(tmp_path / "model", {"identity": [1], "device": device}):
            (tmp_path / "model" / "left").touch()
    assert "model is begun anew, as what it holds is of other settings: `device` was cpu and is TPU v4 now" in (
        capfd.readouterr().err
    )
    with runs.cached(tmp_path / "model", {"identity": [1], "device": "TPU v4"}):
        assert (tmp_path / "model" / "left").exists() and capfd.readouterr().err == ""


def test_a_half_written_file_is_not_part_of_a_manifest(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with runs.run_folder(out, {}):
        (out / "vae").mkdir()
        (out / "vae" / "config.json").write_text("{}")
        leave(out / "vae" / "weights", monkeypatch)
        runs.finish(out, ("vae",))
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == {"vae/config.json", "request.json"}
    assert runs.is_finished(out) and not (out / "parts").exists()
    assert sorted(name for name in os.listdir(out) if name != "vae") == ["manifest.json", "request.json"]
