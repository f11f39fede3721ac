"""A distilled dataset: images, labels, weights and provenance, in memory and on disk."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic
from jaxdd.ground.measure import power
from jaxdd.ground.normalise import Normalisation, denormalise, normalise


@dataclass(frozen=True)
class DistilledDataset:
    """The training data of students in place of the real data: the pushforward of a small weighted measure.

    Attributes:
      images: float32 [n, H, W, ch], normalised by ``norm``.
      labels: int32 [n], indices into ``class_names``.
      weights: float32 [n], the weights of the atoms, with sum one in each class.
      class_names: one name per class.
      norm: the normalisation of ``images``.
      provenance: JSON-serialisable record of the method and settings.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    class_names: tuple[str, ...]
    norm: Normalisation
    provenance: dict

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
        images, labels = np.asarray(images), np.asarray(labels)
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
            raise InputError(f"images {images.shape} and labels {labels.shape}; give [n, H, W, ch] and [n]")
        names = _named_classes(labels, class_names)
        order = np.argsort(labels, kind="stable")
        weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
        if weights.shape != labels.shape or not np.isfinite(weights).all() or (weights < 0).any():
            raise InputError(f"weights {weights.shape}; give [{len(labels)}] finite, non-negative ones")
        grouped = weights[order].reshape(len(names), -1)
        if not (grouped.sum(1) > 0).all():
            raise InputError("the weights of a class are all zero; give it one positive weight or more")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"images of dtype {images.dtype}; give uint8 pixels, or floats and their norm")
        if images.dtype != np.uint8 and norm is None:
            raise InputError("floating images have no meaning without their normalisation; give norm, or uint8")
        norm = norm or _pixel_statistics(images)
        channels = {np.size(norm.mean), np.size(norm.std)}
        if not channels <= {1, images.shape[3]}:
            raise InputError(f"norm of {max(channels)} channels, but images have {images.shape[3]}; give one a channel")
        images = np.asarray(normalise(norm, images))
        grouped = (grouped / grouped.sum(1, keepdims=True)).astype(np.float32)
        pixels = images[order].astype(np.float32)
        return cls(pixels, labels[order].astype(np.int32), grouped.reshape(-1), names, norm, {"method": "arrays"})

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


def _named_classes(labels: np.ndarray, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes; InputError unless there are equally many labels [n] of each."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels of dtype {labels.dtype}; give class indices from 0 on")
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
    return tuple(map(str, range(number) if class_names is None else class_names))


def _pixel_statistics(images: np.ndarray) -> Normalisation:
    pixels = images.astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return Normalisation(mean.astype(np.float32), np.maximum(std, 1 / 255).astype(np.float32))


def save(dataset: DistilledDataset, folder: Path | str) -> None:
    """Write a folder: an ImageFolder tree train/<class>/<nnn>.png, and distilled.npz with the exact arrays.

    The folder is written atomically, so that it is complete or absent. Nothing in it is pickled.

    Raises:
      InputError: the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; choose another folder or remove it")
    with atomic(folder) as place:
        _write(dataset, place)


def _write(dataset: DistilledDataset, root: Path) -> None:
    pixels, seen = dataset.pixels(), [0] * len(dataset.class_names)
    for picture, label in zip(pixels, dataset.labels):
        place = root / "train" / folder_name(dataset.class_names, label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            place / f"{seen[label]:03d}.png"
        )
        seen[label] += 1
    np.savez(
        root / "distilled.npz",
        images=dataset.images.astype(np.float32),
        labels=dataset.labels.astype(np.int32),
        weights=dataset.weights.astype(np.float32),
        class_names=np.array(dataset.class_names),
        mean=np.asarray(dataset.norm.mean, np.float32),
        std=np.asarray(dataset.norm.std, np.float32),
        provenance=np.array(json.dumps(dataset.provenance, sort_keys=True, default=str)),
    )


def load(folder: Path | str) -> DistilledDataset:
    """Read a folder written by `save`, or the run folder that contains it.

    Raises:
      InputError: the folder holds no distilled dataset.
    """
    for place in (Path(folder) / "distilled.npz", Path(folder) / "distilled" / "distilled.npz"):
        if place.is_file():
            break
    else:
        raise InputError(f"no distilled dataset in {folder}; make one with: python -m experiments.distill")
    with np.load(place, allow_pickle=False) as file:
        return DistilledDataset(
            images=file["images"],
            labels=file["labels"],
            weights=file["weights"],
            class_names=tuple(str(name) for name in file["class_names"]),
            norm=Normalisation(file["mean"], file["std"]),
            provenance=json.loads(str(file["provenance"])),
        )


def folder_name(class_names: tuple[str, ...], label: int) -> str:
    """The folder of a class: its name with unsafe characters replaced, after its label if two names would coincide."""
    safe = [re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_" for name in class_names]
    return safe[label] if len(set(safe)) == len(safe) else f"{label}_{safe[label]}"
