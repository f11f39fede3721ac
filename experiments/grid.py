"""A grid of methods, sizes, students and protocols, read from a file; what of it is missing is run, and kept.

A file of `experiments/configs` is TOML. It opens with a comment: what it reproduces, the published figures, the cost,
the command. Then ``[grid]`` has fields of `GridConfig`, each ``[methods.NAME]`` a ``recipe`` by name with what is
``set`` otherwise and the figures ``published`` for it ({IPC = percent}), and, where they are wanted, ``[sweep]`` makes
a method for each of several values of one setting and ``[[claim]]`` says which method shall pass which.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cli, distill, evaluate, latents, teachers
from jaxdd import distilled, methods, nn
from jaxdd.data import Source
from jaxdd.distilled import DistilledDataset
from jaxdd.errors import InputError
from jaxdd.evaluate import row
from jaxdd.methods import Recipe
from jaxdd.protocol import Protocol

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class GridConfig(teachers.TeacherConfig, evaluate.ProtocolConfig):
    ipc: tuple[int, ...] = (1, 10, 50)
    """Images per class."""
    epochs: tuple[int, ...] = ()
    """Of the students at each of these sizes; default: what each protocol says."""
    students: tuple[str, ...] = ()
    """Architectures; default: the teacher's."""
    protocols: tuple[str, ...] = ("hard", "soft")
    """hard, soft, wmdd, ddoq, dd-ranking; with ":plain" behind the name no augmentation, with ":uniform" no weights."""
    seeds: int = 3
    full: int = 1
    """Students of each architecture that see all real images; the teacher counts as the first."""
    only: tuple[str, ...] = ()
    """Run these of the grid's methods; default: all."""
    teacher: Path | None = None
    """Folder of a teacher that experiments.squeeze wrote; default: one is trained."""
    latent: latents.LatentConfig = field(default_factory=latents.LatentConfig)
    grid: Path | None = None
    """The file of the grid, or what follows the table's name in the name of one that is here."""
    out: Path = Path("runs/tables")
    """The table goes into a folder of its name; beside it lie rows, distilled datasets and models, for all tables."""


class Entry(NamedTuple):
    """A method of the grid."""

    name: str
    method: str
    recipe: Recipe
    published: dict[int, float]  # IPC -> percent
    value: float | None = None  # of the setting that is swept


class Claim(NamedTuple):
    """That one method passes another."""

    what: str
    better: str
    worse: str


class Grid(NamedTuple):
    """What a file says."""

    name: str
    head: str  # its opening comment
    title: str
    columns: str  # "ipc" or "student": what the table's columns are, beside the protocols
    published: str  # how the published figures were obtained
    entries: tuple[Entry, ...]
    claims: tuple[Claim, ...]
    sweep: str | None  # the swept setting
    scores: str | None  # the protocol beside "hard" that label- and augmentation-robust scores are made from
    config: GridConfig


def read(table: str, path: Path | None = None) -> Grid:
    """The grid of a table: its own, the one of ``path``, or the one called table-path here.

    Raises:
      InputError: no such file, or one that does not say what a grid says.
    """
    choices = [CONFIGS / f"{table}.toml"] if path is None else [path, CONFIGS / f"{table}-{path}.toml"]
    place = next((choice for choice in choices if choice.is_file()), None)
    if place is None:
        known = sorted(file.stem.removeprefix(f"{table}-") for file in CONFIGS.glob(f"{table}-*.toml"))
        raise InputError(f"no grid {choices[0]}; give --grid a file" + (f" or {', '.join(known)}" if known else ""))
    text = place.read_text()
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is no TOML: {error}") from None
    unknown = set(said) - {"title", "columns", "published", "scores", "grid", "methods", "sweep", "claim"}
    if unknown or not said.get("methods"):
        wrong = f"unknown {sorted(unknown)[0]!r}" if unknown else "no [methods.NAME]"
        raise InputError(f"{place}: {wrong}; write it like {CONFIGS / 'wmdd-main.toml'}")
    config = cli.changed(GridConfig(), said.get("grid", {}), str(place))
    entries = [_entry(name, values, place) for name, values in said["methods"].items()]
    sweep = said.get("sweep")
    if sweep:
        base = next((entry for entry in entries if entry.name == sweep["method"]), None)
        if base is None:
            raise InputError(f"{place}: [sweep] of {sweep['method']!r}, which is none of its methods")
        for value in sweep["values"]:
            recipe = cli.changed(base.recipe, {sweep["field"]: value}, f"{place} [sweep]")
            entries.append(Entry(f"{base.name}, {value:g}", base.method, recipe, {}, float(value)))
    claims = tuple(Claim(**claim) for claim in said.get("claim", []))
    names = {entry.name for entry in entries}
    for claim in claims:
        for name in (claim.better, claim.worse):
            if name not in names:
                raise InputError(f"{place}: claim {claim.what!r} is about {name!r}, which is none of its methods")
    head = "\n".join(line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines())
    columns = said.get("columns", "ipc")
    if columns not in ("ipc", "student"):
        raise InputError(f"{place}: unknown columns {columns!r}; use ipc or student")
    title, published = said.get("title", place.stem), said.get("published", "")
    field_name = sweep["field"] if sweep else None
    scores = said.get("scores")
    needed = ("hard", scores, f"{scores}:plain") if scores else ()
    if not set(needed) <= set(config.protocols):
        raise InputError(f"{place}: scores of {scores!r} need the protocols {', '.join(needed)}")
    return Grid(place.stem, head, title, columns, published, tuple(entries), claims, field_name, scores, config)


def _entry(name: str, values: dict, place: Path) -> Entry:
    where = f"{place} [methods.{name}]"
    unknown = set(values) - {"recipe", "set", "published"}
    if unknown:
        raise InputError(f"{where}: unknown {sorted(unknown)[0]!r}; use recipe, set or published")
    method = values.get("recipe", name)
    recipe = cli.changed(methods.recipe(method), values.get("set", {}), where)
    return Entry(name, method, recipe, {int(ipc): float(value) for ipc, value in values.get("published", {}).items()})


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


def opened(grid: Grid, config: GridConfig) -> Work:
    """The data and the teacher of a grid, found or trained; bad settings are found before anything is."""
    given = teachers.load_teacher(config.teacher, config.compute) if config.teacher else None
    if given:
        config = replace(config, **teachers.data_like(given, config))
    for name in config.only:
        if name not in {entry.name for entry in grid.entries}:
            raise InputError(f"--only {name!r} is none of {', '.join(entry.name for entry in grid.entries)}")
    entries = tuple(entry for entry in grid.entries if not config.only or entry.name in config.only)
    if config.epochs and len(config.epochs) != len(config.ipc):
        raise InputError(f"--epochs {config.epochs} for --ipc {config.ipc}; give one of each, or no epochs")
    if config.seeds < 1:
        raise InputError(f"--seeds {config.seeds} is not a number of students; use 1 or more")
    for kind in config.protocols:
        config.protocol(kind)
    source, norm, flip = teachers.open_data(config)
    for student in config.students:
        nn.get(student, len(source.class_names), source.image_shape[0])
    for entry in entries:
        methods.check(entry.method, max(config.ipc), entry.recipe, source.labels["train"], source.class_names)
    if given:
        teachers.check_fits(given, source, config.teacher)
        teacher, place = given, config.teacher
    else:
        teacher, place = teachers.find_or_train(config, source, norm, flip, config.out / "teachers")
    config = replace(config, students=config.students or (teacher.info["model"],))
    return Work(grid, config, source, flip, teacher, place, entries)


def run(work: Work, keep: Callable[[list[dict]], None]) -> list[dict]:
    """The rows of the whole grid; ``keep`` is called with those so far whenever there is a new one.

    A row of ``rows.json`` is taken over, whichever table it was made for, if all that decides it is the same.
    """
    config, source = work.config, work.source
    kept = config.out / "rows.json"
    read = lambda: {found["key"]: found for found in json.loads(kept.read_text())} if kept.is_file() else {}
    known, rows, name = read(), [], teachers.short_name(source)

    def add(found: dict) -> None:
        # Read again, for another table may be in the making beside this one.
        known.update(read() | {found["key"]: found})
        cli.write_json(kept, list(known.values()))
        keep([known[key] | {"method": method} for method, key in rows if key in known])

    shared = (source, work.teacher, work.flip, config.compute)
    for student in config.students:
        if not config.full:
            break
        rows.append(("full", key := _key(work, student, "full", config.full)))
        if key not in known:
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
                rows += keys.items()
                # Two methods may be one, as a swept value that is the default.
                missing = {key: method for method, key in keys.items() if key not in known}
                if not missing:
                    continue
                asked = {method: makers[method] for method in missing.values()}
                for method, found in evaluate.measured(asked, config.seeds, student, kind, protocol, *shared):
                    more = {"key": keys[method], "epochs": protocol.train.epochs}
                    add(row(method, name, ipc, student, kind, found, **more))
    return [known[key] | {"method": method} for method, key in rows]


def datasets(work: Work, ipc: int) -> Iterator[tuple[str, DistilledDataset]]:
    """What each method has made, for the pictures."""
    for entry in work.entries:
        yield entry.name, _maker(work, entry, ipc)(0)


def folder(work: Work, entry: Entry, ipc: int, seed: int = 0) -> Path:
    """Of a method's run at a size."""
    return work.config.out / "runs" / f"{entry.method}-ipc{ipc}-{_key(work, seed, *_made_by(work, entry, ipc))[:8]}"


def _maker(work: Work, entry: Entry, ipc: int) -> evaluate.Maker:
    # Random real images are drawn anew for each student; whatever else a method draws is part of its dataset.
    anew = entry.recipe.atoms == "random" and entry.recipe.images == "real"
    made: dict[int, DistilledDataset] = {}

    def maker(seed: int) -> DistilledDataset:
        seed = seed if anew else 0
        if seed not in made:
            place = folder(work, entry, ipc, seed)
            if not (place / "preview.png").is_file():
                _distil(work, entry, ipc, seed, place)
            made[seed] = distilled.load(place)
        return made[seed]

    return maker


def _distil(work: Work, entry: Entry, ipc: int, seed: int, place: Path) -> None:
    same = {item.name: getattr(work.config, item.name) for item in dataclasses.fields(teachers.TeacherConfig)}
    given = {"recipe": entry.recipe, "latent": work.config.latent, "teacher": work.config.teacher}
    config = distill.DistillConfig(**same | given | {"seed": seed}, method=entry.method, ipc=ipc, out=place)
    with cli.run_folder(place, distill.request(config)) as out:
        distill.write(out, config, work.flip, work.source, work.teacher, work.place, work.real(entry.recipe))


def _for(protocol: Protocol, epochs: int | None) -> Protocol:
    return replace(protocol, train=replace(protocol.train, epochs=epochs)) if epochs else protocol


def _made_by(work: Work, entry: Entry, ipc: int) -> tuple:
    """All that decides a distilled dataset, beside the data and the teacher."""
    return entry.method, entry.recipe, ipc, work.config.latent if entry.recipe.space == "latents" else None


def _key(work: Work, *what: Any) -> str:
    """Of everything that decides a result."""
    info, config = work.teacher.info, work.config
    teacher = {name: value for name, value in info.items() if name not in ("dataset", "seconds", "jax")}
    data = [teachers.short_name(work.source), work.source.image_shape, work.flip, len(work.source.labels["train"])]
    plain = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in what]
    said = [teacher, data, teachers.dtype_of(config.compute), plain]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]
