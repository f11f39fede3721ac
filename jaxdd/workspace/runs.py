"""Run folders: a refused request leaves none behind, an interrupted run resumes, and no two processes share one."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.ground import differences, dry, hosts, manifest
from jaxdd.ground.errors import DivergenceError, InputError, shown
from jaxdd.ground.files import atomic, read_arrays, remove, remove_at_once, sweep, write_text
from jaxdd.ground.locks import LOCK, locked
from jaxdd.ground.measure import Measure
from jaxdd.ground.progress import log, say
from jaxdd.ground.reading import parse_json, read_text
from jaxdd.ground.unfinished import PARTS, REQUEST, is_unfinished
from jaxdd.methods import Result

SHARED = ("teachers", "latents", "encoded")
"""The folders beside runs that several of them share."""


class _OtherSettingsError(InputError):
    """The folder holds a run of other settings."""


def without_place(record: dict) -> dict:
    """The settings of a run without its folder, which may be moved, and spelt in several ways."""
    return {name: value for name, value in record.items() if name != "out"}


@contextlib.contextmanager
def run_folder(path: Path, request: dict) -> Iterator[Path]:
    """A context manager for a run folder, which is locked against other processes while its block is executed.

    The folder is new, or holds a run of the same request. An unfinished run is resumed from what lies in `PARTS`. One
    that `is_finished` is left to the block. An InputError in the block removes a new folder, and so
    does a DivergenceError if nothing in it is finished yet; a crash leaves what there is.

    In a run of several processes the first makes the folder, and all must be able to see it.

    Args:
      request: everything that determines the run.

    Raises:
      InputError: the folder holds something else, or cannot be made, or another process works in it.
    """
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    with contextlib.ExitStack() as stack:
        resumed = hosts.first(lambda: _open(path, request, stack))
        try:
            yield path
        except (InputError, DivergenceError) as error:
            if resumed or not hosts.is_first() or any((path / PARTS).glob("*.npz")):
                raise
            # Whatever lies beside the parts was finished before the run diverged, such as a model that another needs.
            if isinstance(error, DivergenceError) and any(entry.name not in (PARTS, LOCK) for entry in path.iterdir()):
                raise
            for entry in path.iterdir():
                remove(entry)
            # Such as hold something else by now, for example a teacher that was trained for this run, stay.
            _remove_empty(missing)
            raise


def _open(path: Path, request: dict, stack: contextlib.ExitStack) -> str | None:
    """Make and lock the folder and return None; if it holds a run of the same request, return a text."""
    try:
        _check_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise InputError(f"no permission to write to output folder {path}; choose another `out`")
        stack.enter_context(_alone(path))
        if _is_begun(path, request):
            return "begun"
        _begin(path, _as_text(request))
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {error.strerror}; choose another `out`") from error
    return None


def output_file(path: Path) -> Path:
    """The path of a file to write; InputError if it is a folder, or in none."""
    if path.is_dir():
        raise InputError(f"`out` {path} is a folder; give a file")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} of `out` does not exist; make it first")
    return path


def is_done(path: Path, request: dict) -> bool:
    """Whether a folder of this machine holds the finished run of a request, for plans; nothing is made or locked.

    A run of other settings is only told in a line: a plan writes nothing, so that it cannot overwrite one.

    Raises:
      InputError: the folder holds something else than a run.
    """
    _check_folder(path)
    if not path.exists() or dry.is_elsewhere():
        return False
    try:
        return _is_begun(path, request) and is_finished(path)
    except _OtherSettingsError as error:
        log(f"without `dry_run` this is refused: {error}")
        return False


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path} is a file; choose another `out`")


def _is_begun(path: Path, request: dict) -> bool:
    """Whether a folder holds a run of a request, and is not empty; InputError if it holds anything else."""
    if is_finished(path) or is_unfinished(path):
        _check_same(path, request)
        return True
    if any(entry.name != LOCK for entry in path.iterdir()):
        raise InputError(f"output folder {path} exists and is not empty; choose another `out` or remove it")
    return False


@contextlib.contextmanager
def _alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Lock a folder, and remove what processes that died left in it, at any depth."""
    with locked(path / LOCK, str(path), wait):
        for place, folders, _ in os.walk(path):
            sweep(Path(place), alone=True)
            # Others may be at work in folders that are shared, or locked by themselves.
            folders[:] = [name for name in folders if name not in SHARED and not Path(place, name, LOCK).exists()]
        yield


def _begin(path: Path, text: str) -> None:
    with atomic(path / PARTS) as place:
        place.mkdir()
        write_text(place / REQUEST, text)


@contextlib.contextmanager
def cached(path: Path, request: dict) -> Iterator[None]:
    """A context manager for a model in a folder that several runs share; its name determines what it holds.

    The folder is locked. Another process that needs the model waits, and then finds it. If the folder is not finished,
    the block makes the model, from the checkpoints in `PARTS` if these are of the same request, and calls `finish`. In
    a run of several processes only the first may call this.
    """
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path, wait=True):
        changes = "" if is_finished(path) else begun_with(path, request)
        if changes != "":
            if changes:
                log(f"{path} is begun anew, as what it holds is of other settings: {changes}")
            for entry in path.iterdir():
                if entry.name != LOCK:
                    remove_at_once(entry)
            _begin(path, _as_text(request))
        try:
            yield
        except (InputError, DivergenceError):
            if not is_finished(path):
                remove(path)
                _remove_empty([path.parent])
            raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_same(path: Path, request: dict) -> None:
    """Raise InputError unless the run in a folder is of this request."""
    state, place = ("a finished", path / REQUEST) if is_finished(path) else ("an unfinished", path / PARTS / REQUEST)
    if not place.is_file():
        raise InputError(f"output folder {path} exists and is not empty; choose another `out` or remove it")
    if changes := differing(place, request):
        raise _OtherSettingsError(
            f"output folder {path} holds {state} run of other settings: {changes}; choose another `out` or remove it"
        )


def differing(place: Path, request: dict) -> str:
    """The settings in which the request in a file differs from this one, in words; empty if they are equal."""
    kept = _read(place)
    asked = json.loads(_as_text(request))
    # As text, in which NaN equals itself.
    if _as_text(kept) == _as_text(asked):
        return ""
    if not isinstance(kept, dict):
        return f"it is {shown(kept)}"
    # In the order of the request, which that of the text is not.
    return _told(differences.between(_flat(kept), _flat({name: asked[name] for name in map(str, request)})))


def _flat(request: dict) -> dict:
    """A request with the settings of `jaxdd train`, which lie in a table of their own, beside the others."""
    inner = request.get("train")
    return {**inner, **{k: v for k, v in request.items() if k != "train"}} if isinstance(inner, dict) else request


def _told(changes: list[differences.Difference]) -> str:
    """Differences of requests in words, by the settings that decide them."""
    decided = {"given teacher": "teacher", "computes in": "compute", "images": "the images in memory"}
    given = {one.name for one in changes}
    named = [
        one._replace(name=decided.get(one.name, one.name))
        for one in changes
        if one.name not in decided or decided[one.name] not in given
    ]
    # The record of float32 is None.
    named = [
        one._replace(stored=one.stored or "float32", asked=one.asked or "float32") if one.name == "compute" else one
        for one in named
    ]
    return differences.told(named, "recipe.") or "its record is another one"


def _read(place: Path) -> Any:
    """The request in a file. Earlier versions also wrote the folder into it."""
    kept = parse_json(read_text(place), str(place), "make the folder again, or remove it", finite=False)
    if isinstance(kept, dict):
        kept = without_place(kept)
        if isinstance(kept.get("train"), dict):
            kept["train"] = without_place(kept["train"])
    return kept


def _as_text(request: dict) -> str:
    return json.dumps(request, indent=2, default=str, sort_keys=True)


def finish(path: Path, names: tuple[str, ...]) -> None:
    """Mark the run in a folder as finished: record its request and the manifest of its results, remove its parts."""
    write_text(path / REQUEST, read_text(path / PARTS / REQUEST))
    manifest.write(path, (*names, REQUEST))
    remove_at_once(path / PARTS)


def begun_with(path: Path, request: dict) -> str | None:
    """The settings in which an unfinished run differs from a request, in words; None if there is no such run."""
    place = path / PARTS / REQUEST
    return differing(place, request) if place.is_file() else None


def begun_otherwise(path: Path, request: dict) -> bool:
    """Whether a folder holds an unfinished run of another request."""
    return bool(begun_with(path, request))


def is_finished(path: Path) -> bool:
    """Whether a run folder, or that of a model, is complete. Removing the parts is the last step."""
    return any((path / name).exists() for name in _LAST) and not (path / PARTS).exists()


# Folders of earlier versions have no manifest, but one of the others, which was written last.
_LAST = (manifest.MANIFEST, "distilled", "teacher.json", "latents.json")


def missing_classes(parts: Path, classes: np.ndarray, together: int) -> np.ndarray:
    """The classes that are not finished, and those that must be made together with them."""
    undone = {c // together for c in classes if not part(parts, c).is_file()}
    missing = np.array([c for c in classes if c // together in undone], int)
    if len(missing) < len(classes):
        say(f"{len(classes) - len(missing)} of {len(classes)} classes are done")
    return missing


def keep_classes(parts: Path, result: Result) -> None:
    """Write each class of a result into its own file."""
    for k, c in enumerate(result.classes):
        arrays: dict[str, Any] = {"images": result.images[k], "costs": result.costs[k]}
        arrays |= {"points": result.atoms.points[k], "weights": result.atoms.weights[k]}
        arrays |= {f"curve_{name}": values[:, k] for name, values in result.curve.items()}
        with atomic(part(parts, c)) as place, open(place, "wb") as file:
            np.savez(file, **arrays)


def kept_class(parts: Path, c: int) -> Result:
    """The result of a class that `keep_classes` wrote."""
    file = read_arrays(part(parts, c), ("images", "points", "weights", "costs"))
    row = lambda name: file[name][None]
    curve = {name.removeprefix("curve_"): file[name][:, None] for name in file if name.startswith("curve_")}
    atoms = Measure(row("points"), row("weights"))
    return Result(row("images"), atoms, row("costs"), curve, np.array([c]))


def part(parts: Path, c: int) -> Path:
    return parts / f"{c:05d}.npz"
