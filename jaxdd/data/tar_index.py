"""Where the files in an uncompressed tar archive lie. Headers are read one after another; nothing is extracted."""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from jaxdd.data.checks import printable
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import open_regular

_BLOCK = 512
# Of a long name or a table of attributes, which are read.
_LONGEST = 2**16
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
_FILES, _FOLDER, _LONG_NAME, _TABLE, _COMMON_TABLE = (b"0", b"\0", b"7"), b"5", b"L", b"x", b"g"
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


class Member(NamedTuple):
    """A file of an archive: its name, and the place and number of its bytes."""

    name: str
    offset: int
    size: int


def members(path: str) -> Iterator[tuple[Member, BinaryIO]]:
    """The files of an archive in their order, each with the open archive; reading moves its position freely.

    Raises:
      InputError: no regular file, a compressed or damaged one, one that ends early, or a member that is a link or a
        device, or whose name is absolute, leads out of the archive or is not UTF-8.
    """
    try:
        with open_regular(path) as file:
            yield from _members(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None
    except _Damaged as error:
        raise _refused(path, str(error)) from None


class _Damaged(ValueError):
    """A reason why an archive cannot be read."""


def _refused(path: str, reason: str) -> InputError:
    return InputError(f"archive {printable(path)} cannot be read: {reason}; make it again or leave it out")


def _members(file: BinaryIO, total: int) -> Iterator[tuple[Member, BinaryIO]]:
    at, name, size = 0, "", -1  # the last two from a header before that of the file itself, if there is one
    while header := _header(file, at, total):
        kind, own_size = header[156:157], _number(header[124:136])
        length = size if size >= 0 and kind not in (_LONG_NAME, _TABLE, _COMMON_TABLE) else own_size
        start, at = at + _BLOCK, at + _BLOCK + -(-length // _BLOCK) * _BLOCK
        if start + length > total:
            raise _Damaged(f"{_name(header) or 'a file'!r} should take {length} bytes, but the archive ends before")
        if kind in (_LONG_NAME, _TABLE, _COMMON_TABLE):
            if length > _LONGEST:
                raise _Damaged(f"a name or table of attributes takes {length} bytes")
            content = file.read(length)
            if kind == _LONG_NAME:
                name = _decoded(content.rstrip(b"\0"))
            elif kind == _TABLE:
                attributes = _table(content)
                if any(key.startswith("GNU.sparse") for key in attributes):
                    raise _Damaged("it holds a sparse file")
                name, size = attributes.get("path", name), _whole(attributes.get("size", str(size)))
            continue
        full, name, size = name or _name(header), "", -1
        if kind in _KINDS or kind not in (*_FILES, _FOLDER):
            raise _Damaged(f"{full!r} is {_KINDS.get(kind, 'of an unknown kind')}, and only files are read")
        if full.startswith("/") or ".." in full.split("/") or "\0" in full:
            raise _Damaged(f"{full!r} leads out of the archive")
        # Names of folders end with a slash in archives that are older than their kind.
        if kind != _FOLDER and not full.endswith("/"):
            yield Member(full, start, length), file


def _header(file: BinaryIO, at: int, total: int) -> bytes | None:
    """The header at a place; None at the end of the archive."""
    file.seek(at)
    header = file.read(_BLOCK)
    if not at:
        for magic, kind in _COMPRESSED.items():
            if header.startswith(magic):
                raise _Damaged(f"it is compressed ({kind}), and has no random access; unpack it to a plain .tar")
    if len(header) == _BLOCK and not header.strip(b"\0"):
        return None
    # Some writers leave out the empty blocks at the end.
    if not header and at and at == total:
        return None
    if len(header) < _BLOCK:
        raise _Damaged("it ends early" if at else "it is no tar archive")
    # The field of the sum itself counts as eight spaces.
    summed = sum(header) - sum(header[148:156]) + 8 * 32
    if header[148:156].strip(b" \0").lstrip(b"0") != b"%o" % summed:
        raise _Damaged(f"the header at byte {at} is damaged" if at else "it is no tar archive")
    return header


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # in binary, as of files of 8 GiB or more
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]*", digits):
        raise _Damaged("a header holds a number that is none")
    return int(digits or b"0", 8)


def _whole(text: str) -> int:
    if not re.fullmatch(r"-1|\d{1,20}", text):
        raise _Damaged("a table of attributes holds a size that is none")
    return int(text)


def _name(header: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
    is_posix = header[257:263] == b"ustar\0"
    return _decoded(prefix + b"/" + name if prefix and is_posix else name)


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _Damaged(f"the name {name[:80]!r} is not UTF-8") from None


def _table(content: bytes) -> dict[str, str]:
    """The attributes in lines LENGTH KEY=VALUE of a header before a file."""
    found: dict[str, str] = {}
    while content.strip(b"\0"):
        digits = content.partition(b" ")[0]
        length = int(digits) if re.fullmatch(rb"\d{1,6}", digits) else 0
        key, mark, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not mark or not len(digits) + 2 < length <= len(content):
            raise _Damaged("a table of attributes is damaged")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[_decoded(key)] = _decoded(value)
        content = content[length:]
    return found
