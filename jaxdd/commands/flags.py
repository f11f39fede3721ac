"""Flags from typed configs: every field is one, and so is every setting of every choice at a stage.

``--summarizer quantization --summarizer.restarts 8`` chooses a summarizer and sets one of its fields. A choice, a
model, a dataset or a method of your own is named ``package.module:Name`` and imported. ``--plugin package.module``
imports a module that registers names, and ``--plugin package.module:Name`` allows that path where it is read from a
file.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from jaxdd.commands import helping, unknown
from jaxdd.data import SOURCES
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.machines import Machine, machine
from jaxdd.ground.registry import Registry, trust
from jaxdd.methods import RECIPES
from jaxdd.nn import MODELS

# Flags whose values are names of a registry, and may be import paths.
_NAMED: dict[str, Registry] = {
    "method": RECIPES,
    "methods": RECIPES,
    "baselines": RECIPES,
    "model": MODELS,
    "students": MODELS,
    "dataset": SOURCES,
}
# "hf:name" is a dataset of the hub.
_IMPORT_PATH = re.compile(r"(?!hf:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Flags of a recipe in earlier versions, and what they are called now.
_RENAMED = {"atoms": "summarizer", "space": "summarizer.space", "weights": "summarizer.weights", "images": "imager"}
# Values of earlier versions, by the last part of their flag.
_RENAMED_VALUES = {"imager": {"real": "nearest"}, "weights": {"w": "free"}}
_PLANS = "--dry-run: only say what would be done and how long it takes; --on v5e-8: the same for another machine."
# In earlier versions the settings of an imager carried its name.
_IMAGERS = ("recover", "diffusion", "crops")


def parse(default: Any, arguments: list[str], description: str | None = None, name: str | None = None) -> Any:
    """A config from a command line, beginning from ``default``; its help calls the program by ``name``.

    Raises:
      InputError: a name that is not registered or cannot be imported, a flag that is unknown or has been replaced, or
        a value that is none or out of bounds.
    """
    arguments = _modern(default, [part for one in arguments for part in _split(one)])
    default, arguments = _choose(default, arguments)
    _load_names(arguments)
    if {"-h", "--help"} & {*arguments} and len(flags_of(default)) > helping.FEW:
        about = "\n\n".join(part for part in (inspect.cleandoc(description or ""), _PLANS) if part)
        print(helping.text(default, _public, name or Path(sys.argv[0]).name, about))
        raise SystemExit(0)
    choices = [unknown.Choice(_flag(path), registry, registry.name_of(value))
               for path, registry, value in _choices(default)]  # fmt: skip
    names, switches = (list(map(_flag, part)) for part in (flags_of(default), _switches(default)))
    unknown.check(arguments, names, switches, choices)
    told = "\n\n".join(
        f"--{flag}: {', '.join(registry)}, or package.module:Name. Its settings: --{flag}.SETTING."
        for flag, registry, _ in choices
    )
    text = "\n\n".join(part for part in (description, told, _PLANS) if part)
    config = _parsed(default, ["--help" if one == "--help-all" else one for one in arguments], text, name)
    try:
        settings.check(config)
    except InputError as error:
        # The caller knows only the flags of the choices by default.
        raise InputError(as_flags(str(error), config)) from None
    return config


def _parsed(default: Any, arguments: list[str], description: str, name: str | None) -> Any:
    """The config that tyro makes of the arguments; of a complaint, which it frames, only the first sentence is kept."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(type(default), prog=name, default=default, args=arguments, description=description or None)
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│╭╮╰╯ ") for line in printed.getvalue().splitlines()[1:]]
    # The frame is of hyphens where the terminal shows only ASCII, and then another line is under the title.
    rules = [k for k, line in enumerate(lines) if set(line) <= {"─", "-"}]
    first = 1 if rules[:1] == [0] else 0
    last = next((k for k in rules if k >= first), len(lines))
    raise InputError(unknown.ended(unknown.plainly(" ".join(lines[first:last]), arguments)))


def load_plugins(arguments: list[str]) -> list[str]:
    """Import what ``--plugin`` names, any number of times; the other arguments.

    Raises:
      InputError: no such module, or no path.
    """
    rest, values = [], iter([part for one in arguments for part in _split(one)])
    for value in values:
        if value != "--plugin":
            rest.append(value)
            continue
        path = next(values, "")
        try:
            importlib.import_module(path.partition(":")[0])
        except (ImportError, ValueError, TypeError) as error:
            raise InputError(f"cannot import --plugin {path!r}: {error}; give package.module") from error
        if ":" in path:
            trust(path)
    return rest


class DryRun(NamedTuple):
    """A request to say what a program would do, here or on another machine."""

    machine: Machine | None


def dry_run(arguments: list[str]) -> tuple[DryRun | None, list[str]]:
    """What ``--dry-run`` and ``--on MACHINE`` ask for, and the other arguments.

    Raises:
      InputError: an unknown machine.
    """
    rest, dry, values = [], None, iter([part for one in arguments for part in _split(one)])
    for value in values:
        if value == "--on":
            dry = DryRun(machine(next(values, "")))
        elif value == "--dry-run":
            dry = dry or DryRun(None)
        else:
            rest.append(value)
    return dry, rest


def flag_value(arguments: list[str], name: str) -> str | None:
    """The value of a flag that decides the defaults of the others, or None; of several the last, like the parser."""
    parts = [part for one in arguments for part in _split(one)]
    return next((value for flag, value in reversed([*zip(parts, parts[1:])]) if flag == name), None)


def flags_of(config: Any) -> list[str]:
    """The dotted names of all flags of a config."""
    names = []
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), _public(item)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = flags_of(value)
            names += [f"{name}.{rest}" if name else rest for rest in inner]
            names += [name] if settings.registry_of(item) else []
        else:
            names.append(name)
    return names


def _switches(config: Any, before: str = "") -> list[str]:
    """The dotted names of all flags of a config that take no value."""
    names = []
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), ".".join(part for part in (before, _public(item)) if part)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names += _switches(value, path)
        elif isinstance(value, bool):
            names.append(path)
    return names


def as_flags(message: str, config: Any) -> str:
    """A message of the library, which names parameters in backticks, with the flags of a program instead.

    Args:
      config: of the program; None before there is one, when only the program itself can have named a parameter.
    """
    everywhere = [one.replace("-", "_") for one in unknown.EVERYWHERE]
    known = [*everywhere, *(flags_of(config) if dataclasses.is_dataclass(config) else ())]

    def flag(match: re.Match) -> str:
        name = match.group(1).replace("-", "_").removeprefix("recipe.")
        if config is None:
            return f"--{_flag(name)}"
        places = [name] if name in known else [one for one in known if one.endswith(f".{name}")]
        return f"--{_flag(places[0])}" if len(places) == 1 else name

    return re.sub(r"`([a-z_][a-z0-9_.-]*)`", flag, message)


def _split(argument: str) -> list[str]:
    """``--flag=value`` as two arguments, and a flag with hyphens, which stand for underscores."""
    if not argument.startswith("--"):
        return [argument]
    flag, *value = argument.split("=", 1)
    return [_flag(flag), *value]


def _public(item: dataclasses.Field) -> str:
    """A field's part of a flag: the name that it is given there, if any; the fields of a recipe carry no prefix."""
    given = [mark.name for mark in getattr(item.type, "__metadata__", ()) if getattr(mark, "name", None)]
    return given[0] if given else "" if item.name == "recipe" else item.name


def _flag(path: str) -> str:
    return path.replace("_", "-")


def _choices(config: Any, before: str = "") -> Iterator[tuple[str, Registry, Any]]:
    """The choices of a config: the dotted name of the flag, its registry, the settings object that is there."""
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), _public(item)
        path = ".".join(part for part in (before, name) if part)
        registry = settings.registry_of(item)
        if registry:
            yield path, registry, value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _choices(value, path)


def _choose(config: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """The config with the choices that the arguments name, and the arguments without them."""
    registries = {f"--{_flag(path)}": registry for path, registry, _ in _choices(config)}
    rest, values = [], iter(arguments)
    for argument in values:
        if argument not in registries:
            rest.append(argument)
            continue
        name = next(values, "--")
        if name.startswith("--"):
            raise InputError(f"{argument} has no name after it; use {', '.join(registries[argument])}")
        kind = registries[argument].load(name)
        config = _switch(config, argument.removeprefix("--").replace("-", "_").split("."), kind)
    return config, rest


def _switch(config: Any, path: list[str], kind: type) -> Any:
    """The config with another kind of choice at a dotted path."""
    fields = {_public(item): item for item in dataclasses.fields(config)}
    name, rest = (path[0], path[1:]) if path[0] in fields else ("", path)
    item = fields[name]
    value, registry = getattr(config, item.name), settings.registry_of(item)
    value = settings.switched(registry, value, kind) if registry else _switch(value, rest, kind)
    return dataclasses.replace(config, **{item.name: value})


def _load_names(arguments: list[str]) -> None:
    """Import the models, datasets and methods that are given as import paths."""
    registry = None
    for argument in arguments:
        if argument.startswith("--"):
            registry = _NAMED.get(argument.rpartition(".")[2].removeprefix("--"))
        elif registry is not None and _IMPORT_PATH.fullmatch(argument):
            registry.load(argument)


def _modern(config: Any, arguments: list[str]) -> list[str]:
    """The arguments with flags and values of earlier versions under their present names.

    Raises:
      InputError: a flag of another choice than the one that is made.
    """
    chosen = {_flag(path): registry.name_of(value) for path, registry, value in _choices(config)}
    modern: list[str] = []
    for argument in arguments:
        if argument.startswith("--") and "imager" in chosen:
            name = argument.removeprefix("--")
            argument = f"--{_RENAMED.get(name, name)}"
        elif modern and modern[-1].startswith("--"):
            last = modern[-1].removeprefix("--").rpartition(".")[2]
            argument = _RENAMED_VALUES.get(last, {}).get(argument, argument)
        modern.append(argument)
    chosen = {flag: flag_value(modern, f"--{flag}") or name for flag, name in chosen.items()}
    return [_moved(argument, chosen) for argument in modern]


def _moved(argument: str, chosen: dict[str, str]) -> str:
    """A flag of the settings of a choice, which once carried its name, with the flag of the choice instead.

    Args:
      chosen: what the other arguments choose, by the flags of the choices.

    Raises:
      InputError: another one is chosen.
    """
    head, _, rest = argument.removeprefix("--").partition(".")
    if not argument.startswith("--"):
        return argument
    if head in _IMAGERS and rest and "imager" in chosen:
        flag, owner = "imager", head
    elif rest == "temperature" and f"{head}.labels" in chosen:
        flag, owner = f"{head}.labels", "soft"
    else:
        return argument
    if chosen[flag] != owner:
        raise InputError(f"{argument} belongs to --{flag} {owner}, and --{flag} is {chosen[flag]}; it is called "
                         f"--{flag}.{rest} now, use it with --{flag} {owner}")  # fmt: skip
    return f"--{flag}.{rest}"
