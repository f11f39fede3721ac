"""What the command-line programs share: flags from typed configs, run folders, errors as one line."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from jaxdd.aside import aside
from jaxdd.errors import InputError


def run(main: Callable[[Any], None], default: Callable[[list[str]], Any], arguments: list[str] | None = None) -> None:
    """Parse every field of the dataclass that ``default(arguments)`` returns as a flag and call ``main``.

    The arguments are those of the command line unless given. `InputError` becomes one line on stderr and exit status 2.
    """
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        start = default(arguments)
        main(tyro.cli(type(start), default=start, args=arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def run_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder for a run; bad input found inside the block removes it again, a crash leaves it.

    Raises:
      InputError: the folder exists and is not empty, or cannot be made.
    """
    existed = path.is_dir()
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        if existed and any(path.iterdir()):
            raise InputError(f"output folder {path} exists and is not empty; choose another --out or remove it")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {error.strerror}; choose another --out") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"no permission to write to output folder {path}; choose another --out")
    try:
        yield path
    except InputError:
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in made:
            # A teacher kept beside the run is worth keeping; so is whatever holds it.
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    with aside(path) as place:
        place.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def config_dict(config: Any) -> dict:
    return {"config": type(config).__name__, **dataclasses.asdict(config)}


def log(message: str) -> None:
    """A line about progress, on stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)
