"""Train students on distilled datasets and test them on real images, beside baselines under the same protocol.

    python -m experiments.evaluate runs/x --students convnet3 resnet18 --seeds 3

Prints one table and writes evaluation.json into the first run folder (or to --out). `random` draws its images anew for
each seed; `full` is the teacher where the student has its architecture, else a student trained on all real images.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from experiments import cli, distill, teachers
from jaxdd import distilled, hosts, methods, nn, parallel, report
from jaxdd.data import Source
from jaxdd.distilled import DistilledDataset
from jaxdd.errors import InputError
from jaxdd.evaluate import accuracies, accuracy, row, side_by_side, student_trainer
from jaxdd.protocol import HARD, SOFT, Protocol, check


@dataclass(frozen=True)
class EvaluateConfig:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of experiments.distill, of one dataset, size and number of images per class."""
    students: tuple[str, ...] = ()
    """Architectures; default: the teacher's."""
    seeds: int = 3
    labels: tuple[str, ...] = ("hard", "soft")
    baselines: tuple[str, ...] = ("random", "medoid")
    full: int = 1
    """Runs on all real images; the teacher counts as the first."""
    compute: str = "auto"
    """float32, bfloat16, or auto, which is bfloat16 on accelerators."""
    out: Path | None = None
    """Where the rows go; default: evaluation.json in the first run folder."""
    hard: Protocol = field(default_factory=lambda: HARD)
    soft: Protocol = field(default_factory=lambda: SOFT)


Maker = Callable[[int], DistilledDataset]  # seed -> dataset


def compare(
    makers: dict[str, Maker],
    config: EvaluateConfig,
    students: tuple[str, ...],
    source: Source,
    teacher: teachers.Teacher,
    flip: bool,
    keep: Callable[[list[dict]], None],
    full_config: teachers.TeacherConfig,
) -> list[dict]:
    """Every method under every protocol with every student; ``keep`` is called with the rows so far.

    The students of all methods and seeds are trained side by side, and shared among the processes of a run.
    """
    rows, name = [], teachers.short_name(source)
    num_classes, size = len(source.class_names), source.image_shape[0]
    protocols = {kind: getattr(config, kind) for kind in config.labels}
    lanes = [method for method in makers for _ in range(config.seeds)]
    seeds = [seed for _ in makers for seed in range(config.seeds)]
    datasets = [makers[method](seed) for method, seed in zip(lanes, seeds)]
    mine = parallel.own(len(lanes), parallel.mesh())
    for student in students:
        model = nn.get(student, num_classes, size, dtype=teachers.dtype_of(config.compute))
        for kind, protocol in protocols.items():
            protocol = replace(protocol, train=teachers.with_flip(protocol.train, flip))
            trainer = student_trainer(model, protocol, teacher.model.apply, datasets[0])
            scores, title = np.full((len(makers), config.seeds), np.nan), f"{student}, {kind} labels"
            own = [datasets[lane] for lane in mine], [seeds[lane] for lane in mine]
            parts = side_by_side(trainer, protocol, *own, teacher.variables, title=title) if len(mine) else ()
            before = list(rows)
            for part in (*parts, None) if hosts.count() > 1 else parts:
                if part:
                    found = accuracies(model.apply, part.variables, teacher.norm, teachers.test_batches(source))
                    scores.flat[mine[part.lanes]] = found
                else:
                    scores = np.nanmax(hosts.everywhere(scores), 0)
                whole = {method: found for method, found in zip(makers, scores.tolist()) if not np.isnan(found).any()}
                told = len(rows) - len(before)
                rows = before + [row(method, name, datasets[0].ipc, student, kind, whole[method]) for method in whole]
                keep(rows)
                for method in list(whole)[told:]:
                    cli.log(f"{title}, {method}: {report.cell(whole[method])}")
        if config.full:
            same = (student, None, "auto") == tuple(teacher.info[k] for k in ("model", "width", "stem"))
            settings = teachers.with_flip(full_config.teacher_train, flip)

            def full(seed: int, model=model, settings=settings) -> str:
                variables, *_ = teachers.fit_full(source, model, settings, teacher.norm, seed)
                return str(accuracy(model.apply, variables, teacher.norm, teachers.test_batches(source)))

            scores = [teacher.info["accuracy"]] if same else []
            scores += [float(hosts.first(partial(full, seed))) for seed in range(len(scores), config.full)]
            rows.append(row("full", name, None, student, "hard", scores))
            keep(rows)
    return rows


def makers_for(
    datasets: dict[str, DistilledDataset],
    baselines: tuple[str, ...],
    ipc: int,
    source: Source,
    teacher: teachers.Teacher,
    classes: methods.Classes | None,
) -> dict[str, Maker]:
    """Baselines first, then the distilled datasets, each as a function of the seed."""
    makers: dict[str, Maker] = {}
    cache: dict[tuple, DistilledDataset] = {}

    def baseline(name: str) -> Maker:
        def maker(seed: int) -> DistilledDataset:
            draw = seed if name == "random" else 0
            if (name, draw) not in cache:
                recipe = methods.recipe(name)
                cache[name, draw], _ = distill.make(name, recipe, ipc, draw, source, teacher, classes, 1.0)
            return cache[name, draw]

        return maker

    for name in baselines:
        if name not in datasets:
            makers[name] = baseline(name)
    for name, dataset in datasets.items():
        makers[name] = lambda seed, dataset=dataset: dataset
    return makers


def open_real(run: Path, teacher: teachers.Teacher) -> tuple[Source, bool]:
    """The real images that a run folder came from, as its teacher sees them, and whether they are mirrored."""
    if not (run / "config.json").is_file():
        raise InputError(f"{run} has no config.json; give a run folder of experiments.distill")
    saved = json.loads((run / "config.json").read_text())
    config = teachers.DataConfig(**{key: saved[key] for key in ("dataset", "data_dir", "flip", "memory_gib")})
    like = teachers.data_like(teacher, config)
    config = replace(config, **{key: like[key] for key in ("image_size", "channels", "mean", "std", "holdout")})
    source, _, flip = teachers.open_data(config)
    teachers.check_fits(teacher, source, run / "teacher")
    return source, flip


def main(config: EvaluateConfig) -> None:
    if not config.runs:
        raise InputError("no run folder given; use: python -m experiments.evaluate runs/x")
    if config.seeds < 1:
        raise InputError(f"--seeds {config.seeds} is not a number of students; use 1 or more")
    unknown = [kind for kind in config.labels if kind not in ("hard", "soft")]
    if unknown or not config.labels:
        raise InputError(f"unknown labels {' '.join(unknown)!r}; use hard, soft or both")
    for kind in config.labels:
        check(getattr(config, kind))
    loaded = [distilled.load(run) for run in config.runs]
    teacher = teachers.load_teacher(config.runs[0] / "teacher", config.compute)
    out = config.out or config.runs[0] / "evaluation.json"
    if not out.parent.is_dir():
        raise InputError(f"folder {out.parent} of --out does not exist; make it first")
    students = config.students or (teacher.info["model"],)
    for student in students:
        nn.get(student, len(teacher.info["class_names"]), teacher.info["image_shape"][0])
    for name in config.baselines:
        methods.recipe(name)
    for run, dataset in zip(config.runs, loaded):
        if (dataset.ipc, dataset.class_names) != (loaded[0].ipc, loaded[0].class_names):
            raise InputError(f"{run} has other classes or images per class than {config.runs[0]}; evaluate it alone")
    names = [dataset.provenance["method"] for dataset in loaded]
    if len(set(names)) < len(names):
        names = [f"{name} ({run.name})" for name, run in zip(names, config.runs)]

    source, flip = open_real(config.runs[0], teacher)
    needed = [name for name in config.baselines if name not in names]
    classes = distill.encode_real(teacher, source) if needed else None
    makers = makers_for(dict(zip(names, loaded)), config.baselines, loaded[0].ipc, source, teacher, classes)
    keep = lambda rows: cli.write_json(out, rows) if hosts.is_first() else None
    rows = compare(makers, config, students, source, teacher, flip, keep, full_config(teacher))
    if hosts.is_first():
        print(report.table(rows))


def full_config(teacher: teachers.Teacher) -> teachers.TeacherConfig:
    """Other students see the real data under the settings that trained the teacher."""
    return teachers.TeacherConfig(teacher_train=teachers.settings_from(teacher.info["train"]))


if __name__ == "__main__":
    cli.run(main, lambda arguments: EvaluateConfig(), several=True)
