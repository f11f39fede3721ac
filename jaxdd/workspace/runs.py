"""Run folders: a refused request leaves no folder behind, and an interrupted run resumes from its finished classes."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.ground import hosts
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.files import atomic, write_text
from jaxdd.ground.measure import Measure
from jaxdd.methods import Result

# The finished classes of an unfinished run, inside its folder.
PARTS = "parts"


@contextlib.contextmanager
def run_folder(path: Path, request: dict | None = None) -> Iterator[Path]:
    """A context manager for a new, empty run folder. A crash in its block leaves the folder.

    An InputError removes it, and so does a DivergenceError, if nothing in it is finished yet.

    In a run of several processes the first makes the folder, and all must be able to see it.

    Args:
      request: everything that determines the run. If the folder holds an unfinished run of the same request, that run
        is resumed from its finished classes, which lie in `PARTS`.

    Raises:
      InputError: the folder exists and is not empty, or cannot be made.
    """
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    resumed = hosts.first(lambda: _open(path, request))
    try:
        yield path
    except (InputError, DivergenceError) as error:
        if resumed or not hosts.is_first() or any((path / PARTS).glob("*.npz")):
            raise
        # Whatever lies beside the parts was finished before the run diverged, such as a model that another needs.
        if isinstance(error, DivergenceError) and any(entry.name != PARTS for entry in path.iterdir()):
            raise
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in missing:
            # Keep folders that hold something else by now, such as a teacher that was trained for this run.
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _open(path: Path, request: dict | None) -> str | None:
    """Make the folder and return None; if it holds an unfinished run of the same request, return a text."""
    place = path / PARTS / "request.json"
    text = None if request is None else json.dumps(request, indent=2, default=str, sort_keys=True)
    try:
        if text and place.is_file():
            if place.read_text() == text:
                return "resumed"
            raise InputError(f"output folder {path} holds an unfinished run of other settings; choose another `out` or "
                             "remove it")  # fmt: skip
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"output folder {path} exists and is not empty; choose another `out` or remove it")
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise InputError(f"no permission to write to output folder {path}; choose another `out`")
        if text:
            place.parent.mkdir()
            write_text(place, text)
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {error.strerror}; choose another `out`") from error
    return None


def begun_otherwise(path: Path, request: dict) -> bool:
    """Whether a folder holds an unfinished run of another request."""
    place = path / PARTS / "request.json"
    return place.is_file() and json.loads(place.read_text()) != json.loads(json.dumps(request, default=str))


def is_finished(path: Path) -> bool:
    """Whether a run folder is complete. Removing the parts is the last step of a run."""
    return (path / "distilled").is_dir() and not (path / PARTS).exists()


def missing_classes(parts: Path, classes: np.ndarray, together: int) -> np.ndarray:
    """The classes that are not finished, and those that must be made together with them."""
    undone = {c // together for c in classes if not _part(parts, c).is_file()}
    missing = np.array([c for c in classes if c // together in undone], int)
    if len(missing) < len(classes):
        message = f"{len(classes) - len(missing)} of {len(classes)} classes are done"
        print(message, file=sys.stderr, flush=True)
    return missing


def keep_classes(parts: Path, result: Result) -> None:
    """Write each class of a result into its own file."""
    for k, c in enumerate(result.classes):
        arrays: dict[str, Any] = {"images": result.images[k], "costs": result.costs[k]}
        arrays |= {"points": result.atoms.points[k], "weights": result.atoms.weights[k]}
        arrays |= {f"curve_{name}": values[:, k] for name, values in result.curve.items()}
        with atomic(_part(parts, c)) as place, open(place, "wb") as file:
            np.savez(file, **arrays)


def kept_class(parts: Path, c: int) -> Result:
    """The result of a class that `keep_classes` wrote."""
    with np.load(_part(parts, c), allow_pickle=False) as file:
        row = lambda name: file[name][None]
        curve = {name.removeprefix("curve_"): file[name][:, None] for name in file.files if name.startswith("curve_")}
        atoms = Measure(row("points"), row("weights"))
        return Result(row("images"), atoms, row("costs"), curve, np.array([c]))


def _part(parts: Path, c: int) -> Path:
    return parts / f"{c:05d}.npz"
