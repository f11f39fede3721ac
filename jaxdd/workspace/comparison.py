"""Compare distilled datasets with baselines: train students under the same protocols, test them on real images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import hosts, manifest, parallel, settings
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.progress import log
from jaxdd.methods import RECIPES, Recipe
from jaxdd.nn import Classifier
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.stored import Labels, check_fits, fingerprint, open_labels
from jaxdd.students.evaluation import Lane, accuracies, accuracy, labelled, side_by_side, student_trainer
from jaxdd.students.lanes import Limits, Trained
from jaxdd.students.protocol import Protocol
from jaxdd.students.rows import cell, row
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import committee, full_training, records, teachers
from jaxdd.workspace.distillation import make
from jaxdd.workspace.finished import Finished
from jaxdd.workspace.real_data import DataConfig, test_batches
from jaxdd.workspace.teachers import TeacherConfig
from jaxdd.workspace.workspace import Workspace, open_workspace

Maker = Callable[[int], DistilledDataset]  # seed -> dataset


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison, apart from the datasets.

    Attributes:
      workspace: real data and teacher.
      protocols: the protocols by name, as the rows call them.
      students: the architectures.
      seeds: the number of students per architecture, method and protocol.
      full: the number of students trained on all real images; the teacher counts as the first.
      full_train: their training settings; default: those of the teacher.
      stored: stored soft labels of some methods, used instead of the teacher.
      shorter: what makes the training of students shorter; default: fewer epochs of the protocol.
      width: the channels of the first block of all students; default: those of the teacher for its architecture, and of
        each model otherwise.
      scratch: for checkpoints and the accuracies of finished students, from which an interrupted comparison goes on.
      before: rows of earlier comparisons; what one of them has, of the same students, is not measured again.
    """

    workspace: Workspace
    protocols: dict[str, Protocol]
    students: tuple[str, ...]
    seeds: int = 3
    full: int = 1
    full_train: TrainSettings | None = None
    stored: dict[str, Labels] | None = None
    width: int | None = None
    scratch: Scratch = Scratch()
    shorter: str = ""
    before: tuple[dict, ...] = ()

    def hint(self, kind: str) -> str:
        """What makes the training of students by a protocol shorter."""
        return self.shorter or f"a lower `{kind.partition(':')[0]}.train.epochs`"

    def network(self, student: str) -> Classifier:
        """The network of an architecture for the images of the workspace: that of the teacher for the teacher's.

        Raises:
          InputError: an unknown architecture, or one that does not take these images.
        """
        config, source = self.workspace.config, self.workspace.real.source
        width, stem = (config.width, config.stem) if student == config.model else (None, "auto")
        if self.width is not None:
            width = self.width
        shape = len(source.class_names), source.image_shape[0]
        return nn.get(student, *shape, width, stem, teachers.dtype_of(config.compute))

    def label(self, student: str) -> str:
        """The name of an architecture in rows, with its width if that was chosen."""
        return student if self.width is None else f"{student} ({self.width})"


def compare(makers: dict[str, Maker], comparison: Comparison, keep: Callable[[list[dict]], None]) -> list[dict]:
    """Train and test every method under every protocol with every student, and return the rows.

    Args:
      keep: called with all rows so far whenever there is a new one.
    """
    real, ipc = comparison.workspace.real, next(iter(makers.values()))(0).ipc
    name, classes = real.name, len(real.class_names)
    rows: list[dict] = []

    def add(new: dict) -> None:
        rows.append(new | held_out(comparison.workspace))
        keep(rows)

    for student in comparison.students:
        label = comparison.label(student)
        for kind, protocol in comparison.protocols.items():
            labels = (comparison.stored or {}) if protocol.labels.asks_teacher else {}
            replayed = {method: maker for method, maker in makers.items() if method not in labels}
            stored = {method: maker for method, maker in makers.items() if method in labels}
            for some in (replayed, stored):
                for method, values, key in measured(some, comparison, student, kind, labels):
                    trained = length(protocol, ipc * classes)
                    add(row(method, name, ipc, label, kind, values) | trained | {"key": key})
        if comparison.full:
            values, key = _full(comparison, student)
            add(row("full", name, None, label, "hard", values) | {"key": key})
    return rows


def length(protocol: Protocol, images: int) -> dict[str, int]:
    """How long students of a protocol are trained on so many images, for their rows."""
    training = protocol.train
    return {"epochs": training.epochs, "steps": training.steps(images), "batch_size": training.batch(images)}


def held_out(workspace: Workspace) -> dict[str, float]:
    """What rows say of the images on which students are tested, if these are no test images."""
    share = workspace.config.holdout
    return {"holdout": share} if share else {}


def compare_sets(
    datasets: dict[str, DistilledDataset],
    baselines: tuple[str, ...],
    comparison: Comparison,
    keep: Callable[[list[dict]], None],
) -> list[dict]:
    """Compare distilled datasets with baselines of their numbers of images per class, one number after the other.

    Args:
      baselines: names of recipes.
      keep: as of `compare`, with the rows of all numbers.
    """
    rows: list[dict] = []
    groups = by_size(datasets)

    def keep_all(new: list[dict]) -> None:
        keep([*rows, *new])

    for ipc, some in groups.items():
        # Students of all real images have no number of images per class; they are trained with the last.
        part = comparison if ipc == max(groups) else replace(comparison, full=0)
        makers = makers_for(some, baselines, ipc, comparison.workspace)
        rows += compare(makers, part, keep_all)
    return rows


def by_size(datasets: dict[str, DistilledDataset]) -> dict[int, dict[str, DistilledDataset]]:
    """Datasets by their numbers of images per class, ascending."""
    sizes = sorted({dataset.ipc for dataset in datasets.values()})
    return {ipc: {name: one for name, one in datasets.items() if one.ipc == ipc} for ipc in sizes}


def measured(
    makers: dict[str, Maker],
    comparison: Comparison,
    student: str,
    kind: str,
    labels: dict[str, Labels] | None = None,
) -> Iterator[tuple[str, list[float], str]]:
    """Yield each method with the accuracies of its students and their key, as soon as all its seeds are finished.

    The students of all methods and seeds are trained in parallel, and distributed over the processes of a run.

    Args:
      kind: the name of a protocol of the comparison.
      labels: stored labels of the methods, used instead of the teacher.
    """
    if not makers:
        return
    workspace, model, seeds = comparison.workspace, comparison.network(student), comparison.seeds
    teacher, protocol = workspace.labeller, with_flip(comparison.protocols[kind], workspace.real.flip)
    names = [method for method in makers for _ in range(seeds)]
    stored = {method: (labels or {}).get(method) for method in makers}
    lanes = [
        labelled(Lane(makers[method](seed), seed, stored[method], f"{method}, seed {seed}"), protocol, teacher)
        for method in makers
        for seed in range(seeds)
    ]
    title = f"{comparison.label(student)}, {kind}"
    fields = teachers.fields_of(workspace.config)
    machine = teachers.machine(workspace.config)
    known = Finished(comparison.scratch, title, fields, protocol, fingerprint(teacher.variables), machine)
    keys = [known.key(lane) for lane in lanes]
    parts = [keys[first : first + seeds] for first in range(0, len(keys), seeds)]
    rows = {method: known.of_rows(comparison.before, part) for method, part in zip(makers, parts)}
    scores, finished = np.array([known.known.get(key, np.nan) for key in keys]).reshape(-1, seeds), set()
    missing = np.flatnonzero(np.isnan(scores))
    mine = missing[parallel.local_classes(len(missing), parallel.mesh())]
    remedy = f"use a lower `{kind.partition(':')[0]}.train.learning_rate`"
    limits = Limits(title=title, remedy=remedy, shorter=comparison.hint(kind), scratch=comparison.scratch)
    trained = _trained([lanes[s] for s in mine], model, protocol, teacher, limits) if len(mine) else ()
    for part in chain(trained, [None]) if hosts.count() > 1 else chain([None], trained):
        if part:
            at = mine[part.lanes]
            scores.flat[at] = accuracies(model.apply, part.variables, teacher.norm, test_batches(workspace.real.source))
            for s in at:
                known.add(keys[s], float(scores.flat[s]))
        elif hosts.count() > 1:
            scores = np.nanmax(hosts.everywhere(scores), 0)
        for method, values in zip(dict.fromkeys(names), scores.tolist()):
            if method not in finished and not np.isnan(values).any():
                finished.add(method)
                log(f"{title}, {method}: {cell(values)}")
                yield method, values, rows[method]


def _trained(
    lanes: list[Lane], model: Classifier, protocol: Protocol, teacher: Teacher, limits: Limits
) -> Iterator[Trained]:
    """Train students in parallel, some at a time; none has stored labels, or all have."""
    trainer = student_trainer(model, protocol, protocol.labels.answering(teacher), lanes[0].dataset, lanes[0].labels)
    context = None if lanes[0].labels else teacher.variables
    return side_by_side(trainer, protocol, lanes, context, limits)


def with_flip(protocol: Protocol, flip: bool) -> Protocol:
    """The protocol, with mirrored images only if the data allow them."""
    return replace(protocol, train=teachers.with_flip(protocol.train, flip))


def full_accuracies(comparison: Comparison, student: str) -> list[float]:
    """The accuracies of students trained on all real images; the teacher is the first if it has their architecture."""
    return _full(comparison, student)[0]


def _full(comparison: Comparison, student: str) -> tuple[list[float], str]:
    """`full_accuracies`, and the key of their row."""
    workspace, model = comparison.workspace, comparison.network(student)
    teacher, real = workspace.teacher, workspace.real
    training = teachers.with_flip(comparison.full_train or teachers.training_of(teacher), real.flip)

    trainer = full_training.trainer(real, model, training)

    fields, machine = teachers.fields_of(workspace.config), teachers.machine(workspace.config)
    known = Finished(comparison.scratch, comparison.label(student), fields, training, machine)
    scores = [teacher.info["accuracy"]] if model.apply is teacher.apply else []
    keys = [f"{known.common}, full, seed {seed}" for seed in range(comparison.full)]
    together = known.of_rows(comparison.before, [*map(str, scores), *keys[len(scores) :]])

    def full(seed: int) -> str:
        key = keys[seed]
        if key not in known.known:
            title = f"{student}, full, seed {seed}"
            followed = full_training.Followed(title, comparison.scratch)
            variables, _ = full_training.fit(real, model, trainer, training, seed, followed)
            known.add(key, accuracy(model.apply, variables, teacher.norm, test_batches(real.source)))
        return repr(known.known[key])

    more = [float(str(hosts.first(partial(full, seed)))) for seed in range(len(scores), comparison.full)]
    return scores + more, together


def shared(recipe: Recipe, made: Callable[[int], DistilledDataset], recoveries: int = 1) -> Maker:
    """What a recipe makes for each student: random real images are drawn again, others are ``recoveries`` in turn."""
    cached = cache(made)
    return lambda seed: cached(seed if recipe.is_redrawn else seed % recoveries)


def makers_for(
    datasets: dict[str, DistilledDataset], baselines: tuple[str, ...], ipc: int, workspace: Workspace
) -> dict[str, Maker]:
    """The baselines, then the distilled datasets, each as a function of the seed."""

    def baseline(name: str) -> Maker:
        recipe = RECIPES.find(name)
        return shared(recipe, lambda seed: make(name, recipe, ipc, seed, workspace)[0])

    def finished(dataset: DistilledDataset) -> Maker:
        return lambda seed: dataset

    makers = {name: baseline(name) for name in baselines if name not in datasets}
    return makers | {name: finished(dataset) for name, dataset in datasets.items()}


def stored_labels(
    runs: dict[str, Path], datasets: dict[str, DistilledDataset], protocols: dict[str, Protocol], flip: bool
) -> dict[str, Labels]:
    """The labels stored in run folders, by the names of their datasets.

    Raises:
      InputError: a folder has no labels, or they do not fit every protocol that uses a teacher.
    """
    labels = {name: open_labels(run) for name, run in runs.items()}
    for protocol in protocols.values():
        for name, dataset in datasets.items() if protocol.labels.asks_teacher else ():
            check_fits(labels[name], dataset, with_flip(protocol, flip).stream(len(dataset.labels)))
    return labels


def workspace_of(run: Path, compute: str = "auto") -> Workspace:
    """The workspace of a run folder: the real images that it was distilled from, and the teacher in the folder.

    Raises:
      InputError: no run folder, or settings that are damaged or unknown to this version.
    """
    saved = records.run(run)
    manifest.verify(run, "teacher", content=False)
    members = sorted((run / committee.FOLDER).glob("*"), key=lambda place: place.name)
    names = ("dataset", "data_dir", "flip", "memory_gib", "image_size", "channels", "holdout", "skip_corrupt")
    data = {name: saved[name] for name in names if name in saved}
    config = settings.changed(DataConfig(), {k: v for k, v in data.items() if v is not None}, str(run / "config.json"))
    shared = {name: getattr(config, name) for name in names}
    config = TeacherConfig(**shared, compute=compute, committee=tuple(map(str, members)))
    return open_workspace(config, run.parent, run / "teacher")
