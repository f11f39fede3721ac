"""Files that name code: a run folder, a grid or a distilled dataset of somebody else imports nothing."""

import dataclasses
import itertools
import json
import sys

import jax
import numpy as np
import pytest

from jaxdd.data import SOURCES, digits, distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import registry
from jaxdd.ground.files import write_json
from jaxdd.ground.manifest import MANIFEST
from jaxdd.ground.normalise import Normalisation
from jaxdd.methods import RECIPES
from jaxdd.nn import MODELS
from jaxdd.programs import tables
from jaxdd.reports import run_page
from jaxdd.stages.context import Teacher
from jaxdd.stages.images import IMAGERS
from jaxdd.stages.relabel.labelling import LABELLINGS
from jaxdd.stages.summarize import SUMMARIZERS
from jaxdd.workspace import RealData, TeacherConfig, config_of, distillation, runs, teachers

MODULE = """
import dataclasses, pathlib
import jaxdd

pathlib.Path({touched!r}).write_text("imported")


@dataclasses.dataclass(frozen=True)
class Mean(jaxdd.Summarizer):
    power: float = 2.0


class Grey(jaxdd.Recover):
    pass


class Noisy(jaxdd.HardLabels):
    pass


def network(size):
    return jaxdd.nn.get("convnet3", size.num_classes, size.image_size, 8)


def stripes(image_size, channels):
    raise jaxdd.InputError("stripes were opened")


MINE = jaxdd.Recipe(Mean(), jaxdd.Nearest())
"""
numbers = itertools.count()


class Trap:
    """A module that tells when it is imported."""

    def __init__(self, folder):
        self.name, self.touched = f"module_of_trust_{next(numbers)}", folder / "touched"
        (folder / "modules").mkdir()
        (folder / "modules" / f"{self.name}.py").write_text(MODULE.format(touched=str(self.touched)))

    def __call__(self, name):
        return f"{self.name}:{name}"

    @property
    def is_imported(self):
        return self.touched.exists() or self.name in sys.modules


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """That module where it can be found; what it registers is forgotten afterwards."""
    trap = Trap(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for names in (SUMMARIZERS, IMAGERS, LABELLINGS, RECIPES, MODELS, SOURCES):
        monkeypatch.setattr(names, "_known", dict(names._entries))
    monkeypatch.setattr(registry, "_TRUSTED", set())
    yield trap
    sys.modules.pop(trap.name, None)


@pytest.fixture
def run(tmp_path):
    """A run folder of digits that was never run: what programs read of it, with a teacher of zeros."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "config.json", distillation.record(config_of("wmdd", out=folder)))
    norm = Normalisation(np.array([0.3], np.float32), np.array([0.4], np.float32))
    source = digits.load_digits()
    dataset = DistilledDataset(
        images=np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32),
        labels=np.arange(10, dtype=np.int32),
        weights=np.ones(10, np.float32),
        class_names=source.class_names,
        norm=norm,
        provenance={"method": "wmdd", "dataset": "digits"},
    )
    distilled.save(dataset, folder / "distilled")
    config = TeacherConfig(width=8)
    info = teachers.describe(config, RealData(source, norm, False))
    shapes = jax.eval_shape(lambda key: teachers.build(info).init(key, (8, 8, 1)), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    info |= {"accuracy": 0.9, "train": dataclasses.asdict(config.teacher_train)}
    teachers.save_teacher(folder / "teacher", Teacher(None, zeros, norm, info))
    return folder


def change(place, name, value):
    """Write another value into a JSON file, at a dotted name, and remove the manifest, as somebody would."""
    (place.parent / MANIFEST).unlink(missing_ok=True)
    saved = json.loads(place.read_text())
    *parents, last = name.split(".")
    table = saved
    for parent in parents:
        table = table[parent]
    table[last] = value
    write_json(place, saved)


@pytest.fixture
def untouched(refused, trap):
    """A call that must be refused with one line that says how to trust the path, and imports nothing."""

    def check(path, *arguments):
        line = refused(*arguments)
        assert f"--plugin {path}" in line, line
        assert not trap.is_imported

    return check


# Run folders


@pytest.mark.parametrize(
    ("setting", "name"),
    [("method", "MINE"), ("recipe.summarizer", "Mean"), ("recipe.summarizer.name", "Mean"), ("recipe.imager", "Grey"),
     ("recipe.imager.name", "Grey")],
)  # fmt: skip
def test_a_page_of_a_run_folder(run, trap, untouched, setting, name):
    change(run / "config.json", setting, trap(name) if setting.count(".") != 1 else {"name": trap(name)})
    untouched(trap(name), "report", run)


def test_the_dataset_of_a_run_folder(run, trap, untouched):
    change(run / "config.json", "dataset", trap("stripes"))
    untouched(trap("stripes"), "evaluate", run)
    untouched(trap("stripes"), "relabel", run)


def test_the_teacher_of_a_run_folder(run, trap, untouched, tmp_path):
    change(run / "teacher" / "teacher.json", "model", trap("network"))
    untouched(trap("network"), "evaluate", run)
    untouched(trap("network"), "relabel", run)
    untouched(trap("network"), "distill", "--teacher", run / "teacher", "--out", tmp_path / "x")


def test_labels_that_are_kept_in_a_run_folder(run, trap, refused):
    (run / "labels").mkdir()
    header = {"steps": 1, "steps_a_shard": 1, "batch_size": 10, "settings": {"form": trap("Noisy")},
              "augment": {"mix": trap("Noisy")}, "teacher": trap("network"), "device": "", "num_classes": 10,
              "images": "", "seed": 0}  # fmt: skip
    write_json(run / "labels" / "labels.json", header)
    assert refused("evaluate", run, "--stored") and not trap.is_imported


def test_a_distilled_dataset(run, trap, program):
    saved = distilled.load(run)
    provenance = {"method": trap("MINE"), "dataset": trap("stripes"), "recipe": {"summarizer": {"name": trap("Mean")}}}
    (run / "distilled" / "distilled.npz").unlink()
    (run / "distilled").rename(run / "before")
    distilled.save(dataclasses.replace(saved, provenance=provenance), run / "distilled")
    assert distilled.load(run).provenance == provenance
    # On a page its names are text.
    status, _, err = program("report", run)
    assert status == 0, err
    assert trap("stripes") in (run / "report.html").read_text() and not trap.is_imported


def test_a_run_that_was_interrupted(run, trap, untouched):
    parts = run / "unfinished" / "parts"
    parts.mkdir(parents=True)
    write_json(parts / "request.json", {"method": trap("MINE"), "dataset": trap("stripes")})
    assert runs.begun_otherwise(run / "unfinished", {"method": "wmdd"}) and not trap.is_imported
    # The request of the command line decides, not what lies in the folder.
    change(run / "config.json", "method", trap("MINE"))
    untouched(trap("MINE"), "report", run)


# Grids

GRID = """# A grid.

title = "A grid"

[grid]
dataset = "digits"
width = 8
ipc = [1]
full = 0

[methods.medoid]
"""


@pytest.fixture
def table(trap, tmp_path, capfd):
    """A call of jaxdd tables with a grid of this text."""

    def call(text, *arguments):
        (tmp_path / "grid.toml").write_text(text)
        places = ["--grid", tmp_path / "grid.toml", "--out", tmp_path / "out"]
        with pytest.raises(SystemExit) as caught:
            tables.cli([*map(str, ("wmdd-main", *places, *arguments))])
        out, err = capfd.readouterr()
        # Before it lies at most what is done by then.
        *_, line = err.splitlines()
        assert caught.value.code == 2 and out == "" and line.startswith("error: ") and err.count("error") == 1, err
        return line

    return call


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("[methods.medoid]", '[methods.medoid]\nrecipe = "PATH"', "MINE"),
        ("[methods.medoid]", '[methods."PATH"]', "MINE"),
        ("[methods.medoid]", '[methods.medoid]\nset = { summarizer = "PATH" }', "Mean"),
        ("[methods.medoid]", '[methods.medoid]\nset = { "summarizer.name" = "PATH" }', "Mean"),
        ("[methods.medoid]", '[methods.medoid]\nset = { imager = { name = "PATH" } }', "Grey"),
        ('dataset = "digits"', 'dataset = "PATH"', "stripes"),
        ("width = 8", 'model = "PATH"', "network"),
        ("full = 0", 'full = 0\nstudents = ["PATH"]', "network"),
        ("full = 0", 'full = 0\nsoft = { labels = "PATH" }', "Noisy"),
        ("full = 0", 'full = 0\nteacher_train = { optimizer = "PATH" }', "network"),
        ("full = 0", 'full = 0\nsoft = { train = { augment = { mix = "PATH" } } }', "network"),
    ],
)
def test_a_grid(trap, table, old, new, name):
    assert old in GRID
    text = GRID.replace(old, new.replace("PATH", trap(name)))
    assert f"--plugin {trap(name)}" in table(text)
    assert not trap.is_imported


# Trust


def test_a_path_that_is_trusted_is_imported_where_a_file_names_it(run, trap, program):
    for setting, name in (("recipe.summarizer", "Mean"), ("recipe.imager", "Grey")):
        change(run / "config.json", setting, {"name": trap(name)})
    trusted = ["--plugin", trap("Mean"), f"--plugin={trap('Grey')}"]
    status, out, err = program("report", *trusted, run)
    assert status == 0 and out.strip() == str(run / "report.html"), err
    assert trap.is_imported
    saved = json.loads((run / "config.json").read_text())
    assert f"--summarizer {trap('Mean')}" in run_page.command(saved)


def test_trust_is_in_one_path_not_in_all_of_a_module(run, trap, program):
    change(run / "config.json", "recipe.summarizer", {"name": trap("Mean")})
    status, _, err = program("report", "--plugin", trap("Grey"), run)
    assert status == 2 and f"--plugin {trap('Mean')}" in err and err.count("\n") == 1


def test_a_trusted_grid(trap, table):
    text = GRID.replace("digits", trap("stripes")).replace("[methods.medoid]", f'[methods."{trap("MINE")}"]')
    trusted = [part for name in ("MINE", "stripes") for part in ("--plugin", trap(name))]
    assert table(text, *trusted) == "error: stripes were opened"
