"""Coresets: which real points stand for a class, greedily chosen, each at most once and all with equal weight.

Runs on the host, in float64, so that the choice does not depend on the order of the points but where points tie.
"""

import numpy as np

from jaxdd.ground.errors import InputError


def herding(features: np.ndarray, m: int) -> np.ndarray:
    r"""The points whose mean stays nearest to the mean of all (herding, Welling 2009, on a finite set).

    The t-th choice is :math:`\arg\min_i \| \bar x - \frac{1}{t} (x_i + \sum_{s<t} x_{i_s}) \|`, x_i not yet chosen.

    Args:
      features: [n, d].
      m: how many to choose, 1 to n.

    Returns:
      Row indices [m], in the order chosen.

    Raises:
      InputError: m is not in 1 .. n.
    """
    x, square = _centred(features, m)
    total, chosen = np.zeros(x.shape[1]), []
    free = np.zeros(len(x))
    for _ in range(m):
        # The mean is at zero: ||total + x_i||^2 without its constant part.
        chosen.append(int(np.argmin(square + 2 * x @ total + free)))
        free[chosen[-1]] = np.inf
        total += x[chosen[-1]]
    return np.array(chosen)


def kcenter(features: np.ndarray, m: int) -> np.ndarray:
    r"""Points that leave none far away (greedy k-centre, Gonzalez 1985; Sener and Savarese 2018, algorithm 1).

    First the point nearest to the mean, then :math:`\arg\max_i \min_{s<t} \| x_i - x_{i_s} \|`: the largest distance
    of any point to its nearest chosen one is at most twice that of the best choice with the same first point.

    Arguments, result and errors are those of `herding`.
    """
    x, square = _centred(features, m)
    chosen, nearest = [int(square.argmin())], np.full(len(x), np.inf)
    while len(chosen) < m:
        nearest = np.minimum(nearest, np.square(x - x[chosen[-1]]).sum(1))
        # Below the distance of any free point, which may be zero.
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


CORESETS = {"herding": herding, "kcenter": kcenter}


def _centred(features: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The points less their mean, float64 [n, d], and their squared norms [n]."""
    if not 1 <= m <= len(features):
        raise InputError(f"{m} of {len(features)} points; choose 1 to {len(features)}")
    x = np.asarray(features, np.float64)
    x = x - x.mean(0)
    return x, np.square(x).sum(1)
