"""A distilled dataset: images, labels, weights and where they come from, in memory and on disk."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import aside
from jaxdd.ground.normalise import Normalisation, denormalise

# Powers of the weights.
TEMPERS = {"w": 1.0, "sqrt": 0.5, "uniform": 0.0}


@dataclass(frozen=True)
class DistilledDataset:
    """The pushforward of a small weighted measure: what a student is trained on instead of the real data.

    Attributes:
      images: [n, H, W, ch] float32, normalised space.
      labels: [n] int32, indices into ``class_names``.
      weights: [n] float32, the atoms' weights; they sum to one within each class.
      class_names: one name a class.
      norm: turns ``images`` back into pixels.
      provenance: JSON-serialisable record of how it was made.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    class_names: tuple[str, ...]
    norm: Normalisation
    provenance: dict

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.labels) // len(self.class_names)

    def pixels(self) -> np.ndarray:
        """The images as uint8."""
        return np.asarray(denormalise(self.norm, self.images))

    def loss_weights(self, temper: str = "w") -> np.ndarray:
        r"""The weight of each image's loss, :math:`\propto w^p` and of mean 1 over the data set, [n] float32.

        Cell masses spread widely, and the more they do the fewer images a gradient is made of; a power below one
        lies between that and forgetting them (Tan and Slade 2025, section 4).

        Args:
          temper: "w" (p = 1), "sqrt" (p = 1/2) or "uniform" (p = 0).

        Raises:
          InputError: another value.
        """
        if temper not in TEMPERS:
            raise InputError(f"unknown weights {temper!r}; use {', '.join(TEMPERS)}")
        tempered = self.weights.astype(np.float64) ** TEMPERS[temper]
        return (tempered / tempered.mean()).astype(np.float32)


def save(dataset: DistilledDataset, folder: Path | str) -> None:
    """Write ``folder``: an ImageFolder tree train/<class>/<nnn>.png, and distilled.npz with the exact arrays.

    Written aside and renamed, so that ``folder`` is whole or absent. Nothing in it is pickled.

    Raises:
      InputError: the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; choose another folder or remove it")
    with aside(folder) as place:
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
    """Read what `save` wrote; ``folder`` may also be the run folder around it.

    Raises:
      InputError: no distilled dataset there.
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
    """A class's folder: its name, made safe for a file system; if that makes any two alike, all carry the label."""
    safe = [re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_" for name in class_names]
    return safe[label] if len(set(safe)) == len(safe) else f"{label}_{safe[label]}"
