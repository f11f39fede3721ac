"""What an unfinished run folder holds."""

from pathlib import Path

PARTS = "parts"
"""The folder of what is finished of an unfinished run, inside its folder: classes, and checkpoints of models."""
REQUEST = "request.json"
"""Everything that determines a run: in `PARTS`, and in the folder of a finished run."""


def is_unfinished(path: Path) -> bool:
    """Whether a folder holds a run that was begun and is not finished."""
    return (path / PARTS / REQUEST).is_file()
