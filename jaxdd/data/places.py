"""How a dataset is named: a path or a name of the hub, then choices such as ``?image=img&label=fine_label``."""

import difflib
import itertools
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from jaxdd.data.checks import printable
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.progress import note

HUB = "hf:"
"""How the name of a dataset of the Hugging Face hub begins."""
TEST_SPLITS = ("test", "val", "valid", "validation")
"""The names of a test split; the first that is there, and is labelled, is taken."""
TAKEN = "digits, a folder, hf:owner/name, an .npz file, .tar files of WebDataset or a TFDS name"
"""What a dataset may be given as, for messages."""
HOLD_OUT = "`holdout` 0.2, which sets a share of the train images of each class aside as the test images"
"""What to give for a dataset that has train images alone."""
_CHOICES = {
    "image": "the column, array or extension of the images",
    "label": "that of the labels",
    "weight": "that of the weights",
    "train": "the split of the train images",
    "test": "the split of the test images",
    "config": "the configuration of a dataset of the hub",
    "set": "the number of the set, where a file has several",
}


# A folder of many images takes long to look through, and so does a long name to compare.
_MOST_ENTRIES, _LONGEST_NAME = 2000, 255


class Place(NamedTuple):
    """A path or name, and the choices that follow it."""

    path: str
    choices: dict[str, str]


def parsed(name: str) -> Place:
    """The parts of a name such as ``hf:cifar100?label=fine_label&test=test``; a path that exists has no choices.

    Values may be escaped as in the address of a page: ``%26`` is ``&``.

    Raises:
      InputError: an unknown choice, or one without a value or given twice.
    """
    path, mark, query = name.rpartition("?")
    if not mark or os.path.exists(os.path.expanduser(name)):
        return Place(name, {})
    choices: dict[str, str] = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in _CHOICES or not value or key in choices:
            raise InputError(
                f"choice {shown(part)} of dataset {printable(path)}; give each once as KEY=VALUE, with KEY one of "
                f"{', '.join(_CHOICES)}"
            )
        choices[key] = unquote(value)
    return Place(path, choices)


def nearest(path: str, folders_only: bool = False) -> list[str]:
    """What lies beside a path that does not exist and is called most like it: up to two paths, the best first."""
    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            near = {
                entry.name.lower(): entry.name
                for entry in itertools.islice(entries, _MOST_ENTRIES)
                if not entry.name.startswith(".") and (entry.is_dir() or not folders_only)
            }
    except (OSError, ValueError):  # there is no such folder either, or no folder can have such a name
        return []
    found = difflib.get_close_matches(name.lower()[:_LONGEST_NAME], near, 2, 0.7)
    return [os.path.join(folder, near[one]) for one in found]


def meant(near: Sequence[str]) -> str:
    """The question whether one of these was meant, to follow what does not exist; nothing if there are none."""
    return f" (did you mean {' or '.join(map(printable, near))}?)" if near else ""


def title(name: str) -> str:
    """A short name for tables and file names: of a folder, of a file without its extension, or of a dataset."""
    path = name.rpartition("?")[0] or name
    path = name if os.path.exists(name) else path
    if path.startswith(HUB):
        path = path.removeprefix(HUB)
        if not os.path.isdir(path):
            repository, _, config = path.partition(":")
            path = "-".join(part for part in (repository.partition("@")[0].rpartition("/")[2], config) if part)
    if os.path.isdir(path):
        return Path(path).name
    if os.path.isfile(path) or ".tar" in path:
        file = Path(path.partition("::")[0])
        path = file.stem.partition("{")[0].strip("-_.")
        # The shards of a split are called by it, and by a number.
        if ".tar" in file.name and re.fullmatch(rf"(({'|'.join(('train', *TEST_SPLITS))})?[-_.]?\d*)?", path):
            path = file.parent.name or "shards"
    return re.sub(r"[/:]", "-", path)


def splits_of(
    place: Place, present: Collection[str], is_labelled: Callable[[str], bool], needs_test: bool, what: str
) -> dict[str, str]:
    """The names of the splits "train" and "test" of a dataset; the latter only if it is needed or chosen.

    If no test split is needed, the only split of a dataset is that of the train images, whatever it is called.

    Args:
      present: the names of its splits.
      is_labelled: whether all images of a split are labelled.
      what: the dataset, for messages.

    Raises:
      InputError: no such split, or no labelled one.
    """
    wanted: dict[str, tuple[str, ...]] = {"train": ("train",), "test": TEST_SPLITS}
    wanted |= {split: (place.choices[split],) for split in wanted if split in place.choices}
    if not needs_test and "test" not in place.choices:
        del wanted["test"]
        if "train" not in place.choices and len(present) == 1 and "train" not in present:
            wanted["train"] = tuple(present)
            note(f"{printable(what)}: its only split, {printable(wanted['train'][0])}, is taken as the train images")
    chosen = {}
    for split, names in wanted.items():
        found = [name for name in names if name in present]
        labelled = [name for name in found if is_labelled(name)]
        if not labelled:
            state = "has no labels in" if found else "has no split"
            is_alone = needs_test and len(present) == 1 and not found
            also = f"give {HOLD_OUT}, or " if split == "test" or is_alone else ""
            raise InputError(
                f"{printable(what)} {state} {' or '.join(map(printable, found or names))} (its splits: "
                f"{', '.join(map(printable, present)) or 'none'}); {also}choose one with ?{split}=SPLIT"
            )
        chosen[split] = labelled[0]
    return chosen
