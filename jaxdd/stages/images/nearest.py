"""Real images: to each atom the nearest one of its class, all different."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxdd import ot
from jaxdd.stages.context import Context
from jaxdd.stages.images.base import IMAGERS, Imager, Images, class_chunks, real_images
from jaxdd.stages.summarize.base import Summary


@IMAGERS.register("nearest")
@dataclass(frozen=True)
class Nearest(Imager):
    """A coreset: the real images of ``summary.rows``."""

    is_real: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        return frozenset({"atoms", "rows"})

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """The key is unused."""
        for places in class_chunks(context, summary.rows.shape[1]):
            yield Images(places, np.asarray(real_images(context, summary.rows[places])))


def nearest_rows(context: Context, points: np.ndarray) -> np.ndarray:
    """For the atoms [C, m, d] of each class different rows [C, m] of its real images, together as near as can be."""
    groups = context.classes.groups
    match = lambda label, atoms: groups.rows(label)[assignment(context.points(label), atoms)]
    return np.stack([match(label, atoms) for label, atoms in zip(context.labels, points)])


def assignment(features: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Different rows of features [n, d] for the atoms [m, d], of least total squared distance: [m]."""
    cost = np.asarray(ot.squared_distances(jnp.asarray(atoms), jnp.asarray(features)))
    return linear_sum_assignment(cost)[1]
