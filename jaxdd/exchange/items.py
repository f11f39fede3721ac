"""A distilled dataset image by image: PNG files with labels and weights, and what the teacher says of them."""

import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxdd.data.distilled import DistilledDataset, file_names
from jaxdd.ground import extras
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import normalise
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.stored import fingerprint
from jaxdd.students.evaluation import answers


class Item(NamedTuple):
    """An image of a distilled dataset.

    Attributes:
      name: <class folder>/<number>, without an extension.
      png: the encoded image.
      label: its class.
      weight: the weight of its atom; sum one in each class.
      soft_label: the teacher's probabilities of the classes for this image, float32 [K]; None without a teacher.
    """

    name: str
    png: bytes
    label: int
    weight: float
    soft_label: np.ndarray | None


def items(dataset: DistilledDataset, soft_labels: np.ndarray | None = None) -> Iterator[Item]:
    """The images in their order; ``soft_labels``: float32 [n, K]."""
    for k, (name, picture) in enumerate(zip(file_names(dataset), dataset.pixels())):
        soft = None if soft_labels is None else soft_labels[k]
        yield Item(name, png(picture), int(dataset.labels[k]), float(dataset.weights[k]), soft)


def png(picture: np.ndarray) -> bytes:
    """An image uint8 [H, W, 1 or 3] as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def soft_labels(dataset: DistilledDataset, teacher: Teacher) -> np.ndarray:
    """The teacher's probabilities, softmax of its logits, for the images as they are in files; float32 [n, K].

    Raises:
      InputError: see `check_teacher`.
    """
    check_teacher(dataset, teacher)
    seen = np.asarray(normalise(teacher.norm, dataset.pixels()))
    return np.asarray(jax.nn.softmax(answers(teacher, seen)), np.float32)


def check_teacher(dataset: DistilledDataset, teacher: Teacher) -> None:
    """Raise InputError for a teacher of another number of classes."""
    classes = jax.eval_shape(teacher.apply, teacher.variables, dataset.images[:1]).logits.shape[1]
    if classes != len(dataset.class_names):
        counts = f"{classes} classes and the images have {len(dataset.class_names)}"
        raise InputError(f"the teacher has {counts}; put the teacher of these images into their run folder")


def configuration(dataset: DistilledDataset, soft_labels: np.ndarray | None) -> str:
    """A name that is the same for equal exports alone, such as distilled-1a2b3c4d5e."""
    names = np.frombuffer(json.dumps(dataset.class_names).encode(), np.uint8)
    arrays = [dataset.pixels(), dataset.labels, dataset.weights, names]
    return f"distilled-{fingerprint([*arrays, *([] if soft_labels is None else [soft_labels])])[:10]}"


def unique_names(dataset: DistilledDataset) -> list[str]:
    """The names of the classes, with their numbers if two have the same name."""
    names = list(dataset.class_names)
    return names if len(set(names)) == len(names) else [f"{label} {name}" for label, name in enumerate(names)]


def needed(module: str, form: str, extra: str) -> ModuleType:
    """A library of a form that only an extra installs.

    Raises:
      InputError: it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = f"`to` {form} needs {module}; install it with: {extras.install(extra)}"
        raise InputError(f"{reason} ({' '.join(str(error).split())})") from error


def written(place: Path, content: bytes) -> None:
    """Write a file, whose folder is made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
