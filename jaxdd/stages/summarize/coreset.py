"""Summarizers that choose real images: the atoms are the features of these images, all of equal weight."""

from dataclasses import dataclass

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.stages.context import Context
from jaxdd.stages.summarize.base import Summarizer, Summary
from jaxdd.stages.summarize.solver import class_keys


@dataclass(frozen=True)
class Coreset(Summarizer):
    """Base class: a subclass defines `choose`. The atoms have equal weights for every value of ``weights``."""

    def choose(self, key: jax.Array, points: np.ndarray, m: int) -> np.ndarray:
        """Choose m different rows of the points [n, d] of a class, [m]."""
        raise TypeError(f"{type(self).__name__} defines no choose(key, points, m)")

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """Choose rows of each class and take their features as atoms."""
        chosen = []
        for class_key, label in zip(class_keys(key, context.labels), context.labels):
            members = context.classes.groups.rows(label)
            chosen.append(members[np.asarray(self.choose(class_key, context.points(label), ipc))])
        rows = np.stack(chosen)
        weights = np.full(rows.shape, 1.0 / ipc, np.float32)
        return Summary(Measure(context.classes.encoded.features[rows], weights), np.zeros((len(rows), 0)), rows)


def centred(points: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The points minus their mean, float64 [n, d], and the squared norms of these differences, [n].

    Raises:
      InputError: m is not in 1 .. n.
    """
    if not 1 <= m <= len(points):
        raise InputError(f"{m} of {len(points)} points; choose 1 to {len(points)}")
    x = np.asarray(points, np.float64)
    x = x - x.mean(0)
    return x, np.square(x).sum(1)
