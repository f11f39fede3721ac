"""A distilled dataset: images, labels, weights and provenance, in memory and on disk."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd.data.checks import check_class_names, check_labels, layout
from jaxdd.data.mistaken import no_run
from jaxdd.ground import manifest
from jaxdd.ground.arrays import as_array, is_integer
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.files import atomic, read_arrays
from jaxdd.ground.measure import power
from jaxdd.ground.normalise import Normalisation, denormalise, normalise

# The arrays of distilled.npz: the kinds of their dtypes, and the numbers of their axes.
_ARRAYS = {
    "images": ("f", (4,)),
    "labels": ("iu", (1,)),
    "weights": ("f", (1,)),
    "class_names": ("U", (1,)),
    "mean": ("f", (0, 1)),
    "std": ("f", (0, 1)),
    "provenance": ("U", (0,)),
}
_NAME_BYTES = 255  # of a file, on all common file systems
_ROUNDING = 1e-3  # of the sum of the weights of a class
_PLACE = "a distilled dataset"


@dataclass(frozen=True)
class DistilledDataset:
    """The training data of students in place of the real data: the pushforward of a small weighted measure.

    The constructor converts arrays of other dtypes: integers of any kind are labels, and uint8 images are pixels, which
    it normalises.

    Attributes:
      images: float32 [n, H, W, ch], normalised by ``norm``.
      labels: int32 [n], indices into ``class_names``.
      weights: float32 [n], the weights of the atoms, with sum one in each class.
      class_names: one name per class.
      norm: the normalisation of ``images``.
      provenance: JSON-serialisable record of the method and settings.

    Raises:
      InputError: shapes that disagree, images of other than 1 or 3 channels, values that are not finite, labels that
        are no classes, negative weights, or a class without images.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    class_names: tuple[str, ...]
    norm: Normalisation
    provenance: dict

    def __post_init__(self):
        names = check_class_names(self.class_names, _PLACE)
        images = as_array(self.images, f"images of {_PLACE}")
        _check_images(images)
        images = _normalised(self.norm, images)
        labels = check_labels(self.labels, len(names), _PLACE)
        weights = as_array(self.weights, f"weights of {_PLACE}")
        if len(images) != len(labels) or weights.shape != labels.shape:
            shapes = f"images {list(images.shape)}, labels {list(labels.shape)} and weights {list(weights.shape)}"
            raise InputError(f"{shapes} of {_PLACE} disagree; give one label and one weight an image")
        weights = _finite("weights", weights.astype(float) if weights.dtype.kind in "iu" else weights)
        if (weights < 0).any():
            raise InputError(f"weight {weights.min()} of {_PLACE} is negative; give non-negative ones")
        if not weights.any():
            raise InputError(f"the weights of {_PLACE} are all zero; give a positive one")
        absent = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
        if absent.size:
            raise InputError(f"class {names[absent[0]]!r} of {_PLACE} has no images; give some, or drop the class")
        if not isinstance(self.provenance, dict):
            raise InputError(f"provenance {self.provenance!r} of {_PLACE}; give a dict")
        for name, value in {"images": images, "labels": labels, "weights": weights, "class_names": names}.items():
            object.__setattr__(self, name, value)

    @property
    def ipc(self) -> int:
        """The number of images per class."""
        return len(self.labels) // len(self.class_names)

    def pixels(self) -> np.ndarray:
        """The images as uint8 [n, H, W, ch]."""
        return np.asarray(denormalise(self.norm, self.images))

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        norm: Normalisation | None = None,
    ) -> "DistilledDataset":
        """A distilled dataset from arrays in memory.

        Args:
          images: [n, H, W, ch] or [n, H, W], uint8 pixels or floats that are normalised by ``norm``.
          labels: integer classes, [n], with equally many images of each class.
          weights: non-negative, [n], normalised to sum one in each class; default: equal.
          class_names: one per class; default: the numbers.
          norm: the normalisation; required for floating images. Default: mean and standard deviation of the pixels.

        Raises:
          InputError: shapes that disagree, invalid labels or weights, images of another dtype, or floating images
            without ``norm``.
        """
        images, labels = as_array(images, f"images of {_PLACE}"), as_array(labels, f"labels of {_PLACE}")
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
            raise InputError(f"images {images.shape} and labels {labels.shape}; give [n, H, W, ch] and [n]")
        _check_images(images)
        names = _named_classes(labels, class_names)
        order = np.argsort(labels, kind="stable")
        grouped = _shares(np.ones(len(labels)) if weights is None else weights, order, len(names))
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"images of dtype {images.dtype}; give uint8 pixels, or floats and their norm")
        if images.dtype != np.uint8 and norm is None:
            raise InputError("floating images have no meaning without their normalisation; give norm, or uint8")
        norm = _pixel_statistics(images) if norm is None else norm
        images = _normalised(norm, images)
        return cls(
            images[order], labels[order].astype(np.int32), grouped.reshape(-1), names, norm, {"method": "arrays"}
        )

    def loss_weights(self, kind: str = "free") -> np.ndarray:
        r"""The weight of the loss of each image, :math:`\propto w^p` with mean 1 over the dataset, float32 [n].

        If cell masses vary widely, few images dominate each gradient. A power below one is a compromise between that
        and uniform weights (Tan and Slade 2025, section 4).

        Args:
          kind: "free" (p = 1), "sqrt" (p = 1/2) or "uniform" (p = 0), see `ground.measure.POWERS`.

        Raises:
          InputError: an unknown kind.
        """
        tempered = power(self.weights.astype(np.float64), kind)
        return (tempered / tempered.mean()).astype(np.float32)


def heaviest(dataset: DistilledDataset, label: int, most: int) -> np.ndarray:
    """The indices of at most ``most`` images of a class, by falling weight."""
    rows = np.flatnonzero(dataset.labels == label)
    return rows[np.argsort(-dataset.weights[rows], kind="stable")][:most]


def _shares(weights: np.ndarray, order: np.ndarray, classes: int) -> np.ndarray:
    """Weights of any sum as float32 [classes, ipc] with sum one in each class; ``order`` sorts them by class."""
    weights = as_array(weights, f"weights of {_PLACE}")
    if weights.dtype.kind not in "biuf":
        raise InputError(f"weights of dtype {weights.dtype}; give numbers")
    with np.errstate(over="ignore"):
        weights = weights.astype(np.float64)
    if weights.shape != order.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(f"weights {weights.shape}; give [{len(order)}] finite, non-negative ones")
    grouped = weights[order].reshape(classes, -1)
    largest = grouped.max(1, keepdims=True)
    if not largest.all():
        raise InputError("the weights of a class are all zero; give it one positive weight or more")
    # The sum of huge weights would overflow.
    grouped = grouped / largest
    return (grouped / grouped.sum(1, keepdims=True)).astype(np.float32)


def _named_classes(labels: np.ndarray, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes; InputError unless there are equally many labels [n] of each, and names are text."""
    if not is_integer(labels):
        raise InputError(f"labels of dtype {labels.dtype}; give class indices from 0 on")
    if class_names is not None:
        class_names = check_class_names(class_names, _PLACE)
    present, counts = np.unique(labels, return_counts=True)
    first, last = int(present[0]), int(present[-1])
    number = last + 1 if class_names is None else len(class_names)
    if first < 0 or last >= number:
        raise InputError(f"labels from {first} to {last} of {number} classes; give class indices from 0 on")
    if len(present) < number or len(set(counts.tolist())) > 1:
        raise InputError(
            f"{len(present)} of {number} classes have images, from {counts.min()} to {counts.max()} each; give equally "
            "many of each class"
        )
    return tuple(map(str, range(number))) if class_names is None else class_names


def _check_images(images: np.ndarray) -> None:
    shape = images.shape
    if len(shape) != 4 or not all(shape) or shape[3] not in (1, 3):
        raise InputError(f"images {list(shape)}; give [n, H, W, ch] with 1 or 3 channels{layout(images)}")


def _normalised(norm: Normalisation, images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, ch], pixels or normalised ones, as normalised ones in float32."""
    if not isinstance(norm, Normalisation):
        raise InputError(f"norm {norm!r} of {_PLACE}; give a Normalisation(mean, std)")
    for name, values in zip(("mean", "std"), (as_array(part, "mean and std of the norm") for part in norm)):
        if values.size not in (1, images.shape[3]) or values.ndim > 1:
            raise InputError(f"norm of {values.size} channels, but images have {images.shape[3]}; give one a channel")
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or (name == "std" and (values <= 0).any()):
            raise InputError(f"{name} {values.tolist()} of the norm; give finite ones, and a positive std")
    if images.dtype == np.uint8:
        levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 1, 1, images.shape[3]))
        if not np.array_equal(denormalise(norm, normalise(norm, levels)), levels):
            mean, std = (np.asarray(part).tolist() for part in norm)
            raise InputError(
                f"norm of mean {mean} and std {std} does not keep all 256 pixel values apart in float32; give those of "
                "images in [0, 1]"
            )
        images = np.asarray(normalise(norm, images))
    return _finite("images", images)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    """Floating-point values as float32."""
    if not np.issubdtype(values.dtype, np.floating):
        remedy = "uint8 pixels, or floats and their norm" if name == "images" else "floats"
        raise InputError(f"{name} of dtype {values.dtype}; give {remedy}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    # In parts, as the result for all images would take a quarter of their memory again.
    if not all(np.isfinite(part).all() for part in np.array_split(values, -(-len(values) // 1024))):
        raise InputError(f"{name} of {_PLACE} are not finite in float32; give finite ones")
    return values


def _pixel_statistics(images: np.ndarray) -> Normalisation:
    pixels = images.astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return Normalisation(mean.astype(np.float32), np.maximum(std, 1 / 255).astype(np.float32))


def save(dataset: DistilledDataset, folder: Path | str) -> None:
    """Write a folder: an ImageFolder tree train/<class>/<nnn>.png, and distilled.npz with the exact arrays.

    Sorted by name, the class folders are in the order of the labels, see `folder_names`. The checksums of all files are
    in manifest.json. The folder is written atomically, so that it is complete or absent. Nothing in it is pickled.

    Raises:
      InputError: the folder exists or can be none, the classes do not have equally many images, or weights that do not
        sum to one in each class.
    """
    if not isinstance(dataset, DistilledDataset):
        raise InputError(f"{shown(dataset)} is no distilled dataset; give a DistilledDataset, then the folder")
    folder = _folder(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists; choose another folder or remove it")
    _check_measure(dataset)
    try:
        provenance = json.dumps(dataset.provenance, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"provenance cannot be written as JSON: {error}; give keys of text, and no circles") from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    # A full disk is no fault of the path.
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder") from None
    with atomic(folder) as place:
        _write(dataset, provenance, place)
        manifest.write(place)


def _folder(path: Any) -> Path:
    """The path of a folder that a user gives."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or "\0" in name:
        raise InputError(f"{shown(path)} is no path; give the name of a folder")
    return Path(name)


def _check_measure(dataset: DistilledDataset) -> None:
    """InputError unless there are equally many images of each class, with weights of sum one."""
    names, labels = dataset.class_names, dataset.labels
    counts = np.bincount(labels, minlength=len(names))
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[few] < counts[many]:
        raise InputError(
            f"class {names[many]!r} has {counts[many]} images, but {names[few]!r} has {counts[few]}; give equally many "
            "of each class"
        )
    sums = np.bincount(labels, dataset.weights.astype(np.float64), len(names))
    furthest = int(np.abs(sums - 1).argmax())
    if abs(sums[furthest] - 1) > _ROUNDING:
        raise InputError(
            f"the weights of class {names[furthest]!r} sum to {sums[furthest]:.6g}; give weights with sum one in each "
            "class, as DistilledDataset.from_arrays does"
        )


def _write(dataset: DistilledDataset, provenance: str, root: Path) -> None:
    for name in folder_names(dataset.class_names):
        (root / "train" / name).mkdir(parents=True)
    for name, picture in zip(file_names(dataset), dataset.pixels()):
        place = root / "train" / f"{name}.png"
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(place)
    np.savez(
        root / "distilled.npz",
        images=dataset.images,
        labels=dataset.labels,
        weights=dataset.weights,
        class_names=np.array(dataset.class_names),
        mean=np.asarray(dataset.norm.mean, np.float32),
        std=np.asarray(dataset.norm.std, np.float32),
        provenance=np.array(provenance),
    )


def load(folder: Path | str) -> DistilledDataset:
    """Read a folder written by `save`, or the run folder that contains it.

    The folder may come from anywhere: nothing in it is trusted or run, see `ground.files.read_arrays`.

    Raises:
      InputError: the folder holds no distilled dataset, or distilled.npz is missing, not what its manifest says,
        damaged, or holds anything that `save` does not write.
    """
    folder = _folder(folder)
    for name in ("distilled.npz", "distilled/distilled.npz"):
        place = folder / name
        if os.path.isfile(place):
            break
    else:
        manifest.verify(folder, "distilled.npz", "distilled", content=False)
        raise InputError(no_run(folder, f"no distilled dataset in {folder}", "make one with: jaxdd distill"))
    manifest.verify(folder, name)
    arrays = read_arrays(place, _ARRAYS, others=False)
    try:
        for name, (kinds, axes) in _ARRAYS.items():
            array = arrays[name]
            if array.dtype.kind not in kinds or array.ndim not in axes:
                raise ValueError(f"array {name} is {array.dtype} {list(array.shape)}")
        dataset = DistilledDataset(
            images=arrays["images"],
            labels=arrays["labels"],
            weights=arrays["weights"],
            class_names=tuple(arrays["class_names"].tolist()),
            norm=Normalisation(arrays["mean"], arrays["std"]),
            provenance=json.loads(arrays["provenance"].item()),
        )
        _check_measure(dataset)
    # ValueError includes InputError, what JSON is not, and numbers in place of letters.
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).partition(";")[0].split())
        raise InputError(f"{place} is damaged: {reason}; make it again or remove it") from None
    return dataset


def file_names(dataset: DistilledDataset) -> list[str]:
    """For each image the folder of its class and its number there: "cat/007"."""
    folders, seen = folder_names(dataset.class_names), [0] * len(dataset.class_names)
    digits = max(3, len(str(dataset.ipc - 1)))
    names = []
    for label in dataset.labels:
        names.append(f"{folders[label]}/{seen[label]:0{digits}d}")
        seen[label] += 1
    return names


def folder_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The folders of the classes, in an order that every reader of folders finds again.

    A folder has the name of its class with unsafe characters replaced. If these names do not sort in the order of the
    labels, by code points, without regard to case and with numbers by value alike, or if they differ in case only or
    are too long, the label precedes each: "03_Dress".
    """
    safe = tuple(re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_" for name in class_names)
    if max(len(name.encode()) for name in safe) <= _NAME_BYTES and _are_sorted(safe):
        return safe
    digits = len(str(len(safe) - 1))
    shortened = (name.encode()[: _NAME_BYTES - digits - 1].decode(errors="ignore") for name in safe)
    return tuple(f"{label:0{digits}d}_{name}" for label, name in enumerate(shortened))


def folder_name(class_names: Sequence[str], label: int) -> str:
    """The folder of one class, see `folder_names`."""
    return folder_names(class_names)[label]


def _are_sorted(names: tuple[str, ...]) -> bool:
    """Whether names ascend strictly however they are compared."""
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    orders: tuple[Iterable, ...] = (names, folded, map(_numbers_by_value, names), map(_numbers_by_value, folded))
    return all(keys == sorted(set(keys)) for keys in map(list, orders))


def _numbers_by_value(name: str) -> tuple:
    return tuple(int(part) if k % 2 else part for k, part in enumerate(re.split("([0-9]+)", name)))
