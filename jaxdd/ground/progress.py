"""A progress bar for loops that take longer than two seconds, and log lines."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

from jaxdd.ground import hosts


def progress(iterable: Iterable, title: str, total: int | None = None) -> Iterable:
    """``iterable`` with a progress bar on stderr, which appears after two seconds and is erased at the end.

    Of several processes only the first shows it. Outside a terminal every refresh is a new line, so the bar refreshes
    every thirty seconds there.
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
    """Print a line about progress to stderr; stdout is for results. Of several processes only the first prints."""
    if hosts.is_first():
        print(message, file=sys.stderr, flush=True)
