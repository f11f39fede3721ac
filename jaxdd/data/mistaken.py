"""What to say of a path that was given as a run folder and is none."""

import os
import shlex
from pathlib import Path

from jaxdd.data.checks import printable
from jaxdd.data.folder import LAYOUT, has_classes, is_plain, with_images
from jaxdd.data.places import TEST_SPLITS, meant, nearest
from jaxdd.ground import unfinished


def no_run(path: str | os.PathLike, what: str, remedy: str = "give a run folder of jaxdd distill") -> str:
    """The message for a path that was given as a run folder and is none, such as the real images to be distilled.

    Args:
      what: how the message begins, with the path.
      remedy: how it ends, unless the path holds real images or belongs to a run.
    """
    place = os.fspath(path)
    if not os.path.exists(place):
        return f"{what}: it does not exist{meant(nearest(place))}; {remedy}"
    if words := of_a_run(place):
        return words
    names, root = [], ""
    if has_classes(place):
        names, root = with_images(os.path.join(place, "train")), place
    elif os.path.isdir(place):
        names, parent = with_images(place), os.path.join(place, os.pardir)
        if os.path.basename(os.path.abspath(place)) in ("train", *TEST_SPLITS) and has_classes(parent):
            root = os.path.normpath(parent)
    if not names:
        return f"{what}; {remedy}"
    classes = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
    given = f"with {_command(root)}" if root else f"from a folder with {LAYOUT}"
    if not root and is_plain(place):
        given = f"with {_command(place, '--holdout 0.2 ')}"
    return f"{what}: it looks like a folder of real images, of classes {classes}; distil them first, {given}"


def of_a_run(path: str | os.PathLike) -> str:
    """The message for an unfinished run folder, or for the images in a run folder; empty for any other path."""
    place = Path(os.path.normpath(path))
    if unfinished.is_unfinished(place):
        return f"{printable(str(place))} is an unfinished run; the same jaxdd distill command goes on"
    for folder in (place, *place.parents):
        run = folder.parent
        if folder.name == "distilled" and (folder / "distilled.npz").is_file() and (run / "config.json").is_file():
            return f"{printable(str(place))} holds the images of the run {printable(str(run))}; give that folder"
    return ""


def _command(folder: str, more: str = "") -> str:
    """A command that distils a folder of real images."""
    given, out = folder, os.path.join("runs", os.path.basename(os.path.abspath(folder)))
    quoted = [shlex.quote(printable(one)) for one in (given, out)]
    return f"jaxdd distill --dataset {quoted[0]} {more}--image-size 64 --ipc 10 --out {quoted[1]}"
