"""An ImageFolder: train/<class>/<number>.png, with labels and weights in metadata.csv."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange.base import FORMS, Form, class_label, hub_files
from jaxdd.exchange.items import items, unique_names, written


def write(place: Path, dataset: DistilledDataset, soft_labels: np.ndarray | None) -> None:
    """Write the images, train/metadata.csv with file_name, label, class_name and weight, and soft_labels.npy.

    The rows of soft_labels.npy, float32 [n, K], are in the order of the lines of metadata.csv.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["file_name", "label", "class_name", "weight"])
    for item in items(dataset):
        written(place / "train" / f"{item.name}.png", item.png)
        lines.writerow([f"{item.name}.png", item.label, dataset.class_names[item.label], f"{item.weight:.9g}"])
    written(place / "train" / "metadata.csv", text.getvalue().encode())
    if soft_labels is not None:
        np.save(place / "soft_labels.npy", soft_labels, allow_pickle=False)


def hub(dataset: DistilledDataset, soft: bool, name: str) -> dict[str, Any]:
    """The entries of the card: the columns of metadata.csv, of which the label is a class."""
    columns = [
        {"name": "image", "dtype": "image"},
        class_label("label", unique_names(dataset)),
        {"name": "class_name", "dtype": "string"},
        {"name": "weight", "dtype": "float32"},
    ]
    return hub_files(name, "train/**", features=columns)


USE = """\
import os

from datasets import ClassLabel, load_dataset

dataset = load_dataset(os.getcwd(), split="train")  # the path of this folder; labels have names, as this card says
# load_dataset("imagefolder", data_dir=".") reads no card, so the label is a number. To make it a class:
# dataset = dataset.cast_column("label", ClassLabel(names=names)), with the names in this card

# Any other reader of folders will do, such as torchvision.datasets.ImageFolder("train"). Labels are in the order of the
# folders; weights are in train/metadata.csv."""
FORMS.register("imagefolder", Form("a folder of images for each class", write, USE, hub))
