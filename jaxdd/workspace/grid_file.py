"""Grid files: TOML files that define the methods, sizes, students and protocols of a table.

A file starts with a comment of one paragraph each on what it reproduces, the published figures, the cost and the
command. Then ``[grid]`` sets fields of `GridConfig`. Each ``[methods.NAME]`` has a ``recipe`` by name, changes to its
settings under ``set``, and figures ``published`` for it ({IPC = percent}). ``[sweep]`` adds a method for each of
several values of one setting, and ``[[claim]]`` states which method should be better than which.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxdd.ground import settings
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.reading import read_text
from jaxdd.methods import RECIPES, Recipe
from jaxdd.workspace.latent_models import LatentConfig
from jaxdd.workspace.protocols import ProtocolConfig
from jaxdd.workspace.teachers import TeacherConfig

# Folders that all tables share.
_SHARED = ("runs", "teachers", "latents", "encoded")
# Bytes of a grid file, and dots of a dotted key: tomllib takes the square of their number in time.
_SIZE, _DOTS = 2**20, 50
# Characters of the name of a method.
_LONGEST = 100
# The method with which scores compare.
BASELINE = "random"


@dataclass(frozen=True)
class GridConfig(TeacherConfig, ProtocolConfig):
    """The sizes, students and protocols of a grid, with its data and teacher."""

    seed: int = settings.bounded(0, settings.SEED)
    """Seed of the teacher and of latent models trained here. Students always have the seeds 0, 1, ..."""
    ipc: tuple[int, ...] = settings.bounded((1, 10, 50), settings.IPC)
    """Images per class."""
    epochs: tuple[int, ...] = settings.bounded((), settings.EPOCHS)
    """Epochs of the students, one number for each ``ipc``; default: those of each protocol."""
    students: tuple[str, ...] = ()
    """Architectures; default: the teacher's."""
    protocols: tuple[str, ...] = ("hard", "soft")
    """hard, soft, wmdd, ddoq, dd-ranking. The suffix ":plain" removes the augmentation, ":uniform" the weights; see
    `students.protocol.named` for more."""
    seeds: int = settings.bounded(3, settings.STUDENTS)
    """Students of each architecture, method and protocol."""
    recoveries: int = settings.bounded(1, settings.STUDENTS)
    """How often a method makes its images, with the seeds 0, 1, ...; each of them trains an equal part of the students.
    Random real images are drawn again for each student."""
    full: int = settings.bounded(1, settings.STUDENTS)
    """Students of each architecture trained on all real images; the teacher counts as the first."""
    only: tuple[str, ...] = ()
    """Run only these methods of the grid; default: all."""
    teacher: Path | None = None
    """Folder of a teacher from jaxdd train; default: one is trained."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    grid: Path | None = None
    """A grid file, or the part after the table's name in the name of a file of this repository."""
    out: Path = Path("runs/tables")
    """The table is written to a subfolder with its name. Rows, distilled datasets and models are shared by all tables
    in this folder."""


@dataclass(frozen=True)
class Entry:
    """A method of the grid."""

    name: str
    method: str
    recipe: Recipe
    published: dict[int, float]  # IPC -> percent
    swept: tuple[str, float] | None = None  # the method whose setting is swept, and the value of the setting


@dataclass(frozen=True)
class Claim:
    """The claim that one method is better than another."""

    what: str = ""
    better: str = ""
    worse: str = ""


@dataclass(frozen=True)
class Sweep:
    """A setting of a method, by its dotted name, and the values to try."""

    method: str = ""
    field: str = ""
    values: tuple[int | float, ...] = settings.bounded((), settings.ANY)


@dataclass(frozen=True)
class _Head:
    """What a grid file may contain besides methods and claims."""

    title: str = ""
    columns: str = "ipc"
    published: str = ""
    scores: str = ""
    teacher_bits: tuple[int, ...] = settings.bounded((), settings.Bounds(2, 16))
    sweep: Sweep = field(default_factory=Sweep)
    grid: GridConfig = field(default_factory=GridConfig)


class Grid(NamedTuple):
    """The contents of a grid file."""

    name: str
    head: str  # the opening comment, with an empty line between paragraphs
    title: str
    columns: str  # "ipc" or "student": the columns of the table, besides the protocols; "method": a line per protocol
    published: str  # how the published figures were obtained
    scores: str  # the protocol that is combined with "hard" for label- and augmentation-robust scores; may be empty
    sweep: Sweep
    entries: tuple[Entry, ...]
    claims: tuple[Claim, ...]
    config: GridConfig
    teacher_bits: tuple[int, ...] = ()  # the bits of a weight with which the teacher itself is a rival of its labels


def read(table: str, path: Path | None, configs: Path) -> Grid:
    """Read the grid of a table.

    Args:
      table: the name of the table.
      path: None for the file TABLE.toml in ``configs``; otherwise a grid file, or PATH to name TABLE-PATH.toml.
      configs: the folder with the grid files.

    Raises:
      InputError: no such file, or not a grid file.
    """
    if Path(table).name != table:
        raise InputError(f"{shown(table)} is no name of a table; give one without folders")
    choices = [configs / f"{table}.toml"] if path is None else [path]
    # Part of a name is no path: it cannot lead out of the folder.
    if path is not None and len(path.parts) == 1:
        choices.append(configs / f"{table}-{path}.toml")
    place = next((choice for choice in choices if choice.is_file()), None)
    if place is None:
        known = sorted(file.stem.removeprefix(f"{table}-") for file in configs.glob(f"{table}-*.toml"))
        raise InputError(f"no grid {choices[0]}; give `grid` a file" + (f" or {', '.join(known)}" if known else ""))
    text = read_text(place, longest=_SIZE)
    parsed = _parsed(text, place)
    tables, claims = parsed.pop("methods", None), parsed.pop("claim", [])
    head = settings.changed(_Head(), parsed, str(place))
    if not isinstance(tables, dict) or not tables or not isinstance(claims, list):
        raise InputError(
            f"{place}: no methods, or a claim of another form; give [methods.NAME], and claims as [[claim]]"
        )
    if len(place.stem.encode()) > 100 or place.stem.startswith(".") or place.stem in _SHARED:
        raise InputError(f"{place}: the table cannot have the folder {shown(place.stem)}; give the file another name")
    entries = [_entry(name, values, place) for name, values in tables.items()]
    claims = tuple(settings.changed(Claim(), claim, f"{place} [[claim]]") for claim in claims)
    _check_names(entries, claims, head.sweep, place)
    entries += _swept(entries, head.sweep, place)
    names = [entry.name for entry in entries]
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise InputError(f"{place} [sweep]: there are two methods {shown(twice[0])}; leave out a value")
    if head.columns not in ("ipc", "student", "method"):
        raise InputError(f"{place}: unknown `columns` {head.columns!r}; use ipc, student or method")
    comment = "\n".join(line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines())
    title = " ".join(head.title.split()) or place.stem
    published = " ".join(head.published.split())
    return Grid(place.stem, comment, title, head.columns, published, head.scores, head.sweep, tuple(entries),
                claims, head.grid, head.teacher_bits)  # fmt: skip


def _parsed(text: str, place: Path) -> dict[str, Any]:
    """The tables of a TOML file; InputError if it is none."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#") and max(key.count(".") for key in re.split(r"[=,{}\[\]]", line)) > _DOTS:
            raise InputError(f"{place}, line {number}, is nested too deep; correct it")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is no TOML: {error}; correct it") from None
    except (ValueError, RecursionError):
        raise InputError(f"{place} has a number of thousands of digits, or is nested too deep; correct it") from None


def _check_names(entries: list[Entry], claims: tuple[Claim, ...], sweep: Sweep, place: Path) -> None:
    """Raise InputError if a claim or the sweep names a method that is not in the file."""
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
    """The method of a table [methods.NAME]; InputError if the table is invalid."""
    where = f"{place} [methods.{name}]"
    if not name.isprintable() or not name.strip() or len(name) > _LONGEST or {"/", "\\"} & set(name):
        raise InputError(f"{place} [methods]: {shown(name)} is no name of a method; give up to {_LONGEST} letters, "
                         "without slashes")  # fmt: skip
    if name == "full":
        raise InputError(f"{where}: full is what students of all real images are called; choose another name")
    unknown = sorted(set(values) - {"recipe", "set", "published"}) if isinstance(values, dict) else [str(values)]
    if unknown:
        raise InputError(f"{where}: unknown {unknown[0]!r}; use recipe, set or published")
    method, published = values.get("recipe", name), values.get("published", {})
    try:
        recipe = settings.changed(RECIPES.find(method), values.get("set", {}), where)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from None
    try:
        figures = {int(ipc): float(figure) for ipc, figure in published.items()}
        good = all(1 <= ipc <= settings.IPC.high and 0 <= figure <= 100 for ipc, figure in figures.items())
    except (AttributeError, TypeError, ValueError, OverflowError):
        good = False
    if not good or len(figures) < len(published):
        raise InputError(f"{where}: published = {shown(published, 200)}; give it like {{ 1 = 40.2, 10 = 64.8 }}")
    return Entry(name, method, recipe, figures)
