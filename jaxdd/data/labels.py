"""Classes from the labels of a dataset: numbers, or names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdd.data.checks import check_class_names, printable
from jaxdd.ground.arrays import as_array, is_integer
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.reading import read_json, read_text

_REPAIR = "repair it or remove it"


def classes(
    labels: Mapping[str, np.ndarray], names: Sequence[str] | None, place: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the classes, and the labels of each split as numbers.

    Args:
      labels: of "train" and any other split: integers, or text [n].
      names: those of the classes, in the order of the numbers; default: the numbers up to the largest label, or the
        texts, sorted.

    Raises:
      InputError: labels of another kind, a text that is no class, or a class without train images.
    """
    arrays = {split: as_array(part, f"{split} labels of {place}") for split, part in labels.items()}
    known = None if names is None else check_class_names(names, place)
    if any(part.dtype.kind in "UO" for part in arrays.values() if part.size):
        known, arrays = _numbered(arrays, known, place)
    for split, part in arrays.items():
        what = f"of {printable(place)}"
        arrays[split] = check_integers(part, len(part), f"{split} labels {what}", f"{split} label {what} is")
    return counted(arrays, known, place), arrays


def _numbered(
    labels: dict[str, np.ndarray], names: tuple[str, ...] | None, place: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    for split, part in labels.items():
        wrong = [label for label in part.reshape(-1).tolist() if not isinstance(label, str)][:1]
        if wrong:
            raise InputError(f"{split} label {shown(wrong[0])} of {printable(place)} is no name, but others are; "
                             "label all images in one way")  # fmt: skip
    if names is None:
        names = check_class_names(sorted(set(labels["train"].tolist())), place)
    number = {name: k for k, name in enumerate(names)}
    for split, part in labels.items():
        for name in part.tolist():
            if name not in number:
                raise InputError(f"{split} label {shown(name)} of {printable(place)} is none of its {len(names)} "
                                 "classes; add the class to the train images, or leave these out")  # fmt: skip
    numbers = {split: np.array([number[name] for name in part.tolist()], np.int64) for split, part in labels.items()}
    return names, numbers


def check_integers(labels: np.ndarray, count: int, what: str, one: str) -> np.ndarray:
    """Labels [n] or [n, 1] as integers [count]; InputError if they are anything else.

    ``what`` names the labels and ``one`` one of them, for messages.
    """
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (count,) or labels.size and not is_integer(labels):
        raise InputError(f"{what} are {labels.dtype} {list(labels.shape)}; give integers [{count}]")
    labels = labels if labels.size else labels.astype(np.int64)
    if labels.size and labels.min() < 0:
        raise InputError(f"{one} {labels.min()}; give classes from 0 on")
    return labels


def counted(labels: Mapping[str, np.ndarray], names: tuple[str, ...] | None, place: str = "") -> tuple[str, ...]:
    """The names of the classes, by default the numbers up to the largest label.

    Raises:
      InputError: a label that is no class, or a class without train images.
    """
    where = f" of {printable(place)}" if place else ""
    largest = max((int(part.max()) for part in labels.values() if part.size), default=-1)
    number = largest + 1 if names is None else len(names)
    if largest >= number:
        raise InputError(f"label {largest} of {number} classes{where}; name all classes, or none")
    present = np.unique(labels["train"])
    if len(present) < number:
        # The smallest class without a label. Names are built only after this check, as a stray label may demand many.
        empty = int(np.argmin(np.append(present == np.arange(len(present)), False)))
        name = str(empty) if names is None else names[empty]
        raise InputError(f"class {name!r}{where} has no train images; add some, or drop the class")
    return tuple(map(str, range(number))) if names is None else names


def names_beside(folder: str) -> tuple[str, ...] | None:
    """The names of the classes in a folder: the lines of classes.txt, or the list in classes.json."""
    text, listed = Path(folder, "classes.txt"), Path(folder, "classes.json")
    if text.exists():
        return check_class_names(read_text(text, _REPAIR).splitlines(), str(text))
    if listed.exists():
        names = read_json(listed, _REPAIR)
        if isinstance(names, dict) and sorted(map(str, names.values())) == sorted(map(str, range(len(names)))):
            names = sorted(names, key=lambda name: int(names[name]))
        if not isinstance(names, list):
            raise InputError(f"{printable(str(listed))} is no list of names; {_REPAIR}")
        return check_class_names(names, str(listed))
    return None
