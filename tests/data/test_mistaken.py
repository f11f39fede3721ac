"""Paths that are given as run folders and are none: real images, unfinished runs, and the images of a run."""

import pytest
from helpers import write_images as write

from jaxdd.data.mistaken import no_run


def test_real_images_in_place_of_a_run_folder_are_recognised(tmp_path):
    pets = write(tmp_path / "pets", {f"{split}/{name}/0.png": 1 for split in ("train", "val") for name in "abcd"})
    flat = write(tmp_path / "my flat", {"cat/0.png": 1, "dog/deep/0.png": 1})
    (tmp_path / "empty").mkdir()
    words, small = "looks like a folder of real images, of classes", "--image-size 64 --ipc 10 --out"
    for place in (pets, f"{pets}/train", f"{pets}/val/"):
        line = no_run(place, "no")
        given = f"with jaxdd distill --dataset {pets} {small} runs/pets"
        assert line == f"no: it {words} a, b, c, ...; distil them first, {given}"
    line = no_run(flat, "no")
    given = f"with jaxdd distill --dataset '{flat}' --holdout 0.2 {small} 'runs/my flat'"
    assert line == f"no: it {words} cat, dog; distil them first, {given}"
    assert no_run(tmp_path / "empty", "no", "x") == no_run(f"{flat}/cat/0.png", "no", "x") == "no; x"
    assert no_run(tmp_path / "peds", "no", "x") == f"no: it does not exist (did you mean {pets}?); x"


def test_an_unfinished_run_is_told_from_other_folders(tmp_path):
    write(tmp_path, {"mine/parts/request.json": b"{}", "other/parts/x": b"", "other/request.json": b"{}"})
    line = f"{tmp_path / 'mine'} is an unfinished run; the same jaxdd distill command goes on"
    assert no_run(tmp_path / "mine", "no", "x") == line
    assert no_run(tmp_path / "other", "no", "x") == "no; x"


@pytest.mark.parametrize(
    "place", ["distilled", "distilled/", "distilled/train", "distilled/train/a", "distilled/distilled.npz"]
)
def test_the_images_of_a_run_lead_to_it(tmp_path, place):
    files = {f"distilled/train/{name}/000.png": 1 for name in "ab"} | {"distilled/distilled.npz": b""}
    alone, run = write(tmp_path / "alone", files), write(tmp_path / "run", {**files, "config.json": b"{}"})
    line = no_run(f"{run}/{place}", "no")
    assert line == f"{run}/{place.rstrip('/')} holds the images of the run {run}; give that folder"
    # A copy of the images alone is no part of a run.
    assert no_run(f"{alone}/{place}", "no").startswith("no")


@pytest.mark.parametrize("program_name", ["evaluate", "export", "report", "relabel"])
def test_every_program_that_takes_a_run_knows_an_unfinished_one(tmp_path, refused, program_name):
    run = write(tmp_path / "mine", {"parts/request.json": b"{}"})
    line = f"error: {run} is an unfinished run; the same jaxdd distill command goes on"
    assert refused(program_name, run) == line


def test_the_images_of_a_run_are_not_evaluated_as_those_of_somebody_else(tmp_path, refused):
    files = {f"distilled/train/{name}/000.png": 1 for name in "ab"}
    run = write(tmp_path / "run", {**files, "distilled/distilled.npz": b"", "config.json": b"{}"})
    for place in ("distilled", "distilled/train"):
        line = f"error: {run}/{place} holds the images of the run {run}; give that folder"
        assert refused("evaluate", f"{run}/{place}") == line
