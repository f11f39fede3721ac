"""Herding: real images whose mean feature stays close to the mean of their class."""

from dataclasses import dataclass

import jax
import numpy as np

from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.coreset import Coreset, centred


@SUMMARIZERS.register("herding")
@dataclass(frozen=True)
class Herding(Coreset):
    """The real images that `herding` chooses in each class."""

    def choose(self, key: jax.Array, points: np.ndarray, m: int) -> np.ndarray:
        """Row indices [m]; the key is unused."""
        return herding(points, m)


def herding(points: np.ndarray, m: int) -> np.ndarray:
    r"""Choose points one by one so that their mean stays closest to the mean of all points (herding, Welling 2009).

    The t-th choice is :math:`\arg\min_i \| \bar x - \frac{1}{t} (x_i + \sum_{s<t} x_{i_s}) \|` over the points x_i that
    are not chosen yet. Runs on the host in float64, so the choice does not depend on the order of the points unless two
    points tie.

    Args:
      points: [n, d].
      m: how many to choose, 1 to n.

    Returns:
      Row indices [m], in the order chosen.

    Raises:
      InputError: m is not in 1 .. n.
    """
    x, square = centred(points, m)
    total, chosen = np.zeros(x.shape[1]), []
    penalty = np.zeros(len(x))  # infinite for points already chosen
    for _ in range(m):
        # The points are centred, so this is ||total + x_i||^2 up to a constant.
        chosen.append(int(np.argmin(square + 2 * x @ total + penalty)))
        penalty[chosen[-1]] = np.inf
        total += x[chosen[-1]]
    return np.array(chosen)
