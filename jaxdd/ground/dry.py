"""Whether this process only plans a run: then nothing is downloaded, written or removed."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class _Dry(NamedTuple):
    memory_bytes: int | None
    rough: bool


_dry: ContextVar[_Dry | None] = ContextVar("dry", default=None)


@contextlib.contextmanager
def run(memory_bytes: int | None = None, rough: bool = False) -> Iterator[None]:
    """A context manager in which runs are only planned.

    Args:
      memory_bytes: of a device of the machine that is planned for; default: that of this machine.
      rough: whether the plan is only for an estimate: nothing is compiled and no image is read for it.
    """
    token = _dry.set(_Dry(memory_bytes, rough))
    try:
        yield
    finally:
        _dry.reset(token)


def is_on() -> bool:
    """Whether runs are only planned here."""
    return _dry.get() is not None


def is_elsewhere() -> bool:
    """Whether runs are planned for another machine, on which nothing is finished yet but models."""
    dry = _dry.get()
    return dry is not None and dry.memory_bytes is not None


def is_rough() -> bool:
    """Whether the plan is only for an estimate, for which nothing is compiled and no image is read."""
    dry = _dry.get()
    return dry is not None and dry.rough


def memory_bytes(here: int) -> int:
    """The memory that a device may take: ``here``, or what is planned for."""
    dry = _dry.get()
    return here if dry is None or dry.memory_bytes is None else int(0.9 * dry.memory_bytes)
