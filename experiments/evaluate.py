"""Train students on distilled datasets and test them on real images, beside baselines under the same protocol.

    python -m experiments.evaluate runs/x --students convnet3 resnet18 --seeds 3

Prints one table and writes evaluation.json into the first run folder (or to --out). `random` draws its images anew for
each seed; `full` is the teacher where the student has its architecture, else a student trained on all real images.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from experiments import cli, distill, run_page, teachers
from jaxdd import methods, nn
from jaxdd.data import Source, distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.reports import tables as report
from jaxdd.stages.relabel.stored import Labels, check_fits, open_labels
from jaxdd.students.evaluation import accuracies, accuracy, row, side_by_side, student_trainer
from jaxdd.students.protocol import PROTOCOLS, Protocol, named
from jaxdd.students.train import TrainSettings


@dataclass(frozen=True)
class ProtocolConfig:
    """Every protocol's settings, as flags."""

    hard: Protocol = field(default_factory=lambda: PROTOCOLS["hard"])
    soft: Protocol = field(default_factory=lambda: PROTOCOLS["soft"])
    wmdd: Protocol = field(default_factory=lambda: PROTOCOLS["wmdd"])
    ddoq: Protocol = field(default_factory=lambda: PROTOCOLS["ddoq"])
    dd_ranking: Protocol = field(default_factory=lambda: PROTOCOLS["dd-ranking"])

    def protocol(self, name: str) -> Protocol:
        """Of `jaxdd.protocol.named`, with the settings of this config."""
        return named(name, {known: getattr(self, known.replace("-", "_")) for known in PROTOCOLS})


@dataclass(frozen=True)
class EvaluateConfig(ProtocolConfig):
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of experiments.distill, of one dataset, size and number of images per class."""
    students: tuple[str, ...] = ()
    """Architectures; default: the teacher's."""
    seeds: int = 3
    protocols: tuple[str, ...] = ("hard", "soft")
    """hard, soft, wmdd, ddoq, dd-ranking; with ":plain" behind the name no augmentation, with ":uniform" no weights."""
    baselines: tuple[str, ...] = ("random", "medoid")
    """Methods that make no pixels: random, medoid, herding, kcenter, rded."""
    full: int = 1
    """Runs on all real images; the teacher counts as the first."""
    stored: bool = False
    """Learn soft labels from those that experiments.relabel kept in the run folders, not from their teacher."""
    compute: str = "auto"
    """float32, bfloat16, or auto, which is bfloat16 on accelerators."""
    out: Path | None = None
    """Where the rows go; default: evaluation.json in the first run folder."""


Maker = Callable[[int], DistilledDataset]  # seed -> dataset


def measured(
    makers: dict[str, Maker],
    seeds: int,
    student: str,
    kind: str,
    protocol: Protocol,
    source: Source,
    teacher: teachers.Teacher,
    flip: bool,
    compute: str,
    stored: dict[str, Labels] | None = None,
) -> Iterator[tuple[str, list[float]]]:
    """Each method and the accuracies of its students, as soon as those of all seeds are known.

    The students of all methods and seeds are trained side by side, and shared among the processes of a run.

    stored: labels of each method, which then take the teacher's place.
    """
    if not makers:
        return
    model = nn.get(student, len(source.class_names), source.image_shape[0], dtype=teachers.dtype_of(compute))
    lanes = [(method, seed) for method in makers for seed in range(seeds)]
    datasets = [makers[method](seed) for method, seed in lanes]
    protocol = flipped(protocol, flip)
    told = stored and [stored[method] for method, _ in lanes]
    trainer = student_trainer(model, protocol, teacher.model.apply, datasets[0], told and told[0])
    title = f"{student}, {kind}"
    mine = parallel.own(len(lanes), parallel.mesh())
    own = [datasets[lane] for lane in mine], [lanes[lane][1] for lane in mine]
    given = {"title": title, "labels": told and [told[lane] for lane in mine]}
    parts = side_by_side(trainer, protocol, *own, None if told else teacher.variables, **given) if len(mine) else ()
    scores, finished = np.full((len(makers), seeds), np.nan), set()
    for part in (*parts, None) if hosts.count() > 1 else parts:
        if part:
            found = accuracies(model.apply, part.variables, teacher.norm, teachers.test_batches(source))
            scores.flat[mine[part.lanes]] = found
        else:
            scores = np.nanmax(hosts.everywhere(scores), 0)
        for method, values in zip(makers, scores.tolist()):
            if method not in finished and not np.isnan(values).any():
                finished.add(method)
                cli.log(f"{title}, {method}: {report.cell(values)}")
                yield method, values


def flipped(protocol: Protocol, flip: bool) -> Protocol:
    """The protocol with mirrored images allowed or not."""
    return replace(protocol, train=teachers.with_flip(protocol.train, flip))


def full_accuracies(
    count: int,
    student: str,
    source: Source,
    teacher: teachers.Teacher,
    flip: bool,
    compute: str,
    full_train: TrainSettings,
) -> list[float]:
    """Of ``count`` students that saw all real images; the teacher is the first where it has their architecture."""
    model = nn.get(student, len(source.class_names), source.image_shape[0], dtype=teachers.dtype_of(compute))
    same = model is teacher.model

    def full(seed: int) -> str:
        variables, *_ = teachers.fit_full(source, model, teachers.with_flip(full_train, flip), teacher.norm, seed)
        return str(accuracy(model.apply, variables, teacher.norm, teachers.test_batches(source)))

    scores = [teacher.info["accuracy"]] if same else []
    return scores + [float(hosts.first(partial(full, seed))) for seed in range(len(scores), count)]


def compare(
    makers: dict[str, Maker],
    config: EvaluateConfig,
    students: tuple[str, ...],
    source: Source,
    teacher: teachers.Teacher,
    flip: bool,
    keep: Callable[[list[dict]], None],
    full_train: TrainSettings,
    stored: dict[str, Labels] | None = None,
) -> list[dict]:
    """Every method under every protocol with every student; ``keep`` is called with the rows so far.

    stored: labels of some methods, from which their students learn where a protocol has soft ones.
    """
    rows, name, ipc = [], teachers.short_name(source), next(iter(makers.values()))(0).ipc
    shared = (source, teacher, flip, config.compute)
    for student in students:
        for kind in config.protocols:
            protocol = config.protocol(kind)
            told = (stored or {}) if protocol.labels == "soft" else {}
            replayed = {method: maker for method, maker in makers.items() if method not in told}
            kept = {method: maker for method, maker in makers.items() if method in told}
            for some, labels in ((replayed, None), (kept, told)):
                for method, found in measured(some, config.seeds, student, kind, protocol, *shared, labels):
                    rows.append(row(method, name, ipc, student, kind, found))
                    keep(rows)
        if config.full:
            found = full_accuracies(config.full, student, *shared, full_train)
            rows.append(row("full", name, None, student, "hard", found))
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
    if not config.protocols:
        raise InputError(f"no --protocols to train students under; use {', '.join(PROTOCOLS)}")
    for kind in config.protocols:
        config.protocol(kind)
    loaded = [distilled.load(run) for run in config.runs]
    teacher = teachers.load_teacher(config.runs[0] / "teacher", config.compute)
    out = config.out or config.runs[0] / "evaluation.json"
    if not out.parent.is_dir():
        raise InputError(f"folder {out.parent} of --out does not exist; make it first")
    students = config.students or (teacher.info["model"],)
    for student in students:
        nn.get(student, len(teacher.info["class_names"]), teacher.info["image_shape"][0])
    for name in config.baselines:
        if methods.recipe(name).images not in ("real", "crops"):
            raise InputError(f"--baselines {name} makes pixels; distil it, and give its run folder")
    for run, dataset in zip(config.runs, loaded):
        if (dataset.ipc, dataset.class_names) != (loaded[0].ipc, loaded[0].class_names):
            raise InputError(f"{run} has other classes or images per class than {config.runs[0]}; evaluate it alone")
    names = [dataset.provenance["method"] for dataset in loaded]
    if len(set(names)) < len(names):
        names = [f"{name} ({run.name})" for name, run in zip(names, config.runs)]

    stored = {name: open_labels(run) for name, run in zip(names, config.runs)} if config.stored else None
    source, flip = open_real(config.runs[0], teacher)
    for protocol in map(config.protocol, config.protocols if stored else ()):
        for name, dataset in zip(names, loaded):
            if protocol.labels == "soft":
                check_fits(stored[name], dataset, flipped(protocol, flip))
    needed = [name for name in config.baselines if name not in names]
    classes = distill.encode_real(teacher, source) if needed else None
    makers = makers_for(dict(zip(names, loaded)), config.baselines, loaded[0].ipc, source, teacher, classes)
    keep = lambda rows: cli.write_json(out, rows) if hosts.is_first() else None
    # Other students see the real data under the settings that trained the teacher.
    full_train = teachers.settings_from(teacher.info["train"])
    rows = compare(makers, config, students, source, teacher, flip, keep, full_train, stored)
    if hosts.is_first():
        if config.out is None:
            run_page.write(config.runs[0], distill.default)
        print(report.table(rows))


if __name__ == "__main__":
    cli.run(main, lambda arguments: EvaluateConfig(), several=True)
