"""Rows of results: the accuracies of all students of one architecture for one method under one protocol."""

from typing import Any

import numpy as np


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


def cell(accuracies: list[float]) -> str:
    """Mean and sample standard deviation in percent; a single run has no deviation."""
    percent = 100 * np.asarray(accuracies)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")
