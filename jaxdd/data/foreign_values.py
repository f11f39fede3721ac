"""The images, labels and weights in what other projects save: arrays by many names, and images in files."""

import csv
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from jaxdd.data import image, load, numpy_files, places, torch_file
from jaxdd.data.checks import check_class_names, printable
from jaxdd.data.folder import class_files
from jaxdd.data.hub import is_hub, open_hub
from jaxdd.data.labels import classes
from jaxdd.data.shards import is_shards, open_shards
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import note
from jaxdd.ground.reading import check_regular, read_text

_NOISE = ("syn", "synthetic", "distilled", "best", "train")
_WEIGHTS = ("weight", "weights", "w")
_SETS = ("data",)
_LIST = "metadata.csv"
_MOST_BYTES = 4 * 2**30
_TENSORS = (".pt", ".pth")
_SAFE = ".safetensors"


class Found(NamedTuple):
    """What a file or folder has.

    Attributes:
      images: [n, H, W, ch], pixels or floats.
      labels: integers [n], or floats [n, K].
      weights: [n], or None for equal ones.
      class_names: the names of the classes, or None.
      norm: the normalisation of floating images, if it is known.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    norm: Normalisation | None = None


def is_array_file(path: str) -> bool:
    """Whether a path is a file of tensors or arrays."""
    return path.lower().endswith((*_TENSORS, _SAFE, ".npz"))


def read(name: str, shape: tuple[int | None, int | None]) -> Found:
    """What a file or folder has; ``shape``: the side and the channels of images that are encoded, or None.

    Raises:
      InputError: see `open_distilled`.
    """
    place = places.parsed(name)
    path = os.path.expanduser(place.path)
    if not place.path.startswith(places.HUB) and "{" not in path and "::" not in path and not os.path.exists(path):
        near = places.meant(places.nearest(place.path))
        raise InputError(f"{printable(path)} does not exist{near}; give distilled images: a folder, an .npz or .pt "
                         "file, or hf:owner/name")  # fmt: skip
    if is_array_file(path):
        return _from_arrays(place, Path(path))
    if os.path.isfile(path) and not is_shards(path):
        raise InputError(f"{printable(path)} is in no format of distilled images; give a folder, or an .npz, .pt or "
                         ".safetensors file")  # fmt: skip
    root = os.path.join(path, "train") if os.path.isdir(os.path.join(path, "train")) else path
    if root == path and len(files := _array_files(path)) == 1:
        return _from_arrays(place, files[0])
    lists = [os.path.join(folder, _LIST) for folder in (path, root) if os.path.exists(os.path.join(folder, _LIST))]
    if lists:
        return _from_list(lists[0], shape)
    if is_hub(place.path) or numpy_files.is_numpy(path) or not os.path.isdir(path) or _has_no_folders(root):
        return _from_source(name, place, shape)
    return _from_folders(root, shape)


def _array_files(folder: str) -> list[Path]:
    """The files of arrays in a folder but for those of labels; none where images are stored in another way."""
    if not os.path.isdir(folder) or is_hub(folder) or is_shards(folder):
        return []
    return [file for file in sorted(Path(folder).iterdir()) if is_array_file(file.name) and "label" not in file.name]


def _has_no_folders(root: str) -> bool:
    return not any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(root))


# Images in files


def _decoded(files: list[str], shape: tuple[int | None, int | None], place: str) -> np.ndarray:
    encoded: list[image.Encoded] = [(file, file) for file in files]
    sample = lambda: [encoded[k] for k in image.evenly_spaced(len(encoded), image.PROBES)]
    known = image.shape_for(sample, *shape, place=place)
    say_changes(place, sample(), shape)
    _check_memory(len(files), known, place)
    return image.decode_batch(encoded, known)


def say_changes(place: str, sample: Sequence[image.Encoded], shape: tuple[int | None, int | None]) -> None:
    """Say that images are decoded to another size, or to grey; ``shape``: their side and channels, or None."""
    sizes, grey = image.kinds(sample)
    said_size(place, sizes, shape[0])
    if shape[1] == 1 and not grey:
        note(f"{printable(place)}: images in colour become grey, as those of the data are")


def said_size(place: str, sizes: Collection[tuple[int, int]], side: int | None) -> None:
    """Say that images of these sizes (width, height) are resized to a side, unless they have it or it is None."""
    if side is not None and set(sizes) != {(side, side)}:
        note(f"{printable(place)}: {image.described(sizes)} are resized to {side}x{side}, as `image_size` says")


def _check_memory(count: int, shape: tuple[int, ...], place: str) -> None:
    """InputError if decoded images would take more than a distilled dataset ever does."""
    needed = count * int(np.prod(shape))
    if needed > _MOST_BYTES:
        raise InputError(f"{printable(place)} has {count} images, {needed / 2**30:.1f} GiB decoded, too many for "
                         "distilled ones; give a few for each class")  # fmt: skip


def _from_folders(root: str, shape: tuple[int | None, int | None]) -> Found:
    files = class_files(root)
    labels = np.repeat(np.arange(len(files)), [len(part) for part in files.values()])
    names = check_class_names(list(files), root)
    return Found(_decoded([file for part in files.values() for file in part], shape, root), labels, None, names)


def _from_list(place: str, shape: tuple[int | None, int | None]) -> Found:
    """The images in metadata.csv, with columns file_name, and if there are such label, class_name and weight."""
    folder = os.path.dirname(place)
    try:
        rows = list(csv.DictReader(read_text(Path(place), "repair it").splitlines(), strict=True))
    except csv.Error as error:
        raise InputError(f"{printable(place)} is no table with commas ({error}); repair it or remove it") from None
    columns = list(rows[0]) if rows else []
    if "file_name" not in columns:
        raise InputError(f"{printable(place)} has no column file_name; give file_name, label and weight, or remove it")
    files, labels, weights = [], [], []
    for number, row in enumerate(rows, 2):
        where = f"line {number} of {printable(place)}"
        file = row["file_name"] or ""
        if not file or file.startswith("/") or ".." in re.split(r"[/\\]", file) or "\0" in file:
            raise InputError(f"{where} names {file!r}, which is no file in its folder; repair it")
        label = row.get("label") if "label" in columns else os.path.basename(os.path.dirname(file))
        if not label:
            raise InputError(f"{where} has no label; give one, or put the images into a folder for each class")
        files.append(os.path.join(folder, file))
        labels.append(label)
        weights.append(_weight(row.get("weight"), where) if "weight" in columns else 1.0)
    numbered = "label" in columns and all(re.fullmatch(r"\d{1,9}", label) for label in labels)
    raw = np.array(labels, np.int64) if numbered else np.array(labels, object)
    names: tuple[str, ...] | None
    names, numbers = classes({"train": raw}, None, place)
    given = np.array(weights) if "weight" in columns else None
    if numbered:
        known = {int(label): row.get("class_name") or "" for label, row in zip(labels, rows)}
        names = check_class_names([known[k] for k in range(len(names))], place) if all(known.values()) else None
    return Found(_decoded(files, shape, place), numbers["train"], given, names)


def _weight(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{where} has weight {text!r}; give a number") from None


def _from_source(name: str, place: places.Place, shape: tuple[int | None, int | None]) -> Found:
    """The train images of any dataset that `jaxdd.data.load` opens, with their weights."""
    weights = None
    if is_hub(place.path) or is_shards(place.path):
        open_files = open_hub if is_hub(place.path) else open_shards
        source, encoded, read_weights = open_files(name, *shape, False, False)
        rows = np.arange(len(source.labels["train"]))
        say_changes(name, encoded("train", rows[image.evenly_spaced(len(rows), image.PROBES)]), shape)
        weights = read_weights()
    else:
        # Arrays, which are fitted later.
        source = load(name, needs_test=False)
    labels = source.labels["train"]
    _check_memory(len(labels), source.image_shape, name)
    # The numbers are no names that somebody gave.
    names = source.class_names
    numbers = tuple(map(str, range(len(names))))
    return Found(source.read("train", np.arange(len(labels))), labels, weights, None if names == numbers else names)


# Arrays


def _from_arrays(place: places.Place, path: Path) -> Found:
    is_torch = path.suffix.lower() in (*_TENSORS, _SAFE)
    value = _value(path)
    parts = _parts(value, place, path)
    images, labels = parts["images"], parts.get("labels")
    if labels is None:
        labels = _labels_beside(path, place)
    held = numpy_files.class_names(value) if isinstance(value, dict) and not is_torch else None
    names = None if held is None else check_class_names(held, str(path))
    norm = None
    if isinstance(value, dict) and all(isinstance(value.get(name), np.ndarray) for name in ("mean", "std")):
        norm = Normalisation(*(np.asarray(value[name], np.float32).reshape(-1) for name in ("mean", "std")))
    return Found(_last_channels(images, is_torch, path), _plain(labels), parts.get("weights"), names, norm)


def _value(path: Path) -> Any:
    """The arrays in a file, by names or in the order in which they were saved."""
    if path.suffix.lower() in _TENSORS:
        return torch_file.read(path)
    if path.suffix.lower() != _SAFE:
        return numpy_files.read(str(path))
    check_regular(path)
    try:
        return load_file(path)
    # Of dtypes that NumPy lacks the library raises errors of other types than of damage.
    except Exception as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}; give float32 tensors") from None


def _kind(name: Any) -> str:
    """What an array is called without the words that say that it is distilled: image of image_syn."""
    words = [word for word in re.split(r"[_.\s-]+", str(name).lower()) if word]
    return "_".join(word for word in words if word not in _NOISE)


def _parts(value: Any, place: places.Place, path: Path) -> dict[str, np.ndarray]:
    """The arrays "images", and "labels" and "weights" if they are there."""
    if isinstance(value, Mapping):
        chosen = {key: _chosen(value, known, place.choices.get(kind), kind, path)
                  for kind, key, known in (("image", "images", numpy_files.IMAGES), ("label", "labels",
                  numpy_files.LABELS), ("weight", "weights", _WEIGHTS))}  # fmt: skip
        if isinstance(chosen["images"], list | tuple):
            return _parts(chosen["images"], place, path)
        value = {key: part for key, part in chosen.items() if part is not None}
    elif isinstance(value, list | tuple):
        value = _pair(_one_set(value, place, path))
    else:
        value = {"images": value}
    if not isinstance(value.get("images"), np.ndarray):
        raise InputError(f"{path} has no images that are found; give a dict with images and labels, a pair of them, or "
                         "choose with ?image=KEY&label=KEY")  # fmt: skip
    for key, part in value.items():
        if not isinstance(part, np.ndarray):
            raise InputError(f"the {key} of {path} are no tensor; give one tensor")
    return value


def _chosen(value: Mapping, known: tuple[str, ...], choice: str | None, kind: str, path: Path) -> Any:
    """The part of a dict that has a choice as its key, or a known name; None if it has none."""
    keys = [key for key in value if str(key) == choice] if choice else [key for key in value if _kind(key) in known]
    held = ", ".join(printable(str(key)) for key in list(value)[:20])
    if choice and not keys:
        raise InputError(f"{path} has no {printable(choice)}; it holds {held}")
    if len(keys) > 1:
        raise InputError(f"{path} has several {kind}s: {', '.join(map(str, keys))}; choose one with ?{kind}=KEY")
    if kind == "image" and not keys:
        raise InputError(f"{path} has no images by a usual name, but {held}; choose with ?image=KEY&label=KEY")
    return value[keys[0]] if keys else None


def _one_set(value: list | tuple, place: places.Place, path: Path) -> Any:
    """One pair of images and labels out of a pair, or of a list of pairs."""
    if len(value) and all(isinstance(part, np.ndarray) for part in value):
        return value
    number = place.choices.get("set", "0")
    if not re.fullmatch(r"\d{1,9}", number) or int(number) >= len(value):
        raise InputError(f"{path} has {len(value)} sets of images, none of number {printable(number)}; give ?set=0 or "
                         "another")  # fmt: skip
    if len(value) > 1 and "set" not in place.choices:
        note(f"{path}: the first of {len(value)} sets of images is taken; choose another with ?set=1")
    return value[int(number)]


def _pair(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        return {"images": value}
    if isinstance(value, list | tuple) and 1 <= len(value) <= 3:
        return dict(zip(("images", "labels", "weights"), value))
    return {}


def _labels_beside(path: Path, place: places.Place) -> np.ndarray:
    """The labels in a file beside that of the images: labels_best.pt of images_best.pt."""
    words = (("images", "labels"), ("image", "label"), ("data", "labels"), ("x", "y"))
    names = [path.name.replace(*pair, 1) for pair in words if pair[0] in path.stem]
    if "label" in place.choices:
        names = [place.choices["label"]]
    for name in names:
        beside = path.with_name(Path(name).name)
        if beside.name != path.name and beside.is_file() and is_array_file(beside.name):
            value = _value(beside)
            value = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
            if isinstance(value, np.ndarray):
                return value
            raise InputError(f"{beside} holds no tensor of labels; give one tensor")
    expected = f" (such as {names[0]} beside it)" if names else ""
    raise InputError(f"{path} has images without labels{expected}; give them beside it, as labels_best.pt of "
                     "images_best.pt, or with ?label=FILE")  # fmt: skip


def _plain(labels: np.ndarray) -> np.ndarray:
    """Labels without an axis of length one, and floats that are whole numbers as integers."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 1 and labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == labels.round()).all():
        return labels.astype(np.int64)
    return labels


def _last_channels(images: np.ndarray, is_torch: bool, path: Path) -> np.ndarray:
    """Images as [n, H, W, ch]; PyTorch has [n, ch, H, W]."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"images of {path} are {images.dtype} {list(images.shape)}; give [n, ch, H, W] or [n, H, W, ch]"
        )
    is_first, is_last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if is_first and (is_torch or not is_last):
        images = images.transpose(0, 2, 3, 1)
    elif not is_last:
        raise InputError(f"images of {path} are {list(images.shape)}; give 1 or 3 channels")
    return np.ascontiguousarray(images)
