"""A progress bar, or lines, for loops that take longer than two seconds, and log lines."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import NamedTuple, TextIO

from tqdm import tqdm

from jaxdd.ground import hosts
from jaxdd.ground.course import TRIED, Course, Loop, current


class Bar(NamedTuple):
    """What a loop is called, and what makes it shorter.

    Attributes:
      title: of the progress bar.
      shorter: what to do for a shorter loop, such as "a lower `imager.steps`"; if empty, no time is announced.
      loops: the number of such loops, this one included, that are yet to come.
      done: the number of items that an earlier run has done.
    """

    title: str
    shorter: str = ""
    loops: int = 1
    done: int = 0


LONG = 60.0
"""Seconds from which on the duration of a loop is announced, and between two lines about a program."""
_DELAY = 2.0

wording: ContextVar[Callable[[str], str]] = ContextVar("wording", default=lambda line: line)
"""How a program words the lines of `log`, which name parameters in backticks."""
_noted: ContextVar[set[str] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def worded(words: Callable[[str], str]) -> Iterator[None]:
    """A context manager of a program, in which lines of `log` are worded in this way, and those of `note` said once."""
    token, noted = wording.set(words), _noted.set(set())
    try:
        yield
    finally:
        wording.reset(token)
        _noted.reset(noted)


def progress(iterable: Iterable, bar: Bar | str, total: int | None = None) -> Iterable:
    """``iterable`` with a progress bar on stderr, which appears after two seconds and is erased at the end.

    Of several processes only the first shows it. Outside a terminal there is no bar, but a line every minute, and one
    at the end of each stage of a program that is `followed` and takes longer than two seconds. Both say how long the
    loop still takes, and all the stages that are left, once that is known. If all loops together will take more than a
    minute, this is said after a few seconds.

    Args:
      bar: its title, or that and what makes the loop shorter.
      total: the number of items; default: ``len(iterable)``.
    """
    bar = Bar(bar) if isinstance(bar, str) else bar
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr is None or not hosts.is_first():
        return iterable
    return _shown(iterable, bar, total)


def _shown(iterable: Iterable, bar: Bar, total: int | None) -> Iterator:
    """The items, with what is said and shown about them."""
    course = current() or Course()
    loop, announced = course.begin(bar.title, total), not (bar.shorter and total)
    with _drawn(bar, total) as drawn:
        for item in iterable:
            yield item
            loop.tick()
            announced = announced or _announced(loop, bar)
            course.look_ahead(loop)
            if drawn is None:
                _report(course, loop, bar)
            elif drawn.update():
                drawn.set_description_str(f"{course.place}{bar.title}", refresh=False)
                drawn.set_postfix_str(_ahead(course, loop), refresh=False)
    stage = course.end(loop)
    if stage is not None and drawn is None and current() is not None and stage.seconds > _DELAY:
        say(f"{stage.title}: {stage.amount}{' in ' if stage.amount else ''}{duration(stage.seconds)}")
        course.said = time.perf_counter()


def _drawn(bar: Bar, total: int | None) -> contextlib.AbstractContextManager:
    """The bar on a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    count = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" if total else "{n_fmt}"
    whole = None if total is None else total + bar.done
    form = f"{{desc}}: {count} [{{elapsed}}{{postfix}}]"
    return tqdm(None, bar.title, whole, delay=_DELAY, leave=False, mininterval=0.2, initial=bar.done, bar_format=form)


def _ahead(course: Course, loop: Loop) -> str:
    """How long the loop takes, and all that is left; nothing while that is not known."""
    here, whole = loop.seconds_left, course.seconds_left()
    words = [] if here is None else [f"about {duration(here)} left"]
    return ", ".join([*words, *([] if whole is None else [f"about {duration(whole)} to the end"])])


def _report(course: Course, loop: Loop, bar: Bar) -> None:
    """Print how far a loop is, if the last line about the program is a minute old."""
    if time.perf_counter() - course.said < LONG or loop.items == loop.total:
        return
    course.said = time.perf_counter()
    ahead, whole = _ahead(course, loop), "" if loop.total is None else f" of {loop.total + bar.done:,}"
    say(f"{course.place}{bar.title}: {loop.items + bar.done:,}{whole}{', ' if ahead else ''}{ahead}")


def _announced(loop: Loop, bar: Bar) -> bool:
    """Whether it is known how long all loops take; that is logged if it is long. The first item is not timed."""
    if loop.items < 3 or loop.timed <= TRIED:
        return False
    seconds = loop.timed / (loop.items - 1) * (loop.total or 0) * bar.loops
    if seconds > LONG:
        shorter = hint(bar.shorter)
        words = f"; {shorter}" if shorter else ""
        log(f"{bar.title}: this takes about {duration(seconds)} in all{words}")
    return True


def hint(shorter: str) -> str:
    """What makes a loop shorter, as a clause; nothing if that is no flag of the program that runs."""
    words = wording.get()(shorter)
    return f"for less, use {words}" if "--" in words or "`" in words else ""


def duration(seconds: float) -> str:
    """Seconds in words, with two digits."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def _digits(number: float) -> str:
    # From 99.5 on two digits would be 1e+02.
    return f"{number:.2g}" if number < 99.5 else f"{number:,.0f}"


def log(message: str) -> None:
    """Print a line about progress to stderr; stdout is for results. Of several processes only the first prints."""
    if hosts.is_first():
        say(wording.get()(message))


def note(message: str) -> None:
    """`log` about the data, which a program may open several times: it prints the same line only once."""
    noted = _noted.get()
    if noted is None or message not in noted:
        log(message)
    if noted is not None:
        noted.add(message)


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
