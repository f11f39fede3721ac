"""Conversion between frozen settings and plain records, for files, command lines and run folders.

A field made by `choice` holds a settings object of a registry. Its record is a table of the registered name and the
object's fields, such as ``{"name": "quantization", "restarts": 8}``. The name alone stands for the defaults.
"""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry

_Settings = TypeVar("_Settings")


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
        raise InputError(f"{where}: {values!r} is no table of settings of {type(settings).__name__}")
    # The name of a choice is set before its fields, whatever the order of the file.
    for path, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        name, _, rest = path.partition(".")
        settings = _set(settings, name, {rest: value} if rest else value, where)
    return settings


def _set(settings: Any, name: str, value: Any, where: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(settings)}
    if name not in fields:
        raise InputError(f"{where}: unknown setting {name!r} of {type(settings).__name__}; use {', '.join(fields)}")
    present, registry = getattr(settings, name), registry_of(fields[name])
    if registry:
        table = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
        if not table:
            raise InputError(f"{where}: {name} = {value!r} is no {registry.kind}; give a name or a table")
        try:
            kind = registry.find(table.pop("name", registry.name_of(present)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        value = changed(switched(registry, present, kind), table, where)
    elif dataclasses.is_dataclass(present):
        value = changed(present, value, where)
    elif isinstance(value, dict):
        raise InputError(f"{where}: {name} of {type(settings).__name__} has no setting {next(iter(value), '')!r}")
    else:
        hint = typing.get_type_hints(type(settings))[name]
        try:
            # TOML has neither tuples nor paths, and an integer may stand for a float.
            value = _typed(hint, value)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {name} = {value!r} is no {hint}") from None
    return dataclasses.replace(settings, **{name: value})


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
