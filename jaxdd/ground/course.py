"""The course of a program: its stages, the pace of each, and how long all that is left takes.

The pace of a stage is measured: seconds an item of its loops, without the first item of each, which compiles. Until a
stage has a pace, it is estimated from its operations at the speed of the stages that were measured. The plan of the
stages is made only when one of them turns out to be long, so that a short program never waits for it.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

TRIED = 3.0
"""Seconds after which the pace of a loop is taken for granted."""
_SURE, _LONG = 1.0, 20.0
_NUMBERED = re.compile(r" (\d{1,9})/(\d{1,9})$")


class Stage(NamedTuple):
    """A stage that is yet to come.

    Attributes:
      title: what it does.
      bar: how the titles of its loops begin.
      amount: what it does in all, such as "1,437 images".
      items: of all its loops.
      operations: of all items.
    """

    title: str
    bar: str
    amount: str
    items: int
    operations: float


class Progress:
    """How far a stage is.

    Attributes:
      title, bar, amount: as of a `Stage`.
      left: items that are yet to come.
      operations: of an item; 0 if unknown.
      seconds: in its loops, compilation included.
      first_seconds: of its first item, which compiles; None before it is done.
    """

    def __init__(self, title: str, bar: str, left: float = 0, amount: str = "", operations: float = 0.0):
        self.title, self.bar, self.left, self.amount, self.operations = title, bar, left, amount, operations
        self.seconds = 0.0
        self.first_seconds: float | None = None
        self.timed_items, self.timed_seconds = 0, 0.0

    @property
    def pace(self) -> float | None:
        """Seconds an item; None before it was measured for a second."""
        return self.timed_seconds / self.timed_items if self.timed_seconds >= _SURE else None

    @property
    def compile_seconds(self) -> float | None:
        """What the first item took more than another; None if either is not known."""
        if self.first_seconds is None or self.pace is None:
            return None
        return max(0.0, self.first_seconds - self.pace)

    def is_named(self, title: str) -> bool:
        """Whether a loop of this title belongs to the stage."""
        rest = title.removeprefix(self.bar)
        return rest == "" or (rest != title and rest[0] in " ,")


class Loop:
    """A loop that runs, as part of a stage.

    Args:
      total: its items; None if they are not known.
    """

    def __init__(self, stage: Progress, total: int | None):
        self.stage, self.total = stage, total
        self.items, self.last = 0, time.perf_counter()
        self.timed = 0.0
        """Seconds after its first item."""

    def tick(self) -> None:
        """An item is done."""
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        self.items += 1
        self.stage.seconds += passed
        self.stage.left = max(0.0, self.stage.left - 1)
        if self.stage.first_seconds is None:
            self.stage.first_seconds = passed
        if self.items > 1:
            self.timed += passed
            self.stage.timed_items += 1
            self.stage.timed_seconds += passed

    def skip(self) -> None:
        """Leave out of the pace what passed since the last item."""
        self.last = time.perf_counter()

    @property
    def seconds_left(self) -> float | None:
        """Of this loop; None if not known."""
        if self.total is None or self.items < 3 or self.timed < _SURE:
            return None
        return self.timed / (self.items - 1) * (self.total - self.items)


class Course:
    """The stages of a program, those that are over and those that are left.

    Args:
      plan: what is left; called at most once, while a stage runs, which is then part of it.
    """

    def __init__(self, plan: Callable[[], Sequence[Stage]] = tuple):
        self._plan: Callable[[], Sequence[Stage]] | None = plan
        self.over: list[Progress] = []
        self.left: list[Progress] = []
        self.is_planned = False
        self.said = time.perf_counter()
        """When the last line about it was printed."""

    def begin(self, title: str, total: int | None) -> Loop:
        """A loop begins; ``"... 2/3"`` is the second of three of its stage."""
        number = _NUMBERED.search(title)
        stage = next((stage for stage in self.left if stage.is_named(title)), None)
        if stage is None:
            base = title[: number.start()] if number else title
            stage = Progress(base, base)
            self.left.append(stage)
        if number:
            stage.left = (total or 0) * (1 + max(0, int(number[2]) - int(number[1])))
        stage.left = max(stage.left, total or 0)
        return Loop(stage, total)

    def end(self, loop: Loop) -> Progress | None:
        """A loop is done; its stage if that is over."""
        stage = loop.stage
        stage.left = max(0.0, stage.left - max(0, (loop.total or 0) - loop.items))
        # The last batch of a pass that is planned for many may be missing.
        if stage not in self.left or stage.left > (loop.total or 0) / 2:
            return None
        self.left.remove(stage)
        self.over.append(stage)
        return stage

    def look_ahead(self, loop: Loop) -> None:
        """Plan what is left, if that is not done yet and the stage of this loop is long."""
        stage, plan = loop.stage, self._plan
        if plan is None or loop.timed < TRIED or loop.items < 3 or (stage.pace or 0.0) * stage.left < _LONG:
            return
        self._plan = None
        planned = [Progress(one.title, one.bar, one.items, one.amount, one.operations / max(1, one.items))
                   for one in plan()]  # fmt: skip
        here = next((k for k, one in enumerate(planned) if one.is_named(stage.bar)), None)
        if here is not None:
            same = planned.pop(here)
            stage.title, stage.amount, stage.operations = same.title, same.amount, same.operations
            # What is over since the program began may still be in the plan, before the present stage.
            for done in self.over:
                again = next((one for one in planned[:here] if one.is_named(done.bar)), None)
                if again is not None:
                    planned.remove(again)
                    here -= 1
            self.left, self.is_planned = [stage, *planned], True
        loop.skip()

    def seconds_left(self) -> float | None:
        """Of all that is left; None if that is not planned or has no pace yet.

        A stage that has not begun compiles for as long as those did on average that have.
        """
        every = [*self.over, *self.left]
        known = [stage for stage in every if stage.pace is not None and stage.operations]
        seconds = sum(stage.timed_seconds for stage in known)
        counted = sum(stage.operations * stage.timed_items for stage in known)
        if not self.is_planned or not counted:
            return None
        compiled = [stage.compile_seconds for stage in every if stage.compile_seconds is not None]
        waiting = sum(stage.first_seconds is None for stage in self.left)
        compiling = waiting * sum(compiled) / max(1, len(compiled))
        return compiling + sum(
            stage.left * (stage.operations * seconds / counted if stage.pace is None else stage.pace)
            for stage in self.left
        )

    @property
    def place(self) -> str:
        """Which stage runs; nothing before the plan is made."""
        return f"stage {len(self.over) + 1} of {len(self.over) + len(self.left)}, " if self.is_planned else ""


_followed: ContextVar[Course | None] = ContextVar("followed", default=None)


@contextlib.contextmanager
def followed(plan: Callable[[], Sequence[Stage]]) -> Iterator[Course]:
    """A context manager in which all loops are parts of one program, whose stages ``plan`` lists when it is asked."""
    course = Course(plan)
    with _following(course):
        yield course


@contextlib.contextmanager
def _following(course: Course | None) -> Iterator[None]:
    token = _followed.set(course)
    try:
        yield
    finally:
        _followed.reset(token)


def unfollowed() -> contextlib.AbstractContextManager:
    """A context manager in which loops are no stages of the program."""
    return _following(None)


def current() -> Course | None:
    """The course of the program that runs, if it is followed."""
    return _followed.get()
