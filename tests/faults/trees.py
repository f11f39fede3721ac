"""Whether two folders of runs hold the same."""

import functools
import json
from pathlib import Path

import jax
import numpy as np

from jaxdd.ground import manifest


def differences(expected: Path, made: Path) -> list[str]:
    """What differs between two folders, a line each: entries that only one has, hidden ones included, and contents.

    All files are compared byte by byte, apart from these, which differ between any two runs:
      - Orbax names its files at random and records the time; its arrays are compared.
      - A manifest holds the checksums of these; the rest of it is compared, and the manifest verified.
    """
    ours, theirs = _contents(made), _contents(expected)
    found = [
        f"only in {'the resumed' if name in ours else 'the other'}: {name}" for name in ours.keys() ^ theirs.keys()
    ]
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            found.append(f"differs: {name}")
    for place in made.rglob(manifest.MANIFEST):
        manifest.verify(place.parent, *[entry.name for entry in place.parent.iterdir()])
    return sorted(found)


def _contents(folder: Path) -> dict[str, object]:
    """What is compared of each file and folder below a folder."""
    found: dict[str, object] = {}
    for place in sorted(folder.iterdir()):
        if _is_checkpoint(place):
            found[place.name] = _arrays(place, place.stat().st_mtime_ns)
        elif place.is_dir():
            found[f"{place.name}/"] = "folder"
            found |= {f"{place.name}/{name}": content for name, content in _contents(place).items()}
        elif place.name == manifest.MANIFEST:
            found[place.name] = {
                name: entry
                for name, entry in json.loads(place.read_text())["files"].items()
                if not name.startswith("variables/") and not name.endswith(manifest.MANIFEST)
            }
        else:
            found[place.name] = place.read_bytes()
    return found


def _is_checkpoint(place: Path) -> bool:
    return (place / "_CHECKPOINT_METADATA").is_file()


@functools.lru_cache(maxsize=8)
def _arrays(place: Path, written: int) -> dict[str, tuple]:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(place)
    leaves = jax.tree.leaves_with_path(jax.tree.map(np.asarray, tree))
    return {jax.tree_util.keystr(path): (leaf.dtype.str, leaf.shape, leaf.tobytes()) for path, leaf in leaves}
