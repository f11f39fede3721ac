"""Conversion between frozen settings and plain records, for files, command lines and run folders.

A field made by `choice` holds a settings object of a registry. Its record is a table of the registered name and the
object's fields, such as ``{"name": "quantization", "restarts": 8}``. The name alone stands for the defaults.

Every number has bounds, whether or not its field says so: see `Bounds`. They are what can possibly be meant, so that no
typing error and no hostile file makes a program allocate or wait for ever; a stage checks what it needs beyond that.
"""

import dataclasses
import math
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.registry import Registry

_Settings = TypeVar("_Settings")


class Bounds(NamedTuple):
    """The range of a number, or of every number of a tuple, and the longest tuple or text.

    Without bounds of its own a field takes integers up to a million, and any number that is finite in float32; none is
    negative, unless the default is.
    """

    low: float
    high: float
    longest: int = 4096


# The kinds of values, as messages call them.
_WORDS = {int: "whole number", float: "number", str: "text", bool: "truth value", Path: "path", dict: "table"}
REQUIRED = dataclasses.MISSING
"""The default of a field of `parsed` that must be there."""
_LARGEST_INT, _LARGEST_FLOAT = 10**6, float.fromhex("0x1.fffffep+127")
# What JAX and NumPy take as a seed.
SEED = Bounds(0, 2**32 - 1)
EPOCHS = Bounds(0, 10**5)
MIN_BATCHES = Bounds(1, 10**5)
# Images per class: no class of a known dataset has more than a few thousand.
IPC = Bounds(0, 10**5)
STUDENTS = Bounds(0, 10**4)
SIDE = Bounds(1, 2**12)
WIDTH = Bounds(1, 2**12)
CHANNELS = Bounds(1, 2**13)
# Of published networks: blocks, blocks of each level, channels of each level, and the side of latents, for each pixel
# of which a DiT has a token. What a file asks for within these bounds is built in seconds.
LAYERS = Bounds(1, 128)
LEVEL_LAYERS = Bounds(1, 8)
LEVELS = Bounds(1, 2**13, longest=6)
LATENT_SIDE = Bounds(1, 2**8)
# Training images, with repeats.
DRAWS = Bounds(0, 10**10)
CLASSES = Bounds(0, 0, longest=10**5)
SHARE = Bounds(0.0, 1.0)
# Of a rate: how much longer than the run its decay may last.
HORIZON = Bounds(1.0, 1e6)
# Below one: a mean of this decay would never move, a label of this share would hold nothing else.
PART = Bounds(0.0, 0.9999)
# Of a crop, as a share of the image: none at all would have no pixels.
AREA = Bounds(1e-6, 1.0)
ANY = Bounds(-_LARGEST_FLOAT, _LARGEST_FLOAT)


def bounded(default: Any, bounds: Bounds) -> Any:
    """A dataclass field whose numbers have other bounds than usual."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def check(settings: Any, where: str = "") -> None:
    """Check the kind and the bounds of every number of a settings object, also inside other settings objects.

    Args:
      where: the file that the settings come from, for error messages; default: the caller, who is told the parameter.

    Raises:
      InputError: a number that is NaN, infinite, out of its bounds or none, or a text or tuple that is too long.
    """
    _check(settings, where, "")


def _check(settings: Any, where: str, before: str) -> None:
    for item in dataclasses.fields(settings):
        value, path = getattr(settings, item.name), before + item.name
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            _check(value, where, f"{path}.")
        else:
            _check_value(type(settings), item, value, f"{where}: {path}" if where else f"`{path}`")


def _check_value(kind: type, item: dataclasses.Field, value: Any, what: str) -> None:
    """Raise InputError for a value that is no number where the type of the field demands one, or is out of bounds."""
    wanted = _leaves(_hints(kind).get(item.name))
    bounds = item.metadata.get("bounds") or _usual_bounds(item.default, wanted)
    several = isinstance(value, tuple | list)
    if isinstance(value, tuple | list | str) and len(value) > bounds.longest:
        raise InputError(f"{what} has {len(value)} {'values' if several else 'characters'}; give up to "
                         f"{bounds.longest}")  # fmt: skip
    for one in value if several else (value,):
        if isinstance(one, int | float | np.integer | np.floating) and not isinstance(one, bool):
            if wanted & {int, float} == {int} and not isinstance(one, int | np.integer):
                raise InputError(f"{what} {shown(one)} is no whole number; give one")
            if not bounds.low <= one <= bounds.high:
                why = "is out of range" if isinstance(one, int | np.integer) or math.isfinite(one) else "is not finite"
                raise InputError(f"{what} {shown(one)} {why}; use {bounds.low:.10g} to {bounds.high:.10g}")
        elif (
            wanted & {int, float}
            and wanted <= {int, float, types.NoneType}
            and not (one is None and types.NoneType in wanted)
        ):
            raise InputError(f"{what} {shown(one)} is no number; give one")


def _usual_bounds(default: Any, wanted: set) -> Bounds:
    usual = default if isinstance(default, int | float) else 0
    high = _LARGEST_INT if wanted & {int, float} == {int} else _LARGEST_FLOAT
    return Bounds(-high if usual < 0 else 0, max(high, usual))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:  # a class that a user defined inside of a function
        return {}


def _leaves(hint: Any) -> set:
    """The types that a hint is made of: {int, NoneType} for ``tuple[int, ...] | None``."""
    inner = [part for part in typing.get_args(hint) if part is not Ellipsis]
    return set().union(*map(_leaves, inner)) if inner else {hint}


def choice(registry: Registry, default: Any) -> Any:
    """A dataclass field that holds a settings object of a registry."""
    return dataclasses.field(default=default, metadata={"registry": registry})


def registry_of(item: dataclasses.Field) -> Registry | None:
    """The registry of a field made by `choice`, or None for any other field."""
    return item.metadata.get("registry")


def switched(registry: Registry, current: Any, kind: type) -> Any:
    """A settings object of class ``kind``, to replace ``current``.

    If ``current`` is of that class, it is returned unchanged. Otherwise the new object keeps the fields of the nearest
    base class that both share, and has the defaults of ``kind`` elsewhere.

    Raises:
      InputError: ``kind`` is not a subclass of the base class of these choices, or has a field without a default.
    """
    if type(current) is kind:
        return current
    base = [one for one in type(current).__mro__ if dataclasses.is_dataclass(one)][-1]
    if not isinstance(kind, type) or not issubclass(kind, base):
        raise InputError(f"{registry.kind} {registry.name_of(kind)!r} is no subclass of {base.__name__}; give one")
    shared = [base for base in type(current).__mro__ if base in kind.__mro__ and dataclasses.is_dataclass(base)]
    kept = {item.name: getattr(current, item.name) for base in shared[:1] for item in dataclasses.fields(base)}
    try:
        return kind(**kept)
    except TypeError as error:
        raise InputError(f"{registry.kind} {registry.name_of(kind)!r}: {error}; give its fields defaults") from error


def record(settings: Any) -> Any:
    """Settings as nested dictionaries of plain values, for JSON."""
    if dataclasses.is_dataclass(settings):
        parts = {}
        for item in dataclasses.fields(settings):
            value, registry = getattr(settings, item.name), registry_of(item)
            name = {"name": registry.name_of(value)} if registry else {}
            parts[item.name] = name | record(value) if registry else record(value)
        return parts
    if isinstance(settings, tuple | list):
        return [record(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def changed(settings: _Settings, values: dict[str, Any], where: str) -> _Settings:
    """Settings with some fields replaced by the values of a file, which may be nested: {"imager": {"steps": 100}}.

    A dotted name is equivalent to a nested table. A choice is given by its name, or by a table with an optional
    ``name``.

    Args:
      settings: a dataclass instance, not modified.
      values: new values by field name.
      where: the place of the values, for error messages.

    Raises:
      InputError: a field that the settings do not have, a name that is not registered, or a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: {shown(values)} is no table of settings of {type(settings).__name__}")
    # The name of a choice is set before its fields, whatever the order of the file.
    for path, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        name, _, rest = path.partition(".")
        settings = _set(settings, name, {rest: value} if rest else value, where)
    return settings


def _set(settings: Any, name: str, value: Any, where: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(settings)}
    if name not in fields:
        raise InputError(
            f"{where}: unknown setting {shown(name)} of {type(settings).__name__}; use {', '.join(fields) or 'none'}"
        )
    present, registry = getattr(settings, name), registry_of(fields[name])
    if registry:
        table = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
        if not table:
            raise InputError(f"{where}: {name} = {shown(value)} is no {registry.kind}; give a name or a table")
        try:
            kind = registry.find(table.pop("name", registry.name_of(present)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        value = changed(switched(registry, present, kind), table, where)
    elif dataclasses.is_dataclass(present):
        value = changed(present, value, where)
    elif isinstance(value, dict):
        raise InputError(f"{where}: {name} of {type(settings).__name__} has no setting {shown(next(iter(value), ''))}")
    else:
        value = _converted(type(settings), fields[name], value, where)
    return dataclasses.replace(settings, **{name: value})


def parsed(kind: type[_Settings], values: Any, where: str) -> _Settings:
    """A dataclass from the record of a file: fields without a default must be there, and unknown ones are ignored.

    Raises:
      InputError: no record, a field that is missing, of another type or out of its bounds.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} holds {shown(values)}, not a record; make it again")
    given: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = _hints(kind)[item.name]  # type: ignore[arg-type]
        if item.name not in values:
            if item.default is REQUIRED and item.default_factory is REQUIRED:
                raise InputError(f"{where} has no {item.name}; make it again")
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            given[item.name] = changed(hint(), values[item.name], f"{where}: {item.name}")
        else:
            given[item.name] = _converted(kind, item, values[item.name], where)
    return kind(**given)


def _converted(kind: type, item: dataclasses.Field, value: Any, where: str) -> Any:
    """A value of a TOML or JSON file as the value of a field; InputError for another type, or out of bounds."""
    hint = _hints(kind)[item.name]
    try:
        # TOML has neither tuples nor paths, and an integer may stand for a float.
        value = _typed(hint, value)
    except (TypeError, ValueError, OverflowError):
        names = [_WORDS[leaf] for leaf in _WORDS if leaf in _leaves(hint)]
        several = "list of " if tuple in {hint, *map(typing.get_origin, (hint, *typing.get_args(hint)))} else ""
        wanted = several + (" or ".join(names) or str(hint))
        raise InputError(f"{where}: {item.name} = {shown(value)} is no {wanted}; give one") from None
    _check_value(kind, item, value, f"{where}: {item.name}")
    return value


def _typed(hint: Any, value: Any) -> Any:
    """A value of a TOML or JSON file, converted to the type of its field."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in choices:
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is tuple and isinstance(value, list):
            return tuple(_typed(inner[0], item) for item in value)
        if origin is Path and isinstance(value, str):
            return Path(value)
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(origin, type) and type(value) is origin:
            return value
    raise TypeError
