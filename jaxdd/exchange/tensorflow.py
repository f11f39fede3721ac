"""A folder that TensorFlow Datasets reads with `tfds.builder_from_directory`."""

import contextlib
import io
from pathlib import Path
from types import ModuleType

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange.base import FORMS, Form
from jaxdd.exchange.items import needed, unique_names

NAME, VERSION = "distilled", "1.0.0"


def _library() -> ModuleType:
    needed("tensorflow", "tfds", "tfds")
    return needed("tensorflow_datasets", "tfds", "tfds")


def write(place: Path, dataset: DistilledDataset, soft_labels: np.ndarray | None) -> None:
    """Write distilled/1.0.0/ with the features image, label, weight and, if there are some, soft_label.

    Raises:
      InputError: TensorFlow Datasets is not installed.
    """
    tfds = _library()
    pixels = dataset.pixels()
    features = {
        "image": tfds.features.Image(shape=pixels.shape[1:], encoding_format="png"),
        "label": tfds.features.ClassLabel(names=unique_names(dataset)),
        "weight": np.float32,
    }
    examples = [
        {"image": picture, "label": int(label), "weight": np.float32(weight)}
        for picture, label, weight in zip(pixels, dataset.labels, dataset.weights)
    ]
    if soft_labels is not None:
        features["soft_label"] = tfds.features.Tensor(shape=soft_labels.shape[1:], dtype=np.float32)
        for example, soft in zip(examples, soft_labels):
            example["soft_label"] = soft
    # It announces downloads, which there are none of, and draws bars of its own.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=NAME, version=VERSION, data_dir=place, features=tfds.features.FeaturesDict(features),
            split_datasets={"train": enumerate(examples)}, description="A distilled dataset.", disable_shuffling=True,
        )  # fmt: skip


USE = f"""\
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory("{NAME}/{VERSION}")
dataset = builder.as_dataset(split="train")"""
FORMS.register("tfds", Form("files of TensorFlow Datasets", write, USE, libraries=_library))
