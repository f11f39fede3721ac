"""The manifest of a folder: the sizes and checksums of its files, so that damage is noticed before it is used."""

import hashlib
import os
import re
from pathlib import Path

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_json
from jaxdd.ground.reading import read_json

MANIFEST = "manifest.json"


def write(folder: Path, names: tuple[str, ...] = ()) -> None:
    """Write the manifest of a folder: bytes and SHA-256 of all its files, or of some of its entries only.

    A subfolder that has a manifest of its own is represented by that. Hidden files are not part of it.
    """
    tops = [folder / name for name in names] if names else list(folder.iterdir())
    files = sorted(file for top in tops for file in _files(top))
    entries = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in files
        if file != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"files": entries})


def verify(folder: Path, *names: str, content: bool = True, whole_folder: Path | None = None) -> None:
    """Check files of a folder against its manifest, and those of its subfolders against theirs.

    A folder without a manifest is not checked, only those below it that have one.

    Args:
      names: the files or subfolders that are about to be read, relative to the folder; default: all.
      content: whether the files are compared too; otherwise only those that are missing are noticed.
      whole_folder: what has to be made again if a file is missing; default: the folder.

    Raises:
      InputError: a file of the manifest is missing or has another size or checksum, or the manifest is damaged.
    """
    place = folder / MANIFEST
    if not os.path.lexists(place):
        for head, _, rest in (name.partition("/") for name in names):
            if rest:
                verify(folder / head, rest, content=content)
        return
    again = whole_folder or folder
    for name, entry in _entries(place).items():
        nested = name.endswith(f"/{MANIFEST}")  # stands for the other files of its folder
        within = name.removesuffix(MANIFEST)
        inner = [wanted.removeprefix(within) for wanted in names if nested and wanted.startswith(within)]
        whole = not names or any(f"{name}/".startswith(f"{wanted}/") for wanted in names)
        if not whole and not inner:
            continue
        file = folder / name
        # A name that no file can have is no file, whereas Path.is_file would raise an error.
        if not os.path.isfile(file):
            raise InputError(
                f"{file} is missing, but {MANIFEST} names it: {again} is damaged; copy that folder again, or remove it "
                "and run the command again that made it"
            )
        if content and (file.stat().st_size != entry["bytes"] or _digest(file) != entry["sha256"]):
            raise InputError(f"{file} is damaged: it is not what {MANIFEST} says; copy or make the folder again")
        if nested:
            verify(file.parent, *([] if whole else inner), content=content, whole_folder=again)


def _entries(place: Path) -> dict[str, dict]:
    """The entries of a manifest by the names of the files."""
    known = read_json(place, "make the folder again, or remove the file to use it unchecked")
    files = known.get("files") if isinstance(known, dict) else None
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise InputError(f"{place} is no manifest; make the folder again, or remove the file to use it unchecked")
    return files


def _is_entry(name: str, entry: object) -> bool:
    inside = not name.startswith("/") and ".." not in Path(name).parts
    if not inside or not isinstance(entry, dict) or type(entry.get("bytes")) is not int:
        return False
    digest = entry.get("sha256")
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None


def _files(top: Path) -> list[Path]:
    """The files at or below a place, without hidden ones and links; a folder with a manifest counts as that file."""
    if top.name.startswith(".") or top.is_symlink() or not top.exists():
        return []
    if top.is_file():
        return [top]
    if (top / MANIFEST).is_file():
        return [top / MANIFEST]
    return [file for entry in top.iterdir() for file in _files(entry)] if top.is_dir() else []


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
