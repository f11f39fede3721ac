"""Teachers that are there already, to be named where another one is about to be trained."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from jaxdd.data import places
from jaxdd.ground.errors import InputError
from jaxdd.workspace import records, runs
from jaxdd.workspace.real_data import RealData

_SHOWN, _MOST = 3, 200


class _Known(NamedTuple):
    place: Path
    model: str
    accuracy: float


def note(cache: Path, real: RealData) -> str:
    """A line about the finished teachers of the same data in a folder, the best first; empty if there are none."""
    known = sorted(_known(cache, real), key=lambda one: -one.accuracy)
    if not known:
        return ""
    told = ", ".join(f"{one.place.name} ({one.model}, {100 * one.accuracy:.1f} %)" for one in known[:_SHOWN])
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return (
        f"no teacher of these settings is in {cache}, so one is trained; others of these data are there: {told}{more}; "
        f"to use {'it' if len(known) == 1 else 'the first'}, give `teacher` {known[0].place}"
    )


def _known(cache: Path, real: RealData) -> list[_Known]:
    found = []
    for place in sorted(cache.iterdir())[:_MOST] if cache.is_dir() else []:
        # Anybody may have put something else there.
        with contextlib.suppress(InputError, OSError):
            if not (place / "teacher.json").is_file() or not runs.is_finished(place):
                continue
            info = records.teacher(place / "teacher.json")
            if places.title(info["dataset"]) == real.name and tuple(info["class_names"]) == real.class_names:
                found.append(_Known(place, info["model"], info["accuracy"]))
    return found
