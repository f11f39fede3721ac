"""A progress bar for what takes longer than two seconds."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

from jaxdd.ground import hosts


def progress(iterable: Iterable, title: str, total: int | None = None) -> Iterable:
    """``iterable`` with a bar on stderr that shows itself after two seconds and leaves no line behind.

    Of several processes the first shows it. Off a terminal a bar is a hundred lines of noise, so it refreshes every
    thirty seconds there.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        iterable,
        title,
        total,
        delay=2,
        leave=False,
        mininterval=interval,
        maxinterval=max(10, interval),
        disable=not hosts.is_first(),
    )


def log(message: str) -> None:
    """A line about progress, on stderr: stdout is for results. Of several processes the first speaks."""
    if hosts.is_first():
        print(message, file=sys.stderr, flush=True)
