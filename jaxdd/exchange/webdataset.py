"""WebDataset shards: tar files in which the parts of an image share its key."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange.base import FORMS, Form, class_label, hub_files
from jaxdd.exchange.items import items, unique_names, written

_SHARD_BYTES = 400 * 2**20


def write(place: Path, dataset: DistilledDataset, soft_labels: np.ndarray | None) -> None:
    """Write train-<k>.tar with <key>.png, <key>.cls, <key>.json and, if there are some, <key>.soft.npy; classes.txt."""
    each = max(1, _SHARD_BYTES // int(np.prod(dataset.images.shape[1:])))
    rows = items(dataset, soft_labels)
    for k in range(-(-len(dataset.labels) // each)):
        with tarfile.open(place / f"train-{k:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for number, item in zip(range(k * each, (k + 1) * each), rows):
                record = {"label": item.label, "class_name": dataset.class_names[item.label], "weight": item.weight}
                parts = {
                    "png": item.png,
                    "cls": str(item.label).encode(),
                    "json": json.dumps(record).encode(),
                }
                if item.soft_label is not None:
                    parts["soft.npy"] = _npy(item.soft_label)
                for extension, content in parts.items():
                    # No dates and owners: equal datasets are equal bytes.
                    member = tarfile.TarInfo(f"{number:08d}.{extension}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    written(place / "classes.txt", "".join(f"{name}\n" for name in unique_names(dataset)).encode())


def hub(dataset: DistilledDataset, soft: bool, name: str) -> dict[str, Any]:
    """The entries of the card: the parts of a sample, of which .cls is a class. The reader leaves out all others."""
    types = {"label": "int64", "class_name": "string", "weight": "float64"}
    columns = [
        {"name": "png", "dtype": "image"},
        class_label("cls", unique_names(dataset)),
        {"name": "json", "struct": [{"name": name, "dtype": dtype} for name, dtype in types.items()]},
        *([{"name": "soft.npy", "list": "float32"}] if soft else []),
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return hub_files(name, "train-*.tar") | {"dataset_info": {"config_name": name, "features": columns}}


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


USE = """\
import webdataset

dataset = webdataset.WebDataset("train-000000.tar", shardshuffle=False).decode("pil").to_tuple("png", "cls", "json")"""
FORMS.register("webdataset", Form("WebDataset shards", write, USE, hub))
