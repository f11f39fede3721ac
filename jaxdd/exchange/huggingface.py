"""Parquet files as Hugging Face `datasets` writes and reads them: image, label, weight and soft label of each image."""

import contextlib
import io
from pathlib import Path

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange.base import FORMS, Form, hub_files
from jaxdd.exchange.items import items, needed, unique_names

_SHARD_BYTES = 400 * 2**20


_library = lambda: needed("datasets", "hf", "hub")


def write(place: Path, dataset: DistilledDataset, soft_labels: np.ndarray | None) -> None:
    """Write data/train-<k>-of-<n>.parquet.

    Raises:
      InputError: `datasets` is not installed.
    """
    library = _library()
    columns = {
        "image": library.Image(),
        "label": library.ClassLabel(names=unique_names(dataset)),
        "weight": library.Value("float32"),
    }
    if soft_labels is not None:
        columns["soft_label"] = library.List(library.Value("float32"), length=soft_labels.shape[1])
    features = library.Features(columns)
    each = max(1, _SHARD_BYTES // int(np.prod(dataset.images.shape[1:])))
    count = -(-len(dataset.labels) // each)
    (place / "data").mkdir()
    rows = items(dataset, soft_labels)
    for k in range(count):
        part = [item for _, item in zip(range(each), rows)]
        table = {
            "image": [{"bytes": item.png, "path": f"{item.name.replace('/', '-')}.png"} for item in part],
            "label": [item.label for item in part],
            "weight": [item.weight for item in part],
        }
        if soft_labels is not None:
            table["soft_label"] = [item.soft_label for item in part]
        shard = library.Dataset.from_dict(table, features=features)
        with contextlib.redirect_stderr(io.StringIO()):  # bars of its own
            shard.to_parquet(str(place / "data" / f"train-{k:05d}-of-{count:05d}.parquet"))


USE = """\
import os

from datasets import load_dataset

dataset = load_dataset(os.getcwd(), split="train")  # the path of this folder; or the name of a repository on the hub
image, label, weight = dataset[0]["image"], dataset[0]["label"], dataset[0]["weight"]"""
HUB = lambda dataset, soft, name: hub_files(name, "data/train-*.parquet")
FORMS.register("hf", Form("parquet files for Hugging Face datasets", write, USE, HUB, _library))
