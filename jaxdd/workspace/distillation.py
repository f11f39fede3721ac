"""Run a method in a workspace and save it in a run folder; an interrupted run is resumed."""

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np

from jaxdd import data, methods
from jaxdd.data import Source, distilled
from jaxdd.data.checks import printable
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import hosts, manifest, parallel, settings, version
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.files import atomic, remove_at_once, write_json, write_text
from jaxdd.ground.progress import log
from jaxdd.ground.reading import read_json
from jaxdd.methods import RECIPES, Recipe, Result
from jaxdd.stages.context import OnSnapshot
from jaxdd.students.evaluation import recognised
from jaxdd.workspace import beside, committee, runs, teachers
from jaxdd.workspace.latent_models import LatentConfig
from jaxdd.workspace.runs import PARTS
from jaxdd.workspace.teachers import TeacherConfig
from jaxdd.workspace.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class DistillConfig(TeacherConfig):
    """A method, its data and its models."""

    method: str = "wmdd"
    """wmdd, wmdd-plus, ce-class, wmdd-global, ce-global, mmd, dm, sre2l, ddoq, d4m, rded, medoid, random, herding,
    kcenter, or package.module:NAME of your own recipe; determines the defaults of the flags below."""
    ipc: int = settings.bounded(1, settings.IPC)
    """Images per class."""
    out: Path = Path("runs/distilled")
    """The run folder: new, empty, or with an unfinished run of the same request, which is then resumed."""
    teacher: Path | None = None
    """Folder of a teacher from jaxdd train; default: found beside the output, or trained."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    recipe: Recipe = field(default_factory=Recipe)


def config_of(method: str, **changes: Any) -> DistillConfig:
    """The config of a named method, with ``changes`` to its fields."""
    return dataclasses.replace(DistillConfig(method=method, recipe=RECIPES.find(method)), **changes)


def record(config: DistillConfig) -> dict:
    """A config as plain values for JSON; how a program watches the run is no part of it."""
    plain = DistillConfig(**{item.name: getattr(config, item.name) for item in dataclasses.fields(DistillConfig)})
    return {"config": DistillConfig.__name__, **settings.record(plain)}


def distill(
    config: DistillConfig, source: Source | None = None, on_snapshot: OnSnapshot | None = None
) -> DistilledDataset | None:
    """Distil into ``config.out``; the models that it needs are found in the parent folder, or trained and kept there.

    An interrupted run of the same request is resumed, and a finished one is read. In a run of several processes all
    must call this function; the first returns the dataset, the others None.

    Args:
      source: images in memory, used instead of those that ``config.dataset`` names.
      on_snapshot: called with a `Snapshot` of the images while they are optimised, see `Context`.

    Raises:
      InputError: unknown or conflicting settings, or a folder that holds something else, or in which another process
        works. No half-written files remain.
    """
    if source is not None:
        config = dataclasses.replace(config, dataset=data.checked(source, needs_test=False).name)
    workspace = open_workspace(config, config.out.parent, config.teacher, config.latent, source)
    return distill_in(workspace, config, on_snapshot)


def distill_in(
    workspace: Workspace, config: DistillConfig, on_snapshot: OnSnapshot | None = None
) -> DistilledDataset | None:
    """`distill` in an open workspace; a finished run of the same request is read instead of made again."""
    with runs.run_folder(config.out, request(config, workspace.real.content)):
        if runs.is_finished(config.out):
            manifest.verify(config.out, content=False)
            log(f"{config.out} is finished already")
            return distilled.load(config.out) if hosts.is_first() else None
        methods.check(config.recipe, workspace.problem(config.method, config.ipc))
        # A teacher from a folder determines the architecture, and the size and normalisation of the images.
        return fill(dataclasses.replace(config, **teachers.fields_of(workspace.config)), workspace, on_snapshot)


def is_done(workspace: Workspace, config: DistillConfig) -> bool:
    """Whether `distill_in` would find the run finished.

    Raises:
      InputError: `distill_in` would refuse it; but a run of other settings in the folder is only told in a line.
    """
    if runs.is_done(config.out, request(config, workspace.real.content)):
        return True
    methods.check(config.recipe, workspace.problem(config.method, config.ipc))
    return False


def request(config: DistillConfig, content: str = "") -> dict:
    """Everything that determines the bytes of a class; finished classes are reused only if all of it is equal.

    Args:
      content: that of images in memory, see `RealData`.
    """
    parts = record(config)
    del parts["memory_gib"]
    parts = runs.without_place(parts)
    if content:
        parts["images"] = content
    info = config.teacher / "teacher.json" if config.teacher else None
    return parts | teachers.machine(config) | {"given teacher": read_json(info) if info and info.is_file() else None}


def fill(config: DistillConfig, workspace: Workspace, on_snapshot: OnSnapshot | None = None) -> DistilledDataset | None:
    """Distil into an open run folder; in a run of several processes all but the first return None."""
    parts = config.out / PARTS
    method, recipe, ipc, seed = config.method, config.recipe, config.ipc, config.seed
    dataset_and_result = make(method, recipe, ipc, seed, workspace, parts, on_snapshot)
    if dataset_and_result is None:
        return None
    dataset, result = dataset_and_result
    for name in RESULTS:
        # An earlier attempt may have been interrupted while it wrote these.
        remove_at_once(config.out / name)
    if skipped := workspace.real.source.skipped:
        write_text(config.out / "skipped.txt", "".join(f"{damage.line}\n" for damage in skipped))
    if workspace.config.holdout:
        write_text(config.out / HELD_OUT, "".join(f"{name}\n" for name in _held_out(workspace.real.source)))
    if hosts.count() == 1:  # otherwise no process has seen the images of all classes
        images = beside.beside(workspace, recipe.summarizer.space, dataset, seed)
        beside.save(config.out / beside.FILE, images)
    save_run(config, workspace, dataset, result)
    runs.finish(config.out, RESULTS)
    return dataset


HELD_OUT = "heldout.txt"
"""The file of a run folder with the names of the train images that were set aside."""
_RECORDS = ("config.json", "metrics.jsonl", "skipped.txt", HELD_OUT)
RESULTS = (*_RECORDS, "teacher", committee.FOLDER, "atoms.npz", beside.FILE, "distilled")
"""What `fill` writes."""


def _held_out(source: Source) -> list[str]:
    """The names of the images that were set aside, one for a line each."""
    return [printable(str(name)) for name in data.names_of(source, "test", np.arange(len(source.labels["test"])))]


@overload
def make(
    method: str,
    recipe: Recipe,
    ipc: int,
    seed: int,
    workspace: Workspace,
    parts: None = None,
    on_snapshot: OnSnapshot | None = None,
) -> tuple[DistilledDataset, Result]: ...


@overload
def make(
    method: str,
    recipe: Recipe,
    ipc: int,
    seed: int,
    workspace: Workspace,
    parts: Path,
    on_snapshot: OnSnapshot | None = None,
) -> tuple[DistilledDataset, Result] | None: ...


def make(
    method: str,
    recipe: Recipe,
    ipc: int,
    seed: int,
    workspace: Workspace,
    parts: Path | None = None,
    on_snapshot: OnSnapshot | None = None,
) -> tuple[DistilledDataset, Result] | None:
    """Run a recipe and return the dataset, with its provenance, and the result.

    Args:
      parts: a folder for finished classes. Classes that an earlier attempt or another process put there are reused. In
        a run of several processes each makes its own classes; the first returns all of them, the others None.
      on_snapshot: see `Context`.
    """
    started = time.perf_counter()
    count = len(workspace.real.class_names)
    mesh = parallel.mesh() if parts else None
    context = workspace.context(recipe, mesh, ipc)._replace(on_snapshot=on_snapshot)
    process = jax.process_index() if hosts.count() > 1 else 0
    if parts is None:
        result = methods.joined(methods.distill_parts(_key(seed), recipe, ipc, context))
    else:
        together = recipe.imager.group_size(count, ipc)
        classes = runs.missing_classes(parts, parallel.local_classes(count, parallel.mesh(), together), together)
        context = context._replace(subset=classes, scratch=Scratch(parts / "unfinished", f"process {process}"))
        pending = methods.distill_parts(_key(seed), recipe, ipc, context)
        for part in pending if len(classes) else ():
            runs.keep_classes(parts, part)
        hosts.meet()
        if not hosts.is_first():
            return None
        result = methods.joined(runs.kept_class(parts, c) for c in range(count))
    dataset = _dataset(method, recipe, seed, workspace, result)
    teacher, seconds = workspace.teacher, time.perf_counter() - started
    share = recognised(teacher.apply, teacher.variables, dataset)
    dataset.provenance["recognised"] = share
    images = len(dataset.labels)
    log(f"{method}: {images} images in {seconds:.0f} s; the teacher recognises {100 * share:.1f} % of them")
    return dataset, result


def _key(seed: int) -> jax.Array:
    # Students and teachers use the folds 0 and 1 of a seed.
    return jax.random.fold_in(jax.random.key(seed), 2)


def _dataset(method: str, recipe: Recipe, seed: int, workspace: Workspace, result: Result) -> DistilledDataset:
    """A result as a dataset, with labels, class names and provenance."""
    teacher, real = workspace.teacher, workspace.real
    count, ipc = result.atoms.weights.shape
    provenance = {
        "method": method,
        "dataset": real.name,
        "ipc": ipc,
        "seed": seed,
        "flip": real.flip,
        "recipe": settings.record(recipe),
        "teacher": {name: teacher.info[name] for name in ("model", "width", "stem", "accuracy", "holdout", "seed")},
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxdd": version.describe(),
    }
    if real.source.skipped:
        provenance["skipped"] = len(real.source.skipped)
    if recipe.needs:
        provenance["latents"] = workspace.latent_model("denoiser" in recipe.needs)[1]
    return DistilledDataset(
        images=result.images.reshape(-1, *result.images.shape[2:]),
        labels=np.repeat(np.arange(count, dtype=np.int32), ipc),
        weights=np.asarray(result.atoms.weights, np.float32).reshape(-1),
        class_names=real.class_names,
        norm=teacher.norm,
        provenance=provenance,
    )


def save_run(config: DistillConfig, workspace: Workspace, dataset: DistilledDataset, result: Result) -> None:
    """Write the config, the teachers, the atoms, the loss curve and the images into a run folder."""
    out = config.out
    write_json(out / "config.json", record(config))
    _copy(workspace.teacher_folder, out / "teacher")
    for k, (_, folder) in enumerate(workspace.members):
        (out / committee.FOLDER).mkdir(exist_ok=True)
        _copy(folder, out / committee.FOLDER / f"{k:03d}")
    # Pass an open file: np.savez would append .npz to a name.
    with atomic(out / "atoms.npz") as place, open(place, "wb") as file:
        np.savez(file, points=result.atoms.points, weights=result.atoms.weights, costs=result.costs)
    lines = []
    for i, values in enumerate(zip(*result.curve.values())):
        if i % 10 == 0 or i == len(next(iter(result.curve.values()))) - 1:
            means = {name: round(float(value.mean()), 6) for name, value in zip(result.curve, values)}
            lines.append(json.dumps({"step": i, **means}))
    if lines:
        write_text(out / "metrics.jsonl", "\n".join(lines) + "\n")
    distilled.save(dataset, out / "distilled")


def _copy(folder: Path, place: Path) -> None:
    with atomic(place) as partial:
        # Another process may look for the same teacher just now, and hold its lock.
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(".*"))
