"""Files that are whole or absent: written beside their place, then renamed."""

import contextlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdd.ground.errors import InputError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary place beside ``path`` for a file or folder: renamed to it at the end, removed on an error.

    A process that is killed leaves it behind; `sweep` removes it then.
    """
    place = _part(path)
    try:
        yield place
        os.replace(place, path)
    except BaseException:
        remove(place)
        raise


_TOKEN = secrets.token_hex(3)  # tells this process from an earlier one of the same number
_HOST = re.sub(r"[^\w-]", "_", platform.node())[:40]
_PART = re.compile(r"\..*\.(\d+)-([0-9a-f]{6})@([\w-]*)\.part")


def _part(path: Path) -> Path:
    """The temporary place for a path."""
    # A long name is shortened, as the longest that a file system takes is 255 bytes.
    name = path.name.encode()[:150].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}-{_TOKEN}@{_HOST}.part")


def sweep(folder: Path, alone: bool = False) -> None:
    """Remove what `atomic` left in a folder when a process of this machine died.

    alone: whether no other process can be at work in the folder, so that all such entries are leftovers.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        is_part = _PART.fullmatch(entry.name)
        if is_part and (alone or _is_dead(*is_part.groups())) or alone and ".orbax-checkpoint-tmp" in entry.name:
            remove(entry)


def _is_dead(process: str, token: str, host: str) -> bool:
    if host != _HOST:
        return False
    if int(process) == os.getpid():
        return token != _TOKEN
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def remove(path: Path) -> None:
    """Remove a file or a folder, whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_at_once(path: Path) -> None:
    """Remove a file or folder so that a reader, or the next process after a crash, finds all of it or nothing."""
    if path.exists():
        place = _part(path)
        os.replace(path, place)
        remove(place)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic(path) as place:
        place.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; a value of a type that JSON lacks is written as its `str`."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; make it again or remove it") from None
