"""One NumPy file of plain arrays."""

from pathlib import Path

import numpy as np

from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange.base import FORMS, Form


def write(place: Path, dataset: DistilledDataset, soft_labels: np.ndarray | None) -> None:
    """Write distilled.npz: images uint8 [n, H, W, C], labels [n], weights [n], class_names [K], soft_labels [n, K]."""
    arrays = {
        "images": dataset.pixels(),
        "labels": dataset.labels,
        "weights": dataset.weights,
        "class_names": np.array(dataset.class_names),
    }
    if soft_labels is not None:
        arrays["soft_labels"] = soft_labels
    np.savez(place / "distilled.npz", **arrays)  # type: ignore[arg-type]


USE = """\
import numpy as np

arrays = np.load("distilled.npz")
images, labels, weights = arrays["images"], arrays["labels"], arrays["weights"]"""
FORMS.register("npz", Form("NumPy arrays", write, USE))
