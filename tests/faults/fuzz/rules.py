"""The rules of every reader: a value or an InputError of one line, in five seconds, within a gibibyte of memory."""

import contextlib
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxdd.ground.errors import InputError

SECONDS, MEBIBYTES = 5.0, 1024
KEPT = Path(__file__).parent / "kept"


class Target(NamedTuple):
    """What is fuzzed: a reader of files that anybody may have written.

    Attributes:
      seeds: valid inputs, made by code.
      mutate: (random numbers, input) -> another input that is mostly well-formed.
      read: (an empty or left-over folder, input) -> writes the files that the input stands for, and reads them.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path, bytes], object]

    def kept(self) -> list[bytes]:
        """The inputs that once broke a rule or led to new branches."""
        return [place.read_bytes() for place in sorted((KEPT / self.name).glob("*"))]


class Outcome(NamedTuple):
    """What came of one input.

    Attributes:
      kind: "value", "refused" or the name of what was raised.
      broken: the rule that it breaks, with a traceback; empty if none.
      where: the innermost line of the package in that traceback, which tells findings apart.
    """

    kind: str
    broken: str
    where: str
    seconds: float
    peak: float


def outcome(target: Target, folder: Path, data: bytes) -> Outcome:
    """Read one input and compare what happens with the rules."""
    kind, broken, where = "value", "", ""
    before, begun = peak(), time.perf_counter()
    try:
        target.read(folder, data)
    except InputError as error:
        kind = "refused"
        if not str(error) or len(str(error).splitlines()) > 1:
            broken, where = f"a message of more than one line, or none: {str(error)!r}", _place(error)
    # A panic of a library in Rust is no Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        kind, where = type(error).__name__, _place(error)
        broken = "".join(traceback.format_exception(error))
    seconds, grown = time.perf_counter() - begun, peak() - before
    if not broken and seconds > SECONDS:
        broken, where = f"{seconds:.1f} s", "time"
    if not broken and grown > MEBIBYTES:
        broken, where = f"{grown:.0f} MiB more", "memory"
    return Outcome(kind, broken, where, seconds, peak())


def peak() -> float:
    """The largest resident memory of this process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if "jaxdd" in frame.filename and "site-packages" not in frame.filename]
    last = (inner or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.name}"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder in memory, if there is such a file system."""
    root = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    place = Path(tempfile.mkdtemp(prefix="jaxdd-fuzz-", dir=root))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


# Several files in one input: a line with the name and the size of each, and its content.


def packed(files: dict[str, bytes]) -> bytes:
    """Files by name as one input."""
    return b"".join(b"%s %d\n%s\n" % (name.encode(), len(content), content) for name, content in files.items())


def unpacked(data: bytes, known: dict[str, bytes]) -> dict[str, bytes]:
    """The files of an input that have known names; a size beyond the end takes what is there."""
    files: dict[str, bytes] = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, _, size = head.decode("ascii", "replace").partition(" ")
        if name not in known or not size.isdecimal() or len(size) > 9:
            break
        files[name], data = data[: int(size)], data[int(size) + 1 :]
    return files


@contextlib.contextmanager
def placed(folder: Path, files: dict[str, bytes], base: dict[str, bytes]) -> Iterator[None]:
    """Files of an input among the valid ones of ``base``, which are put back afterwards; None is no file."""
    for name, content in base.items():
        if not (folder / name).exists():
            write(folder / name, content)
    for name, content in files.items():
        write(folder / name, content)
    try:
        yield
    finally:
        for name in files:
            write(folder / name, base.get(name))


def write(place: Path, content: bytes | None) -> None:
    """Put a new file in a place: one that is mapped into memory somewhere is not changed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if content is not None:
        place.write_bytes(content)
