"""A progress bar for loops that take longer than two seconds, and log lines."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import NamedTuple, TextIO

from tqdm import tqdm

from jaxdd.ground import hosts


class Bar(NamedTuple):
    """What a loop is called, and what makes it shorter.

    Attributes:
      title: of the progress bar.
      shorter: what to do for a shorter loop, such as "a lower `imager.steps`"; if empty, no time is announced.
      loops: the number of such loops, this one included, that are yet to come.
    """

    title: str
    shorter: str = ""
    loops: int = 1


LONG = 60.0
"""Seconds from which on the duration of a loop is announced."""
_TRIED = 3.0

wording: ContextVar[Callable[[str], str]] = ContextVar("wording", default=lambda line: line)
"""How a program words the lines of `log`, which name parameters in backticks."""


@contextlib.contextmanager
def worded(words: Callable[[str], str]) -> Iterator[None]:
    """A context manager in which lines of `log` are worded in this way."""
    token = wording.set(words)
    try:
        yield
    finally:
        wording.reset(token)


def progress(iterable: Iterable, bar: Bar | str, total: int | None = None) -> Iterable:
    """``iterable`` with a progress bar on stderr, which appears after two seconds and is erased at the end.

    Of several processes only the first shows it. Outside a terminal every refresh is a new line, so the bar refreshes
    every thirty seconds there. If all loops together will take more than a minute, this is said after a few seconds.

    Args:
      bar: its title, or that and what makes the loop shorter.
      total: the number of items; default: ``len(iterable)``.
    """
    bar = Bar(bar) if isinstance(bar, str) else bar
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if bar.shorter and total:
        iterable = _announced(iterable, bar, total)
    interval = 0.2 if sys.stderr is not None and sys.stderr.isatty() else 30.0
    return tqdm(
        iterable,
        bar.title,
        total,
        delay=2,
        leave=False,
        mininterval=interval,
        maxinterval=max(10, interval),
        disable=sys.stderr is None or not hosts.is_first(),
    )


def _announced(iterable: Iterable, bar: Bar, total: int) -> Iterator:
    """The items; the time that all take is logged once it is known. The first item, which compiles, is not timed."""
    begun, timed, waiting = None, 0, True
    for item in iterable:
        yield item
        now = time.perf_counter()
        if begun is None:
            begun = now
            continue
        timed += 1
        if waiting and timed >= 2 and now - begun > _TRIED:
            waiting = False
            seconds = (now - begun) / timed * total * bar.loops
            if seconds > LONG:
                shorter = hint(bar.shorter)
                words = f"; {shorter}" if shorter else ""
                log(f"{bar.title}: this takes about {duration(seconds)} in all{words}")


def hint(shorter: str) -> str:
    """What makes a loop shorter, as a clause; nothing if that is no flag of the program that runs."""
    words = wording.get()(shorter)
    return f"for less, use {words}" if "--" in words or "`" in words else ""


def duration(seconds: float) -> str:
    """Seconds in words, with two digits."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def log(message: str) -> None:
    """Print a line about progress to stderr; stdout is for results. Of several processes only the first prints."""
    if hosts.is_first():
        say(wording.get()(message))


def say(line: str) -> None:
    """Print a line to stderr, which may be closed, full or a pipe that nobody reads: no work is lost for that."""
    if sys.stderr is None:  # print would take stdout instead
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Send what a stream holds and will hold nowhere; otherwise Python fails at its end, as it cannot write that."""
    # A stream of the caller may be no file.
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
