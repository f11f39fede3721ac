"""A folder of images with a sub-folder per class: train/<class>/*, and val/<class>/* or test/<class>/*, or alone."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxdd.data import image
from jaxdd.data.checks import check_class_names, printable
from jaxdd.data.places import HOLD_OUT, TEST_SPLITS, meant, nearest
from jaxdd.data.source import Source, make_source
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import open_regular
from jaxdd.ground.progress import note

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
_ALONE = "or train/<class>/* or <class>/* alone with `holdout` 0.2"
LAYOUT = "train/<class>/* and val/<class>/* or test/<class>/*"
"""The layout of a folder that has test images, for messages."""
_ANNOTATIONS = "_annotations.txt"
# Folders of these names, in any case, are no classes.
_SPLITS = ("train", "training", "testing", *TEST_SPLITS)
# What is left out, with the words that differ for one of it.
_NO_IMAGES = "file{s} that {are} no image{s}"
_OUTSIDE = "image{s} outside of class folders"
_DEEPER = "image{s} in deeper folders, below others"
_UNLABELLED = "image{s} without labels in %s/"
_OTHER_SPLIT = "image{s} in %s/, as there is another test split"
_NO_FILE = "line{s} of %s without an image of {their} own"
_NAMED = 3


def load_folder(
    path: str,
    image_size: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open an ImageFolder tree. Only file names and up to 64 headers are read before `Source.read` is called.

    The classes are the sub-folders of train/, sorted by name. The split "test" is the first of test/, val/, valid/ and
    validation/ with folders of these classes; they have the same labels as in train/. In place of class folders such a
    split may have a file <split>_annotations.txt with lines <file> TAB <class>, as Tiny ImageNet has for val/images/*.

    A folder of <class>/*, without a train folder, holds train images alone, and serves if no test images are needed.

    The images of a class are sorted by name. If there are none in its folder itself, those in deeper folders are taken,
    such as train/<class>/images/*. Names that start with a dot are ignored. Everything else that is left out, such as
    files without an image extension, is counted in one line on stderr, with the first names. `image.fit` converts each
    image to the common shape.

    Args:
      path: the folder.
      image_size: the side of the images. Default: that of up to 64 evenly spaced train images if all are equal squares,
        else 224.
      channels: 1 or 3. Default: 1 if all of these images are grey, else 3.
      skip_corrupt: leave out damaged ones of these images, instead of raising InputError; see `without_damaged` for the
        rest.
      needs_test: whether there must be test images; otherwise the split "test" is empty.

    Raises:
      InputError: a missing folder, split or class, a class folder without images, or one whose name is not UTF-8; at
        `Source.read`, an image that is damaged or no regular file, which the message names.
    """
    image.check_request(image_size, channels)
    path = os.fspath(path)
    root = os.path.expanduser(path)
    left_out = _LeftOut(root)
    splits = {"train": _train_split(_train_folder(root, path, needs_test), left_out)}
    class_names = tuple(splits["train"].files)
    splits["test"] = _test_split(root, class_names, left_out) if needs_test else _Split({})
    left_out.say()
    files = {name: split.joined(class_names) for name, split in splits.items()}
    labels = {name: split.labels(class_names) for name, split in splits.items()}

    def encoded(split: str, index: int) -> image.Encoded:
        # Paths are joined on demand: a million full paths would take several times the memory of the names.
        folder = splits[split].folders[class_names[labels[split][index]]]
        file = os.path.join(folder, files[split][index])
        return file, file

    def sample() -> list[image.Encoded]:
        return [encoded("train", index) for index in image.evenly_spaced(len(files["train"]), image.PROBES)]

    shape = image.shape_for(sample, image_size, channels, skip_corrupt, root)

    def read(split: str, indices: np.ndarray) -> np.ndarray:
        return image.decode_batch([encoded(split, index) for index in indices], shape)

    names = lambda split, indices: [os.path.relpath(encoded(split, index)[0], root) for index in indices]
    return make_source(root, class_names, shape, labels, read, names=names)


def has_classes(path: str) -> bool:
    """Whether a path is a folder whose train/ has folders, which then are its classes."""
    folder = os.path.join(os.path.expanduser(path), "train")
    return os.path.isdir(folder) and bool(_class_folders(folder))


def is_plain(path: str) -> bool:
    """Whether a path is a folder of two or more class folders, <class>/*, none of which is called like a split."""
    folder = os.path.expanduser(path)
    if not os.path.isdir(folder):
        return False
    names = _class_folders(folder)
    if any(name.lower() in _SPLITS for name in names):
        return False
    return sum(_has_images(os.path.join(folder, name)) for name in names) > 1


def _has_images(folder: str) -> bool:
    """Whether a folder has images, or one of its folders; no deeper, as the folder may be the root of a disk."""
    deeper, images, _ = _scan(folder)
    return bool(images) or any(_scan(os.path.join(folder, name))[1] for name in deeper)


def class_files(folder: str) -> dict[str, list[str]]:
    """The images in the class folders <class>/* of a folder, sorted, by the names of their classes.

    Raises:
      InputError: no class folders, or one without images.
    """
    names, left_out = _class_folders(folder), _LeftOut(folder)
    if not names:
        raise InputError(f"folder {printable(folder)} has no class folders with images: expected <class>/*")
    split = _of_class_folders(folder, names, left_out)
    left_out.say()
    return {name: [os.path.join(split.folders[name], file) for file in split.files[name]] for name in names}


def with_images(folder: str) -> list[str]:
    """The class folders of a folder that hold images, sorted."""
    return [name for name in _class_folders(folder) if any(_deep_images(os.path.join(folder, name)))]


class _LeftOut:
    """What is left out of a folder: how many files of each kind, and the names of the first."""

    def __init__(self, root: str):
        self.root = root
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, what: str, folder: str, names: Iterable[str]) -> None:
        """Count files of a folder, by their names in it."""
        names, first = sorted(names), self.names.setdefault(what, [])
        self.counts[what] = self.counts.get(what, 0) + len(names)
        place = os.path.relpath(folder, self.root)
        first += [os.path.normpath(os.path.join(place, name)) for name in names[: _NAMED - len(first)]]

    def say(self) -> None:
        """Say it in one line."""
        said = []
        for what, count in self.counts.items():
            names = ", ".join(map(printable, self.names[what])) + (", ..." if count > _NAMED else "")
            one = count == 1
            words = what.format(s="" if one else "s", are="is" if one else "are", their="its" if one else "their")
            said += [f"{count} {words} ({names})"] if count else []
        if said:
            note(f"{printable(self.root)}: left out {', '.join(said)}")


@dataclass(frozen=True)
class _Split:
    """The images of a split: their names by class, and the folder of each class in which these names lie."""

    files: dict[str, list[str]]
    folders: dict[str, str] = field(default_factory=dict)

    def joined(self, class_names: tuple[str, ...]) -> list[str]:
        return [file for name in class_names for file in self.files.get(name, [])]

    def labels(self, class_names: tuple[str, ...]) -> np.ndarray:
        return np.repeat(np.arange(len(class_names)), [len(self.files.get(name, [])) for name in class_names])


def _train_folder(root: str, path: str, needs_test: bool) -> str:
    """The folder of the class folders of the train images; ``path`` is what the user called the folder ``root``."""
    train = os.path.join(root, "train")
    if not os.path.isdir(root):
        near = meant(nearest(path, folders_only=True))
        raise InputError(f"folder {printable(root)} does not exist{near}: give a folder with {LAYOUT}")
    if os.path.isdir(train):
        return train
    if not is_plain(root):
        raise InputError(f"folder {printable(root)} has no train folder: it must hold {LAYOUT}, {_ALONE}")
    if needs_test:
        raise InputError(f"folder {printable(root)} has class folders, but no test images: give {HOLD_OUT}, or the "
                         f"layout {LAYOUT}")  # fmt: skip
    return root


def _train_split(folder: str, left_out: _LeftOut) -> _Split:
    names = _class_folders(folder)
    if not names:
        raise InputError(f"folder {printable(folder)} has no class folders with images: expected {LAYOUT}")
    check_class_names(names, folder)
    return _of_class_folders(folder, names, left_out)


def _test_split(root: str, class_names: tuple[str, ...], left_out: _LeftOut) -> _Split:
    """The first labelled test split; what the others hold is left out."""
    found, strange = None, None
    for name in TEST_SPLITS:
        folder = os.path.join(root, name)
        if not os.path.isdir(folder):
            continue
        folders, annotations = _class_folders(folder), os.path.join(folder, name + _ANNOTATIONS)
        known = [name for name in folders if name in set(class_names)]
        # Emptied folders remain where a script has sorted the images of a split into class folders.
        unknown = [name for name in folders if name not in known and any(_deep_images(os.path.join(folder, name)))]
        if found:
            left_out.add(_OTHER_SPLIT % name, folder, _deep_images(folder))
        elif known and unknown:
            raise _unknown_class(unknown[0], folder)
        elif known:
            found = _of_class_folders(folder, known, left_out)
        elif os.path.exists(annotations):
            found = _annotated(folder, annotations, class_names, left_out)
        else:
            left_out.add(_UNLABELLED % name, folder, _deep_images(folder))
            strange = strange or (_unknown_class(unknown[0], folder) if unknown else None)
    if found is None:
        raise strange or InputError(
            f"folder {printable(root)} has no test images: give {HOLD_OUT}, or add val/<class>/* or test/<class>/*"
        )
    if lacking := sum(not found.files.get(name) for name in class_names):
        note(f"{printable(root)}: {lacking} of {len(class_names)} classes have no test images")
    return found


def _unknown_class(name: str, folder: str) -> InputError:
    train = os.path.join(os.path.dirname(folder), "train")
    return InputError(
        f"class {name!r} of {printable(folder)} is not in {printable(train)}: add it there or remove it here"
    )


def _of_class_folders(folder: str, names: list[str], left_out: _LeftOut) -> _Split:
    _, outside, others = _scan(folder)
    left_out.add(_OUTSIDE, folder, outside)
    left_out.add(_NO_IMAGES, folder, others)
    folders = {name: os.path.join(folder, name) for name in names}
    return _Split({name: _images(place, left_out) for name, place in folders.items()}, folders)


def _annotated(folder: str, annotations: str, class_names: tuple[str, ...], left_out: _LeftOut) -> _Split:
    """A split whose labels are in a file with lines <file> TAB <class>, for images in it or in its folder images/."""
    place = os.path.join(folder, "images")
    place = place if os.path.isdir(place) else folder
    present = set(_images(place, left_out))
    files: dict[str, list[str]] = {}
    classes = set(class_names)
    for name, class_name in _annotation_lines(annotations):
        if class_name not in classes:
            raise _unknown_class(class_name, folder)
        if name in present:
            files.setdefault(class_name, []).append(name)
            present.remove(name)
        else:
            left_out.add(_NO_FILE % os.path.basename(annotations), place, [name])
    left_out.add(_UNLABELLED % os.path.basename(folder), place, present)
    return _Split({name: sorted(names) for name, names in files.items()}, dict.fromkeys(class_names, place))


def _annotation_lines(path: str) -> Iterator[tuple[str, str]]:
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)} cannot be read: {error}; repair it or remove it") from error
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split("\t")
        if len(columns) > 1:
            yield columns[0], columns[1]
        elif line.strip():
            raise InputError(f"line {number} of {printable(path)} is not <file> TAB <class>: repair it or remove it")


def _class_folders(folder: str) -> list[str]:
    return sorted(_scan(folder)[0])


def _images(folder: str, left_out: _LeftOut) -> list[str]:
    """The images of a class folder, sorted; those in deeper folders if it holds none itself."""
    deeper, names, others = _scan(folder)
    if names:
        # Deeper folders may hold crops or thumbnails of the images above them.
        below = [os.path.join(sub, name) for sub in deeper for name in _deep_images(os.path.join(folder, sub))]
        left_out.add(_DEEPER, folder, below)
    else:
        names = list(_deep_images(folder))
    if not names:
        raise InputError(
            f"class folder {printable(folder)} holds no images: add some ({' '.join(EXTENSIONS)}) or remove it"
        )
    left_out.add(_NO_IMAGES, folder, others)
    return sorted(names)


def _deep_images(folder: str, below: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The images in a folder and its sub-folders, as paths below it; links that lead back up are not followed."""
    here = os.path.join(folder, below)
    if (place := os.path.realpath(here)) in above:
        return
    deeper, names, _ = _scan(here)
    yield from (os.path.join(below, name) for name in names)
    for sub in sorted(deeper):
        yield from _deep_images(folder, os.path.join(below, sub), (*above, place))


def _scan(folder: str) -> tuple[list[str], list[str], list[str]]:
    """The sub-folders of a folder, its images, and its other files; without names that start with a dot."""
    folders: list[str] = []
    names: list[str] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(EXTENSIONS):
                    names.append(entry.name)
                else:
                    others.append(entry.name)
    except OSError as error:
        raise InputError(
            f"folder {printable(folder)} cannot be read: {error.strerror}; repair it or remove it"
        ) from error
    return folders, names, others


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself is no folder; if it is called an image, reading it names it.
        return False
