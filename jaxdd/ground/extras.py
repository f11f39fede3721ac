"""The line that installs an extra of the package, for messages."""

import importlib.metadata
import json
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

_NAME = "jaxdd"


def install(extra: str) -> str:
    """The ``pip install`` line that adds an extra to the package in the way in which that was installed.

    Whoever installed from a folder gets the path of that folder, as the package may be on no index; whoever installed
    from a repository or a file gets its address. Otherwise, the line names the package.
    """
    folder = Path(__file__).parents[2]
    try:
        origin = importlib.metadata.distribution(_NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        # A clone that was not installed.
        return _line(f"{folder}[{extra}]") if (folder / "pyproject.toml").is_file() else _line(f"{_NAME}[{extra}]")
    try:
        known = json.loads(origin) if origin else {}
        return _of(known, extra)
    except (ValueError, KeyError, TypeError, AttributeError):  # another tool wrote the record
        return _line(f"{_NAME}[{extra}]")


def _of(origin: dict, extra: str) -> str:
    """The line for the content of a direct_url.json, see the PyPA specification of that file."""
    url = origin.get("url", "")
    if "vcs_info" in origin:
        version = origin["vcs_info"].get("requested_revision") or origin["vcs_info"]["commit_id"]
        return _line(f"{_NAME}[{extra}] @ {origin['vcs_info']['vcs']}+{url}@{version}")
    if "dir_info" in origin:
        folder = Path(unquote(urlsplit(url).path))
        # It may have been removed since.
        if not folder.is_dir():
            return _line(f"{_NAME}[{extra}]")
        return _line(f"{folder}[{extra}]", "-e " if origin["dir_info"].get("editable") else "")
    return _line(f"{_NAME}[{extra}] @ {url}" if url else f"{_NAME}[{extra}]")


def _line(what: str, option: str = "") -> str:
    return f"pip install {option}" + (shlex.quote(what) if set(what) & set('"$`\\!') else f'"{what}"')
