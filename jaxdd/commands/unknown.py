"""What to say of options and values that there are not: the ones that were probably meant."""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.registry import Registry

# Every program takes these, and none has them in its config.
EVERYWHERE = ("plugin", "dry-run", "on", "help", "help-all")
_LONGEST = 200  # of a name that is compared with others


class Choice(NamedTuple):
    """A choice of a config: its flag without hyphens before it, the names that it may have, and the one it has."""

    flag: str
    registry: Registry
    chosen: str


def check(arguments: Sequence[str], known: Sequence[str], switches: Sequence[str], choices: Sequence[Choice]) -> None:
    """Check that every option among the arguments exists, before their values are looked at.

    Args:
      known: the names of all options, without hyphens before them.
      switches: those of options without a value, which also exist with ``no-`` before their last part.

    Raises:
      InputError: some do not; the message names the ones that were probably meant.
    """
    taken = {*known, *EVERYWHERE, *map(_negated, switches)}
    strange = [one for one in arguments if _is_option(one) and not (one.startswith("--") and one[2:] in taken)]
    if strange:
        lines = dict.fromkeys(_line(one, known, choices) for one in strange)
        raise InputError(ended("; ".join(itertools.islice(lines, 3))))


def plainly(complaint: str, arguments: Sequence[str]) -> str:
    """A complaint of the parser, which speaks of Python's types, in plain words."""
    if found := re.match(r"(?i)unrecognized (?:options|arguments): (.*)", complaint):
        return f"no option takes {shown(found.group(1))}"
    if found := re.match(r"(?i)missing value for argument '?(--[^\s']+)", complaint):
        return f"{found.group(1)} has no value after it"
    if found := re.match(r"invalid choice (.*) for argument '?(--[^\s']+?)'?\. Expected one of \((.*)\)", complaint):
        value, flag, names = found.groups()
        choices = sorted(re.findall(r"'([^']*)'", names))
        near = difflib.get_close_matches(value.strip("'").capitalize()[:_LONGEST], choices, 1)
        return f"{flag}: {value} is none of {', '.join(choices)}{_meant(near)}"
    return _no_number(complaint, arguments)


def _no_number(complaint: str, arguments: Sequence[str]) -> str:
    """The complaint that a value is no number in plain words; any other as it is."""
    found = re.match(r"Error parsing (--[^\s:]+): (.*)", complaint)
    flag, reason = found.groups() if found else ("", "")
    number, word = (int, "whole number") if re.search(r"\bINT\b|int\(\)|integer", reason) else (float, "number")
    if word == "number" and not re.search(r"\bFLOAT\b|to float", reason):
        return complaint
    places = [k for k, argument in enumerate(arguments) if argument == flag]
    given = itertools.takewhile(lambda one: not one.startswith("--"), arguments[places[-1] + 1 :] if places else [])
    for value in given:
        if value == "None" and "{None}" in reason:
            continue
        try:
            number(value)
        except ValueError:
            is_long = value.lstrip("+-").isdecimal()
            return f"{flag}: {shown(value)} {'has too many digits' if is_long else f'is no {word}'}"
    return complaint


def _is_option(argument: str) -> bool:
    """Whether an argument can only be an option, perhaps with one hyphen where it needs two."""
    if argument.startswith("--"):
        return len(argument) > 2
    return re.match(r"-[A-Za-z]{2}", argument) is not None and not _is_number(argument)


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True


def _negated(flag: str) -> str:
    head, dot, last = flag.rpartition(".")
    return f"{head}{dot}no-{last}"


def _line(option: str, known: Sequence[str], choices: Sequence[Choice]) -> str:
    name = option.lstrip("-").replace("_", "-")
    for choice in choices:
        setting = name.removeprefix(f"{choice.flag}.")
        owners = [one for one, kind in choice.registry.items() if name != setting and _has(kind, setting)]
        if owners:
            use = " or ".join(f"--{choice.flag} {one}" for one in owners)
            return f"option {option} is one of {use}, and --{choice.flag} is {choice.chosen}"
    return f"unknown option {option[:_LONGEST]}{_meant([f'--{one}' for one in nearest(name, known)])}"


def _has(kind: Any, setting: str) -> bool:
    """Whether a choice has a setting of this name, or a table of settings that the name begins with."""
    names = [item.name.replace("_", "-") for item in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    return setting.partition(".")[0].removeprefix("no-") in names


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The options that are called most like a name, by their last part or as a whole; up to three."""
    flags, name = [*known, *EVERYWHERE], name[:_LONGEST]
    table, _, last = name.rpartition(".")
    parts: dict[str, list[str]] = {}
    for flag in flags:
        parts.setdefault(flag.rpartition(".")[2], []).append(flag)
    for part in difflib.get_close_matches(last, parts, 1, 0.75):
        within = [flag for flag in parts[part] if flag.rpartition(".")[0] == table]
        return (within or parts[part])[:3]
    return difflib.get_close_matches(name, flags, 1, 0.75)


def ended(complaint: str) -> str:
    """A complaint with the remedy, unless it names one."""
    return complaint if complaint.endswith("?") else f"{complaint}; see --help"


def _meant(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
