"""Every stage driven to divergence: each ends in one line that names the stage, the class or student, and the step."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from divergence_helpers import (
    CLASSES,
    KEY,
    NORM,
    RECOVER,
    SOFT,
    STEPS,
    TABLE,
    context,
    decoded,
    encoded,
    fitted,
    pooled,
    recovered,
    students,
)  # fmt: skip
from helpers import diverged, message

from jaxdd import commands, methods
from jaxdd.ground import hosts
from jaxdd.ground.errors import DivergenceError
from jaxdd.ground.watch import EVERY
from jaxdd.latent import training
from jaxdd.methods import Recipe
from jaxdd.nn.classifier import Output
from jaxdd.stages.images import Imager, Images, Nearest
from jaxdd.stages.images.recover import loss
from jaxdd.stages.relabel.labelling import SoftLabels
from jaxdd.stages.summarize import Herding, Summarizer, Summary
from jaxdd.students import train
from jaxdd.workspace import runs

NAN = float("nan")


def step_of(line):
    return int(re.search(r"diverged (?:at|by) step (\d+):", line).group(1))


def spoilt(row, value=NAN):
    """A copy of an array with one number changed in row ``row``."""

    def change(array):
        array = array.copy()
        array.reshape(len(array), -1)[row, 0] = value
        return array

    return change


# Recovery


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": NAN},
        {"learning_rate": 1e3},
        {"learning_rate": 1e30},
        {"moment_weight": 1e38},
        # The gradient is finite, but not its square in Adam.
        {"moment_weight": 1e30},
        {"feature_weight": NAN},
        {"learning_rate": 1e10, "schedule": "plateau", "start": "noise"},
    ],
    ids=str,
)
def test_recovery_with_settings_out_of_all_proportion(change):
    line = diverged(lambda: list(recovered(replace(RECOVER, **change))))
    assert line.startswith("recover: class ") and "use a lower `imager.learning_rate`" in line
    assert step_of(line) <= EVERY


@pytest.mark.parametrize("what", ["atoms", "start"])
@pytest.mark.parametrize("label", range(CLASSES))
def test_recovery_names_the_class_and_keeps_those_before_it(what, label):
    done = []
    with pytest.raises(DivergenceError, match=rf"^recover: class {label} diverged at step 1: loss nan"):
        for part in recovered(**{what: spoilt(label)}):
            done += part.places.tolist()
    assert label not in done


def test_recovery_with_a_teacher_that_diverged():
    assert "recover: class 0" in diverged(lambda: list(recovered(variables=TABLE * np.float32(NAN))))


@pytest.mark.parametrize("rate", [0.05, 0.25, 1.0])
def test_recovery_at_the_rates_of_the_papers_is_left_alone(rate):
    parts = list(recovered(replace(RECOVER, learning_rate=rate)))
    assert sum(len(part.places) for part in parts) == CLASSES
    curve = np.concatenate([loss.total(part.terms, RECOVER) for part in parts], 1)
    assert curve.shape == (STEPS, CLASSES) and (curve[-1] < curve[0]).all()


# Training


@pytest.mark.parametrize(
    "settings",
    [
        ("sgd", 1e3, 1.0), ("sgd", 1e30), ("sgd", NAN), ("sgd", 0.1, 1e30), ("sgd", 0.1, NAN), ("sgd", 1e10, 1e-3),
        ("adamw", 1e30), ("adamw", NAN), ("adamw", 1e3, 1.0), ("adamw", 1e-3, 1e30),
    ],
    ids=str,
)  # fmt: skip
def test_training_with_settings_out_of_all_proportion(settings):
    line = diverged(lambda: fitted(*settings))
    assert line.startswith("train diverged at step ") and "`learning_rate`" in line
    assert step_of(line) <= EVERY


@pytest.mark.parametrize("which", range(3), ids=["images", "targets", "weights"])
@pytest.mark.parametrize("onset", [1, 50, 77, STEPS])
def test_one_bad_number_in_a_batch_names_its_step(which, onset):
    seen = []

    def change(step, batch):
        seen.append(step)
        return tuple(spoilt(0)(part) if (step, which) == (onset, i) else part for i, part in enumerate(batch))

    assert f"train diverged at step {onset}: loss nan" in diverged(lambda: fitted(change=change))
    assert len(seen) <= onset + 2 * EVERY


def test_the_last_update_is_checked_too():
    # The loss is computed before the update, and is finite.
    line = diverged(lambda: fitted("sgd", 1e30, 1e30, steps=1))
    assert "train diverged at step 1: its state holds numbers that are not finite" in line


def test_a_classifier_that_ignores_its_input_is_dead():
    features = lambda variables, images: jnp.maximum(images.reshape(len(images), -1) @ jnp.ones((4, 2)) - variables, 0)
    apply = lambda variables, images: Output(jnp.zeros((len(images), 3)), features(variables, images), {})
    images = np.random.default_rng(0).integers(0, 255, (9, 2, 2, 1)).astype(np.uint8)
    hook = train.not_dead(apply, NORM, images, 3, "train teacher", "use a lower `rate`")
    alive, dead = (train.TrainState(jnp.float32(shift), (), jnp.int32(0)) for shift in (0, 1e6))
    chance = [jnp.float32(np.log(3))] * 120
    hook(120, alive, chance)
    hook(120, dead, [0.5 * loss for loss in chance])
    line = diverged(lambda: hook(120, dead, chance))
    assert line == "train teacher diverged at step 120: the features of all images are equal; use a lower `rate`"


# Students


@pytest.mark.parametrize(
    ("cause", "limits"),
    [
        ("image", {}), ("image", {"together": 3}), ("image", {"together": 3, "launch": 20}), ("rate", {}),
        ("decay", {}), ("temperature", {}), ("teacher", {}),
    ],
    ids=str,
)  # fmt: skip
def test_students_that_diverge_are_named(cause, limits):
    slow = {"rate": {"learning_rate": 1e30}, "decay": {"weight_decay": NAN}}.get(cause, {})
    settings = replace(SOFT, train=replace(SOFT.train, **slow))
    if cause == "temperature":
        settings = replace(settings, labels=SoftLabels(NAN))
    # No dataset holds images that are not finite; these are soon too large to train on.
    spoil = lambda images: images * np.float32(1e37) if cause == "image" else images
    teacher = {"answers": jax.tree.map(lambda x: x * NAN, students.__defaults__[2])} if cause == "teacher" else {}
    done = []
    with pytest.raises(DivergenceError) as caught:
        for part in students(settings, spoil, title="linear, soft", remedy="do better", **limits, **teacher):
            done += part.lanes.tolist()
    line = str(caught.value)
    assert line.startswith("linear, soft: ") and line.endswith("; do better") and step_of(line) <= 3
    if cause == "image":
        # One by one, the first is finished before.
        assert done == ([] if limits else [0])
        assert "good" not in line and "bad, seed 0" in line and ("bad, seed 1" in line) == bool(limits)


# Encoding


def test_features_that_are_no_numbers_are_refused():
    def apply(variables, images):
        out = pooled(variables, images)
        bright = images.mean((1, 2, 3)) > most
        return out._replace(features=jnp.where(bright[:, None], jnp.inf, out.features))

    clean = encoded().features
    brightness = np.asarray(clean @ np.linalg.pinv(TABLE))[:, 0]
    row = int(brightness.argmax())
    most = float(np.sort(brightness)[-2:].mean())
    line = diverged(lambda: encoded(apply))
    assert f"encode: features of image {row // CLASSES} of class {row % CLASSES} are not finite" in line


def test_moments_that_are_no_numbers_name_their_layer():
    apply = lambda v, x: pooled(v, x)._replace(moments={"bn1": pooled(v, x).moments["image"], "bn2": nan(x)})
    nan = lambda x: jax.tree.map(lambda m: m * NAN, pooled(TABLE, x).moments["image"])
    assert "encode: moments of layer bn2 are not finite in class 0" in diverged(lambda: encoded(apply))


def test_equal_features_are_refused():
    assert "the features of all 24 images are equal" in diverged(lambda: encoded(variables=0 * TABLE))


# Latent models


def test_denoising_that_is_left_alone():
    assert np.isfinite(decoded()).all() and np.isfinite(decoded(guidance=8.0)).all()
    assert np.isfinite(decoded(atoms=lambda z: 1e3 * z, strength=0.0)).all()


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"guidance": 1e30}, 0), ({"guidance": NAN}, 0), ({"scale": 1e4}, 0), ({"scale": NAN}, 0),
        ({"atoms": spoilt(1)}, 1), ({"atoms": spoilt(2), "strength": 0.0}, 2),
    ],
)  # fmt: skip
def test_denoising_that_diverges(change, label):
    line = diverged(lambda: decoded(**change))
    assert line.startswith(f"denoise: class {label} diverged by step ") and "`imager.guidance`" in line
    assert step_of(line) <= 10


def test_a_model_that_is_no_better_than_a_constant_is_refused():
    check = partial(training.check_learnt, "train autoencoder", most=4.0, remedy="do better")
    check(error=0.2, trivial=0.3, steps=1000)
    # Short runs are no divergence.
    check(error=1.2, trivial=0.3, steps=99)
    for error, steps in ((0.3, 100), (4.1, 10), (NAN, 10), (np.inf, 10)):
        line = diverged(lambda error=error, steps=steps: check(error=error, trivial=0.3, steps=steps))
        assert line.startswith(f"train autoencoder diverged by step {steps}: error {error:.3g}")
        assert line.endswith("0.3; do better")


# Whole methods


@dataclass(frozen=True)
class Atoms(Summarizer):
    change: object = None

    def __call__(self, key, context, ipc):
        whole = Herding()(key, context, ipc)
        costs = np.ones((CLASSES, 3))
        return self.change(Summary(whole.atoms, costs, whole.rows))


@dataclass(frozen=True)
class Pictures(Imager):
    change: object = None

    def __call__(self, key, context, summary):
        for part in Nearest()(key, context, summary):
            for place in part.places:
                yield Images(np.array([place]), self.change(place, part.images[place : place + 1]))


def after(part, change):
    return lambda summary: summary._replace(**{part: change(np.asarray(getattr(summary, part)))})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (after("costs", lambda x: np.where(np.arange(3) < 1, x, NAN)), "class 0 diverged at step 2: its cost is nan"),
        (lambda s: s._replace(atoms=s.atoms._replace(points=spoilt(1)(np.asarray(s.atoms.points)))), "class 1"),
        (lambda s: s._replace(atoms=s.atoms._replace(weights=spoilt(2)(np.asarray(s.atoms.weights)))), "class 2"),
        (lambda s: s._replace(atoms=s.atoms._replace(points=1e8 * s.atoms.points)), "over 1000 times as far out"),
    ],
    ids=["costs", "points", "weights", "far"],
)
def test_atoms_that_are_not_usable(change, line):
    assert line in diverged(lambda: methods.distill(KEY, Recipe(Atoms(change=change), Nearest()), 2, context()))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: spoilt(0)(x), "its images are not finite"),
        (lambda x: 0 * x + 0.3, "the pixels of each image are all equal"),
        (lambda x: np.where(x > 0, np.float32(2), np.float32(-2)), "its pixels are all black or white"),
    ],
    ids=["nan", "flat", "saturated"],
)
def test_images_that_are_not_usable_and_the_classes_before_them(change, line):
    made = Pictures(change=lambda place, x: change(x) if place == 1 else x)
    done = []
    with pytest.raises(DivergenceError, match=f"^pictures: class 1 diverged: {line}"):
        for part in methods.distill_parts(KEY, Recipe(Herding(), made), 2, context()):
            done += part.classes.tolist()
    assert done == [0]


@pytest.mark.parametrize("picture", [lambda x: 0 * x + 0.3, lambda x: np.where(x > 0, np.float32(2), np.float32(-2))])
def test_images_like_the_real_ones_are_usable_whatever_those_are(picture):
    whole = context()
    alike = whole._replace(classes=whole.classes._replace(images=lambda rows: picture(whole.classes.images(rows))))
    recipe = Recipe(Herding(), Pictures(change=lambda place, x: x))
    assert methods.distill(KEY, recipe, 2, alike).images.shape == (3, 2, 4, 4, 1)


# Programs


@dataclass(frozen=True)
class Config:
    learning_rate: float = 1.0


def test_a_program_ends_with_one_line_and_status_3(capsys):
    def main(config):
        raise DivergenceError("x diverged at step 3: loss nan; use a lower `learning_rate`")

    with pytest.raises(SystemExit) as ended:
        commands.run(main, lambda arguments: Config(), [])
    assert ended.value.code == 3
    assert capsys.readouterr() == ("", "error: x diverged at step 3: loss nan; use a lower --learning-rate\n")


@pytest.mark.parametrize("finished", [None, "parts/00001.npz", "vae/config.json"])
def test_a_run_folder_keeps_what_was_finished_before(tmp_path, finished):
    out = tmp_path / "a" / "run"

    def diverge():
        with runs.run_folder(out, {"rate": 1}):
            if finished:
                (out / finished).parent.mkdir(exist_ok=True)
                (out / finished).write_text("")
            raise DivergenceError("x")

    diverged(diverge)
    if finished is None:
        assert list(tmp_path.iterdir()) == []
        return
    assert (out / finished).is_file()
    if "parts" in finished:
        # The same request goes on, another is refused.
        diverged(diverge)
        assert "unfinished run of other settings" in message(lambda: runs.run_folder(out, {"rate": 2}).__enter__())


def test_only_the_first_process_clears_a_run_folder(tmp_path, monkeypatch):
    def diverge():
        with runs.run_folder(tmp_path / "run", {}):
            # The first of several processes may have cleared it before.
            shutil.rmtree(tmp_path / "run")
            raise DivergenceError("x")

    monkeypatch.setattr(hosts, "is_first", lambda: False)
    assert diverged(diverge) == "x"


TEACHER = ["--dataset", "digits", "--width", "8", "--teacher-train.epochs", "2"]


def ended(program, *arguments):
    """The one line with which a program ends with status 3, after those about its progress."""
    status, out, err = program(*arguments)
    *_, line = err.splitlines()
    assert status == 3 and out == "" and line.startswith("error: ") and err.count("error") == 1, err
    return line


@pytest.mark.slow
def test_programs_cache_nothing_that_diverged(program, tmp_path):
    line = ended(program, "train", *TEACHER, "--teacher-train.learning-rate", "1e30", "--out", tmp_path / "x")
    assert "train on all images diverged" in line and step_of(line) <= 5 and "--teacher-train.learning-rate" in line
    assert list(tmp_path.iterdir()) == []
    # The teacher is finished, and kept; the run is not.
    line = ended(program, "distill", *TEACHER, "--imager.learning-rate", "1e30", "--out", tmp_path / "x")
    assert "recover: class 0" in line and "--imager.learning-rate" in line
    assert [path.name for path in (tmp_path / "teachers").iterdir() if (path / "teacher.json").is_file()]
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_rows_of_students_that_diverged_are_not_kept_but_those_before_are(program, tmp_path):
    status, _, err = program("distill", *TEACHER, "--method", "random", "--out", tmp_path / "x")
    assert status == 0, err
    few = ["--baselines", "--seeds", "1", "--hard.train.epochs", "3", "--soft.train.epochs", "3"]
    line = ended(program, "evaluate", tmp_path / "x", *few, "--soft.train.learning-rate", "1e30")
    assert "convnet3, soft: random, seed 0 diverged at step 2" in line and "--soft.train.learning-rate" in line
    rows = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert [(row["method"], row["labels"]) for row in rows] == [("random", "hard")]
