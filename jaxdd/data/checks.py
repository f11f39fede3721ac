"""Checks of what users give: arrays, names, labels and pixels."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from jaxdd.ground.arrays import as_array, is_integer
from jaxdd.ground.errors import InputError

# Control characters, surrogates, which stand for bytes that are not UTF-8, and separators of lines and paragraphs.
_UNSPEAKABLE = ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """A text for one line of a message: as it is, or escaped if it would break the line or is not UTF-8."""
    return text if _is_speakable(text) else repr(text)


def _is_speakable(text: str) -> bool:
    return text.isprintable() or not any(unicodedata.category(character) in _UNSPEAKABLE for character in text)


def check_name(name: str) -> str:
    """The name of a dataset; InputError unless it is text for one line."""
    if not isinstance(name, str) or printable(name) != name:
        raise InputError(f"dataset name {name!r} has control characters or is not UTF-8; rename it")
    return name


def check_class_names(names: Sequence | np.ndarray, place: str) -> tuple[str, ...]:
    """The names of classes as text; integers become text.

    Args:
      place: what has these names, for messages.

    Raises:
      InputError: no sequence, such as a set, which has no order; no name, one that is not text, or one that files and
        tables cannot hold: with line breaks or other control characters, or not UTF-8.
    """
    if isinstance(names, str | bytes):
        raise InputError(f"class names {names!r} of {printable(place)} are one text; give one name for each class")
    is_list = isinstance(names, Sequence) or isinstance(names, np.ndarray) and names.ndim == 1
    if not is_list or isinstance(names, np.ma.MaskedArray):
        remedy = "give a list in the order of the labels"
        raise InputError(f"class names of {printable(place)} are of type {type(names).__name__}; {remedy}")
    result = []
    for name in names:
        if not isinstance(name, str | int | np.integer) or isinstance(name, np.timedelta64):
            raise InputError(f"class name {name!r} of {printable(place)} is not text; give one name for each class")
        text = str(name)
        if not _is_speakable(text):
            raise InputError(
                f"class name {text!r} of {printable(place)} has control characters or is not UTF-8; rename the class"
            )
        result.append(text)
    if not result:
        raise InputError(f"{printable(place)} has no classes; name one or more")
    return tuple(result)


def check_labels(labels: np.ndarray, classes: int, place: str) -> np.ndarray:
    """Labels of any integer dtype as int32 [n].

    Args:
      classes: their number; all labels are below it.
      place: what has these labels, for messages.

    Raises:
      InputError: another dtype or shape, or a label that is no class.
    """
    labels = as_array(labels, f"labels of {place}")
    if labels.ndim == 1 and not labels.size:
        return labels.astype(np.int32)
    if labels.ndim != 1 or not is_integer(labels):
        one_hot = labels.ndim == 2 and labels.shape[1] == classes and classes > 1
        remedy = ", such as labels.argmax(1) of one-hot rows" if one_hot else ""
        raise InputError(f"labels of {place} are {labels.dtype} {list(labels.shape)}; give integers [n]{remedy}")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise InputError(f"label {wrong[0]} of {place} is none of {classes} classes; give 0 to {classes - 1}")
    return labels.astype(np.int32, copy=False)


def check_pixels(images: np.ndarray, count: int, shape: tuple[int, int, int], place: str) -> np.ndarray:
    """What a reader returned for ``count`` images of one shape: uint8 [count, H, W, C].

    Raises:
      InputError: another dtype or shape.
    """
    images = as_array(images, f"images read from {place}")
    want = f"uint8 {[count, *shape]}"
    if images.dtype != np.uint8:
        # Only pixels are normalised later, so that images in [0, 1] would pass for black ones or for normalised ones.
        raise InputError(
            f"reading images of {place} gives {images.dtype} {list(images.shape)}; give {want}, values from 0 to 255"
        )
    if images.shape != (count, *tuple(shape)):
        raise InputError(f"reading images of {place} gives uint8 {list(images.shape)}; give {want}{layout(images)}")
    return images


def layout(images: np.ndarray) -> str:
    """A remedy for images [n, ch, H, W], to end a message with; empty for others."""
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        return ": these look like [n, ch, H, W], images.transpose(0, 2, 3, 1) is [n, H, W, ch]"
    return ""
