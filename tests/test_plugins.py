"""What a module of a user adds without an edit of the package: the examples of CONTRIBUTING.md, both ways."""

import importlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdd
from jaxdd.ground.errors import InputError

ROOT = Path(__file__).parents[1]
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL))
QUICK = ["--model", "convnet3", "--width", "8", "--teacher-train.epochs", "1", "--ipc", "2"]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The examples as modules that can be imported."""
    folder = tmp_path_factory.mktemp("examples")
    for name, code in EXAMPLES.items():
        (folder / f"{name}.py").write_text(code)
    sys.path.insert(0, str(folder))
    yield {name: importlib.import_module(name) for name in EXAMPLES}
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder for all runs, so that the teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


def test_there_are_five_examples_of_under_thirty_lines():
    assert sorted(EXAMPLES) == ["my_imager", "my_method", "my_source", "my_student", "my_summarizer"]
    assert all(len(code.strip().splitlines()) < 30 for code in EXAMPLES.values())


def made(program, runs, *arguments):
    """The config and the dataset of a run of jaxdd distill."""
    out = runs / f"run{len(list(runs.glob('run*')))}"
    status, _, err = program("distill", *QUICK, *arguments, "--out", out)
    assert status == 0, err
    return json.loads((out / "config.json").read_text()), jaxdd.load(out), out


@pytest.mark.slow
def test_a_summarizer(modules, program, runs, context):
    summarizer = modules["my_summarizer"].Bootstrap(size=64)
    assert jaxdd.SUMMARIZERS.find("bootstrap") is type(summarizer)
    result = jaxdd.distill(KEY, jaxdd.Recipe(summarizer, jaxdd.Nearest()), 2, context)
    assert result.images.shape == (10, 2, 8, 8, 1)
    for c in range(10):
        spread = np.linalg.norm(context.points(c).std(0))
        assert np.linalg.norm(result.atoms.points[c] - context.points(c).mean(0), axis=1).max() < spread
    config, dataset, _ = made(
        program, runs, "--summarizer", "my_summarizer:Bootstrap", "--summarizer.size", "16", "--imager", "nearest"
    )
    assert config["recipe"]["summarizer"]["size"] == 16 and dataset.images.shape == (20, 8, 8, 1)


@pytest.mark.slow
def test_an_imager(modules, program, runs, context):
    result = jaxdd.distill(KEY, jaxdd.Recipe(jaxdd.Quantization(), modules["my_imager"].Blend(count=1)), 2, context)
    atoms = np.asarray(result.atoms.points)
    real = context.classes.images(np.arange(len(context.classes.encoded.labels)))
    for c in range(10):
        rows = context.classes.groups.rows(c)
        nearest = np.square(context.points(c) - atoms[c][:, None]).sum(-1).argmin(1)
        np.testing.assert_array_equal(result.images[c], real[rows[nearest]])
    config, dataset, _ = made(program, runs, "--imager", "my_imager:Blend", "--imager.count", "3")
    assert config["recipe"]["imager"]["count"] == 3 and dataset.images.shape == (20, 8, 8, 1)


@pytest.mark.slow
def test_a_student(modules, program, runs):
    model = jaxdd.nn.get("mlp", 10, 8, width=5)
    variables = model.init(KEY, (8, 8, 1))
    assert model.apply(variables, np.zeros((3, 8, 8, 1), np.float32)).features.shape == (3, 5)
    _, _, out = made(program, runs, "--method", "random")
    quick = ["--hard.train.epochs", "2", "--seeds", "1", "--protocols", "hard", "--baselines", "random", "--full", "0"]
    status, printed, err = program("evaluate", out, "--students", "my_student:mlp", *quick)
    assert status == 0 and "my_student:mlp" in printed, err


@pytest.mark.slow
def test_a_source(modules, program, runs):
    source = jaxdd.data.load("stripes")
    assert source.class_names == ("rows", "columns") and source.image_shape == (8, 8, 1)
    config, dataset, out = made(program, runs, "--dataset", "my_source:stripes", "--method", "random")
    assert config["dataset"] == "my_source:stripes" and dataset.class_names == ("rows", "columns")
    assert (dataset.images[dataset.labels == 0].std(2) < dataset.images[dataset.labels == 0].std(1)).mean() > 0.9


@pytest.mark.slow
def test_a_method(modules, program, runs, context):
    recipe = jaxdd.RECIPES.find("labelled")
    assert recipe is modules["my_method"].LABELLED
    config, dataset, _ = made(program, runs, "--plugin", "my_method", "--method", "labelled", "--imager.steps", "2")
    assert (
        config["recipe"]["summarizer"] | {"name": "quantization", "restarts": 8, "weights": "sqrt"}
        == (config["recipe"]["summarizer"])
    )
    assert config["recipe"]["imager"]["cross_entropy_weight"] == 1.0 and len(dataset.labels) == 20


def test_a_name_that_is_taken_is_refused(modules):
    with pytest.raises(ValueError, match="registered already"):
        jaxdd.SUMMARIZERS.register("bootstrap", jaxdd.Quantization)
    with pytest.raises(InputError, match="bootstrap"):
        jaxdd.SUMMARIZERS.find("bootstrp")
