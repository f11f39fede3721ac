"""Rows of results: the accuracies of all students of one architecture for one method under one protocol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.ground import settings
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.reading import read_json

# Far beyond any comparison; a table has a line for each row and a column for each protocol.
_ROWS, _PROTOCOLS = 10_000, 100


def row(
    method: str, dataset: str, ipc: int | None, student: str, labels: str, accuracies: list[float], **more: Any
) -> dict:
    """A row of evaluation.json, with accuracies in [0, 1] and their sample standard deviation (0 for a single seed).

    Args:
      labels: the name of the protocol, such as "hard" or "soft".
    """
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return {
        "method": method, "dataset": dataset, "ipc": ipc, "student": student, "labels": labels,
        "accuracies": accuracies, "mean": float(np.mean(accuracies)), "std": spread, **more,
    }  # fmt: skip


def caption(kind: str) -> str:
    """The title of a column of accuracies under a protocol."""
    return {"hard": "hard labels", "soft": "soft labels"}.get(kind, kind)


def judged_on(rows: list[dict]) -> str:
    """The images on which the students of some rows were tested."""
    return "held-out train images" if any(row.get("holdout") for row in rows) else "real test images"


def cell(accuracies: list[float]) -> str:
    """Mean and sample standard deviation in percent; a single run has no deviation."""
    percent = 100 * np.asarray(accuracies)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def standard_error(row: dict) -> float:
    """The standard error of a row's mean, from its accuracies, or from the mean of each recovery if there are several.

    Students of the same images are no independent samples of a method. Student s has the images of recovery s mod r.
    It is NaN if there is only one sample.
    """
    accuracies = np.asarray(row["accuracies"])
    recoveries = row.get("recoveries") or len(accuracies)
    samples = accuracies.reshape(-1, recoveries).mean(0)
    return float(np.std(samples, ddof=1) / np.sqrt(recoveries)) if recoveries > 1 else float("nan")


@dataclass(frozen=True)
class _Row:
    """What every row holds."""

    method: str
    dataset: str
    student: str
    labels: str
    ipc: int | None = settings.bounded(settings.REQUIRED, settings.Bounds(1, settings.IPC.high))
    accuracies: tuple[float, ...] = settings.bounded(settings.REQUIRED, settings.SHARE)
    mean: float = settings.bounded(settings.REQUIRED, settings.SHARE)
    std: float = settings.bounded(settings.REQUIRED, settings.SHARE)
    recoveries: int | None = settings.bounded(None, settings.STUDENTS)
    steps: int | None = settings.bounded(None, settings.DRAWS)
    label_bytes: int | None = settings.bounded(None, settings.DRAWS)
    bits: int | None = settings.bounded(None, settings.Bounds(1, 32))


def read(place: Path) -> list[dict]:
    """Read the rows of evaluation.json, or of another file of rows.

    Raises:
      InputError: the file is damaged, a row lacks a value or has one that cannot be, or there are more than 10,000 rows
        or 100 protocols.
    """
    rows = read_json(place)
    if not isinstance(rows, list):
        raise InputError(f"{place} holds {shown(rows)}, not a list of rows; make it again or remove it")
    for number, one in enumerate(rows):
        check(one, f"{place}, row {number}")
    protocols = len({one["labels"] for one in rows})
    if len(rows) > _ROWS or protocols > _PROTOCOLS:
        raise InputError(f"{place} holds {len(rows)} rows of {protocols} protocols, too many for a table of up to "
                         f"{_ROWS} and {_PROTOCOLS}; split it")  # fmt: skip
    return rows


def joined(earlier: list[dict], new: list[dict]) -> tuple[list[dict], list[dict]]:
    """The rows of a file after an evaluation, and those that have no place in it any more.

    A new row replaces the one of the same method, dataset, size, student and protocol. Earlier rows of other columns
    stay. Those of the same column stay if their students were trained equally long and as often; otherwise a table
    would compare what was not measured alike.
    """
    columns = {_column(one): _alike(one) for one in new if one["ipc"] is not None}
    replaced = {(*_column(one), one["method"], one["ipc"]): _alike(one) for one in new}
    kept, aside = [], []
    for one in earlier:
        alike = replaced.get((*_column(one), one["method"], one["ipc"]))
        if one["ipc"] is not None and columns.get(_column(one), _alike(one)) != _alike(one):
            aside.append(one)
        elif alike is None:
            kept.append(one)
    return [*kept, *new], aside


def _column(row: dict) -> tuple:
    return row["dataset"], row["student"], row["labels"]


def _alike(row: dict) -> tuple:
    return row.get("epochs"), row.get("batch_size"), len(row["accuracies"])


def check(one: Any, where: str) -> None:
    """Raise InputError for a row that lacks a value or has one that cannot be, such as an accuracy of NaN."""
    known = settings.parsed(_Row, one, where)
    for name in ("method", "dataset", "student", "labels"):
        if not getattr(known, name):
            raise InputError(f"{where}: {name} is empty; give one")
    if known.recoveries is not None and (known.recoveries < 1 or len(known.accuracies) % known.recoveries):
        raise InputError(f"{where}: `recoveries` {known.recoveries} do not share {len(known.accuracies)} accuracies "
                         "equally; make it again or remove it")  # fmt: skip
    if not known.accuracies:
        raise InputError(f"{where} has no accuracies; make it again or remove it")
