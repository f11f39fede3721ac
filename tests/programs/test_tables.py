"""Grids from files, what of them is run, and the tables that come out."""

import csv
import dataclasses
import io
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import message

from jaxdd import nn
from jaxdd.ground import settings
from jaxdd.ground.locks import LOCK
from jaxdd.methods import Recipe
from jaxdd.programs import tables
from jaxdd.recipes import RECIPES
from jaxdd.reports import grid_page, grid_tables
from jaxdd.stages.images import Nearest, Recover
from jaxdd.stages.summarize import Clvq
from jaxdd.students.evaluation import accuracy
from jaxdd.students.rows import check, row
from jaxdd.workspace import RealData, TeacherConfig, Workspace, grid_file, grid_runner, real_data, teachers

FILE = """# A small
# grid.
#
# Command: none.

title = "A 100 % grid"
published = "elsewhere"

[grid]
dataset = "digits"
width = 8
teacher_train = { epochs = 2 }
ipc = [1, 2]
epochs = [3, 2]
seeds = 2
protocols = ["hard"]

[methods.random]
published = { 1 = 23.5 }

[methods.medoid]

[methods."wmdd_short"]
recipe = "wmdd"
set = { "imager.steps" = 2, imager.min_scale = 1 }

[[claim]]
what = "medoids beat random"
better = "medoid"
worse = "random"
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "small.toml").write_text(text)
        return tmp_path / "small.toml"

    return write


def read(path):
    return grid_file.read("wmdd-main", path, tables.CONFIGS)


@pytest.fixture
def grid(file):
    return read(file(FILE))


@pytest.fixture
def table(program):
    """(*arguments) -> (status, stdout, stderr) of jaxdd tables."""
    return partial(program, "tables")


# Files


def test_every_file_here_is_a_grid_that_says_what_it_costs_and_how_it_is_run():
    files = sorted(tables.CONFIGS.glob("*.toml"))
    assert set(tables.GRIDS) <= {path.stem for path in files}
    for path in files:
        *_, cost, command = read(path).head.split("\n\n")
        assert cost.startswith("Cost:") and command.startswith("Command:"), path
        name = max((name for name in tables.GRIDS if path.stem.startswith(name)), key=len)
        assert f"jaxdd tables {name}" in command
        rest = path.stem.removeprefix(name).removeprefix("-")
        assert (f"--grid {rest}" in command) == bool(rest), path


def test_a_file_is_read_as_it_says(file):
    sweep = '\n[sweep]\nmethod = "wmdd_short"\nfield = "imager.steps"\nvalues = [4]\n'
    grid = read(file(FILE + sweep))
    assert grid.name == "small" and grid.title == "A 100 % grid" and grid.head == "A small\ngrid.\n\nCommand: none."
    assert grid.config.ipc == (1, 2) and grid.config.teacher_train.epochs == 2
    assert grid.config.teacher_train.batch_size == grid_file.GridConfig().teacher_train.batch_size
    random, medoid, short, swept = grid.entries
    assert random.published == {1: 23.5} and medoid.method == "medoid"
    assert short.method == "wmdd" and short.recipe.imager == Recover(steps=2, min_scale=1.0)
    assert swept == replace_steps(short, "wmdd_short, 4", 4)


def replace_steps(entry, name, steps):
    recipe = replace(entry.recipe, imager=replace(entry.recipe.imager, steps=steps))
    return replace(entry, name=name, recipe=recipe, published={}, swept=("wmdd_short", steps))


def test_a_file_chooses_at_each_stage(file):
    choices = 'set = { summarizer = "clvq", "summarizer.epochs" = 3, imager = { name = "nearest" } }'
    (recipe,) = [entry.recipe for entry in read(file(FILE + f"\n[methods.ddoq]\n{choices}\n")).entries[3:]]
    # The space and the weights are the method's, whatever summarizes there.
    usual = RECIPES["ddoq"].summarizer
    assert recipe == Recipe(Clvq(space=usual.space, weights=usual.weights, epochs=3), Nearest())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "', 'tilte = "', "unknown setting 'tilte'"),
        ("[methods.random]", "[methods.randm]", "unknown method 'randm'"),
        ("[methods.random]", "[methods.full]", "full is what students of all real images are called"),
        ("[methods.medoid]", "[methods]\nmedoid = 3", "[methods.medoid]: unknown '3'"),
        ("imager.min_scale", "imager.min_scle", "unknown setting 'min_scle' of Recover"),
        ("imager.min_scale", "weights.min_scale", "unknown setting 'weights' of Recipe; use summarizer, imager"),
        ("imager.min_scale", '"summarizer.weights.min_scale"', "weights of Barycenter has no setting 'min_scale'"),
        ("imager.min_scale", "summarizer.weights.min_scale", "weights of Barycenter has no setting 'min_scale'"),
        ("imager.min_scale = 1", 'imager = "paint"', "unknown imager 'paint'"),
        ("imager.min_scale = 1", 'imager = "nearest"', "unknown setting 'steps' of Nearest"),
        ("imager.min_scale = 1", "summarizer = 3", "summarizer = 3 is no summarizer; give a name or a table"),
        ("{ 1 = 23.5 }", "{ one = 23.5 }", "published = {'one': 23.5}"),
        ("{ epochs = 2 }", "3", "3 is no table of settings of TrainSettings"),
        ("seeds = 2", 'seeds = "two"', "seeds = 'two'"),
        ("ipc = [1, 2]", "ipc = 1", "ipc = 1"),
        ('better = "medoid"', 'better = "herding"', "'herding' is none of its methods"),
        ('better = "medoid"', 'best = "medoid"', "unknown setting 'best' of Claim"),
        ("[[claim]]", "[claim]", "claims as [[claim]]"),
        ("[[claim]]", '[sweep]\nfield = "imager.steps"\n\n[[claim]]', "[sweep]: '' is none of its methods"),
        ("epochs = [3, 2]", "epochs = [3, 2", "is no TOML"),
    ],
)
def test_what_a_file_says_wrong(file, old, new, words):
    assert old in FILE
    assert words in message(lambda: read(file(FILE.replace(old, new))))


def test_settings_from_a_file_keep_their_types():
    values = {"out": "x/y", "seeds": 5, "latent": {"vae_train.images": 7}}
    changed = settings.changed(grid_file.GridConfig(), values, "here")
    assert changed.out.name == "y" and changed.seeds == 5 and changed.latent.vae_train.images == 7
    assert settings.changed(Recover(), {"steps": 3, "roll": 1}, "here") == Recover(steps=3, roll=1.0)
    for values in ({"steps": 1.5}, {"steps": True}, {"flip": 1}, {"start": 3}):
        assert "here: " in message(lambda values=values: settings.changed(Recover(), values, "here"))


def test_a_grid_that_is_not_there(table, tmp_path):
    status, out, err = table("wmdd-main", "--grid", "nowhere")
    assert status == 2 and out == "" and "--grid a file" in err and "cifar10" in err and err.count("\n") == 1
    status, out, err = table("wmd-main")
    assert status == 2 and "unknown table 'wmd-main'" in err and "wmdd-ablation" in err


# Runs


@pytest.mark.slow
def test_a_table_is_made_once_and_only_what_is_missing_is_run(file, table, digits, teacher, tmp_path, monkeypatch):
    calls = []

    def measured(makers, comparison, student, kind):
        if makers:
            calls.append((tuple(makers), kind, comparison.protocols[kind].train.epochs))
        for k, (method, maker) in enumerate(makers.items()):
            means = [maker(seed).images.mean() for seed in range(comparison.seeds)]
            # Only random images are drawn anew for each student.
            assert (len(set(means)) == comparison.seeds) == (method == "random")
            yield method, [0.1 * (k + 1) + 0.01 * s + 0.001 * len(calls) for s in range(comparison.seeds)], ""

    monkeypatch.setattr(grid_runner, "measured", measured)
    info = teachers.describe(TeacherConfig(width=8), RealData(digits, teacher.norm, False))
    info |= {"accuracy": 0.9, "train": dataclasses.asdict(TeacherConfig().teacher_train)}
    teachers.save_teacher(tmp_path / "teacher", teacher._replace(info=info))
    text = FILE.replace("wmdd_short", "herding").replace('recipe = "wmdd"', "").replace("width = 8", "full = 0")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("set"))
    places = ["--teacher", tmp_path / "teacher", "--out", tmp_path / "out"]
    command = ["wmdd-main", "--grid", file(text), *places]
    status, out, err = table(*command, "--only", "random", "medoid", "--ipc", 1, "--epochs", 3)
    assert status == 0, err
    assert calls == [(("random", "medoid"), "hard", 3)]
    # The rest of the grid, of which that was a part.
    status, out, _ = table(*command)
    assert status == 0
    assert calls[1:] == [(("herding",), "hard", 3), (("random", "medoid", "herding"), "hard", 2)]
    made = tmp_path / "out" / "small"
    files = {"table.txt", "table.md", "table.csv", "table.tex", "report.html", "accuracy.png", "classes.png"}
    assert {path.name for path in made.iterdir()} == files
    assert (made / "table.txt").read_text().strip() in out
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert len(rows) == 6 and len({row["key"] for row in rows}) == 6
    page = (made / "report.html").read_text(encoding="utf-8")
    for line in rows:
        assert f"{100 * line['mean']:.1f}" in page and f"{100 * line['mean']:.1f}" in out
    assert "medoids beat random" in page and "A 100 % grid" in page and "jaxdd tables wmdd-main" in page
    # A method under another name is the same method; another setting makes it another.
    renamed = text.replace("medoid]", "nearest]\nrecipe = 'medoid'").replace('better = "medoid"', 'better = "nearest"')
    assert table("wmdd-main", "--grid", file(renamed), *places)[0] == 0 and len(calls) == 3
    assert table(*command, "--hard.train.learning-rate", "0.002", "--ipc", 1, "--epochs", 3)[0] == 0
    assert calls[3:] == [(("random", "nearest", "herding"), "hard", 3)]
    for flags, words in (
        (["--only", "medoid"], "--only 'medoid'"),
        (["--epochs", 3], "--epochs (3,)"),
        (["--epochs", 3, 0], "--epochs (3, 0)"),
        (["--ipc", 0, 2], "--ipc 0"),
        (["--full", -1], "--full -1"),
        (["--protocols", "firm"], "'firm'"),
    ):
        status, _, err = table(*command, *flags)
        assert status == 2 and words in err and err.count("\n") == 1, err
    with grid_runner.alone(tmp_path / "out"):
        assert "is in use by process" in table(*command)[2]


@pytest.fixture
def work(grid, digits, teacher, tmp_path):
    """That grid on digits, mirroring off, with the teacher of the tests."""
    real = RealData(digits, teacher.norm, False)
    info = teachers.describe(TeacherConfig(width=8), real) | {"accuracy": 0.9}
    config = replace(grid.config, out=tmp_path)
    trained = teacher._replace(info=info), tmp_path / "teacher"
    return grid_runner.Work(grid, config, Workspace(tmp_path, config, config.latent, real, trained), grid.entries)


def test_epochs_of_a_size_are_those_of_its_protocols_unless_they_say_otherwise(work):
    config = replace(work.config, ipc=(1, 2), epochs=(30, 20), protocols=("hard", "soft:int8", "soft:epochs=7"))
    epochs = {ipc: [protocol.train.epochs for protocol in protocols.values()]
              for ipc, protocols in grid_runner._sizes(config)}  # fmt: skip
    assert epochs == {1: [30, 30, 7], 2: [20, 20, 7]}
    sizes = grid_runner._sizes(replace(config, epochs=()))
    whole = [protocol.train.epochs for _, some in sizes for protocol in some.values()]
    assert whole == [300, 300, 7] * 2


def test_what_decides_a_result_decides_its_key(work):
    entry = replace(work.entries[0], recipe=RECIPES["ddoq"])
    key = lambda work, entry=entry, ipc=2: grid_runner._key(work, *grid_runner._made_by(work, entry, ipc))
    other = lambda **changes: replace(work, config=replace(work.config, **changes))
    elsewhere = lambda **changes: replace(work, workspace=replace(work.workspace, **changes))
    workspace, latent = work.workspace, work.config.latent
    teacher, place = workspace.given_teacher
    assert len({
        key(work), key(work, ipc=3), key(work, work.entries[0]),
        key(elsewhere(real=workspace.real._replace(flip=True))),
        key(other(seed=1)), key(other(compute="bfloat16")), key(other(latent=replace(latent, channels=2))),
        key(elsewhere(given_teacher=(teacher._replace(info=teacher.info | {"holdout": 0.1}), place))),
    }) == 8  # fmt: skip
    same = [other(out=work.config.out / "elsewhere"), other(teacher=work.config.out), other(seeds=9, ipc=(7,))]
    assert {key(alike) for alike in same} == {key(work)}
    # A model that was not trained here does not care about the seed.
    published = replace(latent, place="published")
    assert key(other(latent=published)) == key(other(latent=published, seed=1))


def test_a_student_of_the_teachers_architecture_is_the_teachers_network_and_its_rows_say_so(work):
    at = lambda **changes: replace(
        work, workspace=replace(work.workspace, config=replace(work.workspace.config, **changes))
    )
    assert grid_runner._network(work, "convnet3") == ("convnet3", 8, "auto")
    assert grid_runner._network(work, "resnet18") == ("resnet18",)
    # The width and the stem that the name means anyway leave rows of before valid.
    for same in ({"width": None}, {"width": 128}, {"width": 128, "stem": "imagenet"}):
        assert grid_runner._network(at(**same), "convnet3") == ("convnet3",)
    assert grid_runner._network(at(model="resnet18", width=None, stem="imagenet"), "resnet18")[1:] == (None, "imagenet")


def test_what_was_cut_off_elsewhere_begins_again(work, monkeypatch):
    entry = work.entries[0]
    place = grid_runner.folder(work, entry, 1)
    begun = []
    there = lambda config, _: begun.append(sorted({path.name for path in config.out.rglob("*")} - {LOCK}))
    monkeypatch.setattr(grid_runner, "fill", there)
    for request, left in ((None, ["parts", "request.json"]), ({"jax": "0"}, ["parts", "request.json"])):
        grid_runner._distil(work, entry, 1, 0, place)
        assert begun[-1] == left
        (place / "parts" / "00000.npz").touch()
        if request is None:
            grid_runner._distil(work, entry, 1, 0, place)
            assert begun[-1] == ["00000.npz", *left]
            (place / "parts" / "request.json").write_text('{"jax": "0"}')


def test_recoveries_share_the_students(work, monkeypatch):
    changes = {"seeds": 4, "recoveries": 2, "full": 0, "ipc": (1,), "epochs": (3,), "students": ("convnet3",)}
    several = replace(work, config=replace(work.config, **changes))
    random, _, short = several.entries
    made, seen = [], {}
    monkeypatch.setattr(grid_runner, "_distil", lambda work, entry, ipc, seed, place: made.append((entry.name, seed)))
    monkeypatch.setattr(grid_runner.distilled, "load", lambda place: place.name)

    def measured(makers, comparison, student, kind):
        for method, maker in makers.items():
            seen[method] = [maker(seed) for seed in range(comparison.seeds)]
            yield method, [0.1, 0.2, 0.3, 0.4], ""

    monkeypatch.setattr(grid_runner, "measured", measured)
    rows = {row["method"]: row for row in grid_runner.run(several, lambda rows: None)}
    assert len(set(seen[random.name])) == 4 and "recoveries" not in rows[random.name]
    first, second, *again = seen[short.name]
    assert again == [first, second] and first != second and rows[short.name]["recoveries"] == 2
    assert [seed for name, seed in made if name == short.name] == [0, 1]
    # What is made for each student does not depend on the number of recoveries; what is shared does.
    keys = [grid_runner._keys(replace(several, config=replace(several.config, recoveries=count)), 1, "convnet3",
                              work.config.protocol("hard")) for count in (1, 2)]  # fmt: skip
    assert keys[0][random.name] == keys[1][random.name] and keys[0][short.name] != keys[1][short.name]
    # A plan counts each recovery that is missing.
    monkeypatch.setattr(grid_runner.runs, "is_finished", lambda place: place.name == first)
    fresh = replace(several, config=replace(several.config, out=work.config.out / "fresh"))
    (size,) = grid_runner.left(fresh, False)
    assert [entry.name for entry in size.entries].count(short.name) == 1
    (size,) = grid_runner.left(fresh, True)
    assert [entry.name for entry in size.entries].count(short.name) == 2
    uneven = replace(work.config, seeds=3, recoveries=2)
    assert "no multiple of `recoveries` 2" in message(lambda: grid_runner.opened(work.grid, uneven))


# Tables


def rows_of(values, kind="hard", ipc=10, student="convnet3"):
    return [row(method, "digits", None if method == "full" else ipc, student, kind, list(accuracies))
            for method, accuracies in values.items()]  # fmt: skip


def test_claims_by_hand(grid):
    rows = rows_of({"random": [0.5, 0.6], "medoid": [0.7, 0.8]}) + rows_of(
        {"random": [0.5, 0.6], "medoid": [0.57, 0.77]}, "soft"
    )
    rows += rows_of({"random": [0.5, 0.6], "medoid": [0.4, 0.4]}, "soft:plain")
    (line,) = grid_tables.claims(grid, rows)
    # Of two values the mean's error is half their distance; errors add in squares.
    assert "hard +20.0 ± 7.1, holds;" in line
    assert f"soft +12.0 ± {100 * np.hypot(0.1, 0.2) / 2:.1f}, undecided;" in line
    assert line.endswith("soft:plain -15.0 ± 5.0, does not hold")
    (single,) = grid_tables.claims(grid, rows_of({"random": [0.5], "medoid": [0.7]}))
    assert single.endswith("hard +20.0")
    _, table, _ = grid_page._differences(grid, rows)
    assert "<strong>+20.0 ± 7.1</strong>" in table and "<td" in table and ">not so: -15.0 ± 5.0<" in table
    assert ">+12.0 ± 11.2<" in table and table.count("<strong>") == 1
    assert grid_page._differences(grid, []) == []


def test_students_of_the_same_images_are_one_sample(grid):
    several = row("medoid", "digits", 10, "convnet3", "hard", [0.7, 0.8, 0.72, 0.82, 0.68, 0.78], recoveries=2)
    rows = [*rows_of({"random": [0.5, 0.6]}), several]
    # The recoveries have the means 0.7 and 0.8, so their mean's error is 5 points, as is that of the random images.
    assert grid_tables.claims(grid, rows) == ["medoids beat random (medoid over random): hard +20.0 ± 7.1, holds"]
    for count in (0, 4, "two"):
        assert "recoveries" in message(lambda count=count: check(several | {"recoveries": count}, "here"))


def test_a_line_per_protocol_has_bytes_and_steps(grid):
    more = [{"label_bytes": 0, "steps": 2000}, {"label_bytes": 1200, "steps": 100}]
    rows = [one | extra for kind, extra in zip(("hard", "soft:int8:epochs=10"), more)
            for one in rows_of({"random": [0.3, 0.3], "medoid": [0.4, 0.5]}, kind)]  # fmt: skip
    rows += [row("teacher", "digits", None, "convnet3", "8 bits", [0.9], bits=8, label_bytes=32_000)]
    shown = grid_tables.text(grid._replace(columns="method"), rows)
    cells = [line.split() for line in shown.splitlines()]
    assert cells[0] == ["labels", "bytes", "a", "class", "steps", "random", "medoid"]
    assert cells[2] == ["hard", "0", "2,000", "30.0", "±", "0.0", "45.0", "±", "7.1"]
    assert cells[3] == ["soft:int8:epochs=10", "1,200", "100", "30.0", "±", "0.0", "45.0", "±", "7.1"]
    assert "the teacher itself, 8 bits a weight, 32,000 bytes a class: 90.0 %" in shown
    assert "hard +15.0 ± 5.0, holds; soft:int8:epochs=10 +15.0 ± 5.0, holds" in shown
    latex = grid_tables.as_latex(grid._replace(columns="method"), rows)
    assert r"soft:int8:epochs=10 & 1,200 & 100 & 30.0 $\pm$ 0.0 & 45.0 $\pm$ 7.1 \\" in latex
    # In a table of another form the teacher is no method either.
    other = grid_tables.text(grid, rows)
    assert "teacher" in other.splitlines()[-3] and not any(line.startswith("teacher") for line in other.splitlines())
    # The cells that are best in a line are bold on the page.
    assert grid_page._table(grid._replace(columns="method"), rows)[0].count("<strong>45.0 ± 7.1</strong>") == 2
    assert grid_tables.text(grid._replace(columns="method"), []) == "nothing yet"
    assert "steps" in message(lambda: check(rows[0] | {"steps": "many"}, "here"))


@pytest.mark.slow
def test_the_teacher_is_sent_itself(work, tmp_path):
    several = replace(work, grid=work.grid._replace(teacher_bits=(16, 2)), entries=())
    several = replace(several, config=replace(work.config, full=0, students=("convnet3",)))
    sixteen, two = grid_runner.run(several, lambda rows: None)
    teacher, real = work.workspace.teacher, work.workspace.real
    whole = accuracy(teacher.apply, teacher.variables, teacher.norm, real_data.test_batches(real.source))
    assert abs(sixteen["mean"] - whole) < 0.01 and two["mean"] < whole and two["label_bytes"] < sixteen["label_bytes"]
    # Ten classes share the bytes.
    assert sixteen["label_bytes"] == -(-nn.quantized(teacher.variables, 16)[1] // 10)


def test_scores_by_hand(grid):
    scored = grid._replace(scores="soft")
    rows = [
        *rows_of({"random": [0.3], "medoid": [0.4], "full": [0.9]}),
        *rows_of({"random": [0.6], "medoid": [0.7]}, "soft"),
        *rows_of({"random": [0.4], "medoid": [0.7]}, "soft:plain"),
    ]
    methods, parts = grid_tables.columns(scored, rows)
    assert methods == ["random", "medoid", "full"]
    cells = {column.name: column.cells.get("medoid") for column in parts}
    assert cells == {"hard": "40.0", "soft": "70.0", "soft:plain": "70.0", "HLR": "50.0", "IOR": "10.0",
                     "LRS": "19.2", "ARS": "36.3"}  # fmt: skip


def test_published_figures_have_a_column_of_their_own(grid):
    rows = rows_of({"random": [0.3], "medoid": [0.4]}, ipc=1) + rows_of({"random": [0.35], "medoid": [0.45]}, ipc=2)
    _, parts = grid_tables.columns(grid, rows)
    assert [(column.group, column.name) for column in parts] == [
        ("IPC 1", "hard"),
        ("IPC 1", "published"),
        ("IPC 2", "hard"),
    ]
    lines = grid_tables.text(grid, rows).splitlines()
    assert lines[0].split() == ["IPC", "1", "IPC", "2"] and lines[1].split() == ["method", "hard", "published", "hard"]
    assert lines[3].split() == ["random", "30.0", "23.5", "35.0"]
    # Each group begins where its first column does.
    assert lines[0].index("IPC 2") <= lines[1].rindex("hard")


def test_a_sweep_is_one_line_over_its_values(file, tmp_path, monkeypatch):
    values = "values = [0.1, 1, 10]"
    sweep = f'\n[sweep]\nmethod = "wmdd_short"\nfield = "imager.moment_weight"\n{values}\n'
    swept = read(file(FILE + sweep))
    rows = rows_of({entry.name: [0.1 * k, 0.1 * k + 0.1] for k, entry in enumerate(swept.entries)}, ipc=1)
    drawn = []
    monkeypatch.setattr(grid_page.plots, "sensitivity", lambda rows, *rest: drawn.extend(rows))
    ((_, caption),) = grid_page._plots(tmp_path, swept, (1,), rows)
    assert [(row["method"], row["moment_weight"]) for row in drawn] == [("wmdd_short", value) for value in (0.1, 1, 10)]
    assert "imager.moment_weight" in caption


def test_csv_and_latex_say_the_same(grid):
    rows = rows_of({"random": [0.3, 0.4], "wmdd_short": [0.4, 0.4]}, ipc=1)
    sheet = list(csv.DictReader(io.StringIO(grid_tables.as_csv(grid, rows))))
    assert [line["method"] for line in sheet] == ["random", "wmdd_short", "random"]
    assert sheet[2]["protocol"] == "published" and float(sheet[2]["mean"]) == pytest.approx(0.235)
    assert float(sheet[0]["mean"]) == pytest.approx(0.35)
    assert [float(value) for value in sheet[0]["accuracies"].split()] == [0.3, 0.4]
    latex = grid_tables.as_latex(grid, rows)
    assert r"wmdd\_short & 40.0 $\pm$ 0.0 &" in latex and r"random & 35.0 $\pm$ 7.1 & 23.5 \\" in latex
    assert latex.count("{") == latex.count("}")
