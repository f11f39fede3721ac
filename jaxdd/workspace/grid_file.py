"""Files of grids: which methods, sizes, students and protocols make a table.

A file is TOML. It opens with a comment: what it reproduces, the published figures, the cost and the command, a
paragraph each. Then ``[grid]`` has fields of `GridConfig`. Each ``[methods.NAME]`` has a ``recipe`` by name, the
settings that are ``set`` otherwise, and the figures ``published`` for it ({IPC = percent}). ``[sweep]`` makes a method
for each of several values of one setting, and ``[[claim]]`` says which method should beat which.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.methods import RECIPES, Recipe
from jaxdd.workspace.latent_models import LatentConfig
from jaxdd.workspace.protocols import ProtocolConfig
from jaxdd.workspace.teachers import TeacherConfig

# The method that scores compare with.
BASELINE = "random"


@dataclass(frozen=True)
class GridConfig(TeacherConfig, ProtocolConfig):
    """Which sizes, students and protocols, for which data and teacher."""

    seed: int = 0
    """Of the teacher and of latent models trained here. Students have the seeds from 0 on, whatever this is; a method
    makes its images once, but random real images are drawn anew for each student."""
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
    """Folder of a teacher that experiments.train wrote; default: one is trained."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    grid: Path | None = None
    """The file of the grid, or what follows the table's name in the name of one that is here."""
    out: Path = Path("runs/tables")
    """The table goes into a folder of its name; beside it lie rows, distilled datasets and models, for all tables."""


@dataclass(frozen=True)
class Entry:
    """A method of the grid."""

    name: str
    method: str
    recipe: Recipe
    published: dict[int, float]  # IPC -> percent
    swept: tuple[str, float] | None = None  # the method whose setting is swept, and its value


@dataclass(frozen=True)
class Claim:
    """That one method passes another."""

    what: str = ""
    better: str = ""
    worse: str = ""


@dataclass(frozen=True)
class Sweep:
    """A setting of a method, by its dotted name, and the values that it takes in turn."""

    method: str = ""
    field: str = ""
    values: tuple[int | float, ...] = ()


@dataclass(frozen=True)
class _Head:
    """What a file may hold beside its methods and claims."""

    title: str = ""
    columns: str = "ipc"
    published: str = ""
    scores: str = ""
    sweep: Sweep = field(default_factory=Sweep)
    grid: GridConfig = field(default_factory=GridConfig)


class Grid(NamedTuple):
    """What a file holds."""

    name: str
    head: str  # its opening comment, an empty line between paragraphs
    title: str
    columns: str  # "ipc" or "student": what the table's columns are, beside the protocols
    published: str  # how the published figures were obtained
    scores: str  # the protocol beside "hard" that label- and augmentation-robust scores are made from, or nothing
    sweep: Sweep
    entries: tuple[Entry, ...]
    claims: tuple[Claim, ...]
    config: GridConfig


def read(table: str, path: Path | None, configs: Path) -> Grid:
    """The grid of a table: its own, the one of ``path``, or the one called table-path in the folder ``configs``.

    Raises:
      InputError: no such file, or one that is no grid.
    """
    choices = [configs / f"{table}.toml"] if path is None else [path, configs / f"{table}-{path}.toml"]
    place = next((choice for choice in choices if choice.is_file()), None)
    if place is None:
        known = sorted(file.stem.removeprefix(f"{table}-") for file in configs.glob(f"{table}-*.toml"))
        raise InputError(f"no grid {choices[0]}; give `grid` a file" + (f" or {', '.join(known)}" if known else ""))
    try:
        text = place.read_text(encoding="utf-8")
        parsed = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{place} is no TOML: {error}") from None
    tables, claims = parsed.pop("methods", None), parsed.pop("claim", [])
    head = settings.changed(_Head(), parsed, str(place))
    if not isinstance(tables, dict) or not tables or not isinstance(claims, list):
        raise InputError(f"{place}: give it one [methods.NAME] or more, and claims as [[claim]]")
    entries = [_entry(name, values, place) for name, values in tables.items()]
    claims = tuple(settings.changed(Claim(), claim, f"{place} [[claim]]") for claim in claims)
    _check_names(entries, claims, head.sweep, place)
    entries += _swept(entries, head.sweep, place)
    if head.columns not in ("ipc", "student"):
        raise InputError(f"{place}: unknown columns {head.columns!r}; use ipc or student")
    comment = "\n".join(line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines())
    title = " ".join(head.title.split()) or place.stem
    return Grid(place.stem, comment, title, head.columns, head.published, head.scores, head.sweep, tuple(entries),
                claims, head.grid)  # fmt: skip


def _check_names(entries: list[Entry], claims: tuple[Claim, ...], sweep: Sweep, place: Path) -> None:
    """Raise InputError if a claim or the sweep names a method that the file does not have."""
    names = [entry.name for entry in entries]
    used = [(name, "[[claim]]") for claim in claims for name in (claim.better, claim.worse)]
    used += [(sweep.method, "[sweep]")] if sweep != Sweep() else []
    for name, where in used:
        if name not in names:
            raise InputError(f"{place} {where}: {name!r} is none of its methods; use {', '.join(names)}")


def _swept(entries: list[Entry], sweep: Sweep, place: Path) -> list[Entry]:
    """A method for each value of the sweep."""
    base = next((entry for entry in entries if entry.name == sweep.method), None)
    if base is None:
        return []
    recipes = [settings.changed(base.recipe, {sweep.field: value}, f"{place} [sweep]") for value in sweep.values]
    return [
        Entry(f"{base.name}, {value:g}", base.method, recipe, {}, (base.name, value))
        for value, recipe in zip(sweep.values, recipes)
    ]


def _entry(name: str, values: Any, place: Path) -> Entry:
    where = f"{place} [methods.{name}]"
    if name == "full":
        raise InputError(f"{where}: full is what students of all real images are called; choose another name")
    unknown = sorted(set(values) - {"recipe", "set", "published"}) if isinstance(values, dict) else [str(values)]
    if unknown:
        raise InputError(f"{where}: unknown {unknown[0]!r}; use recipe, set or published")
    method, published = str(values.get("recipe", name)), values.get("published", {})
    try:
        recipe = settings.changed(RECIPES.find(method), values.get("set", {}), where)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from None
    try:
        published = {int(ipc): float(figure) for ipc, figure in published.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{where}: published = {published!r}; give it like {{ 1 = 40.2, 10 = 64.8 }}") from None
    return Entry(name, method, recipe, published)
