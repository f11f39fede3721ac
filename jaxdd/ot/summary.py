"""A small measure that summarizes a large one, and the checks of its size."""

from typing import NamedTuple

import jax
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure


class Summary(NamedTuple):
    """A few weighted points, with bounds on their distance to the data.

    Attributes:
      atoms: the summary, points [m, d], weights [m].
      costs: W2^2 to the data at the start and after each round, [rounds], in the squared unit of the points. Each is an
        upper bound, which is exact where the weights are free; `atoms` attains the smallest.
      lower: a lower bound on W2^2 between the data and `atoms`, scalar; `costs.min()` is the upper bound.
      converged: whether the search converged before it reached its limit of rounds, boolean scalar.
    """

    atoms: Measure
    costs: jax.Array
    lower: jax.Array
    converged: jax.Array

    @property
    def cost(self) -> jax.Array:
        """The smallest of `costs`, which `atoms` attains."""
        return self.costs.min(-1)

    def rescaled(self, shift: jax.Array, scale: jax.Array) -> "Summary":
        """The summary of the points scale x + shift, given this one of the points x."""
        atoms = Measure(self.atoms.points * scale + shift, self.atoms.weights)
        return Summary(atoms, self.costs * scale**2, self.lower * scale**2, self.converged)


def check(mu: Measure, m: int) -> None:
    """Raise InputError unless each class of mu, weights [..., n], has at least m >= 1 points of positive weight.

    Runs on the host. Call it outside of `jit`, where the values of the weights are available.
    """
    check_counts(np.atleast_1d((np.asarray(mu.weights) > 0).sum(axis=-1)), m)


def check_size(n: int, m: int) -> None:
    """Raise InputError unless 1 <= m <= n, for m atoms and an array of n points, padding included."""
    if not 1 <= m <= n:
        raise InputError(f"m={m} atoms for {n} points; ask for between 1 and that many")


def check_counts(counts: np.ndarray, m: int) -> None:
    """Raise InputError unless m >= 1 and all counts [C] are at least m."""
    if m < 1:
        raise InputError(f"m={m} atoms; ask for at least one")
    if (counts < m).any():
        c = int(np.argmax(counts < m))
        raise InputError(f"class {c} has {counts[c]} points, fewer than m={m} atoms; lower m or add data")
