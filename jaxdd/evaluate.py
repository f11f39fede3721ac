"""Stage 5: what a classifier, or a distilled dataset, is worth on real test images."""

from collections.abc import Iterable
from functools import lru_cache

import jax
import numpy as np

from jaxdd.nn.classifier import Apply, Variables
from jaxdd.normalise import Normalisation, normalise


@lru_cache(maxsize=8)
def _hits(apply: Apply):
    @jax.jit
    def hits(variables, mean, std, images, labels, valid):
        logits = apply(variables, normalise(Normalisation(mean, std), images)).logits
        return (valid * (logits.argmax(-1) == labels)).sum(), valid.sum()

    return hits


def accuracy(apply: Apply, variables: Variables, norm: Normalisation, batches: Iterable) -> float:
    """Top-1 accuracy in [0, 1] over batches of (images, labels [N], valid [N]); invalid rows do not count."""
    hits = _hits(apply)
    counts = [hits(variables, *norm, images, labels, valid) for images, labels, valid in batches]
    correct, total = np.sum(jax.device_get(counts), axis=0)
    return float(correct / total)
