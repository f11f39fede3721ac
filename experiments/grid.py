"""Runs what is missing of a grid of methods, sizes, students and protocols, and keeps what is done."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments import cli, distill, evaluate, latents, teachers
from experiments.gridfile import Entry, Grid, GridConfig
from jaxdd import methods, nn
from jaxdd.data import Source, distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.methods import Recipe
from jaxdd.students.evaluation import row
from jaxdd.students.protocol import Protocol


@dataclass(frozen=True)
class Work:
    """An opened grid: the data, the teacher, and what is encoded only if a method that is missing asks for it."""

    grid: Grid
    config: GridConfig
    source: Source
    flip: bool
    teacher: teachers.Teacher
    place: Path  # of the teacher
    entries: tuple[Entry, ...]

    @cached_property
    def features(self) -> distill.Real:
        return distill.Real(distill.encode_real(self.teacher, self.source))

    @cached_property
    def latents(self) -> distill.Real:
        cache, wanted = self.config.out / "latents", any(entry.recipe.images == "diffusion" for entry in self.entries)
        return distill.encode_latents(
            self.teacher, self.config.latent, self.config, self.source, self.flip, cache, wanted
        )

    def real(self, recipe: Recipe) -> distill.Real:
        return self.latents if recipe.space == "latents" else self.features


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else makes a table in this folder meanwhile.

    Raises:
      InputError: somebody does, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / "lock", "w")  # noqa: SIM115  held while the table is made
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; give another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another table is being made in {out}; wait for it, or give another --out") from None
        yield


def opened(grid: Grid, config: GridConfig) -> Work:
    """The data and the teacher of a grid, found or trained; bad settings are found before anything is."""
    given = teachers.load_teacher(config.teacher, config.compute) if config.teacher else None
    if given:
        config = replace(config, **teachers.data_like(given, config))
    names = [entry.name for entry in grid.entries]
    for name in config.only:
        if name not in names:
            raise InputError(f"--only {name!r} is none of {', '.join(names)}")
    entries = tuple(entry for entry in grid.entries if not config.only or entry.name in config.only)
    _check(grid, config, [entry.name for entry in entries])
    source, norm, flip = teachers.open_data(config)
    for student in config.students:
        nn.get(student, len(source.class_names), source.image_shape[0])
    for entry in entries:
        for ipc in (min(config.ipc), max(config.ipc)):
            methods.check(entry.method, ipc, entry.recipe, source.labels["train"], source.class_names)
    if config.latent.place is None and any(entry.recipe.space == "latents" for entry in entries):
        latents.check(config.latent, source)
    if given:
        teachers.check_fits(given, source, config.teacher)
        teacher, place = given, config.teacher
    else:
        teacher, place = teachers.find_or_train(config, source, norm, flip, config.out / "teachers")
    config = replace(config, students=config.students or (teacher.info["model"],))
    return Work(grid, config, source, flip, teacher, place, entries)


def _check(grid: Grid, config: GridConfig, names: list[str]) -> None:
    for name in ("ipc", "protocols"):
        if not getattr(config, name):
            raise InputError(f"--{name} is empty; give one or more")
    if config.epochs and (len(config.epochs) != len(config.ipc) or min(config.epochs) < 1):
        raise InputError(f"--epochs {config.epochs} for --ipc {config.ipc}; give 1 or more for each, or no epochs")
    if config.seeds < 1 or config.full < 0:
        raise InputError(f"--seeds {config.seeds} --full {config.full}: give 1 or more seeds, and 0 or more of full")
    for kind in config.protocols:
        config.protocol(kind)
    if grid.scores:
        needed = {"hard", grid.scores, f"{grid.scores}:plain"}
        if not needed <= set(config.protocols) or "random" not in names or not config.full:
            raise InputError(f"scores of {grid.scores!r} need the protocols {', '.join(sorted(needed))}, the method "
                             "random and --full 1")  # fmt: skip


def run(work: Work, keep: Callable[[list[dict]], None]) -> list[dict]:
    """The rows of the whole grid; ``keep`` is called with those so far whenever there is a new one.

    A row of ``rows.json`` is taken over, whichever table it was made for, if all that decides it is the same, but for
    the code: who changes a method removes its runs and the file, or gives another --out.
    """
    config, source = work.config, work.source
    kept = config.out / "rows.json"
    known = {found["key"]: found for found in json.loads(kept.read_text())} if kept.is_file() else {}
    rows, name = [], teachers.short_name(source)
    # What a row is called here, which may be another name than where it was made.
    called = lambda method, kind, key: known[key] | {"method": method, "labels": kind}

    def add(found: dict) -> None:
        known[found["key"]] = found
        cli.write_json(kept, list(known.values()))
        keep([called(*one) for one in rows if one[-1] in known])

    shared = (source, work.teacher, work.flip, config.compute)
    for student in config.students:
        if not config.full:
            break
        rows.append(("full", "hard", key := _key(work, student, "full")))
        if len(known.get(key, {"accuracies": []})["accuracies"]) < config.full:
            trained = teachers.settings_from(work.teacher.info["train"])
            found = evaluate.full_accuracies(config.full, student, *shared, trained)
            add(row("full", name, None, student, "hard", found, key=key))
    for ipc, epochs in zip(config.ipc, config.epochs or [None] * len(config.ipc)):
        makers = {entry.name: _maker(work, entry, ipc) for entry in work.entries}
        for student in config.students:
            for kind in config.protocols:
                protocol = _for(config.protocol(kind), epochs)
                keys = {}
                for entry in work.entries:
                    keys[entry.name] = _key(work, student, protocol, config.seeds, *_made_by(work, entry, ipc))
                rows += [(method, kind, key) for method, key in keys.items()]
                # Two methods may be one, as a swept value that is the default.
                missing = {key: method for method, key in keys.items() if key not in known}
                asked = {method: makers[method] for method in missing.values()}
                for method, found in evaluate.measured(asked, config.seeds, student, kind, protocol, *shared):
                    more = {"key": keys[method], "epochs": protocol.train.epochs}
                    add(row(method, name, ipc, student, kind, found, **more))
    return [called(*one) for one in rows]


def datasets(work: Work, ipc: int) -> Iterator[tuple[Entry, DistilledDataset]]:
    """What each method has made, those of a sweep left out; it may be gone where only its rows were kept."""
    for entry in work.entries:
        place = folder(work, entry, ipc)
        if entry.swept is None and _done(place):
            yield entry, distilled.load(place)


def folder(work: Work, entry: Entry, ipc: int, seed: int = 0) -> Path:
    """Of a method's run at a size, whichever name it was made under."""
    runs, key = work.config.out / "runs", _key(work, seed, *_made_by(work, entry, ipc))[:8]
    return next(runs.glob(f"*-ipc{ipc}-{key}"), runs / f"{entry.method}-ipc{ipc}-{key}")


def _done(place: Path) -> bool:
    # Nothing else of a run is written after its finished classes are removed.
    return (place / "distilled").is_dir() and not (place / cli.PARTS).exists()


def _maker(work: Work, entry: Entry, ipc: int) -> evaluate.Maker:
    # Random real images are drawn anew for each student; whatever else a method draws is part of its dataset.
    anew = entry.recipe.atoms == "random" and entry.recipe.images == "real"
    made: dict[int, DistilledDataset] = {}

    def maker(seed: int) -> DistilledDataset:
        seed = seed if anew else 0
        if seed not in made:
            place = folder(work, entry, ipc, seed)
            if not _done(place):
                _distil(work, entry, ipc, seed, place)
            made[seed] = distilled.load(place)
        return made[seed]

    return maker


def _distil(work: Work, entry: Entry, ipc: int, seed: int, place: Path) -> None:
    same = {item.name: getattr(work.config, item.name) for item in dataclasses.fields(teachers.TeacherConfig)}
    given = {"recipe": entry.recipe, "latent": work.config.latent, "teacher": work.place}
    config = distill.DistillConfig(**same | given | {"seed": seed}, method=entry.method, ipc=ipc, out=place)
    # The folder's name says what is asked for; where and how it is computed may have changed since it was begun.
    asked = {name: distill.request(config)[name] for name in ("compute", "device", "jax")}
    begun = place / cli.PARTS / "request.json"
    if begun.is_file() and json.loads(begun.read_text()) != asked:
        shutil.rmtree(place)
    with cli.run_folder(place, asked) as out:
        distill.write(out, config, work.flip, work.source, work.teacher, work.place, work.real(entry.recipe))


def _for(protocol: Protocol, epochs: int | None) -> Protocol:
    return replace(protocol, train=replace(protocol.train, epochs=epochs)) if epochs else protocol


def _made_by(work: Work, entry: Entry, ipc: int) -> tuple:
    """All that decides a distilled dataset, beside the data and the teacher."""
    if entry.recipe.space != "latents":
        return entry.recipe, ipc
    latent = work.config.latent
    prompts = latent.prompts.read_text() if latent.prompts and latent.prompts.is_file() else None
    return entry.recipe, ipc, replace(latent, prompts=None), prompts, work.config.seed if latent.place is None else None


def _key(work: Work, *what: Any) -> str:
    """Of everything that decides a result."""
    info, config = work.teacher.info, work.config
    teacher = {name: value for name, value in info.items() if name not in ("dataset", "seconds", "jax")}
    data = [teachers.short_name(work.source), work.source.image_shape, work.flip, len(work.source.labels["train"])]
    plain = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in what]
    said = [teacher, data, teachers.dtype_of(config.compute), plain]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]
