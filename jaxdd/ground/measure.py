"""Weighted point clouds, the type that the stages exchange."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError

Array = jax.Array | np.ndarray
"""An array on the host or on a device."""


class Measure(NamedTuple):
    r"""A finite measure :math:`\nu = \sum_j w_j \, \delta(z_j)`.

    Points of weight zero pad classes of unequal size, so that one `vmap` over the leading axis serves all classes. No
    result depends on their positions.

    Attributes:
      points: the support z, float, [..., m, d]; a leading axis is the class.
      weights: the masses w, float, [..., m], non-negative, summing to one over the last axis.
    """

    points: Array
    weights: Array


def check_measure(mu: Measure) -> None:
    """Check that mu is one measure, points float [n, d] and weights float [n].

    Only shapes and dtypes are read. Under `jax.jit` this costs nothing at run time; under `jax.vmap` the shapes are
    those of a single class.

    Raises:
      InputError: other ranks, numbers of points and weights that differ, or a dtype that is not floating.
    """
    import chex  # its import takes about a tenth of a second, which `import jaxdd` need not pay

    try:
        chex.assert_rank(mu, (2, 1))
        chex.assert_equal_shape_prefix(mu, 1)
        chex.assert_type(mu, float)
    except AssertionError as error:
        points, weights = (f"{getattr(leaf, 'dtype', type(leaf).__name__)} {list(np.shape(leaf))}" for leaf in mu)
        raise InputError(f"measure of points {points} and weights {weights}; give float [n, d] and [n]") from error


def are_masses(weights: np.ndarray) -> np.ndarray:
    """Whether weights [..., m] are finite, non-negative and sum to one up to 1e-4, [...]."""
    weights = np.asarray(weights, np.float64)
    return np.isfinite(weights).all(-1) & (weights >= 0).all(-1) & (np.abs(weights.sum(-1) - 1) < 1e-4)


# The exponent of the masses of a summary, for each kind of weights.
POWERS = {"free": 1.0, "sqrt": 0.5, "uniform": 0.0}


def power(weights: Any, kind: str) -> Any:
    """Weights raised to the power of a kind in `POWERS`, not normalised.

    Raises:
      InputError: an unknown kind.
    """
    if kind not in POWERS:
        raise InputError(f"unknown `weights` {kind!r}; use {' or '.join(POWERS)}")
    return weights ** POWERS[kind]


def temper(weights: Any, kind: str) -> Any:
    r"""Tempered masses [..., m], :math:`w_j^p / \sum_k w_k^p`: unchanged, square roots, or uniform.

    Tempering trades the fidelity of the masses for a lower variance of the students' loss (Tan and Slade 2025, section
    4).

    Args:
      weights: the masses w, [..., m].
      kind: "free" (p = 1), "sqrt" (p = 1/2) or "uniform" (p = 0), see `POWERS`.

    Raises:
      InputError: an unknown kind.
    """
    tempered = power(weights, kind)
    return tempered / tempered.sum(-1, keepdims=True)


class Groups(NamedTuple):
    """The rows of each class of a dataset, sorted once. Points are not copied.

    Attributes:
      order: row indices sorted by class, in their original order within a class, [n].
      counts: rows of each class, [C].
    """

    order: np.ndarray
    counts: np.ndarray

    @classmethod
    def by_label(cls, labels: np.ndarray, num_classes: int) -> "Groups":
        """Group labels [n] in [0, num_classes), without checking them; a class may be empty."""
        return cls(np.argsort(labels, kind="stable"), np.bincount(labels, minlength=num_classes))

    def rows(self, label: int) -> np.ndarray:
        """The rows of a class, ascending, [n_c]."""
        first = int(self.counts[:label].sum())
        return self.order[first : first + self.counts[label]]

    @classmethod
    def of(cls, points: np.ndarray, labels: np.ndarray, num_classes: int | None = None) -> "Groups":
        """Group the rows of points [n, d] by their labels [n], after checking both.

        Raises:
          InputError: shapes that disagree, labels that are not integers in [0, num_classes), or a class with no points,
            or with NaN or infinite ones. The default of num_classes is the largest label plus one.
        """
        labels = np.asarray(labels)
        if np.ndim(points) != 2 or labels.shape != np.shape(points)[:1]:
            raise InputError(f"points {np.shape(points)} and labels {labels.shape}; give [n, d] and [n]")
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"labels have dtype {labels.dtype}; give integer class indices")
        if num_classes is None:
            num_classes = int(labels.max(initial=-1)) + 1
        stray = labels[(labels < 0) | (labels >= num_classes)]
        if stray.size:
            raise InputError(f"label {stray[0]} is outside [0, {num_classes}), the range of the classes")
        counts = np.bincount(labels, minlength=num_classes)
        if num_classes < 1 or not counts.all():
            empty = int(np.argmin(counts)) if num_classes else 0
            raise InputError(f"class {empty} has no points; number the classes without gaps, or add some")
        for first in range(0, len(labels), 2**16):
            finite = np.isfinite(np.asarray(points[first : first + 2**16])).all(axis=1)
            if not finite.all():
                row = first + int(np.argmin(finite))
                raise InputError(f"class {labels[row]} has NaN or inf in row {row}; drop that row")
        return cls.by_label(labels, num_classes)

    def padded(self, points: np.ndarray, classes: np.ndarray, rows: int) -> Measure:
        """The empirical measures of some classes [k]: points float32 [k, rows, d], weights float32 [k, rows]."""
        padded = np.zeros((len(classes), rows, np.shape(points)[1]), np.float32)
        weights = np.zeros(padded.shape[:2], np.float32)
        for k, c in enumerate(classes):
            members = self.rows(c)
            padded[k, : len(members)] = points[members]
            weights[k, : len(members)] = 1.0 / len(members)
        return Measure(padded, weights)


def from_labels(points: np.ndarray, labels: np.ndarray, num_classes: int | None = None) -> Measure:
    r"""The empirical measure of each class, :math:`\mu_c = \frac{1}{n_c} \sum_{i : y_i = c} \delta(x_i)`.

    Runs on the host. Points keep their order; shorter classes end in zero-weight points at the origin.

    Args:
      points: the data x, finite, [n, d].
      labels: integer classes y in [0, num_classes), [n].
      num_classes: the number of classes C; default: the largest label plus one.

    Returns:
      A Measure with points float32 [C, n_max, d] and weights float32 [C, n_max].

    Raises:
      InputError: see `Groups.of`.
    """
    points = np.asarray(points, np.float32)
    groups = Groups.of(points, labels, num_classes)
    padded = groups.padded(points, np.arange(len(groups.counts)), int(groups.counts.max()))
    return jax.tree.map(jnp.asarray, padded)


def real_points(mu: Measure) -> jax.Array:
    """The points [n, d] of one measure, with zero-weight points moved to the origin, so that their NaN reach no sum."""
    return jnp.where(mu.weights[:, None] > 0, mu.points, 0.0)


def standardise(mu: Measure) -> tuple[Measure, jax.Array, jax.Array]:
    r"""Transform a measure to mean zero and total variance one: :math:`x \mapsto (x - b) / s`.

    Tolerances then have the same meaning on any data, and squared distances lose no digits to a distant mean.
    Zero-weight points are moved to the weighted point nearest the mean, so that none is a farthest point or NaN.

    Args:
      mu: one measure, points [n, d], weights [n].

    Returns:
      The standardised measure, the shift b, [d], and the scale s, a positive scalar (1 for constant data).

    Raises:
      InputError: see `check_measure`.
    """
    check_measure(mu)
    real = mu.weights > 0
    points = real_points(mu)
    shift = jnp.einsum("n,nd->d", mu.weights, points, precision="highest")
    points = points - shift
    norms = jnp.sum(points**2, axis=1)
    variance = jnp.sum(jnp.where(real, mu.weights * norms, 0.0))
    scale = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 1.0)
    central = points[jnp.argmin(jnp.where(real, norms, jnp.inf))]
    return Measure(jnp.where(real[:, None], points, central) / scale, mu.weights), shift, scale
