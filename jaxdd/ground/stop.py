"""Ending on SIGTERM and Ctrl-C at a moment when what was computed can be kept."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal.

    Attributes:
      status: the exit status by convention, 128 plus the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_deferred = 0
_waiting: int | None = None


def heed() -> None:
    """From now on SIGTERM and SIGINT raise `Stopped` in the main thread, where nothing defers it."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    for number in _SIGNALS:
        signal.signal(number, _handle)
    sys.unraisablehook = _unraisable
    atexit.unregister(_heed_no_more)
    atexit.register(_heed_no_more)


def _heed_no_more() -> None:
    """While Python ends there is nothing to keep: a signal ends the process without a stack trace."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    global _waiting
    # A second signal does not wait: whoever sends it knows better.
    if _deferred and _waiting is None:
        _waiting = number
        return
    raise Stopped(number)


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal again that was lost in a finalizer or a callback of the garbage collector, which cannot raise."""
    if isinstance(lost.exc_value, Stopped):
        again = threading.Timer(0.05, os.kill, (os.getpid(), lost.exc_value.status - 128))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A context manager in which a first signal waits until `check` or the end of the block."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
    if not _deferred:
        check()


def is_asked() -> bool:
    """Whether a signal waits."""
    return _waiting is not None


def check() -> None:
    """Raise `Stopped` if a signal waits."""
    global _waiting
    number, _waiting = _waiting, None
    if number is not None:
        raise Stopped(number)
