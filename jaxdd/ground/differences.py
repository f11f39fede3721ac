"""Which settings of two records differ, in words: those that are stored, and those that are asked for now."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxdd.ground.errors import shown

_SHOWN = 3
_SETTING = re.compile(r"[a-z_][a-z0-9_.]*")
# Of files, whose content is not shown.
_DIGEST = re.compile(r"[0-9a-f]{32,}")


ABSENT = "absent"
"""Stands for the value of a setting that only one of the records has, as those of other versions of the package."""


class Difference(NamedTuple):
    """A setting that two records have with different values, by its dotted name."""

    name: str
    stored: Any
    asked: Any


def between(stored: Mapping, asked: Mapping) -> list[Difference]:
    """The settings that differ between two records as `settings.record` makes them.

    Where another choice is made at a stage, its settings are others too, and only the choice is listed. Settings that
    lie less deep come first, and otherwise the order is that of ``asked``.
    """
    found = list(_between(stored, asked, ()))
    return [Difference(_named(path), *values) for path, values in sorted(found, key=lambda item: len(item[0]))]


def told(differences: list[Difference], before: str = "") -> str:
    """The first few differences in words, with the number of the others; names are in backticks, as in all messages.

    Args:
      before: the part of the names that no flag has, such as that of the record they lie in.
    """
    parts = [_told(one, before) for one in differences[:_SHOWN]]
    more = len(differences) - _SHOWN
    return ", ".join(parts) + (f", and {more} more {'differs' if more == 1 else 'differ'}" if more > 0 else "")


def _between(stored: Mapping, asked: Mapping, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple]]:
    names = [*asked, *(name for name in stored if name not in asked)]
    if "name" in names and stored.get("name") != asked.get("name"):
        names = ["name"]
    for name in names:
        old, new = stored.get(name, ABSENT), asked.get(name, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _between(old, new, (*path, str(name)))
        # As text, in which NaN equals itself.
        elif repr(old) != repr(new):
            yield (*path, str(name)), (old, new)


def _named(path: tuple[str, ...]) -> str:
    """The dotted name of a setting; a choice is called by the name of its stage."""
    return ".".join(path[:-1] if path[-1] == "name" and len(path) > 1 else path)


def _told(one: Difference, before: str) -> str:
    name = one.name.removeprefix(before)
    name = f"`{name}`" if _SETTING.fullmatch(name) else shown(name)[1:-1]
    if any(isinstance(value, Mapping) or _is_digest(value) for value in (one.stored, one.asked)):
        return f"{name} was another one"
    return f"{name} was {_value(one.stored)} and is {_value(one.asked)} now"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _value(value: Any) -> str:
    """A value as it is written on a command line."""
    if value is None:
        return "not given"
    if isinstance(value, list | tuple):
        return shown(" ".join(map(str, value)))[1:-1]
    return shown(value)[1:-1] if isinstance(value, str) and value else shown(value)
