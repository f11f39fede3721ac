"""Greedy k-center: real images such that no image of their class is far from all of them."""

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
    r"""Choose points that cover all others (greedy k-center, Gonzalez 1985; Sener and Savarese 2018, algorithm 1).

    The first choice is the point nearest to the mean, the t-th is :math:`\arg\max_i \min_{s<t} \| x_i - x_{i_s} \|`.
    The largest distance of a point to its nearest chosen point is at most twice the smallest that is possible with the
    same first point.

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
        # Less than the distance of any point that is not chosen, which may be 0.
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
