"""Reading small files that anybody may have written: regular files of a bounded size, and strict JSON."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from jaxdd.ground.errors import InputError, shown

# No text that this library reads is longer, and no record is deeper. JSON takes up to thirty times its size in memory.
_LONGEST, _DEEPEST = 2**24, 50


def check_regular(path: Path, remedy: str = "give another file") -> int:
    """The size in bytes of a regular file; a pipe would be waited for, and a folder or device cannot be read.

    Raises:
      InputError: no such file, or it is no regular file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {remedy}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file; {remedy}")
    return status.st_size


def read_text(path: Path, remedy: str = "give another file", longest: int = _LONGEST) -> str:
    """Read a text file in UTF-8 of at most ``longest`` bytes, 16 MiB by default.

    Raises:
      InputError: no such file, no regular file, a longer one, or not UTF-8.
    """
    if check_regular(path, remedy) > longest:
        raise InputError(f"{path} has more than {longest // 2**20} MiB, too much for a text; {remedy}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start}); {remedy}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {remedy}") from None


def read_json(path: Path, remedy: str = "make it again or remove it") -> Any:
    """Read a JSON file. Unlike `json.load`, refuse what JSON does not have or does not define.

    Raises:
      InputError: see `read_text`, no JSON, NaN or infinite numbers, a key that occurs twice, or values nested more than
        fifty deep.
    """
    return parse_json(read_text(path, remedy), str(path), remedy)


def parse_json(text: str, what: str, remedy: str, finite: bool = True) -> Any:
    """`read_json` of a text, which ``what`` names in messages; ``finite``: whether NaN and infinities are refused."""
    try:
        constant = _no_constant if finite else float
        value = json.loads(text, parse_int=_whole, parse_constant=constant, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise InputError(f"{what} is no JSON or damaged: {error}; {remedy}") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deep; {remedy}") from None
    level, depth = [value], 0
    while level := [part for one in level if isinstance(one, dict | list) for part in _parts(one)]:
        depth += 1
        if depth > _DEEPEST:
            raise InputError(f"{what} is nested more than {_DEEPEST} deep; {remedy}")
    return value


def _parts(value: dict | list) -> list:
    return list(value.values()) if isinstance(value, dict) else value


def _whole(digits: str) -> int:
    if len(digits) > 1000:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice")
    return record
