"""A small measure that stands for a large one, and what must hold before one can be found."""

from typing import NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure


class Summary(NamedTuple):
    """A few weighted points, with the evidence of how close they come to the data.

    Attributes:
      atoms: the measure found, points [m, d], weights [m].
      costs: W2^2 to the data along the rounds, the start first, [rounds], in the squared unit of the points; each
        an upper bound, exact where the weights are free; `atoms` attains the smallest.
      lower: no coupling of the data with `atoms` costs less than this; with `costs.min()` it brackets W2^2.
      converged: whether the rounds had settled before they ran out, boolean scalar.
    """

    atoms: Measure
    costs: jax.Array
    lower: jax.Array
    converged: jax.Array

    @property
    def cost(self) -> jax.Array:
        """W2^2 attained: the least of `costs`."""
        return self.costs.min(-1)


def check(mu: Measure, m: int) -> None:
    """Raises InputError unless each class of mu, weights [..., n], has m >= 1 points of positive weight.

    Runs on the host: call it before entering `jit`, inside of which the weights are not known.
    """
    check_counts(np.atleast_1d((np.asarray(mu.weights) > 0).sum(axis=-1)), m)


def check_size(n: int, m: int) -> None:
    """Raises InputError unless 1 <= m <= n, for m atoms of an array of n points, padding included."""
    if not 1 <= m <= n:
        raise InputError(f"m={m} atoms for {n} points; ask for between 1 and that many")


def check_counts(counts: np.ndarray, m: int) -> None:
    """Raises InputError unless all counts [C] are at least m, and m at least one."""
    if m < 1:
        raise InputError(f"m={m} atoms; ask for at least one")
    if (counts < m).any():
        c = int(np.argmax(counts < m))
        raise InputError(f"class {c} has {counts[c]} points, fewer than m={m} atoms; lower m or add data")
