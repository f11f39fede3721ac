"""A progress bar for loops that take longer than two seconds, and log lines."""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

from jaxdd.ground import hosts


def progress(iterable: Iterable, title: str, total: int | None = None) -> Iterable:
    """``iterable`` with a progress bar on stderr, which appears after two seconds and is erased at the end.

    Of several processes only the first shows it. Outside a terminal every refresh is a new line, so the bar refreshes
    every thirty seconds there.
    """
    interval = 0.2 if sys.stderr is not None and sys.stderr.isatty() else 30.0
    return tqdm(
        iterable,
        title,
        total,
        delay=2,
        leave=False,
        mininterval=interval,
        maxinterval=max(10, interval),
        disable=sys.stderr is None or not hosts.is_first(),
    )


def log(message: str) -> None:
    """Print a line about progress to stderr; stdout is for results. Of several processes only the first prints."""
    if hosts.is_first():
        say(message)


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
