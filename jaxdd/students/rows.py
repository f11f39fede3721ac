"""Rows of results: the accuracies of the students of one method under one protocol."""

from typing import Any

import numpy as np


def row(
    method: str, dataset: str, ipc: int | None, student: str, labels: str, accuracies: list[float], **more: Any
) -> dict:
    """A row of evaluation.json; accuracies in [0, 1], sample standard deviation over the seeds (0 for a single one).

    labels: the name of the protocol, such as "hard" or "soft".
    """
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return {
        "method": method, "dataset": dataset, "ipc": ipc, "student": student, "labels": labels,
        "accuracies": accuracies, "mean": float(np.mean(accuracies)), "std": spread, **more,
    }  # fmt: skip


def caption(kind: str) -> str:
    """What a column of accuracies under a protocol is called."""
    return {"hard": "hard labels", "soft": "soft labels"}.get(kind, kind)


def cell(accuracies: list[float]) -> str:
    """Mean and sample standard deviation in percent, one number without a deviation for a single run."""
    percent = 100 * np.asarray(accuracies)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")
