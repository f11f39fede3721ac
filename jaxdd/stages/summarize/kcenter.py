"""Greedy k-center: real images that leave none of their class far away."""

from dataclasses import dataclass

import jax
import numpy as np

from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.coreset import Coreset, centred


@SUMMARIZERS.register("kcenter")
@dataclass(frozen=True)
class KCenter(Coreset):
    """The real images that `kcenter` chooses in each class."""

    def choose(self, key: jax.Array, points: np.ndarray, m: int) -> np.ndarray:
        """Row indices [m]; the key is unused."""
        return kcenter(points, m)


def kcenter(points: np.ndarray, m: int) -> np.ndarray:
    r"""Points that leave none far away (greedy k-center, Gonzalez 1985; Sener and Savarese 2018, algorithm 1).

    First the point nearest to the mean, then :math:`\arg\max_i \min_{s<t} \| x_i - x_{i_s} \|`: the largest distance
    of any point to its nearest chosen one is at most twice that of the best choice with the same first point.

    Args:
      points: [n, d].
      m: how many to choose, 1 to n.

    Returns:
      Row indices [m], in the order chosen.

    Raises:
      InputError: m is not in 1 .. n.
    """
    x, square = centred(points, m)
    chosen, nearest = [int(square.argmin())], np.full(len(x), np.inf)
    while len(chosen) < m:
        nearest = np.minimum(nearest, np.square(x - x[chosen[-1]]).sum(1))
        # Below the distance of any free point, which may be zero.
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
