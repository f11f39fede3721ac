"""No summary, only labels: for imagers that need no atoms."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from jaxdd.ground.measure import Measure
from jaxdd.stages.context import Context
from jaxdd.stages.summarize.base import SUMMARIZERS, Summarizer, Summary


@SUMMARIZERS.register("none")
@dataclass(frozen=True)
class NoAtoms(Summarizer):
    """Equal weights; all atoms lie at the origin and carry no information."""

    has_atoms: ClassVar[bool] = False

    def __call__(self, key: jax.Array, context: Context, ipc: int) -> Summary:
        """The key is unused."""
        count, dim = len(context.labels), context.classes.encoded.features.shape[1]
        atoms = Measure(np.zeros((count, ipc, dim), np.float32), np.full((count, ipc), 1.0 / ipc, np.float32))
        return Summary(atoms, np.zeros((count, 0)))
