"""What do images x steps, and the seconds they take, buy?

    python -m benchmarks.steps [--teacher FOLDER] [--dataset digits] [--ipc 1] [--json FILE] [--plot FILE.png]
    python -m benchmarks.steps --quick

Encodes and summarizes once, as the method wmdd does. From the same atoms every setting then recovers its images: from
the nearest real images and from noise under a cosine of so many steps, from real images under the schedule "plateau",
and for ResNets with the first half of the steps on images of half the side. Students with hard labels learn from each,
all side by side, and from random real images, which are drawn anew for each student. Images are recovered once: the
deviation is that of the students' seeds, for random images also that of the draw.

Steps taken are those of a chunk of classes, averaged over the classes: a chunk under "plateau" goes on until its last
class stands still. Image-steps are images x steps taken; a step at half the side counts a quarter, its share of the
pixels. Seconds are steps taken x those of one step, full or coarse: the quicker of two runs of a few steps whose
program a run before has compiled, less what JAX says it still compiled in it. Loss terms are those of the final images
as they are, not of a random view, averaged over the classes.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks import harness
from jaxdd import methods
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.progress import log
from jaxdd.methods import RECIPES, Recipe
from jaxdd.reports.tables import columns
from jaxdd.stages.context import Context
from jaxdd.stages.encode import class_means
from jaxdd.stages.images.base import real_images
from jaxdd.stages.images.nearest import nearest_rows
from jaxdd.stages.images.recover import chunks, fitting, loss
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings
from jaxdd.students.evaluation import Lane, accuracies, side_by_side, student_trainer
from jaxdd.students.protocol import HARD, Protocol
from jaxdd.students.rows import cell, row
from jaxdd.workspace import DataConfig, TeacherConfig, Workspace, makers_for, open_workspace, teachers
from jaxdd.workspace.comparison import with_flip
from jaxdd.workspace.real_data import test_batches

STEPS = (0, 25, 50, 100, 200, 400, 1000, 2000)
QUICK = (0, 10, 40)
COARSE = 0.5  # share of the steps
COARSE_COST = 0.25  # of a step at half the side
# No image is held to the mean features, and a row's mean is that of the accuracies.
TERMS = tuple(name for name in loss.Terms._fields if name != "mean")


class Setting(NamedTuple):
    """One way to recover."""

    kind: str  # settings of a kind differ in their steps and are one line of the plot
    recover: RecoverSettings  # with no steps at all: the images to start from

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.recover.steps} steps"


class Problem(NamedTuple):
    """What all settings share."""

    context: Context
    key: jax.Array  # of the random views
    goal: Goal  # of all classes
    starts: dict[str, np.ndarray]  # "real" and "noise", [C, m, H, W, ch] each
    placement: fitting.Placement


class Made(NamedTuple):
    """The images of a setting."""

    images: np.ndarray  # [C, m, H, W, ch]
    taken: np.ndarray  # [C], steps
    seconds: float  # what the clock said, compilation included where there was any


def settings(base: RecoverSettings, steps: list[int], rates: list[float], coarse: bool) -> list[Setting]:
    """The settings to compare; neighbours that differ in their start alone share a compiled program."""
    most = max(steps)
    chosen = [
        Setting(f"{start}, cosine", replace(base, start=start, steps=count, schedule="cosine"))
        for count in steps
        for start in ("real", "noise")
    ]
    if most:
        anneal = min(base.anneal, most // 2)
        for rate in rates:
            changed = replace(base, start="real", steps=most, schedule="plateau", learning_rate=rate, anneal=anneal)
            chosen.append(Setting(f"real, plateau at {rate:g}", changed))
    if coarse:
        changed = replace(base, start="real", schedule="cosine", coarse=COARSE)
        chosen += [Setting("real, cosine, half coarse", replace(changed, steps=count)) for count in steps if count]
    return chosen


def problem(context: Context, recipe: Recipe, ipc: int) -> Problem:
    """Summarize, with the draws of `jaxdd distill` under seed 0, so that its images come out again."""
    k_atoms, k_recover = jax.random.split(jax.random.fold_in(jax.random.key(0), 2))
    classes, labels, resources = context.classes, context.labels.astype(np.int32), context.resources
    placement = fitting.Placement(resources.mesh, resources.bytes_per_device)
    encoded, atoms = classes.encoded, recipe.summarizer(k_atoms, context, ipc).atoms
    starts = {
        "real": real_images(context, nearest_rows(context, atoms.points)),
        "noise": np.asarray(loss.noise(jax.random.fold_in(k_recover, 0), labels, (ipc, *classes.image_shape))),
    }
    means = class_means(encoded, classes.groups, labels)
    goal = Goal(labels, atoms, means, encoded.moments, np.float32(encoded.variance))
    return Problem(context, jax.random.fold_in(k_recover, 1), goal, starts, placement)


def recovered(shared: Problem, wanted: RecoverSettings) -> Made:
    """All steps for all classes."""
    first, began = shared.starts[wanted.start], time.perf_counter()
    images, taken = first.copy(), np.zeros(len(first), int)
    if wanted.steps:
        teacher, image_shape = shared.context.teacher, shared.context.classes.image_shape
        # Where the images come from is no part of the program, which is compiled for each setting that it gets.
        same = replace(wanted, start="real")
        start = lambda rows: first[rows]
        for part in chunks.run(shared.key, teacher, same, shared.goal, start, image_shape, shared.placement):
            images[part.places], taken[part.places] = part.images, len(part.terms.feature)
    return Made(images, taken, time.perf_counter() - began)


def parts(wanted: RecoverSettings, taken: np.ndarray) -> tuple[float, float]:
    """Full and coarse steps taken, means over the classes; coarse ones come first."""
    coarse = np.minimum(taken, round(wanted.coarse * wanted.steps))
    return float((taken - coarse).mean()), float(coarse.mean())


def step_seconds(shared: Problem, base: RecoverSettings, count: int, coarse: bool) -> float:
    """Seconds of a step of all classes, warm."""
    probe = replace(base, schedule="cosine", steps=count, coarse=float(coarse))
    recovered(shared, probe)
    each = []
    for _ in range(2):
        with compiling() as spent:
            seconds = recovered(shared, probe).seconds
        each.append((seconds - sum(spent)) / count)
    return min(each)


@contextlib.contextmanager
def compiling() -> Iterator[list[float]]:
    """The seconds that JAX takes inside the block to trace, lower and compile, one by one."""
    spent = []

    def listen(event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            spent.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield spent
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def final_terms(shared: Problem, base: RecoverSettings, made: list[Made]) -> list[dict[str, float]]:
    """The unweighted terms of the loss of each setting's images, means over the classes."""
    goal, teacher = shared.goal, shared.context.teacher
    classes, ipc = made[0].images.shape[:2]
    program = jax.jit(lambda variables, images, goal: loss.terms(teacher.apply, variables, images, goal, base))

    def mean(images):
        sums = np.zeros(len(loss.Terms._fields))
        for places in parallel.chunks(classes, max(1, min(classes, 100 // ipc))):
            arrays, *rows = parallel.take((images, *goal[:4]), places)
            values = program(teacher.variables, arrays, Goal(*rows, goal.feature_variance))
            sums += [np.asarray(value)[places >= 0].sum() for value in values]
        return dict(zip(loss.Terms._fields, (sums / classes).tolist()))

    return [mean(one.images) for one in made]


def scores(sets: list[list[DistilledDataset]], protocol: Protocol, workspace: Workspace) -> np.ndarray:
    """Test accuracies of students of the teacher's architecture, one for each dataset; its place is the seed."""
    teacher, model = workspace.teacher, teachers.build(workspace.teacher.info, workspace.config.compute)
    lanes = [Lane(dataset, seed) for datasets in sets for seed, dataset in enumerate(datasets)]
    trainer = student_trainer(model, protocol, teacher.apply, lanes[0].dataset)
    values = np.full(len(lanes), np.nan)
    for part in side_by_side(trainer, protocol, lanes, teacher.variables):
        batches = test_batches(workspace.real.source)
        values[part.lanes] = accuracies(model.apply, part.variables, teacher.norm, batches)
    return values.reshape(len(sets), -1)


def datasets_of(
    shared: Problem, made: list[Made], workspace: Workspace, ipc: int, seeds: int
) -> list[list[DistilledDataset]]:
    """Random real images and those of the settings, one for each seed."""
    real, norm = workspace.real, workspace.teacher.norm
    labels = np.repeat(np.arange(len(real.class_names), dtype=np.int32), ipc)
    weights = np.asarray(shared.goal.atoms.weights, np.float32).reshape(-1)
    dataset = lambda images: DistilledDataset(
        images.reshape(-1, *real.source.image_shape), labels, weights, real.class_names, norm, {}
    )
    random = makers_for({}, ("random",), ipc, workspace)["random"]
    return [[random(seed) for seed in range(seeds)], *([dataset(one.images)] * seeds for one in made)]


def measure(workspace: Workspace, recipe: Recipe, protocol: Protocol, flags: argparse.Namespace) -> list[dict]:
    """A row a setting, after that of random real images."""
    teacher, context = workspace.teacher, workspace.context(recipe)
    shared, base = problem(context, recipe, flags.ipc), recipe.imager
    base = replace(base, flip=base.flip and context.flip)
    chosen = settings(base, flags.steps, flags.plateau_rates, teacher.info["model"].startswith("resnet"))
    kinds = {False, *(setting.recover.coarse > 0 for setting in chosen)}
    each = {coarse: step_seconds(shared, base, flags.probe, coarse) for coarse in sorted(kinds)}
    made = []
    for setting in chosen:
        made.append(recovered(shared, setting.recover))
        log(f"{setting.name}: took {made[-1].taken.mean():.0f}, {made[-1].seconds:.1f} s")
    sets = datasets_of(shared, made, workspace, flags.ipc, flags.seeds)
    values = scores(sets, protocol, workspace).tolist()

    images = len(sets[0][0].labels)
    about = {
        "images": images, "epochs": protocol.train.epochs, "teacher": teacher.info["accuracy"],
        "holdout": teacher.info["holdout"], "step_seconds": each[False], "coarse_step_seconds": each.get(True),
        **harness.versions(),
    }  # fmt: skip
    common = (workspace.real.name, flags.ipc, teacher.info["model"], "hard")
    rows = [row("random", *common, values[0], benchmark="steps", kind="random real", **about)]
    for setting, one, terms, mine in zip(chosen, made, final_terms(shared, base, made), values[1:]):
        wanted = setting.recover
        full, coarse = parts(wanted, one.taken)
        counted = {
            "benchmark": "steps", "kind": setting.kind, "name": setting.name, "start": wanted.start,
            "schedule": wanted.schedule, "learning_rate": wanted.learning_rate, "coarse": wanted.coarse,
            "steps": wanted.steps, "steps_taken": full + coarse,
            "image_steps": images * (full + COARSE_COST * coarse),
            "seconds": full * each[False] + coarse * each.get(True, 0.0), "wall_seconds": one.seconds,
        }  # fmt: skip
        rows.append(row("wmdd", *common, mine, **counted, **{name: terms[name] for name in TERMS}, **about))
    return rows


def show(rows: list[dict]) -> None:
    """The table."""
    head = ["kind", "steps", "taken", "image-steps", "seconds", "accuracy", *TERMS]
    body = []
    for r in sorted(rows, key=lambda r: (r["kind"] != "random real", r["kind"], r.get("steps", 0))):
        cells = [""] * 4 + [cell(r["accuracies"])] + [""] * len(TERMS)
        if "steps" in r:
            terms = [f"{r[name]:.3f}" for name in TERMS]
            counts = [str(r["steps"]), f"{r['steps_taken']:.0f}", f"{r['image_steps']:.0f}", f"{r['seconds']:.2f}"]
            cells = [*counts, cell(r["accuracies"]), *terms]
        body.append([r["kind"], *cells])
    first = rows[0]
    print(f"{first['dataset']}, IPC {first['ipc']}, {first['student']}, hard labels, {_students(first)} of "
          f"{first['epochs']} epochs; the teacher has {100 * first['teacher']:.1f} %\n")  # fmt: skip
    print(columns(head, body, left=1))
    coarse = first["coarse_step_seconds"]
    print(f"\na step of {first['images']} images: {1e3 * first['step_seconds']:.1f} ms"
          + (f", at half the side {1e3 * coarse:.1f} ms" if coarse else ""))  # fmt: skip
    harness.stamp(first)


def _students(one: dict) -> str:
    count = len(one["accuracies"])
    return f"{count} student{'s' * (count > 1)}"


def plot(rows: list[dict], path: Path) -> None:
    """Accuracy against image-steps, one line a kind, random real images as a band."""
    baseline, *others = rows
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    low, high = (100 * (baseline["mean"] + sign * baseline["std"]) for sign in (-1, 1))
    axes.axhspan(low, high, color="0.88", zorder=0)
    axes.axhline(100 * baseline["mean"], color="0.5", linewidth=1, zorder=1, label="random real")
    for kind, marker in zip(dict.fromkeys(r["kind"] for r in others), "osD^vP*X"):
        line = sorted((r for r in others if r["kind"] == kind), key=lambda r: r["image_steps"])
        x, mean, std = np.array([(r["image_steps"], 100 * r["mean"], 100 * r["std"]) for r in line]).T
        alone = len(line) == 1
        style = {"markersize": 8, "zorder": 4, "linestyle": "none"} if alone else {"markersize": 5, "linewidth": 1.5}
        axes.errorbar(x, mean, std, marker=marker, capsize=3, label=kind, **style)
    positive = [r["image_steps"] for r in others if r["image_steps"]]
    if positive:
        # No steps at all have a place too, left of the decades.
        axes.set_xscale("symlog", linthresh=min(positive), linscale=0.4)
        axes.set_xlim(-0.15 * min(positive), 1.5 * max(positive))
        axes.set_xticks(sorted({r["image_steps"] for r in others if r["kind"] == others[0]["kind"]}))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.minorticks_off()
    axes.set_xlabel("image-steps (images x steps; coarse steps count a quarter)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"{baseline['dataset']}, IPC {baseline['ipc']}, {baseline['student']}, hard labels, "
                   f"mean and deviation of {_students(baseline)}", fontsize=10)  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, format="png")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--teacher", type=Path, help="folder of jaxdd train; default: one is trained")
    flags.add_argument("--model", default="convnet3", help="of the teacher, where one is trained")
    flags.add_argument("--dataset", default="digits")
    flags.add_argument("--data-dir", help="where TFDS keeps its datasets")
    flags.add_argument("--holdout", type=float, default=0.0, help="share of the train images to test on instead")
    flags.add_argument("--ipc", type=int, default=1, help="images of each class")
    flags.add_argument("--steps", type=int, nargs="+", help=f"of the cosine; default: {' '.join(map(str, STEPS))}")
    flags.add_argument("--most", type=int, help="leave out what has more steps; a plateau may take so many")
    flags.add_argument("--plateau-rates", type=float, nargs="*", default=[0.1], help="learning rates")
    flags.add_argument("--seeds", type=int, help="students of each setting; default: 3")
    flags.add_argument("--epochs", type=int, help=f"of the students; default: {HARD.train.epochs}")
    flags.add_argument("--probe", type=int, help="steps that are timed; default: 20 on CPU, else 200")
    flags.add_argument("--memory-gib", type=float, default=DataConfig.memory_gib)
    flags.add_argument("--quick", action="store_true", help="few steps, epochs and seeds: digits within a minute")
    flags.add_argument("--json", type=Path, help="write the rows here")
    flags.add_argument("--plot", type=Path, help="draw accuracy against image-steps here, a PNG")
    return flags


def filled(flags: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults, which --quick decides; InputError where one makes no sense."""
    cpu = jax.default_backend() == "cpu"
    defaults = {"steps": STEPS, "seeds": 3, "epochs": HARD.train.epochs, "probe": 20 if cpu else 200}
    if flags.quick:
        defaults = {"steps": QUICK, "seeds": 2, "epochs": 30, "probe": 20}
    changes = {name: value for name, value in vars(flags).items() if value is not None}
    flags = argparse.Namespace(**{**vars(flags), **defaults, **changes})
    for name, least in (("seeds", 1), ("epochs", 1), ("probe", 1), ("ipc", 1)):
        if getattr(flags, name) < least:
            raise InputError(f"--{name} {getattr(flags, name)}: give {least} or more")
    flags.steps = sorted({count for count in flags.steps if flags.most is None or count <= flags.most})
    if not flags.steps or flags.steps[0] < 0:
        raise InputError(f"--steps and --most {flags.most} leave {flags.steps or 'none'}; give numbers of 0 or more")
    if any(rate <= 0 for rate in flags.plateau_rates):
        raise InputError(f"--plateau-rates {' '.join(map(str, flags.plateau_rates))}: give rates above 0")
    for path in (flags.json, flags.plot):
        if path and not path.parent.is_dir():
            raise InputError(f"folder {path.parent} of {path.name} does not exist; make it first")
    return flags


def main() -> None:
    flags = filled(parser().parse_args())
    config = TeacherConfig(
        dataset=flags.dataset, data_dir=flags.data_dir, holdout=flags.holdout, model=flags.model,
        memory_gib=flags.memory_gib,
    )  # fmt: skip
    if flags.quick:
        config = replace(config, teacher_train=replace(config.teacher_train, epochs=4))
    recipe = RECIPES["wmdd"]
    with tempfile.TemporaryDirectory() as root:
        workspace = open_workspace(config, root, flags.teacher)
        methods.check(recipe, workspace.problem("wmdd", flags.ipc))
        protocol = with_flip(replace(HARD, train=replace(HARD.train, epochs=flags.epochs)), workspace.real.flip)
        rows = measure(workspace, recipe, protocol, flags)
    harness.write(flags.json, rows)
    if flags.plot:
        plot(rows, flags.plot)
    show(rows)


if __name__ == "__main__":
    harness.entry(main)
