"""Real images: for each atom the nearest image of its class, all different."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Array
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
        """Read the images of ``summary.rows``; the key is unused.

        Raises:
          InputError: the summary has no rows.
        """
        rows = summary.rows
        if rows is None:
            raise InputError("the summary names no real images; give `summary.rows`, see `nearest_rows`")
        for places in class_chunks(context, rows.shape[1]):
            yield Images(places, np.asarray(real_images(context, rows[places])))


def nearest_rows(context: Context, points: Array) -> np.ndarray:
    """Match the atoms [C, m, d] of each class to different rows of its real images, [C, m], by `assignment`."""
    groups = context.classes.groups
    match = lambda label, atoms: groups.rows(label)[assignment(context.points(label), atoms)]
    return np.stack([match(label, atoms) for label, atoms in zip(context.labels, points)])


def assignment(features: Array, atoms: Array) -> np.ndarray:
    """Assign each of the atoms [m, d] a different row of features [n, d] at the least total squared distance: [m]."""
    cost = np.asarray(ot.squared_distances(jnp.asarray(atoms), jnp.asarray(features)))
    return scipy.optimize.linear_sum_assignment(cost)[1]
