"""Plans of runs: what they say is to be done is what is done, and other machines are planned for by their figures."""

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd import data, planning
from jaxdd.data import tfds
from jaxdd.data.augment import Augment
from jaxdd.data.source import make_source
from jaxdd.ground import course, dry, files, launching, memory, progress
from jaxdd.ground.files import write_json
from jaxdd.ground.machines import CHIPS, machine
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.tracing import struct
from jaxdd.methods import RECIPES, Recipe
from jaxdd.planning import following, trained
from jaxdd.planning import plan as plans
from jaxdd.planning.clock import drawn, reading_seconds, timed
from jaxdd.stages.context import Teacher
from jaxdd.stages.images import Crops, Nearest, Recover, crops
from jaxdd.stages.summarize import Barycenter, NoAtoms, Random
from jaxdd.students.protocol import HARD
from jaxdd.students.rows import row
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import Comparison, TeacherConfig, compare, grid_file, grid_runner, open_workspace, teachers
from jaxdd.workspace.distillation import make

TRAIN = TrainSettings(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.1, augment=Augment("none", flip=False))
CONFIG = TeacherConfig(width=8, flip=False, teacher_train=TRAIN)
RECIPE = Recipe(Barycenter(), Recover(steps=7))
LABELS = np.arange(60) % 3


def product(n, launches=1, **changes):
    """The work of so many products of matrices [n, n]."""
    program = Program(jax.jit(lambda a, b: a @ b), (struct(n, n), struct(n, n)))
    work = Work("multiply", "images", 8, 1, launches, 1, program, 8, "a lower `steps`")
    return work._replace(**changes)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = lambda labels: (rng.integers(0, 99, (len(labels), 8, 8)) + 70 * labels[:, None, None]).astype(np.uint8)
    source = data.from_arrays(images(LABELS), LABELS, images(LABELS[:9]), LABELS[:9])
    return open_workspace(CONFIG, tmp_path_factory.mktemp("runs"), source=source)


@pytest.fixture
def launched(monkeypatch):
    """The launches of every loop on the devices, by the title of its bar."""
    seen, run = [], launching.run

    def counted(launch, state, counts, watch, curve, bar, *rest):
        seen.append((bar.title, len(counts)))
        return run(launch, state, counts, watch, curve, bar, *rest)

    monkeypatch.setattr(launching, "run", counted)
    return seen


def by_title(works):
    return {work.title: work for work in works}


@pytest.mark.slow
def test_a_plan_of_a_distillation_says_what_the_run_then_does(workspace, launched):
    planned = planning.distillation(workspace, RECIPE, 2)
    assert not workspace.root.joinpath("teachers").exists() and "train the teacher" in by_title(planned)
    make("mine", RECIPE, 2, 0, workspace)
    recover = by_title(planned)["recover"]
    assert (recover.units, recover.steps) == (3 * 2, 7)
    chunks = [count for title, count in launched if title.startswith("recover")]
    assert recover.chunks == len(chunks) and recover.launches == sum(chunks)
    # Now there is a teacher, so nothing is trained, and its features are kept; there they are not.
    assert list(by_title(planning.distillation(workspace, RECIPE, 2))) == ["summarize", "recover"]
    assert planning.distillation(workspace, Recipe(Random(), Nearest()), 2) == []
    with dry.run(2**34):
        elsewhere = planning.distillation(workspace, Recipe(Random(), Nearest()), 2)
    assert list(by_title(elsewhere)) == ["encode: features"]


def test_the_time_of_reading_is_that_of_all_images():
    rows = []

    def read(split, indices):
        rows.append(len(indices))
        time.sleep(0.002 * len(indices))
        return np.zeros((len(indices), 8, 8, 1), np.uint8)

    labels = {"train": np.arange(300) % 3, "test": np.arange(30) % 3}
    source = make_source("slow", ("a", "b", "c"), (8, 8, 1), labels, read)
    assert 2 <= reading_seconds(source, "train", 1000) < 6 and rows == [1, 64]
    assert 2 <= reading_seconds(source, "test", 1000) < 6 and rows == [1, 64, 1, 30]
    work = product(16, reading_seconds=1000.0)
    for plan in (planning.made([work], None, 5.0), planning.made([work], machine("v5e"), 5.0)):
        assert plan.rows[0].decides == "reading images" and 1005 < plan.seconds < 1005 + plans._COMPILE + 1
        text = planning.text(plan)
        assert "5 s of it to start and to open the data" in text and "a lower `steps`" in text


@pytest.mark.slow
def test_a_plan_of_a_comparison_says_what_the_students_then_do(workspace, launched):
    short = replace(HARD, train=replace(HARD.train, epochs=3, batch_size=5, augment=TRAIN.augment))
    setting = Comparison(workspace, {"hard": short}, ("convnet3",), seeds=2, full=0)
    dataset = make("mine", RECIPE, 2, 0, workspace)[0]
    launched.clear()
    planned = by_title(planning.comparison(setting, lambda *_: 1, 2))["convnet3, hard"]
    compare({"mine": lambda seed: dataset}, setting, lambda rows: None)
    assert planned.chunks == len(launched) == 2 and planned.launches == sum(count for _, count in launched)
    assert planned.steps == short.train.steps(6)


@pytest.mark.slow
def test_a_plan_of_crops_says_what_the_run_then_scores(workspace, monkeypatch):
    seen, scorer = [], crops._scorer

    def counted(*settings):
        score = scorer(*settings)
        return lambda variables, images, *rest: seen.append(images.shape) or score(variables, images, *rest)

    recipe = Recipe(NoAtoms(), Crops(pool=9, crops=3))
    (planned,) = [work for work in planning.distillation(workspace, recipe, 2) if work.title == "score crops"]
    monkeypatch.setattr(crops, "_scorer", counted)
    make("crops", recipe, 2, 0, workspace)
    assert len(seen) == planned.launches and seen[0] == planned.program.arguments[1].shape
    assert planned.units == 3 * 9 and planned.reading_seconds > 0


def test_operations_and_memory_are_those_of_the_program():
    plan = planning.made([product(64, 5)])
    (row,) = plan.rows
    assert row.flops == 5 * 2 * 64**3 and row.launches == row.chunks == 5
    assert row.memory_bytes == 3 * 4 * 64**2 and row.seconds == plan.seconds > 0
    # Fewer steps would not compile faster.
    assert "5" in planning.text(plan) and "a lower `steps`" not in planning.text(plan)


def test_equal_programs_are_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(plans, "timed", lambda program: tried.append(program) or timed(program))
    work = product(16)
    rows = planning.made([work, work._replace(chunks=3)]).rows
    assert len(tried) == 1 and rows[1].flops == 3 * rows[0].flops


def test_another_machine_is_planned_for_by_its_figures():
    work = product(1024, 64, units=64)
    one, eight = (planning.made([work], machine(name)).rows[0] for name in ("v5e", "v5e-8"))
    assert one.flops == eight.flops == 64 * 2 * 1024**3
    computing = one.flops / (CHIPS["v5e"].flops * 0.2)
    assert one.seconds == pytest.approx(computing + plans._COMPILE + 8 * plans._LAUNCH)
    assert eight.seconds == pytest.approx(computing / 8 + plans._COMPILE + plans._LAUNCH)
    assert "v5e-8" in planning.text(planning.made([work], machine("v5e-8")))
    assert planning.made([work._replace(busy=0.4)], machine("v5e")).rows[0].seconds < one.seconds - 0.4 * computing
    # The batches of a training are divided among the chips of a host, and are never cut.
    training = product(1024, 64, units=12, fused=False)
    for name, chips in (("v5e-8", 6), ("v5e-16", 4)):
        assert planning.made([training], machine(name)).rows[0].seconds == pytest.approx(
            computing / chips + plans._COMPILE + plans._LAUNCH
        )
    # A program that was compiled for a stage before is not compiled again.
    first, again = planning.made([work, work._replace(title="again")], machine("v5e")).rows
    assert again.seconds == pytest.approx(first.seconds - plans._COMPILE)


def test_chunks_for_another_machine_fit_in_its_memory():
    n = 2**14  # a result of 1 GiB for a unit, and 4 GiB while it is computed
    work = product(n, units=64, most=64, chunks=64)
    (row,) = planning.made([work], machine("v5e")).rows
    assert row.memory_bytes < 0.9 * CHIPS["v5e"].memory_bytes and 64 > row.chunks > 1
    (row,) = planning.made([product(2 * n, units=64, most=64, chunks=64)], machine("v5e")).rows
    assert row.decides == "does not fit"


def test_what_cannot_be_cut_does_not_fit():
    n = 2**14  # 1 GiB for a unit, and 4 GiB while it is computed
    for changes in ({"fused": False}, {"least": 8}):
        (row,) = planning.made([product(n, units=8, most=8, chunks=8, **changes)], machine("v5e")).rows
        assert row.decides == "does not fit" and row.chunks == 1
        (row,) = planning.made([product(n, units=8, most=8, chunks=8, **changes)], machine("v5e-8")).rows
        assert row.decides != "does not fit" if "fused" in changes else row.decides == "does not fit"


@pytest.mark.parametrize("name", ["", "v5", "v5e-0", "v5e-x", "v5e--8", "V5E", "v5e-8-8", "cpu", "v5e-100000000"])
def test_machines_that_are_none_are_refused_with_those_that_are(name):
    assert f"{name!r}" in message(lambda: machine(name)) and "v5p" in message(lambda: machine(name))


@pytest.mark.parametrize(
    ("name", "chips", "hosts"), [("v5e-8", 8, 1), ("v5e-16", 16, 4), ("v6e", 1, 1), ("h100-16", 16, 2), ("t4", 1, 1)]
)
def test_machines_by_name(name, chips, hosts):
    found = machine(name)
    assert (found.chips, found.hosts) == (chips, hosts) and found.name in (name, f"{name}-1")


def test_made_up_arguments_are_finite_in_a_deep_network():
    shapes = {"kernel": struct(3, 3, 64, 64), "var": struct(64), "label": struct(5, dtype=np.int32)}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    arrays = drawn((shapes, keys, struct(dtype=np.int32), np.float32(7)))
    assert jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), arrays[0]) == {
        name: (x.shape, x.dtype) for name, x in shapes.items()
    }
    assert arrays[1].dtype == keys.dtype and arrays[3] == 7
    assert (arrays[0]["var"] > 0).all() and 0.5 < arrays[0]["kernel"].std() * np.sqrt(9 * 64 / 2) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("distill", ["--dataset", "digits", "--width", "8"]), ("train", ["--width", "8"])],
)
def test_programs_plan_and_do_nothing(program, tmp_path, monkeypatch, name, arguments):
    monkeypatch.chdir(tmp_path)
    status, out, err = program(name, *arguments, "--on", "v5e-8")
    assert status == 0, err
    assert "v5e-8" in out or "nothing to compute" in out
    assert not list(tmp_path.rglob("*.json"))
    status, out, err = program(name, *arguments, "--on", "v5e-8x")
    assert status == 2 and "unknown machine 'v5e-8x'" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "distill --ipc 0", "distill --ipc 1000", "distill --imager.steps 0", "distill --method ddoq --imager recover",
        "distill --dataset nowhere", "distill --out taken", "train --what nonsense", "train --model nonsense",
        "demo --methods", "demo --seeds 0", "demo --steps 0", "report", "report taken", "evaluate", "evaluate taken",
        "tables ddoq-main --grid digits --only nonsense", "tables ddoq-main --grid digits --seeds 0",
        "tables ddoq-main --grid digits --ipc", "tables ddoq-main --grid digits --protocols",
        "tables ddoq-main --grid digits --ipc 1 10 --epochs 5", "tables scores --dataset digits --full 0",
        "tables ot --counts 1000", "tables nonsense", "relabel taken",
    ],
)  # fmt: skip
def test_plans_refuse_what_runs_refuse_with_the_same_line(program, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    name, *flags = arguments.split()
    before = sorted(tmp_path.rglob("*"))
    plan = program(name, *flags, "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    run = program(name, *flags)
    last = lambda result: (result[0], result[2].strip().splitlines()[-1])
    assert last(plan) == last(run) and plan[0] == 2


@pytest.mark.slow
def test_what_is_finished_is_not_planned_and_nothing_is_touched(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--method", "medoid", "--width", "8", "--teacher-train.epochs", "1", "--ipc", "1"]
    plan = lambda *more: program("distill", *flags, "--out", "runs/x", "--dry-run", *more)
    assert "train the teacher" in plan()[1]
    assert program("distill", *flags, "--out", "runs/x")[0] == 0
    leftover = tmp_path / "runs" / f".x.999999-abcdef@{files._HOST}.part"
    leftover.touch()
    assert plan()[1] == "nothing to compute; this takes seconds\n"
    # A plan writes nothing, so that it may name a folder that the run itself would not overwrite.
    before = sorted(tmp_path.rglob("*"))
    status, out, err = plan("--seed", "1")
    refusal = (
        "output folder runs/x holds a finished run of other settings: --seed was 0 and is 1 now; choose another --out"
    )
    assert status == 0 and "train the teacher" in out and f"without --dry-run this is refused: {refusal}" in err
    assert sorted(tmp_path.rglob("*")) == before
    # Elsewhere nothing is finished, and a teacher that computes in bfloat16 is another one.
    out = plan("--on", "v5e")[1]
    assert "encode" in out and "summarize" in out and "train" in out
    assert leftover.exists()
    # Another method finds the teacher and the features.
    out = program("distill", *flags[2:], "--method", "wmdd", "--out", "runs/y", "--dry-run")[1]
    assert "encode" not in out and "recover" in out and not (tmp_path / "runs" / "y").exists()
    assert program("distill", *flags, "--out", "runs/x", "--seed", "1")[::2] == (2, f"error: {refusal} or remove it\n")


def test_a_plan_downloads_nothing():
    class Builder:
        data_dir = "somewhere"

        def is_prepared(self):
            return False

    with dry.run():
        assert "a plan downloads nothing" in message(lambda: tfds._prepare(Builder(), "cifar10"))


def test_hints_name_flags_of_the_program_or_nothing():
    work = product(16, reading_seconds=1000.0)
    with progress.worded(lambda line: line.replace("`steps`", "--steps")):
        assert "for less, use a lower --steps" in planning.text(planning.made([work]))
    with progress.worded(lambda line: line.replace("`", "")):
        assert "for less" not in planning.text(planning.made([work]))


def test_a_table_is_planned_for_what_is_missing(workspace, tmp_path):
    config = grid_file.GridConfig(
        width=8, flip=False, teacher_train=TRAIN, ipc=(1, 2), epochs=(3, 3), protocols=("hard",), seeds=2, full=2,
        students=("convnet3",), out=tmp_path,
    )  # fmt: skip
    entries = tuple(grid_file.Entry(name, name, RECIPES.find(name), {}) for name in ("random", "medoid"))
    grid = grid_file.Grid("mine", "", "", "ipc", "", "", grid_file.Sweep(), entries, (), config)
    work = grid_runner.Work(grid, config, workspace, entries)
    works = by_title(planning.table(work))
    assert {f"convnet3, hard, IPC {ipc}" for ipc in (1, 2)} <= set(works) and "convnet3 on all real images" in works
    # Two methods, and two seeds of each.
    assert works["convnet3, hard, IPC 2"].units == 2 * 2 * 6
    keys = grid_runner._keys(work, 2, "convnet3", next(iter(grid_runner._sizes(config)))[1]["hard"])
    rows = [row(name, "x", 2, "convnet3", "hard", [0.5, 0.5], key=key) for name, key in keys.items()]
    write_json(tmp_path / "rows.json", rows)
    assert "convnet3, hard, IPC 2" not in by_title(planning.table(work)) and "convnet3, hard, IPC 1" in works


def test_the_plan_of_a_table_names_the_members_of_a_committee_and_trains_none(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "train_teacher", lambda *_: pytest.fail("trained"))
    members = ("convnet3", "convnet3")
    # The teacher is there, so that rows have keys, which name all members.
    info = teachers.describe(workspace.config, workspace.real)
    model, shape = teachers.build(info), workspace.real.source.image_shape
    known = Teacher(model.apply, model.init(jax.random.key(0), shape), workspace.real.norm, info)
    asked = replace(workspace, config=replace(workspace.config, committee=members), given_teacher=(known, tmp_path))
    config = grid_file.GridConfig(
        width=8, flip=False, teacher_train=TRAIN, ipc=(1,), protocols=("soft",), seeds=1, full=0,
        students=("convnet3",), committee=members, out=tmp_path,
    )  # fmt: skip
    entries = (grid_file.Entry("random", "random", RECIPES.find("random"), {}),)
    grid = grid_file.Grid("mine", "", "", "ipc", "", "", grid_file.Sweep(), entries, (), config)
    works = planning.table(grid_runner.Work(grid, config, asked, entries))
    assert {f"train the teacher, convnet3, seed {seed}" for seed in (1, 2)} <= set(by_title(works))


def test_a_rough_plan_compiles_and_reads_nothing(workspace, monkeypatch):
    monkeypatch.setattr(memory, "compiled_bytes", lambda _: pytest.fail("compiled"))
    monkeypatch.setattr(trained, "reading_seconds", lambda *_: pytest.fail("read"))
    with dry.run(rough=True):
        stages = [following.stage(work) for work in planning.distillation(workspace, RECIPE, 2)]
    assert [stage.title for stage in stages][-2:] == ["summarize", "recover"]
    recover = stages[-1]
    assert (recover.amount, recover.items % RECIPE.imager.steps) == ("7 steps", 0) and recover.operations > 0


def test_every_loop_of_a_distillation_is_a_stage_of_its_plan(workspace, tmp_path, monkeypatch, capfd):
    for name in ("TRIED", "_SURE", "_LONG"):
        monkeypatch.setattr(course, name, 0.0)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    new = replace(workspace, root=tmp_path)
    with planning.followed(lambda: planning.distillation(new, RECIPE, 2)):
        make("wmdd", RECIPE, 2, 0, new)
        followed = course.current()
    assert followed.is_planned and not followed.left
    assert [stage.title for stage in followed.over][:3] == ["train the teacher", "test the teacher", "encode: features"]
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("train the teacher: 6 steps in ") for line in lines)
    assert any(line.startswith("encode: features: 60 images in ") for line in lines)
    assert any(line.startswith("recover: 7 steps in ") for line in lines)


def test_a_run_does_not_fail_for_a_plan_that_does(monkeypatch):
    with planning.followed(lambda: 1 / 0):
        followed = course.current()
        assert followed._plan() == [] and not dry.is_on()
