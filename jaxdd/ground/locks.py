"""Locks between processes, which end with the process that holds them."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxdd.ground.errors import InputError
from jaxdd.ground.progress import log

LOCK = ".lock"
"""The name of the lock of a folder."""

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """A context manager that holds the lock file ``path``, and removes it at the end.

    The kernel frees the lock of a process that dies, so none has to be removed by hand. A file system without locks
    gives none, and nothing is protected there.

    Args:
      what: what is locked, for messages.
      wait: whether to wait for another holder, after a line that says so, instead of raising.

    Raises:
      InputError: another process holds the lock.
    """
    file = _held(path, what, wait)
    try:
        yield
    finally:
        # Removed while it is held, so that nobody else can have it.
        path.unlink(missing_ok=True)
        file.close()


def _held(path: Path, what: str, wait: bool) -> IO[str]:
    while True:
        file = _opened(path)
        try:
            _flock(file, path, what, wait)
            if _is_still(file, path):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        # The holder removed the file before it freed the lock, so this lock protects nothing.
        file.close()


def _opened(path: Path, attempts: int = 10) -> IO[str]:
    """Open the file of a lock. Whoever held it may have removed its folder, because it failed, or be about to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+")
    except FileNotFoundError:
        if attempts == 1:
            raise
        return _opened(path, attempts - 1)


def _flock(file: IO[str], path: Path, what: str, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return
    if not wait:
        raise InputError(f"{what} is in use by process {holder}; wait until it ends, or choose another folder")
    log(f"waiting for process {holder}, which makes {what}")
    fcntl.flock(file, fcntl.LOCK_EX)


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
