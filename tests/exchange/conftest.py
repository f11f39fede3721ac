"""A dataset to export."""

import numpy as np
import pytest
from export_helpers import NAMES

from jaxdd.data.distilled import DistilledDataset


@pytest.fixture(scope="module")
def dataset():
    """Two colour images of each of five classes with awkward names, of weights that add up to one."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
    return DistilledDataset.from_arrays(pixels, np.repeat(np.arange(5), 2), np.arange(1.0, 11.0), NAMES)


@pytest.fixture(scope="module")
def soft(dataset):
    logits = np.random.default_rng(1).normal(size=(10, 5))
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
