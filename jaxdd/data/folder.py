"""A folder of images with a sub-folder per class: train/<class>/*, and val/<class>/* or test/<class>/*."""

import os

import numpy as np

from jaxdd.data import image
from jaxdd.data.source import Source, make_source
from jaxdd.ground.errors import InputError

_EXTENSIONS = (
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
_LAYOUT = "train/<class>/* and val/<class>/* or test/<class>/*"


def load_folder(path: str, image_size: int | None = None, channels: int | None = None) -> Source:
    """Open an ImageFolder tree. Only file names and up to 64 headers are read before `Source.read` is called.

    The classes are the sub-folders of train/, sorted by name. The split "test" is test/ if that has class folders, else
    val/. Its classes must be among those of train/, and have the same labels. Names that start with a dot, files
    without an image extension and deeper folders are ignored. The images of a class are sorted by name. `image.fit`
    converts each image to the common shape.

    Args:
      path: the folder.
      image_size: the side of the images. Default: that of up to 64 evenly spaced train images if all are equal squares,
        else 224.
      channels: 1 or 3. Default: 1 if all of these images are grey, else 3.

    Raises:
      InputError: a missing folder, split or class, or a class folder without images; at `Source.read`, an image that is
        damaged, which the message names.
    """
    image.check_request(image_size, channels)
    root = os.path.expanduser(os.fspath(path))
    if not os.path.isdir(root):
        raise InputError(f"folder {root} does not exist: give a folder with {_LAYOUT}")
    if not os.path.isdir(os.path.join(root, "train")):
        raise InputError(f"folder {root} has no train folder: it must hold {_LAYOUT}")
    folders = {"train": os.path.join(root, "train"), "test": _test_folder(root)}
    class_names = _class_folders(folders["train"])
    if not class_names:
        raise InputError(f"folder {folders['train']} has no class folders with images: expected {_LAYOUT}")
    unknown = sorted(set(_class_folders(folders["test"])) - set(class_names))
    if unknown:
        raise InputError(
            f"class {unknown[0]!r} of {folders['test']} is not in {folders['train']}: add it there or remove it here"
        )

    files: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    for split, folder in folders.items():
        present = set(_class_folders(folder))
        per_class = [_images(os.path.join(folder, name)) if name in present else [] for name in class_names]
        files[split] = [name for names in per_class for name in names]
        labels[split] = np.repeat(np.arange(len(class_names)), [len(names) for names in per_class])

    def encoded(split: str, index: int) -> image.Encoded:
        # Paths are joined on demand: a million full paths would take several times the memory of the names.
        file = os.path.join(folders[split], class_names[labels[split][index]], files[split][index])
        return file, file

    def sample() -> list[image.Encoded]:
        return [encoded("train", index) for index in image.evenly_spaced(len(files["train"]), image.PROBES)]

    shape = image.shape_for(sample, image_size, channels)

    def read(split: str, indices: np.ndarray) -> np.ndarray:
        return image.decode_batch([encoded(split, index) for index in indices], shape)

    return make_source(root, class_names, shape, labels, read)


def _test_folder(root: str) -> str:
    for name in ("test", "val"):
        folder = os.path.join(root, name)
        if os.path.isdir(folder) and _class_folders(folder):
            return folder
    raise InputError(f"folder {root} has no test images: expected val/<class>/* or test/<class>/* beside train")


def _class_folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(_EXTENSIONS)
        )
    if not names:
        raise InputError(f"class folder {folder} holds no images: add some ({' '.join(_EXTENSIONS)}) or remove it")
    return names
