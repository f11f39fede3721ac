"""Run the missing cells of a grid of methods, sizes, students and protocols, and keep the finished ones."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdd import methods, nn
from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import settings
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import remove_at_once, sweep, write_json
from jaxdd.ground.locks import LOCK, locked
from jaxdd.ground.progress import log
from jaxdd.ground.reading import read_text
from jaxdd.students.evaluation import accuracy
from jaxdd.students.protocol import Protocol
from jaxdd.students.rows import read, row
from jaxdd.workspace import latent_models, runs, teachers
from jaxdd.workspace.comparison import Comparison, Maker, full_accuracies, held_out, length, measured, shared
from jaxdd.workspace.distillation import DistillConfig, fill
from jaxdd.workspace.grid_file import BASELINE, Entry, Grid, GridConfig
from jaxdd.workspace.real_data import test_batches
from jaxdd.workspace.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class Work:
    """An opened grid with its workspace. The data are encoded only if a missing method needs them."""

    grid: Grid
    config: GridConfig
    workspace: Workspace
    entries: tuple[Entry, ...]

    @property
    def scratch(self) -> Scratch:
        """Where unfinished students are kept."""
        return Scratch(self.config.out / runs.PARTS)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """A context manager that locks the folder against other processes that make tables.

    Raises:
      InputError: another process holds the lock, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; give another `out`") from None
    with locked(out / LOCK, f"the folder of tables {out}"):
        sweep(out, alone=True)
        yield


def opened(grid: Grid, config: GridConfig) -> Work:
    """Open the data and the teacher of a grid; the settings are checked before anything is trained.

    Raises:
      InputError: unknown or conflicting settings.
    """
    names = [entry.name for entry in grid.entries]
    for name in config.only:
        if name not in names:
            raise InputError(f"`only` {name!r} is none of {', '.join(names)}")
    entries = tuple(entry for entry in grid.entries if not config.only or entry.name in config.only)
    _check(grid, config, [entry.name for entry in entries])
    workspace = open_workspace(config, config.out, config.teacher, config.latent)
    for student in config.students:
        Comparison(workspace, {}, ()).network(student)
    for entry in entries:
        for ipc in (min(config.ipc), max(config.ipc)):
            methods.check(entry.recipe, workspace.problem(entry.method, ipc))
    if config.latent.place is None and any(entry.recipe.needs for entry in entries):
        latent_models.check(config.latent, workspace.real)
    config = replace(config, students=config.students or (workspace.config.model,))
    return Work(grid, config, workspace, entries)


def _check(grid: Grid, config: GridConfig, names: list[str]) -> None:
    """Raise InputError for settings of a grid that are out of range or conflict."""
    for name in ("ipc", "protocols"):
        if not getattr(config, name):
            raise InputError(f"`{name}` is empty; give one or more")
    if config.epochs and (len(config.epochs) != len(config.ipc) or min(config.epochs) < 1):
        raise InputError(
            f"`epochs` {config.epochs} does not fit `ipc` {config.ipc}; give one positive number for each, or none"
        )
    if config.seeds < 1 or config.full < 0:
        raise InputError(
            f"`seeds` {config.seeds} or `full` {config.full} is out of range; use 1 or more seeds and 0 or more of full"
        )
    if config.recoveries < 1 or config.seeds % config.recoveries:
        raise InputError(
            f"`seeds` {config.seeds} is no multiple of `recoveries` {config.recoveries}; use an equal number of "
            "students for each"
        )
    for kind in config.protocols:
        config.protocol(kind)
    if grid.scores:
        needed = {"hard", grid.scores, f"{grid.scores}:plain"}
        if not needed <= set(config.protocols) or BASELINE not in names or not config.full:
            raise InputError(f"scores of {grid.scores!r} need the protocols {', '.join(sorted(needed))}, the method "
                             f"{BASELINE} and `full` 1; add what is missing")  # fmt: skip


def _known(place: Path) -> dict[str, dict]:
    """The rows in a file by their keys; none if there is no file."""
    return {str(one.get("key")): one for one in read(place)} if place.exists() else {}


class _Rows:
    """The rows of a table in its order, and all rows that were measured in its folder, by key."""

    def __init__(self, place: Path, keep: Callable[[list[dict]], None]):
        self.place, self.keep = place, keep
        self.known = _known(place)
        self.order: list[tuple[str, str, str]] = []  # method, protocol, key

    def add(self, row: dict) -> None:
        """Save a new row, and pass all rows so far to ``keep``."""
        self.known[row["key"]] = row
        write_json(self.place, list(self.known.values()))
        self.keep(self.table())

    def table(self) -> list[dict]:
        """The rows that exist so far, with the names that they have in this table."""
        measured = [one for one in self.order if one[-1] in self.known]
        return [self.known[key] | {"method": method, "labels": kind} for method, kind, key in measured]


def run(work: Work, keep: Callable[[list[dict]], None]) -> list[dict]:
    """Measure the missing rows of a grid and return all of them.

    A row of ``rows.json`` is reused, whichever table it was made for, if all settings that determine it are equal.
    Changes to the code are not detected: after changing a method, remove its runs and the file, or use another ``out``.

    Args:
      keep: called with all rows so far whenever there is a new one.
    """
    config = work.config
    rows = _Rows(config.out / "rows.json", keep)
    if config.full:
        for student in config.students:
            _full(work, rows, student)
    for bits in work.grid.teacher_bits:
        _rounded(work, rows, bits)
    for ipc, protocols in _sizes(config):
        makers = {entry.name: _maker(work, entry, ipc) for entry in work.entries}
        for student in config.students:
            for kind, protocol in protocols.items():
                _cell(work, rows, makers, ipc, student, kind, protocol)
    remove_at_once(config.out / runs.PARTS)
    return rows.table()


class Left(NamedTuple):
    """What is missing of a table at one size.

    Attributes:
      ipc: images per class.
      entries: the methods to distil, each as often as it is to make its images.
      comparison: of the students.
      methods: (student, protocol) -> the number of methods whose students are to be trained.
    """

    ipc: int
    entries: tuple[Entry, ...]
    comparison: Comparison
    methods: dict[tuple[str, str], int]


def left(work: Work, is_new: bool) -> list[Left]:
    """What `run` would have to do, at each size.

    Args:
      is_new: whether there is no teacher yet, so that nothing can have been done.
    """
    config, sizes = work.config, []
    known = {} if is_new else _known(config.out / "rows.json")
    for ipc, protocols in _sizes(config):
        missing = {}
        for student in config.students:
            for kind, protocol in protocols.items():
                keys = {entry.name: repr(entry.recipe) for entry in work.entries}
                if not is_new:
                    keys = _keys(work, ipc, student, protocol)
                missing[student, kind] = {key: name for name, key in keys.items() if key not in known}
        names = {name for methods in missing.values() for name in methods.values()}
        entries = tuple(
            entry for entry in work.entries for seed in range(config.recoveries)
            if entry.name in names and (is_new or not runs.is_finished(folder(work, entry, ipc, seed)))
        )  # fmt: skip
        counts = {cell: len(methods) for cell, methods in missing.items()}
        comparison = Comparison(
            work.workspace, protocols, config.students, config.seeds, config.full, shorter=_shorter(work)
        )
        sizes.append(Left(ipc, entries, comparison, counts))
    return sizes


def full_left(work: Work, is_new: bool) -> tuple[str, ...]:
    """The students whose row of all real images is missing; ``is_new`` as for `left`."""
    config = work.config
    if not config.full or is_new:
        return config.students if config.full else ()
    known = _known(config.out / "rows.json")
    count = lambda student: len(known.get(_full_key(work, student), {"accuracies": []})["accuracies"])
    return tuple(student for student in config.students if count(student) < config.full)


def _sizes(config: GridConfig) -> Iterator[tuple[int, dict[str, Protocol]]]:
    """The numbers of images per class, with the protocols that students are trained by at each."""
    for ipc, epochs in zip(config.ipc, config.epochs or [None] * len(config.ipc)):
        sized = config.lasting(epochs) if epochs else config
        yield ipc, {kind: sized.protocol(kind) for kind in config.protocols}


def _full_key(work: Work, student: str) -> str:
    return _key(work, *_network(work, student), "full")


def _keys(work: Work, ipc: int, student: str, protocol: Protocol) -> dict[str, str]:
    """The keys of the rows of all methods."""
    network = _network(work, student)
    return {
        entry.name: _key(work, *network, protocol, *_counts(work, entry), *_made_by(work, entry, ipc))
        for entry in work.entries
    }


def _counts(work: Work, entry: Entry) -> tuple[int, ...]:
    """The number of students of a row, and how often their images are made, if not once or for each."""
    seeds, recoveries = work.config.seeds, work.config.recoveries
    return (seeds,) if recoveries == 1 or entry.recipe.is_redrawn else (seeds, recoveries)


def _full(work: Work, rows: _Rows, student: str) -> None:
    """The row of the students trained on all real images."""
    config, key = work.config, _full_key(work, student)
    rows.order.append(("full", "hard", key))
    if len(rows.known.get(key, {"accuracies": []})["accuracies"]) < config.full:
        comparison = Comparison(work.workspace, {}, (student,), full=config.full, scratch=work.scratch)
        values = full_accuracies(comparison, student)
        rows.add(row("full", work.workspace.real.name, None, student, "hard", values, key=key))


def _rounded(work: Work, rows: _Rows, bits: int) -> None:
    """The row of the teacher with weights of a few bits: who has it needs neither images nor labels."""
    key = _key(work, "rounded", bits)
    rows.order.append(("teacher", f"{bits} bits", key))
    if key not in rows.known:
        teacher, real = work.workspace.teacher, work.workspace.real
        variables, size = nn.quantized(teacher.variables, bits)
        value = accuracy(teacher.apply, variables, teacher.norm, test_batches(real.source))
        more = {"bits": bits, "label_bytes": -(-size // len(real.class_names)), **held_out(work.workspace)}
        rows.add(row("teacher", real.name, None, work.workspace.config.model, f"{bits} bits", [value], key=key, **more))


def _cell(
    work: Work, rows: _Rows, makers: dict[str, Maker], ipc: int, student: str, kind: str, protocol: Protocol
) -> None:
    """The rows of all methods at one size, with one student under one protocol."""
    keys = _keys(work, ipc, student, protocol)
    rows.order += [(method, kind, key) for method, key in keys.items()]
    # Two entries may be the same method, for example if a sweep includes the default value.
    missing = {key: method for method, key in keys.items() if key not in rows.known}
    comparison = Comparison(
        work.workspace, {kind: protocol}, (student,), work.config.seeds, scratch=work.scratch, shorter=_shorter(work)
    )
    wanted = {method: makers[method] for method in missing.values()}
    classes = len(work.workspace.real.class_names)
    trained = length(protocol, ipc * classes) | {"label_bytes": protocol.label_bytes(ipc, classes)}
    several = {entry.name: len(_counts(work, entry)) > 1 for entry in work.entries}
    for method, values, _ in measured(wanted, comparison, student, kind):
        more = {"key": keys[method], **trained, **held_out(work.workspace)}
        if several[method]:
            more["recoveries"] = work.config.recoveries
        rows.add(row(method, work.workspace.real.name, ipc, student, kind, values, **more))


def datasets(work: Work, ipc: int) -> Iterator[tuple[Entry, DistilledDataset]]:
    """The existing dataset of each method, except those of a sweep. It is missing if only the rows were kept."""
    for entry in work.entries:
        place = folder(work, entry, ipc)
        if entry.swept is None and runs.is_finished(place):
            yield entry, distilled.load(place)


def folder(work: Work, entry: Entry, ipc: int, seed: int = 0) -> Path:
    """The run folder of a method at a size, whichever entry name it was made under."""
    root, key = work.config.out / "runs", _key(work, seed, *_made_by(work, entry, ipc))[:8]
    name = entry.method.replace(":", "-")
    return next(root.glob(f"*-ipc{ipc}-{key}"), root / f"{name}-ipc{ipc}-{key}")


def _maker(work: Work, entry: Entry, ipc: int) -> Maker:
    """A function from a seed to the dataset of a method, which is distilled if it does not exist yet."""

    def made(seed: int) -> DistilledDataset:
        place = folder(work, entry, ipc, seed)
        if not runs.is_finished(place):
            _distil(work, entry, ipc, seed, place)
        return distilled.load(place)

    return shared(entry.recipe, made, work.config.recoveries)


def _distil(work: Work, entry: Entry, ipc: int, seed: int, place: Path) -> None:
    """Distil a method into the run folder ``place``."""
    workspace = work.workspace
    same = teachers.fields_of(workspace.config)
    stages = {"recipe": entry.recipe, "latent": work.config.latent, "teacher": workspace.teacher_folder}
    config = DistillConfig(**same | stages | {"seed": seed}, method=entry.method, ipc=ipc, out=place)
    # The name of the folder identifies the method, but an unfinished run may come from another machine or precision.
    request = teachers.machine(config)
    if changes := runs.begun_with(place, request):
        log(f"{place} is begun anew, as what it holds is of other settings: {changes}")
        remove_at_once(place)
    with runs.run_folder(place, request):
        if not runs.is_finished(place):
            fill(config, workspace)


def _shorter(work: Work) -> str:
    return "a lower `epochs`" if work.config.epochs else ""


def _made_by(work: Work, entry: Entry, ipc: int) -> tuple:
    """Everything that determines a distilled dataset, besides the data and the teacher."""
    if not entry.recipe.needs:
        return entry.recipe, ipc
    latent = work.config.latent
    prompts = read_text(latent.prompts) if latent.prompts and latent.prompts.is_file() else None
    return entry.recipe, ipc, replace(latent, prompts=None), prompts, work.config.seed if latent.place is None else None


def _network(work: Work, student: str) -> tuple:
    """What determines the network of a student: its name, with width and stem if they are not those of the name."""
    source, config = work.workspace.real.source, work.workspace.config
    shape = len(source.class_names), source.image_shape[0]
    plain = nn.get(student, *shape, dtype=teachers.dtype_of(config.compute))
    same = Comparison(work.workspace, {}, ()).network(student) == plain
    return (student,) if same else (student, config.width, config.stem)


def _key(work: Work, *what: Any) -> str:
    """A digest of everything that determines a result."""
    real, info = work.workspace.real, work.workspace.teacher.info
    teacher = {name: value for name, value in info.items() if name not in ("dataset", "seconds", "jax")}
    data = [real.name, real.source.image_shape, real.flip, len(real.source.labels["train"])]
    plain = [settings.record(part) for part in what]
    members = [dict(member.info) for member, _ in work.workspace.members]
    parts = [teacher, data, teachers.dtype_of(work.config.compute), plain, *members]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
