"""Random changes of files that keep most of their form, so that they get past the first checks of a reader."""

import ast
import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from faults.fuzz.rules import packed, unpacked

Rng = random.Random
Mutator = Callable[[Rng, bytes], bytes]

_NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**18, 10**400, -(2**63), 0.5, -0.0,
    1e-300, 1e39, 1e308, -1e308, 1e-45, float("nan"), float("inf"), -float("inf"), True, False, None,
]  # fmt: skip
_TEXTS = [
    "", " ", "a", "name", "full", "x" * 300, "x" * 5000, "\0", "\n", "a\nb", "\ud800", "\udcff", "\u2028", "\u202e",
    "é", "猫", "../x", "/dev/zero", "a/b", ".", "..", "os:system", "nan", "1e999", "0x10", "１", "[", "{", "'", '"',
    "<b>", "%s", "{0}", "wmdd", "random", "barycenter", "recover", "digits", "convnet3", "resnet18", "hard",
    "soft", "int8",
    "topk", "float16", "float32",
]  # fmt: skip
_FLOATS = (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\xff", b"\xff\xff\x7f\x7f", b"\x80\x7f")
_DTYPES: list[Any] = [
    "<f4", ">f4", "<f8", "<f2", "|u1", "|b1", "<i4", "<i8", "<U3", "<U0", "|S3", "|O", "<c8", "<M8[s]", "<m8", "|V8",
    "<f16", "<U2147483647", "f4,f4", [("a", "<f4")], [("a", "<f4", (2,))], [("codes", "|u1", (3,))],
    [("a", "<f4"), ("a", "<f4")], [["a", "<f4"]], ("<f4", (2, 2)), "", "x" * 99, 3, None, {},
]  # fmt: skip
_PIECES = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", b"\n", b"[", b"{",
           b'"', b"'", b"1" * 30, b"(" * 60, b"[" * 60, b"-", b"#", b"=", b".", b"\xef\xbb\xbf", b"\\",
           b"\\ud800"]  # fmt: skip


def raw(rng: Rng, data: bytes) -> bytes:
    """Bytes changed, removed, repeated, moved or replaced by extreme ones."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        match rng.randrange(8):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at : at + rng.randint(1, 9)]
            case 2:
                del changed[end:]
            case 3:
                piece = rng.choice(_PIECES)
                changed[at : at + len(piece)] = piece
            case 4:
                changed[at:at] = changed[at : min(end, at + 64)]
            case 5:
                changed[at:at] = rng.choice(_PIECES)
            case 6 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 7:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((0, 1, 2**15, 2**31 - 1, 2**31, 2**64 - 1, len(changed), rng.getrandbits(16)))
                order = rng.choice(("little", "big"))
                changed[at : at + size] = (number % 256**size).to_bytes(size, order)
    return bytes(changed)


def either(*mutators: Mutator) -> Mutator:
    """One of these, chosen at random for each input; the first most often."""
    return lambda rng, data: (mutators[0] if rng.random() < 0.7 else rng.choice(mutators))(rng, data)


def value(rng: Rng) -> Any:
    """A JSON value that a reader may not expect."""
    match rng.randrange(10):
        case 0 | 1 | 2:
            return rng.choice(_NUMBERS)
        case 3 | 4 | 5:
            return rng.choice(_TEXTS)
        case 6:
            return [value(rng) for _ in range(rng.choice((0, 1, 2, 3, 9)))]
        case 7:
            return {rng.choice(_TEXTS): value(rng) for _ in range(rng.choice((0, 1, 2)))}
        case 8:
            return [rng.choice((*_NUMBERS, "a", [], {}))] * rng.choice((2, 3, 64, 5000))
        case _:
            return rng.choice(([[]], {"a": {}}, [None], {"name": []}, {"name": "random"}, [[1, 2], [3]]))


def _nodes(tree: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """All (container, key) of a tree."""
    keys = list(tree)[:100] if isinstance(tree, dict) else range(min(20, len(tree))) if isinstance(tree, list) else []
    keys = keys if depth < 60 else []
    return [one for key in keys for one in ((tree, key), *_nodes(tree[key], depth + 1))]


def tree(rng: Rng, top: Any) -> Any:
    """A JSON value with one to three nodes replaced, removed, copied, renamed or nested. The argument is changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        nodes = _nodes(top)
        if not nodes:
            return value(rng)
        holder, key = rng.choice(nodes)
        match rng.randrange(8):
            case 0 | 1 | 2:
                holder[key] = value(rng)
            case 3:
                del holder[key]
            case 4:
                holder[key] = _near(rng, holder[key])
            case 5:
                other, there = rng.choice(nodes)
                # A copy, as a circle cannot be written.
                holder[key] = json.loads(json.dumps(other[there]))
            case 6 if isinstance(holder, dict):
                holder[rng.choice((rng.choice(_TEXTS), f"{key}.{key}", f"{key}."))] = holder.pop(key)
            case _:
                holder[key] = [holder[key]] if rng.random() < 0.5 else {rng.choice(_TEXTS): holder[key]}
    return top


def _near(rng: Rng, old: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float) and abs(old) < 1e15:
        return rng.choice((-old, old + 1, old - 1, old * 2, old / 3, float(old), 10**6 * old, str(old)))
    if isinstance(old, str):
        return rng.choice((old[:-1], old + old, old.upper(), old + rng.choice(_TEXTS), [old], old[::-1]))
    if isinstance(old, list):
        return rng.choice((old[:-1], old + old, old[::-1], old[:1], [old, old], tuple(old)))
    return None if old is not None else 0


def as_json(rng: Rng, data: bytes) -> bytes:
    """A JSON file with another tree, sometimes with a key twice."""
    try:
        text = json.dumps(tree(rng, json.loads(data)))
    except (ValueError, RecursionError):
        return raw(rng, data)
    if rng.random() < 0.03 and text.startswith("{") and len(text) > 2:
        text = f"{{{text[1:-1]}, {text[1:]}"
    return text.encode("utf-8", "surrogatepass")


def as_lines(rng: Rng, data: bytes) -> bytes:
    """A text file with one line changed as JSON, removed, repeated or moved."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0 | 1:
            lines[at] = as_json(rng, lines[at])
        case 2:
            del lines[at]
        case 3:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        case 4:
            lines[at] = raw(rng, lines[at])
    return b"\n".join(lines)


def as_npy(rng: Rng, data: bytes) -> bytes:
    """A file in NumPy's npy format with another header, or other elements."""
    parts = _npy(data)
    if parts is None:
        return raw(rng, data)
    header, body = parts
    version = (1, 0)
    match rng.randrange(8):
        case 0 | 1:
            header["shape"] = _shape(rng, header.get("shape"))
        case 2:
            header["descr"] = rng.choice(_DTYPES)
        case 3:
            header["fortran_order"] = rng.choice((True, False, 1, "a", None))
        case 4:
            key = rng.choice(list(header) or ["shape"])
            header[rng.choice(_TEXTS)] = header.pop(key, 0)
        case 5:
            body = raw(rng, body)
        case 6:
            piece = rng.choice(_FLOATS)
            at = rng.randrange(max(1, len(body)))
            body = body[:at] + piece + body[at + len(piece) :]
        case 7:
            version = rng.choice(((1, 0), (2, 0), (3, 0), (9, 9)))
    text = repr(header).replace("nan", "0").encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        text = raw(rng, text)
    return _npy_of(text, body, version)


def _shape(rng: Rng, old: Any) -> Any:
    sides = list(old) if isinstance(old, tuple) else [1]
    odd = (0, 1, 2, 3, 7, -1, 2**31, 2**62, 2**64, 10**30, True, 1.0, "1", None)
    match rng.randrange(6):
        case 0:
            return tuple(sides[::-1])
        case 1:
            return (*sides, 1)
        case 2:
            return tuple(sides[:-1])
        case 3:
            return rng.choice((3, [3], "", None, (), ((),)))
        case 4 if sides:
            sides[rng.randrange(len(sides))] = rng.choice(odd)
            return tuple(sides)
        case _:
            return tuple(rng.choice(odd) for _ in range(rng.choice((1, 2, 4, 40))))


def _npy(data: bytes) -> tuple[dict, bytes] | None:
    """The header and the elements of an array; None if they cannot be told."""
    if not data.startswith(b"\x93NUMPY\x01\x00") or len(data) < 10:
        return None
    end = 10 + int.from_bytes(data[8:10], "little")
    try:
        header = ast.literal_eval(data[10:end].decode("latin1"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (header, data[end:]) if isinstance(header, dict) else None


def _npy_of(text: bytes, body: bytes, version: tuple[int, int]) -> bytes:
    width = 2 if version == (1, 0) else 4
    text += b" " * (-(8 + width + len(text) + 1) % 64) + b"\n"
    size = min(len(text), 256**width - 1).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + body


def as_npz(rng: Rng, data: bytes) -> bytes:
    """An npz file with members changed, renamed, removed, added or compressed otherwise; the checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # zipfile raises many types
        return raw(rng, data)
    if not members or sum(len(content) for _, content in members) > 10**6:
        return raw(rng, data)
    kinds = [zipfile.ZIP_STORED] * len(members)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(members))
        name, content = members[at]
        match rng.randrange(12):
            case 0:
                names = rng.choice(_TEXTS[:20]), name[:-4], name + ".npy", rng.choice(members)[0]
                members[at] = (rng.choice(names), content)
            case 1 if len(members) > 1:
                del members[at], kinds[at]
            case 2:
                members.append((rng.choice((name, "other.npy", "folder/a.npy", "a.txt")), content))
                kinds.append(zipfile.ZIP_STORED)
            case 3:
                kinds[at] = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            case 4:
                members[at] = (name, rng.choice(members)[1])
            case 5:
                members[at] = (name, raw(rng, content))
            case 6:
                members[at] = (name, _npy_text(rng, content))
            case _:
                members[at] = (name, as_npy(rng, content))
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for (name, content), kind in zip(members, kinds):
            entry = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "a")
            entry.compress_type = kind
            archive.writestr(entry, content)
    return file.getvalue()


def _npy_text(rng: Rng, data: bytes) -> bytes:
    """An array of one text, such as JSON, with another text."""
    parts = _npy(data)
    if parts is None or not str(parts[0].get("descr")).startswith("<U"):
        return as_npy(rng, data)
    header, body = parts
    text = body.decode("utf-32-le", "replace").rstrip("\0")
    changed = as_json(rng, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    count = 1
    for side in header["shape"] if isinstance(header.get("shape"), tuple) else ():
        count *= side if isinstance(side, int) else 1
    width = -(-len(changed) // max(1, count))
    header["descr"] = f"<U{width}"
    body = changed.encode("utf-32-le", "surrogatepass").ljust(4 * width * max(0, min(count, 1000)), b"\0")
    return _npy_of(repr(header).encode(), body, (1, 0))


def as_safetensors(rng: Rng, data: bytes) -> bytes:
    """A safetensors file with another header of the right length, or other elements."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return raw(rng, data)
    body = data[8 + size :]
    match rng.randrange(6):
        case 0:
            body = raw(rng, body)
        case 1 if isinstance(header, dict) and header:
            one = header[rng.choice(list(header))]
            if isinstance(one, dict):
                one["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3",
    "F8_E5M2",
                                           "F8_E8M0", "F4", "F6_E2M3", "C64", "U16", "X", "", 3))  # fmt: skip
        case _:
            header = tree(rng, header)
    text = as_json(rng, json.dumps(header).encode()) if rng.random() < 0.05 else json.dumps(header).encode()
    length = len(text) if rng.random() < 0.95 else rng.choice((0, 1, 2**63, 2**64 - 1, len(text) + 8, 10**8))
    return struct.pack("<Q", length) + text + body


def as_png(rng: Rng, data: bytes) -> bytes:
    """A PNG with chunks changed, removed, repeated or moved; the checksums are right."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return raw(rng, data)
    chunks, rest = [], data[8:]
    while len(rest) >= 12:
        size = int.from_bytes(rest[:4], "big")
        chunks.append((rest[4:8], rest[8 : 8 + size]))
        rest = rest[12 + size :]
    if not chunks:
        return raw(rng, data)
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    match rng.randrange(8):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        case 2:
            names = b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP tEXt zTXt iTXt eXIf acTL fcTL fdAT pHYs cICP".split()
            chunks.insert(at, (rng.choice(names), raw(rng, body)))
        case 3 if kind == b"IDAT":
            try:
                chunks[at] = (kind, zlib.compress(raw(rng, zlib.decompress(body))))
            except zlib.error:
                chunks[at] = (kind, raw(rng, body))
        case 4 if kind == b"IHDR" and len(body) == 13:
            sides = [rng.choice((0, 1, 2, 8, 9, 300, 2**31 - 1)) for _ in range(2)]
            depth, colours = rng.choice((1, 2, 4, 8, 8, 16, 7)), rng.choice((0, 2, 3, 4, 6, 5))
            chunks[at] = (kind, struct.pack(">IIBBBBB", *sides, depth, colours, 0, 0, rng.choice((0, 0, 1, 2))))
        case _:
            chunks[at] = (kind, raw(rng, body))
    with_sums = ((kind + body, len(body)) for kind, body in chunks)
    parts = (struct.pack(">I", size) + content + struct.pack(">I", zlib.crc32(content)) for content, size in with_sums)
    return data[:8] + b"".join(parts)


def of_files(base: dict[str, bytes], kinds: dict[str, Mutator]) -> Mutator:
    """A mutator of several files: changes one or two, and sometimes takes one away or adds a valid one.

    Args:
      base: valid files by name.
      kinds: the mutators of the files by the ends of their names.
    """

    def change(rng: Rng, data: bytes) -> bytes:
        files = unpacked(data, base)
        for _ in range(rng.choice((1, 1, 1, 2))):
            name = rng.choice(list(base))
            if rng.random() < 0.05:
                files[name] = rng.choice((b"", base[name], rng.choice(list(base.values()))))
                continue
            if rng.random() < 0.1 and name in files:
                del files[name]
                continue
            kind = next((one for end, one in kinds.items() if name.endswith(end)), raw)
            files[name] = (kind if rng.random() < 0.8 else raw)(rng, files.get(name, base[name]))
        return packed(files)

    return change
