"""Ending on SIGTERM and Ctrl-C at a moment when what was computed can be kept."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
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
_AGAIN = {signal.SIGINT: "press Ctrl-C again", signal.SIGTERM: "send SIGTERM again"}
# Seconds after which a signal is answered with a line, and after which a second one ends the process, if the main
# thread runs no Python meanwhile, as while XLA compiles.
_QUIET, _PATIENCE = 0.3, 1.0
_deferred = 0
_waiting: int | None = None
# How many signals the process got, and how many of them the main thread has seen.
_sent, _seen = 0, 0
# How often `heed` was called: what came before is not answered after.
_turn = 0
_said, _over = False, False
_watching = False


def heed() -> None:
    """From now on SIGTERM and SIGINT raise `Stopped` in the main thread, where nothing defers it.

    If the process does not stop at once, a line on stderr says that it will, and that a second signal does not wait.
    """
    global _sent, _seen, _said, _over, _turn
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    _sent, _seen, _said, _over = 0, 0, False, False
    _turn += 1
    for number in _SIGNALS:
        signal.signal(number, _handle)
    _watch()
    sys.unraisablehook = _unraisable
    atexit.unregister(_heed_no_more)
    atexit.register(_heed_no_more)


def _heed_no_more() -> None:
    """While Python ends there is nothing to keep: a signal ends the process without a stack trace."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    global _waiting, _seen
    _seen += 1
    # A second signal does not wait: whoever sends it knows better.
    if _deferred and _waiting is None:
        _waiting = number
        _say(number)
        return
    raise Stopped(number)


def over() -> None:
    """Nothing more is said of a signal, as the program has said that it stopped."""
    global _over
    _over = True


def leave(status: int) -> None:
    """End the process at once, to be called while Python ends: what was to be kept is kept, and nothing else waits.

    A compilation that was interrupted goes on in a thread of XLA. Python would wait for it, and may crash then.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _say(number: int) -> None:
    """Say once that the process will stop, without a lock or a buffer, which the interrupted code may hold."""
    global _said
    if _said or _over:
        return
    _said = True
    line = f"stopping after this step; {_AGAIN[signal.Signals(number)]} to stop at once\n"
    # On a terminal the cursor may stand behind a progress bar.
    with contextlib.suppress(OSError):
        os.write(2, (f"\n{line}" if os.isatty(2) else line).encode())


def _watch() -> None:
    """Start the thread that answers signals while the main thread cannot, once in a process."""
    global _watching
    if _watching:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python writes the number of every signal there at once, even while the main thread runs other code than Python.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if before != -1:  # somebody else needs it
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
        return
    _watching = True
    # A child would write there as well.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_answer, args=(reading,), name="signals", daemon=True).start()


def _answer(reading: int) -> None:
    global _sent
    while got := os.read(reading, 1):
        number = got[0]
        # Also the signals that others handle come here.
        if number in _SIGNALS and signal.getsignal(number) is _handle:
            _sent += 1
            threading.Thread(target=_answer_one, args=(number, _sent, _turn), daemon=True).start()


def _answer_one(number: int, count: int, turn: int) -> None:
    """Answer the signal of this number that came as this one of several."""
    time.sleep(_QUIET)
    if turn == _turn and signal.getsignal(number) is _handle and _sent >= count:
        _say(number)
    if count < 2:
        return
    time.sleep(_PATIENCE - _QUIET)
    if turn == _turn and _seen < count <= _sent and not _over and signal.getsignal(number) is _handle:
        with contextlib.suppress(OSError):
            os.write(2, b"stopped; the same command goes on from what is kept\n")
        os._exit(128 + number)


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal again that was lost in a finalizer or a callback of the garbage collector, which cannot raise."""
    global _sent, _seen
    if isinstance(lost.exc_value, Stopped):
        _sent, _seen = _sent - 1, _seen - 1  # it is the same signal
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
