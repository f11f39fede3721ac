"""Write aside, then rename: nobody ever sees half a file or folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A new place beside ``path`` for a file or folder, renamed to ``path`` at the end and removed on an error."""
    place = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield place
        os.replace(place, path)
    except BaseException:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        raise
