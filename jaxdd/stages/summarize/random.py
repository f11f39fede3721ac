"""Random real images: the coreset that every method must beat."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.coreset import Coreset


@SUMMARIZERS.register("random")
@dataclass(frozen=True)
class Random(Coreset):
    """m real images of each class, drawn uniformly without replacement."""

    is_random: ClassVar[bool] = True

    def choose(self, key: jax.Array, points: np.ndarray, m: int) -> np.ndarray:
        """Row indices [m]."""
        return np.asarray(jax.random.choice(key, len(points), (m,), replace=False))
