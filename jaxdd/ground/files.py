"""Files that are whole or absent, written beside their place and then renamed; and arrays that are read with bounds."""

import contextlib
import io
import json
import math
import mmap
import os
import platform
import re
import secrets
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from jaxdd.ground import dry
from jaxdd.ground.errors import InputError

_LIMIT = 8 * 2**30
# Deflate can expand a thousandfold. Arrays that are worth compressing seldom expand more than tenfold.
_MOST_EXPANSION = 100
_SMALL = 2**26
_MOST_ARRAYS = 10_000
_HEADER_BYTES = 10_000
_CHUNK = 2**20
_NUMBERS = "biufc"
_TEXT = "US"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary place beside ``path`` for a file or folder: renamed to it at the end, removed on an error.

    A process that is killed leaves it behind. `sweep` removes it then, and so does whoever writes the same file.
    """
    place = _part(path)
    sweep(path.parent, of=_beginning(path))
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
    return path.with_name(f"{_beginning(path)}{os.getpid()}-{_TOKEN}@{_HOST}.part")


def _beginning(path: Path) -> str:
    # A long name is shortened, as the longest that a file system takes is 255 bytes.
    return f".{path.name.encode()[:150].decode(errors='ignore')}."


def sweep(folder: Path, alone: bool = False, of: str = "") -> None:
    """Remove what `atomic` left in a folder when a process of this machine died.

    Args:
      alone: whether no other process can be at work in the folder, so that all such entries are leftovers.
      of: the beginning of their names.
    """
    if not folder.is_dir() or dry.is_on():
        return
    for entry in folder.iterdir():
        if not entry.name.startswith(of):
            continue
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


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file, or a link to one, for reading. Anything else, such as a pipe, could block for ever.

    Raises:
      OSError: there is no such file, it cannot be read, or it is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")
    # The file may have been replaced since; without O_NONBLOCK, opening a pipe would wait for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


@dataclass(frozen=True)
class _Header:
    """What the header of an array in NumPy's format declares; ``size`` is that of the header, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    size: int

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of the elements, in bytes."""
        return self.count * self.dtype.itemsize


def read_arrays(
    path: Path | str, names: Collection[str] = (), others: bool = True, limit_bytes: int | None = None
) -> dict[str, Any]:
    """Read all arrays of a file in NumPy's npz format, stored or deflated; nothing is unpickled.

    The file may come from anywhere. What it declares is compared with what it holds and with the bounds below before
    memory is allocated. Deflated arrays may take 64 MiB or 100 times their compressed size together, whichever is more.

    Args:
      names: the arrays that must be there.
      others: whether there may be more.
      limit_bytes: most bytes of all arrays together; default: 8 GiB, or the size of the file if it is larger.

    Returns:
      Arrays of booleans, numbers or text by name, in native byte order.

    Raises:
      InputError: no regular file, or one that is damaged, too large, or holds other arrays.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = _members(archive, names, others)
            size = os.fstat(file.fileno()).st_size
            headers = {}
            for name, member in members.items():
                with archive.open(member) as content:
                    headers[name] = _read_header(content, name)
                _check_size(headers[name], member.file_size, name)
            _check_expansion(list(members.values()), size, max(_LIMIT, size) if limit_bytes is None else limit_bytes)
            return {name: _read_member(archive, member, headers[name]) for name, member in members.items()}
    except MemoryError:
        raise  # a matter of the machine, not of the file
    # Damage anywhere in a zip file or a header raises many types, which zipfile and NumPy do not list.
    except Exception as error:
        raise InputError(_damaged(path, error)) from None


def map_array(path: Path | str, records: bool = False) -> np.ndarray:
    """A file in NumPy's npy format as a read-only array in mapped memory; nothing is unpickled.

    Args:
      records: whether the elements may also be records, which have a structured dtype without objects.

    Raises:
      InputError: no regular file, or one that is damaged or does not hold one array of booleans or numbers.
    """
    try:
        with open_regular(path) as file:
            header = _read_header(file, "the array", _NUMBERS + _TEXT + "V" * records)
            if header.dtype.kind in _TEXT:
                raise ValueError("it holds text")
            _check_size(header, os.fstat(file.fileno()).st_size, "the array")
            if not header.nbytes:
                return np.empty(header.shape, header.dtype)
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            array = np.frombuffer(memory, header.dtype, header.count, header.size)
            return array.reshape(header.shape, order="F" if header.fortran else "C")
    except Exception as error:
        raise InputError(_damaged(path, error)) from None


def _damaged(path: Path | str, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"{path} cannot be read: {reason or type(error).__name__}; make it again or remove it"


def _members(archive: zipfile.ZipFile, names: Collection[str], others: bool) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by the names of their arrays; ValueError unless they are those that are wanted."""
    entries = archive.infolist()
    if len(entries) > _MOST_ARRAYS:
        raise ValueError(f"it holds {len(entries)} arrays")
    members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
    if len(members) < len(entries) or not all(entry.filename.endswith(".npy") for entry in entries):
        raise ValueError("its members are not arrays with names of their own")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ValueError("its arrays are neither stored nor deflated")
    if missing := sorted(set(names) - set(members)):
        raise ValueError(f"array {missing[0]!r} is missing")
    if not others and (foreign := sorted(set(members) - set(names))):
        raise ValueError(f"unknown array {foreign[0]!r}")
    return members


def _read_header(file: IO[bytes], name: str, kinds: str = _NUMBERS + _TEXT) -> _Header:
    """The header of an array of some kinds of dtypes; its length is bounded before it is read."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is written in an unknown version of NumPy's format")
    width, read = (2, np.lib.format.read_array_header_1_0) if version == (1, 0) else (
        4, np.lib.format.read_array_header_2_0)  # fmt: skip
    prefix = file.read(width)
    (length,) = struct.unpack("<H" if width == 2 else "<I", prefix)
    if length > _HEADER_BYTES:
        raise ValueError(f"the header of {name} takes {length} bytes")
    shape, fortran, dtype = read(io.BytesIO(prefix + file.read(length)), max_header_size=_HEADER_BYTES)
    if dtype.kind not in kinds or dtype.hasobject or dtype.subdtype:
        raise ValueError(f"{name} holds {dtype}, neither numbers nor text")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"{name} has shape {shape}")
    return _Header(shape, fortran, dtype, np.lib.format.MAGIC_LEN + width + length)


def _check_size(header: _Header, size: int, name: str) -> None:
    """ValueError unless an array with this header takes ``size`` bytes."""
    # Elements of no bytes, as of the text dtype U0, could be any number.
    if header.size + header.nbytes != size or header.count > size:
        raise ValueError(f"{name} should take {header.size + header.nbytes} bytes, but {size} are there")


def _check_expansion(members: list[zipfile.ZipInfo], size: int, limit_bytes: int) -> None:
    """ValueError if the arrays need more memory than a file of ``size`` bytes may."""
    stored = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    deflated = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    total = stored + sum(member.file_size for member in deflated)
    if stored > size:
        raise ValueError(f"its arrays should take {stored} bytes, but it has {size}")
    most = max(_SMALL, _MOST_EXPANSION * min(size, sum(member.compress_size for member in deflated)))
    if total > limit_bytes or total - stored > most:
        raise ValueError(f"{size} bytes would expand to {total}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: _Header) -> np.ndarray:
    array = np.empty(header.count, header.dtype)
    with archive.open(member) as content:
        content.read(header.size)
        if header.nbytes:
            view, filled = array.view(np.uint8), 0
            while filled < header.nbytes:
                part = content.read(min(_CHUNK, header.nbytes - filled))
                if not part:
                    raise ValueError(f"{member.filename} ends early")
                view[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                filled += len(part)
        # The checksum is compared where the content ends.
        if content.read(1):
            raise ValueError(f"{member.filename} goes on after its end")
    array = array.astype(header.dtype.newbyteorder("="), copy=False)
    # NumPy fails with a SystemError when it makes such letters.
    if array.dtype.kind == "U" and array.nbytes and array.view(np.uint32).max() > sys.maxunicode:
        raise ValueError(f"{member.filename} holds numbers that are no letters")
    return array.reshape(header.shape, order="F" if header.fortran else "C")
