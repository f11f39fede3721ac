"""A small measure that summarizes a large one, and the checks of its size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Array, Measure, power_of_two, real_points


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
        # Scaled twice, as the square of the scale may be beyond the range of the dtype when the costs are not.
        return Summary(atoms, self.costs * scale * scale, self.lower * scale * scale, self.converged)


class Closing(NamedTuple):
    """The coordinates for the last costs, in which the points and the atoms that are returned have no rounding errors.

    Attributes:
      mu: the measure, minus a shift and divided by ``unit``, a power of two.
      points: the atoms likewise, as they are returned, [m, d].
      unit: the unit.
      ratio: the unit of the search over this one, squared: the factor of its costs.
    """

    mu: Measure
    points: jax.Array
    unit: jax.Array
    ratio: jax.Array

    @classmethod
    def of(cls, mu: Measure, points: Array, shift: jax.Array, scale: jax.Array) -> "Closing":
        """For mu, and atoms in the coordinates of the search, (x - shift) / scale."""
        unit = power_of_two(scale)
        local = Measure((real_points(mu) - shift) / unit, mu.weights)
        return cls(local, ((jnp.asarray(points) * scale + shift) - shift) / unit, unit, (scale / unit) ** 2)


def slack(size: jax.Array) -> jax.Array:
    """What rounding can add to a sum of terms of total ``size``; a lower bound is lowered by it."""
    return 8 * jnp.finfo(size.dtype).eps * size


def check(mu: Measure, m: int) -> None:
    """Raise InputError unless each class of mu, weights [..., n], has at least m >= 1 points of positive weight.

    Runs on the host. Call it outside of `jit`, where the values of the weights are available.
    """
    check_counts(np.atleast_1d((np.asarray(mu.weights) > 0).sum(axis=-1)), m)


def check_size(n: int, m: int) -> None:
    """Raise InputError unless 1 <= m <= n, for m atoms and an array of n points, padding included."""
    _check_integer(m)
    if not 1 <= m <= n:
        raise InputError(f"m={m} atoms for {n} points; ask for between 1 and that many")


def check_counts(counts: np.ndarray, m: int) -> None:
    """Raise InputError unless m >= 1 and all counts [C] are at least m."""
    _check_integer(m)
    if m < 1:
        raise InputError(f"m={m} atoms; ask for at least one")
    if (counts < m).any():
        c = int(np.argmax(counts < m))
        raise InputError(f"class {c} has {counts[c]} points, fewer than m={m} atoms; lower m or add data")


def _check_integer(m: int) -> None:
    if not isinstance(m, int | np.integer):
        raise InputError(f"m={m!r} atoms; give an integer")
