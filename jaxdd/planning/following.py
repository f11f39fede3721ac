"""A program that says how much of it is left, from the plan of its stages."""

import contextlib
from collections.abc import Callable, Iterator

from jaxdd.ground import course, dry, hosts
from jaxdd.ground.course import Stage
from jaxdd.ground.programs import Work
from jaxdd.planning.plan import ROUNDS


@contextlib.contextmanager
def followed(plan: Callable[[], list[Work]]) -> Iterator[None]:
    """A context manager for what ``plan`` plans, in one process; see `ground.course`.

    The plan is made while a long stage runs, and only traces the programs, which takes seconds. If it cannot be made,
    for example because of a stage of the user's own, there is none: no run fails for it.
    """

    def stages() -> list[Stage]:
        with contextlib.suppress(Exception), dry.run(rough=True):
            return [stage(work) for work in plan()]
        return []

    if hosts.count() > 1:
        yield
        return
    with course.followed(stages):
        yield


def stage(work: Work) -> Stage:
    """A stage as it is followed."""
    amount = f"{work.units:,} {work.unit}" if work.steps == 1 else f"{work.steps:,} steps"
    operations = work.program.flops(ROUNDS) * work.launches
    return Stage(work.title, work.bar or work.title, amount, work.launches, operations)
