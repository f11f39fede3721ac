"""Which jaxdd runs: its version, and the commit if it runs from a clone."""

import subprocess
from functools import cache
from pathlib import Path

import jaxdd


@cache
def describe() -> str:
    """Such as "0.1.0, commit 75badc4"; "changed" is added if files of the package differ from the commit."""
    found = commit(Path(jaxdd.__file__).parents[1])
    return f"{jaxdd.__version__}, commit {found}" if found else jaxdd.__version__


def commit(root: Path) -> str:
    """The commit of the clone in a folder; empty if the folder is none, or there is no git."""
    if not (root / ".git").exists():  # in a clone of something else, such as the user's own project
        return ""
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        return head + (" (changed)" if _git(root, "status", "--porcelain", "--", "jaxdd") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
