"""The benchmark of steps: its images are those of the method, its counts and clocks what they say."""

import json
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import harness, steps
from jaxdd import methods
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.methods import RECIPES
from jaxdd.stages.images.recover import loss
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings
from jaxdd.students.protocol import HARD
from jaxdd.workspace import LatentConfig, RealData, TeacherConfig, Workspace

RECIPE = RECIPES["wmdd"]
IMAGER = replace(RECIPE.imager, flip=False)


@pytest.fixture(scope="module")
def shared(context):
    return steps.problem(context, RECIPE, 1)


def flags(*arguments):
    return steps.filled(steps.parser().parse_args([str(a) for a in arguments]))


@pytest.mark.slow
def test_images_are_those_of_the_method(shared, context):
    """Two steps from real images, and none at all: the medoids."""
    key = jax.random.fold_in(jax.random.key(0), 2)
    wanted = replace(IMAGER, steps=2)
    expected = methods.distill(key, replace(RECIPE, imager=wanted), 1, context)
    made = steps.recovered(shared, wanted)
    np.testing.assert_allclose(made.images, expected.images, atol=1e-5)
    assert (made.taken == 2).all() and np.ptp(made.images - shared.starts["real"]) > 0.05
    medoids = methods.distill(key, RECIPES["medoid"], 1, context)
    made = steps.recovered(shared, replace(IMAGER, steps=0))
    np.testing.assert_array_equal(made.images, medoids.images)
    assert (made.taken == 0).all()


@pytest.mark.slow
def test_final_terms_are_means_over_all_classes_whatever_the_chunks(shared, digits, teacher):
    """Chunks of three of ten classes, the last filled up, against all classes at once."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(10, 30, *digits.image_shape)).astype(np.float32)
    weights = rng.dirichlet(np.ones(30), 10).astype(np.float32)
    points = rng.normal(size=(10, 30, shared.goal.atoms.points.shape[-1])).astype(np.float32)
    goal = shared.goal._replace(atoms=Measure(points, weights))
    made = steps.Made(images, np.zeros(10), 0.0)
    (terms,) = steps.final_terms(shared._replace(goal=goal), IMAGER, [made])
    whole = Goal(*jax.tree.map(jnp.asarray, tuple(goal)))
    at_once = jax.jit(lambda x: loss.terms(teacher.apply, teacher.variables, x, whole, IMAGER))(images)
    for name, values in at_once._asdict().items():
        assert terms[name] == pytest.approx(float(values.mean()), rel=1e-4)


def test_compilation_is_told_from_running():
    x, jitted = jnp.ones(7), jax.jit(lambda x: jnp.cumsum(jnp.sin(x) ** 3))
    began = time.perf_counter()
    with steps.compiling() as first:
        jitted(x).block_until_ready()
    assert 0 < sum(first) < time.perf_counter() - began
    with steps.compiling() as second:
        jitted(x).block_until_ready()
    assert second == []
    seen = len(first)
    jax.jit(lambda x: jnp.cos(x) - 2)(x).block_until_ready()
    assert len(first) == seen


def test_settings():
    base = RecoverSettings(flip=False)
    chosen = steps.settings(base, [0, 25, 60], [0.1, 0.2], coarse=True)
    assert len({setting.name for setting in chosen}) == len(chosen) == 2 * 3 + 2 + 2
    real, noise = chosen[2:4]
    assert replace(noise.recover, start="real") == real.recover and real.recover.steps == 25
    plateaus = [setting.recover for setting in chosen if setting.recover.schedule == "plateau"]
    # The rate must have time to fall to zero.
    assert [(p.learning_rate, p.steps, p.anneal) for p in plateaus] == [(0.1, 60, 30), (0.2, 60, 30)]
    assert [s.recover.steps for s in chosen if s.recover.coarse] == [25, 60]
    assert {s.recover.coarse for s in steps.settings(base, [0, 25], [0.1], coarse=False)} == {0.0}
    assert [s.kind for s in steps.settings(base, [0], [0.1], coarse=True)] == ["real, cosine", "noise, cosine"]


def test_full_and_coarse_steps():
    half = RecoverSettings(steps=50, coarse=0.5)
    assert steps.parts(half, np.array([50, 50])) == (25.0, 25.0)
    plateau = RecoverSettings(steps=100, schedule="plateau")
    assert steps.parts(plateau, np.array([60, 80])) == (70.0, 0.0)


def test_flags(tmp_path):
    assert flags("--most", 100).steps == [0, 25, 50, 100]
    assert flags("--quick", "--steps", 7, 3, 7).steps == [3, 7]
    assert (flags("--quick").seeds, flags("--quick", "--seeds", 5).seeds, flags().epochs) == (2, 5, HARD.train.epochs)
    for arguments in (
        ("--seeds", 0),
        ("--ipc", 0),
        ("--steps", -1, 5),
        ("--steps", 5, "--most", 4),
        ("--plateau-rates", 0),
        ("--plot", tmp_path / "none" / "x.png"),
    ):
        with pytest.raises(InputError, match="give|make") as caught:
            flags(*arguments)
        assert "\n" not in str(caught.value)


@pytest.fixture
def workspace(digits, teacher, tmp_path):
    known = {"model": "convnet3", "width": 8, "stem": "auto", "accuracy": 0.9, "holdout": 0.0, "seed": 0}
    known |= {"class_names": list(digits.class_names), "image_shape": list(digits.image_shape)}
    real = RealData(digits, teacher.norm, False)
    return Workspace(tmp_path, TeacherConfig(), LatentConfig(), real, (teacher._replace(info=known), tmp_path))


@pytest.mark.slow
def test_rows_table_and_plot(workspace, tmp_path, capsys):
    options = flags("--steps", 0, 2, "--plateau-rates", "--seeds", 2, "--epochs", 1, "--probe", 2)
    protocol = replace(HARD, train=replace(HARD.train, epochs=1))
    rows = steps.measure(workspace, RECIPE, protocol, options)
    assert [(r["method"], r["kind"], r.get("steps")) for r in rows] == [
        ("random", "random real", None),
        *[("wmdd", f"{start}, cosine", count) for count in (0, 2) for start in ("real", "noise")],
    ]
    for r in rows:
        assert r["mean"] == pytest.approx(np.mean(r["accuracies"]))
    for r in rows[1:]:
        assert r["steps_taken"] == r["steps"] and r["image_steps"] == 10 * r["steps"] and len(r["accuracies"]) == 2
        assert r["seconds"] == pytest.approx(r["steps"] * r["step_seconds"]) and r["step_seconds"] > 0
    # Real images lie near their own class's atoms, noise does not, and two steps bring it a little nearer.
    real, noise, _, noise_on = (r["feature"] + r["moment"] for r in rows[1:])
    assert real < noise_on < noise
    harness.write(tmp_path / "rows.json", rows)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    steps.show(rows)
    assert capsys.readouterr().out.count("real, cosine") == 2
    steps.plot(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
