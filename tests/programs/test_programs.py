"""The command line: bad input is one line and status 2, nothing left; a run leaves what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdd.data import distilled
from jaxdd.ground.errors import InputError
from jaxdd.programs import distill
from jaxdd.workspace import comparison, distillation, runs, workspace

TEACHER = ["--model", "convnet3", "--width", "8", "--teacher-train.epochs", "2"]


# Bad input


def test_an_unknown_dataset(refused, tmp_path):
    assert "'digts'" in refused("distill", "--dataset", "digts", "--out", tmp_path / "x")
    assert "nowhere" in refused("distill", "--dataset", tmp_path / "nowhere", "--out", tmp_path / "x")
    assert "nowhere" in refused("train", "--dataset", tmp_path / "nowhere", "--out", tmp_path / "x")


def test_an_unknown_precision(refused, tmp_path):
    assert "--compute 'float8'" in refused("distill", "--compute", "float8", "--out", tmp_path / "x")


@pytest.mark.parametrize("form", [["--method", "wmd"], ["--method=wmd"]])
def test_an_unknown_method(refused, tmp_path, form):
    line = refused("distill", *form, "--out", tmp_path / "x")
    assert "'wmd'" in line and "wmdd" in line


@pytest.mark.parametrize("name", ["distill", "train"])
def test_an_unknown_model(refused, tmp_path, name):
    line = refused(name, "--model", "resnet81", "--out", tmp_path / "x")
    assert "'resnet81'" in line and "resnet18" in line


def test_images_too_small_for_the_model(refused, tmp_path):
    line = refused("distill", "--model", "convnet4", "--out", tmp_path / "x")
    assert "convnet4" in line and "8 pixels" in line


def test_moments_of_a_teacher_that_will_have_none(refused, tmp_path):
    line = refused("distill", "--model", "vit_tiny", "--width", "64", "--out", tmp_path / "x")
    assert "--imager.moment-weight 1.0" in line and "use --imager.moment-weight 0" in line


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder(refused, folder, tmp_path, split):
    for picture in (folder / split / "dog").iterdir():
        picture.unlink()
    line = refused("distill", "--dataset", folder, "--out", tmp_path / "x", *TEACHER)
    assert str(folder / split / "dog") in line


def test_a_corrupt_image(refused, folder, tmp_path):
    broken = folder / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    line = refused("distill", "--dataset", folder, "--ipc", 1, "--out", tmp_path / "x", *TEACHER)
    assert str(broken) in line


def test_a_corrupt_test_image_is_found_before_anything_is_trained(refused, folder, tmp_path):
    broken = folder / "val" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    line = refused("distill", "--dataset", folder, "--ipc", 1, "--out", tmp_path / "x", *TEACHER)
    assert str(broken) in line


@pytest.mark.parametrize("method", ["wmdd", "medoid", "random"])
def test_fewer_real_images_than_ipc(refused, folder, tmp_path, method):
    (folder / "train" / "dog" / "3.png").unlink()
    line = refused("distill", "--method", method, "--dataset", folder, "--ipc", 4, "--out", tmp_path / "x", *TEACHER)
    assert "'dog' has 3 real images" in line and "4" in line


@pytest.mark.parametrize("ipc", [0, -1])
def test_no_images_per_class(refused, tmp_path, ipc):
    assert f"--ipc {ipc}" in refused("distill", "--ipc", ipc, "--out", tmp_path / "x")


@pytest.mark.parametrize("name", ["distill", "train"])
def test_an_output_folder_that_is_not_empty(refused, tmp_path, name):
    out = tmp_path / "x"
    out.mkdir()
    (out / "precious").write_text("kept")
    line = refused(name, "--out", out)
    assert str(out) in line and "not empty" in line
    assert (out / "precious").read_text() == "kept"


def test_an_empty_output_folder_that_was_there_stays(refused, tmp_path):
    (tmp_path / "x").mkdir()
    refused("distill", "--model", "resnet81", "--out", tmp_path / "x")


@pytest.mark.parametrize("name", ["distill", "train"])
def test_an_output_folder_that_cannot_be(refused, tmp_path, name):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        assert str(out) in refused(name, "--out", out)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("inside", [".", "x"])
def test_no_permission_to_write(refused, tmp_path, inside):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert str(locked) in refused("distill", "--out", locked / inside)


def test_a_teacher_or_run_that_is_not_there(refused, tmp_path):
    assert "no teacher at" in refused("distill", "--teacher", tmp_path / "none", "--out", tmp_path / "x")
    assert "no distilled dataset in" in refused("evaluate", tmp_path / "none")
    assert "no run folder" in refused("evaluate")


def test_parents_of_the_output_folder_are_not_left_behind(refused, tmp_path):
    refused("distill", "--model", "resnet81", "--out", tmp_path / "a" / "b" / "c")


@pytest.mark.slow
def test_a_process_of_its_own_ends_with_the_same_line_and_status(tmp_path):
    command = [sys.executable, "-m", "experiments.distill", "--method", "wmmd", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(distill.__file__).parents[2])
    assert done.returncode == 2 and done.stdout == "" and os.listdir(tmp_path) == []
    assert done.stderr.startswith("error: unknown method 'wmmd'") and done.stderr.count("\n") == 1


# Good input

DISTILL = ["--dataset", "digits", "--ipc", "2", "--imager.steps", "12", *TEACHER[:-1], "8"]
FILES = {
    "config.json",
    "teacher",
    "atoms.npz",
    "metrics.jsonl",
    "real.npz",
    "distilled",
    "preview.png",
    "report.html",
    "manifest.json",
    "request.json",
}
EVALUATE = ["--seeds", "2", "--hard.train.epochs", "3", "--soft.train.epochs", "3", "--baselines", "random"]


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_with_the_same_command(program, tmp_path):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_classes", Failing(runs.keep_classes, 1))
        status, _, err = program("distill", *DISTILL, "--out", out)
        assert status == 2 and "unreadable" in err
    # What bad input leaves of other runs is nothing; what is done of this one is kept.
    done = {path.name: path.read_bytes() for path in (out / "parts").glob("*.npz")}
    assert 0 < len(done) < 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "save_run", Failing(distillation.save_run, 1, OSError))
        with pytest.raises(OSError, match="unreadable"):
            program("distill", *DISTILL, "--out", out)
    assert (out / "teacher").is_dir() and (out / "distilled").is_dir()
    assert all((out / "parts" / name).read_bytes() == content for name, content in done.items())

    status, _, err = program("distill", *DISTILL, "--imager.steps", "13", "--out", out)
    assert status == 2 and "unfinished run of other settings" in err
    status, _, err = program("distill", *DISTILL, "--memory-gib", "3", "--out", out)
    assert status == 0 and "10 of 10 classes are done" in err
    assert set(os.listdir(out)) == FILES
    assert len(list((out / "distilled" / "train").glob("*/*.png"))) == 20


class Failing:
    """A function that raises after it was called so many times."""

    def __init__(self, function, most, error=InputError):
        self.function, self.most, self.error, self.calls = function, most, error, 0

    def __call__(self, *arguments):
        self.function(*arguments)
        self.calls += 1
        if self.calls == self.most:
            raise self.error("image x is unreadable; mend it")


@pytest.mark.slow
def test_distill_and_evaluate_leave_what_they_promise_and_again_the_same_bytes(program, refused, tmp_path):
    first, second = tmp_path / "a" / "run", tmp_path / "b" / "run"
    status, out, _ = program("distill", *DISTILL, "--out", first)
    assert status == 0 and "20 images of 10 classes" in out
    assert set(os.listdir(first)) == FILES
    config = json.loads((first / "config.json").read_text())
    assert config["config"] == "DistillConfig" and config["method"] == "wmdd" and config["ipc"] == 2
    assert config["width"] == 8 and config["recipe"]["imager"]["steps"] == 12
    assert json.loads((first / "teacher" / "teacher.json").read_text())["accuracy"] > 0.3
    with np.load(first / "atoms.npz", allow_pickle=False) as atoms:
        assert atoms["points"].shape == (10, 2, 8)
        np.testing.assert_allclose(atoms["weights"].sum(1), 1, rtol=1e-5)
    steps = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [0, 10, 11]
    assert set(steps[0]) == {"step", "feature", "moment", "cross_entropy"}
    assert sum(Image.open(first / "preview.png").size) > 100
    assert len(list((first / "distilled" / "train").glob("*/*.png"))) == 20
    dataset = distilled.load(first)
    assert dataset.ipc == 2 and dataset.provenance["method"] == "wmdd" and dataset.provenance["dataset"] == "digits"

    # The second run trains its own teacher, for its cache lies beside another output.
    assert program("distill", *DISTILL, "--out", second)[0] == 0
    with (
        np.load(first / "distilled" / "distilled.npz") as a,
        np.load(second / "distilled" / "distilled.npz") as b,
    ):
        assert set(a) == set(b)
        for name in a:
            assert a[name].tobytes() == b[name].tobytes(), name

    status, out, _ = program("evaluate", first, *EVALUATE)
    assert status == 0
    rows = json.loads((first / "evaluation.json").read_text())
    assert {(row["method"], row["labels"]) for row in rows} == {
        ("random", "hard"), ("wmdd", "hard"), ("full", "hard"), ("random", "soft"), ("wmdd", "soft"),
    }  # fmt: skip
    for row in rows:
        trained = {"epochs", "steps", "batch_size"} if row["method"] != "full" else set()
        known = {"method", "dataset", "ipc", "student", "labels", "accuracies", "mean", "std", "key"}
        assert set(row) == known | trained
        # Twenty images, at most so many in a batch.
        assert not trained or row["steps"] * row["batch_size"] >= row["epochs"] * 20
        assert (row["dataset"], row["student"]) == ("digits", "convnet3")
        assert row["ipc"] == (None if row["method"] == "full" else 2)
        assert len(row["accuracies"]) == (1 if row["method"] == "full" else 2)
        assert all(0 <= accuracy <= 1 for accuracy in row["accuracies"])
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["std"] == pytest.approx(np.std(row["accuracies"], ddof=1) if len(row["accuracies"]) > 1 else 0)
    # The student is the teacher's network, width included.
    (full,) = [row for row in rows if row["method"] == "full"]
    assert full["accuracies"] == [json.loads((first / "teacher" / "teacher.json").read_text())["accuracy"]]
    table = out.splitlines()
    assert "hard labels" in table[0] and "soft labels" in table[0] and len(table) == 2 + 3
    for row in rows:
        (line,) = [line for line in table if line.split()[2:3] == [row["method"]]]
        assert f"{100 * row['mean']:.1f}" in line

    # What was measured is not measured again; other columns stay, and what was trained otherwise is set aside.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_trained", lambda *_: pytest.fail("trained again"))
        again, printed, _ = program("evaluate", first, *EVALUATE)
        assert again == 0 and printed == out and json.loads((first / "evaluation.json").read_text()) == rows
        assert program("evaluate", first, *EVALUATE, "--protocols", "soft")[0] == 0
        assert len(json.loads((first / "evaluation.json").read_text())) == len(rows)
    status, _, err = program("evaluate", first, *EVALUATE, "--hard.train.epochs", "4", "--protocols", "hard")
    assert status == 0 and "evaluation.json had 2 rows of students that were trained otherwise" in err
    assert json.loads((first / "evaluation.1.json").read_text())[0]["labels"] == "hard"
    kept = json.loads((first / "evaluation.json").read_text())
    assert {(row["labels"], row.get("epochs")) for row in kept} == {("hard", 4), ("soft", 3), ("hard", None)}
    os.replace(first / "evaluation.1.json", first / "evaluation.json")

    # Bad requests on a good run leave it as it is.
    line = refused("evaluate", first, "--students", "resnet19")
    assert "'resnet19'" in line and "resnet18" in line
    assert "--seeds 0" in refused("evaluate", first, "--seeds", "0")
    assert "width 0" in refused("evaluate", first, "--width", "0")
    assert "'firm'" in refused("evaluate", first, "--protocols", "firm")
    assert "'adam'" in refused("evaluate", first, "--soft.train.optimizer", "adam")
    assert "'cutout'" in refused("evaluate", first, "--soft.train.augment.mix", "cutout")
    assert "'randm'" in refused("evaluate", first, "--baselines", "randm")
    # Its teacher serves other methods, but not other classes.
    same = ["--teacher", first / "teacher", "--ipc", "1"]
    assert program("distill", "--method", "medoid", *same, "--out", tmp_path / "c")[0] == 0
    assert distilled.load(tmp_path / "c").provenance["method"] == "medoid"


@pytest.mark.faults  # half a minute; tests/test_dtypes.py traces the same functions
def test_64_bits_and_strict_promotion_change_nothing_but_rounding(program, tmp_path):
    quick = ["--width", "8", "--teacher-train.epochs", "1", "--teacher-train.batch-size", "479", "--imager.steps", "3"]
    tested = ["--seeds", "1", "--protocols", "soft", "--soft.train.epochs", "1", "--baselines", "random", "--full", "0"]
    plain, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert program("distill", *quick, "--out", plain)[0] == 0
    assert program("evaluate", plain, *tested)[0] == 0
    code = f"""
from jaxdd.programs import distill, evaluate
from jaxdd import commands
commands.run(distill.main, distill.default, {[*quick, "--out", str(other)]})
commands.run(evaluate.main, lambda _: evaluate.EvaluateConfig(), {[str(other), *tested]})
"""
    modes = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=Path(distill.__file__).parents[1], env=os.environ | modes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = (distilled.load(out) for out in (plain, other))
    assert theirs.images.dtype == theirs.weights.dtype == np.float32
    np.testing.assert_allclose(theirs.images, ours.images, atol=1e-3)
    np.testing.assert_allclose(theirs.weights, ours.weights, rtol=1e-4)
    rows = [json.loads((out / "evaluation.json").read_text()) for out in (plain, other)]
    for one, two in zip(*rows):
        assert one["method"] == two["method"] and abs(one["mean"] - two["mean"]) < 0.02


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_refused(program, refused, folder, tmp_path):
    assert program("train", "--dataset", folder, *TEACHER, "--out", tmp_path / "teacher")[0] == 0
    line = refused("distill", "--dataset", "digits", "--teacher", tmp_path / "teacher", "--out", tmp_path / "x")
    assert "trained on classes cat dog" in line


@pytest.mark.slow
def test_settings_can_be_chosen_without_the_test_images(program, refused, tmp_path):
    held = ["--holdout", "0.25", *TEACHER]
    assert program("train", *held, "--out", tmp_path / "teacher")[0] == 0
    medoid = ["--method", "medoid", "--teacher", tmp_path / "teacher"]
    assert program("distill", *medoid, "--out", tmp_path / "run")[0] == 0
    # The run takes the teacher's hold-out over, and so does its evaluation.
    assert json.loads((tmp_path / "run" / "config.json").read_text())["holdout"] == 0.25
    seen = []
    real = workspace.open_data
    spy = lambda *arguments: seen.append(real(*arguments)) or seen[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "open_data", spy)
        assert program("evaluate", tmp_path / "run", *EVALUATE, "--protocols", "hard", "--full", "0")[0] == 0
    (opened,) = seen
    train, test = (len(opened.source.labels[split]) for split in ("train", "test"))
    assert train + test == 1442 and abs(test - 1442 / 4) < 5
    line = refused("distill", *medoid, "--holdout", "0.5", "--out", tmp_path / "x")
    assert "--holdout 0.5" in line and "0.25" in line
    assert "--holdout 2.0 of the train images" in refused("distill", "--holdout", "2", "--out", tmp_path / "x")
