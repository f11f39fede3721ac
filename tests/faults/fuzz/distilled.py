"""Distilled datasets: distilled.npz of a folder that anybody may have made."""

import io

import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target, write

from jaxdd.data import distilled


def npz(**arrays):
    """Arrays as the bytes of an npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def arrays(channels=1):
    """What distilled.npz holds."""
    return {
        "images": np.linspace(-1, 1, 16 * channels, dtype=np.float32).reshape(4, 2, 2, channels),
        "labels": np.repeat(np.arange(2, dtype=np.int32), 2),
        "weights": np.array([0.25, 0.75, 0.5, 0.5], np.float32),
        "class_names": np.array(["cat", "dog"]),
        "mean": np.full(channels, 0.5, np.float32),
        "std": np.full(channels, 0.25, np.float32),
        "provenance": np.array('{"method": "random", "teacher": {"model": "convnet3", "accuracy": 0.5}, "seed": 0}'),
    }


def seeds():
    big = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays().items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays())
    return [npz(**arrays()), npz(**arrays(3)), npz(**big), file.getvalue()]


def read(folder, data):
    write(folder / "distilled.npz", data)
    dataset = distilled.load(folder)
    assert dataset.ipc * len(dataset.class_names) == len(dataset.images) and np.isfinite(dataset.images).all()
    dataset.loss_weights("sqrt")
    distilled.folder_names(dataset.class_names)


TARGET = Target("distilled", seeds, mutate.either(mutate.as_npz, mutate.raw), read)
