"""What the command-line programs share: flags from typed configs, run folders, errors as one line."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from jaxdd.ground import hosts
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import aside
from jaxdd.ground.memory import keep_freed

# What is done of an unfinished run, inside its folder.
PARTS = "parts"


def run(
    main: Callable[[Any], None],
    default: Callable[[list[str]], Any],
    arguments: list[str] | None = None,
    several: bool = False,
) -> None:
    """Parse every field of the dataclass that ``default(arguments)`` returns as a flag and call ``main``.

    The arguments are those of the command line unless given. `InputError` becomes one line on stderr and exit status 2.
    ``several``: whether ``main`` shares its work among the processes of a run, where there are several.
    """
    try:
        keep_freed()
        arguments = sys.argv[1:] if arguments is None else arguments
        start = default(arguments)
        config = tyro.cli(type(start), default=start, args=arguments)
        hosts.join()
        if hosts.count() > 1 and not several:
            raise InputError(f"this program runs in one process, not in {hosts.count()}; start it once")
        main(config)
        # Whoever left earlier would be taken for dead by those that still write.
        if hosts.count() > 1:
            hosts.part()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        _stop(2)
    except (Exception, KeyboardInterrupt):
        if hosts.count() == 1:
            raise
        traceback.print_exc()
        _stop(1)


def _stop(status: int) -> None:
    if hosts.count() > 1:
        # The exit of one of several waits for the others, who would never come.
        hosts.leave(status)
    sys.exit(status)


@contextlib.contextmanager
def run_folder(path: Path, request: dict | None = None) -> Iterator[Path]:
    """A new, empty folder for a run; bad input found inside the block removes it again, a crash leaves it.

    Of several processes, which must all see it, the first makes it.

    Args:
      request: what is asked for. A folder in which the same was begun and not finished is taken up again, with what
        `PARTS` in it holds.

    Raises:
      InputError: the folder exists and is not empty, or cannot be made.
    """
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    taken_up = hosts.first(lambda: _open(path, request))
    try:
        yield path
    except InputError:
        if taken_up or not hosts.is_first() or any((path / PARTS).glob("*.npz")):
            raise
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in made:
            # A teacher kept beside the run is worth keeping; so is whatever holds it.
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _open(path: Path, request: dict | None) -> str | None:
    """Make the folder, or find it begun: then a text."""
    place = path / PARTS / "request.json"
    asked = None if request is None else json.dumps(request, indent=2, default=str, sort_keys=True)
    try:
        if asked and place.is_file():
            if place.read_text() == asked:
                return "taken up"
            raise InputError(f"output folder {path} holds an unfinished run of other settings; choose another --out or "
                             "remove it")  # fmt: skip
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"output folder {path} exists and is not empty; choose another --out or remove it")
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise InputError(f"no permission to write to output folder {path}; choose another --out")
        if asked:
            place.parent.mkdir()
            write_text(place, asked)
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {error.strerror}; choose another --out") from error
    return None


def write_text(path: Path, text: str) -> None:
    with aside(path) as place:
        place.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def changed(settings: Any, values: dict, where: str) -> Any:
    """Frozen settings with some fields as a file says, which may lie deeper: {"recover": {"steps": 100}}.

    A dotted name is as good as a table within a table.

    Raises:
      InputError: a field that the settings do not have, or a value of another type; ``where`` names the place.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: {values!r} is no table of settings of {type(settings).__name__}")
    for name, value in values.items():
        name, _, rest = name.partition(".")
        if not any(item.name == name for item in dataclasses.fields(settings)):
            known = ", ".join(item.name for item in dataclasses.fields(settings))
            raise InputError(f"{where}: unknown setting {name!r} of {type(settings).__name__}; use {known}")
        now = getattr(settings, name)
        if rest and not dataclasses.is_dataclass(now):
            raise InputError(f"{where}: {name} of {type(settings).__name__} has no setting {rest!r}")
        if dataclasses.is_dataclass(now):
            value = changed(now, {rest: value} if rest else value, where)
        else:
            hint = typing.get_type_hints(type(settings))[name]
            try:
                # TOML has neither tuples nor paths, and 1 is as good as 1.0.
                value = _typed(hint, value)
            except (TypeError, ValueError):
                raise InputError(f"{where}: {name} = {value!r} is no {hint}") from None
        settings = dataclasses.replace(settings, **{name: value})
    return settings


def _typed(hint: Any, value: Any) -> Any:
    """A value of a TOML file as what a field's type says."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        origin, inner = typing.get_origin(choice) or choice, typing.get_args(choice)
        if origin is tuple and isinstance(value, list):
            return tuple(_typed(inner[0], item) for item in value)
        if origin is Path and isinstance(value, str):
            return Path(value)
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(origin, type) and type(value) is origin:
            return value
    raise TypeError


def config_dict(config: Any) -> dict:
    return {"config": type(config).__name__, **dataclasses.asdict(config)}


def log(message: str) -> None:
    """A line about progress, on stderr: stdout is for results. Of several processes the first speaks."""
    if hosts.is_first():
        print(message, file=sys.stderr, flush=True)
