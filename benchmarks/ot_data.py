"""Points to summarize: features of real images, and latents like those of a variational autoencoder."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from jaxdd import data
from jaxdd.ground.progress import progress
from jaxdd.workspace import TeacherConfig, load_teacher, open_workspace


def features(teacher_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Penultimate features [n, d] and labels [n] of the train images of a teacher of jaxdd train."""
    config = TeacherConfig(dataset=load_teacher(teacher_folder).info["dataset"])
    return _encoded(config, teacher_folder)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The same of the digits, under a ConvNet-3 of width 64 that is trained for two epochs now."""
    config = TeacherConfig(dataset="digits", width=64)
    return _encoded(dataclasses.replace(config, teacher_train=dataclasses.replace(config.teacher_train, epochs=2)))


def _encoded(config: TeacherConfig, teacher: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as root:
        encoded = open_workspace(config, root, teacher).classes("features").encoded
    return encoded.features, encoded.labels


def latents(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latents [n, 4096] of a folder's train images at 256 pixels, and labels [n].

    The shape and scale of Stable Diffusion's: 32 x 32 places of 4 channels of variance one. Here each channel is a
    principal component of 8x8 patches, the best linear autoencoder of that shape.
    """
    source = data.load(str(folder), 256, 3)
    labels = source.labels["train"]
    patches = lambda rows: (
        source.read("train", rows).astype(np.float32).reshape(len(rows), 32, 8, 32, 8, 3).swapaxes(2, 3)
        .reshape(len(rows), 1024, 192) / 255
    )  # fmt: skip
    some = patches(np.linspace(0, len(labels) - 1, 200).astype(int)).reshape(-1, 192)
    mean = some.mean(0)
    values, vectors = np.linalg.eigh(np.cov((some - mean).T))
    components = vectors[:, -4:] / np.sqrt(values[-4:])
    parts = np.array_split(np.arange(len(labels)), max(1, len(labels) // 100))
    codes = [(patches(rows) - mean) @ components for rows in progress(parts, "latents")]
    return np.concatenate(codes).reshape(len(labels), 4096).astype(np.float32), labels


def first_of_each(points: np.ndarray, labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first n points of each class, in the order of the classes."""
    rows = np.concatenate([np.flatnonzero(labels == c)[:n] for c in range(labels.max() + 1)])
    return points[rows], labels[rows]


def many_classes(points: np.ndarray, labels: np.ndarray, classes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """As many classes of n points as asked for, each drawn without replacement from one of the real classes."""
    drawn = np.empty((classes * n, points.shape[1]), np.float32)
    real = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    for c in range(classes):
        rows = np.random.default_rng(c).choice(real[c % len(real)], n, replace=False)
        drawn[c * n : (c + 1) * n] = points[rows]
    return drawn, np.repeat(np.arange(classes), n)
