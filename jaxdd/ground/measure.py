"""Weighted point clouds, the type that the stages exchange."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.arrays import as_array, check_native, is_integer
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


def check_shapes(mu: Measure) -> None:
    """Check that mu is one measure, points float [n, d] and weights float [n].

    Only shapes and dtypes are read. Under `jax.jit` this costs nothing at run time; under `jax.vmap` the shapes are
    those of a single class.

    Raises:
      InputError: other ranks, numbers of points and weights that differ, a dtype that is not floating, an array in
        another byte order, which JAX would misread, or a masked one, whose mask it would drop.
    """
    for leaf in mu:
        check_native(leaf, "points and weights of a measure")
    import chex  # its import takes about a tenth of a second, which `import jaxdd` need not pay

    try:
        chex.assert_rank(mu, (2, 1))
        chex.assert_equal_shape_prefix(mu, 1)
        chex.assert_type(mu, float)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        points, weights = (f"{getattr(leaf, 'dtype', type(leaf).__name__)} {_shape(leaf)}" for leaf in mu)
        raise InputError(f"measure of points {points} and weights {weights}; give float [n, d] and [n]") from error


def check_atoms(mu: Measure, z: Any, what: str) -> jax.Array:
    """Atoms z as an array [m, d] of the dtype of mu, which `as_measure` made, on points [n, d].

    Raises:
      InputError: another shape, no real numbers, no atoms, or, outside of `jax.jit`, see `check_points`.
    """
    if not isinstance(z, jax.Array):  # which a traced array is as well
        z = as_points(z)
    d = mu.points.shape[1]
    if z.ndim != 2 or z.shape[1] != d or not len(z) or jnp.issubdtype(z.dtype, jnp.complexfloating):
        raise InputError(f"{what}: atoms {z.dtype} {list(z.shape)} for points in {d} dimensions; give real [m, {d}]")
    if not isinstance(z, jax.core.Tracer):
        check_points(np.asarray(z), f"{what}: z", np.arange(len(z)))
    return jnp.asarray(z, mu.points.dtype)


def _shape(leaf: Any) -> list[int] | str:
    try:
        return list(np.shape(leaf))
    except ValueError:
        return "of no shape"


def check_measure(mu: Measure) -> None:
    """`check_shapes`, and the values: a probability measure on points that float32 can tell apart.

    The values are checked outside of `jax.jit` and `jax.vmap` only. Inside, they are not known yet.

    Raises:
      InputError: see `check_shapes`; weights that are not `are_masses`; or see `check_points`.
    """
    check_shapes(mu)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in mu):
        return
    weights = np.asarray(mu.weights)
    if not are_masses(weights):
        raise InputError(f"measure of weights with sum {weights.sum():g}; give non-negative ones that sum to one")
    rows = np.flatnonzero(weights)
    check_points(np.asarray(mu.points)[rows], "the measure", rows)


def as_measure(mu: Measure) -> Measure:
    """A measure that passes `check_measure`, as arrays of JAX of one dtype, float32 at least.

    Raises:
      InputError: see `check_measure`.
    """
    check_measure(mu)
    is_double = np.float64 in (mu.points.dtype, mu.weights.dtype)
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if is_double else np.float32)
    return Measure(jnp.asarray(mu.points, dtype), jnp.asarray(mu.weights, dtype))


def check_points(points: np.ndarray, what: str, rows: np.ndarray) -> None:
    """Check that float32 holds points [n, d] of any dtype, their differences, and the squares of these.

    Raises:
      InputError: NaN or infinite points; points so far apart, or so near each other, that squared distances overflow or
        vanish; or points so far from the origin that rounding them to float32 moves them by a tenth of their spread.
        The spread is the root mean square distance from their mean. The message names ``what`` and the row.

    Args:
      rows: where the points come from, for the message, [n].
    """
    if not points.size:
        return
    # Not negated as they are, which bytes and truth values cannot be.
    largest = max(float(points.max()), -float(points.min()))
    if not np.isfinite(largest) or not np.isfinite(np.sum(points, dtype=np.float64)):
        row = rows[np.argmin(np.isfinite(points).all(axis=1))]
        raise InputError(f"{what} has NaN or inf in row {row}; drop that row")
    mean, squares = points.mean(0, dtype=np.float64), 0.0
    for first in range(0, len(points), _ROWS):
        squares += np.square(points[first : first + _ROWS] - mean).sum()
    spread = float(np.sqrt(squares / len(points)))
    if spread > 1e18 or largest > 1e30 or 0 < spread < 1e-16:
        raise InputError(f"{what} has points {spread:.2g} apart, whose squares float32 cannot hold; rescale the points")
    rounded = largest * np.finfo(np.float32).eps * points.shape[1] ** 0.5
    wider = points.dtype != np.float32 and points.dtype.itemsize >= 4
    if wider and 1e-12 * largest < spread < rounded:
        raise InputError(
            f"{what} has points {spread:.2g} apart around {largest:.2g}, which float32 cannot tell apart; subtract "
            "their mean"
        )


_ROWS = 2**12  # of points in float64 at a time


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
            or with points that float32 cannot hold, see `check_points`. The default of num_classes is the largest label
            plus one.
        """
        labels = as_array(labels, "labels")
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if np.ndim(points) != 2 or labels.shape != np.shape(points)[:1]:
            raise InputError(f"points {np.shape(points)} and labels {labels.shape}; give [n, d] and [n]")
        num_classes = checked_classes(labels, num_classes)
        groups = cls.by_label(labels.astype(np.int64), num_classes)  # bincount refuses uint64
        for c in range(len(groups.counts)):
            rows = groups.rows(c)
            check_points(points[rows], f"class {c}", rows)
        return groups

    def padded(self, points: np.ndarray, classes: np.ndarray, rows: int) -> Measure:
        """The empirical measures of some classes [k]: points float32 [k, rows, d], weights float32 [k, rows]."""
        padded = np.zeros((len(classes), rows, np.shape(points)[1]), np.float32)
        weights = np.zeros(padded.shape[:2], np.float32)
        for k, c in enumerate(classes):
            members = self.rows(c)
            padded[k, : len(members)] = points[members]
            weights[k, : len(members)] = 1.0 / len(members)
        return Measure(padded, weights)


def checked_classes(labels: np.ndarray, num_classes: int | None = None) -> int:
    """The number of classes C of labels [n]: integers of any dtype in [0, C), and each class occurs.

    Nothing of the size of a label is allocated, so a stray label costs no memory.

    Raises:
      InputError: labels of another dtype or range, or a class without labels.
    """
    if not is_integer(labels):
        raise InputError(f"labels have dtype {labels.dtype}; give integer class indices")
    least, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, -1)
    if not isinstance(num_classes, int | np.integer | None) or isinstance(num_classes, bool):
        raise InputError(f"`num_classes` is {num_classes!r}; give an integer")
    count = largest + 1 if num_classes is None else num_classes
    if least < 0 or largest >= count:
        raise InputError(f"label {least if least < 0 else largest} is outside [0, {count}), the range of the classes")
    present = np.unique(labels)
    if count < 1 or len(present) < count:
        # The smallest class without a label.
        empty = int(np.argmin(np.append(present == np.arange(len(present), dtype=present.dtype), False)))
        raise InputError(f"class {empty} has no points; number the classes without gaps, or add some")
    return count


def as_points(points: Any) -> np.ndarray:
    """Points of any container that NumPy reads, as a real array [n, d]; a memory-mapped array stays one.

    Raises:
      InputError: they are no numbers, not [n, d], or masked.
    """
    array = as_array(points, "points")
    if array.dtype == object:
        with contextlib.suppress(TypeError, ValueError):
            array = array.astype(np.float64)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise InputError(f"points have dtype {array.dtype}; give real numbers [n, d]")
    if np.iscomplexobj(array):
        raise InputError(f"points have dtype {array.dtype}; give real numbers [n, d]")
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"points have shape {list(array.shape)}; give [n, d]")
    return array


def from_labels(points: np.ndarray, labels: np.ndarray, num_classes: int | None = None) -> Measure:
    r"""The empirical measure of each class, :math:`\mu_c = \frac{1}{n_c} \sum_{i : y_i = c} \delta(x_i)`.

    Runs on the host. Points keep their order; shorter classes end in zero-weight points at the origin.

    Args:
      points: the data x, finite, [n, d]: an array, or lists or a table that NumPy reads.
      labels: integer classes y in [0, num_classes), [n] or [n, 1].
      num_classes: the number of classes C; default: the largest label plus one.

    Returns:
      A Measure with points float32 [C, n_max, d] and weights float32 [C, n_max].

    Raises:
      InputError: see `Groups.of` and `as_points`.
    """
    points = as_points(points)
    groups = Groups.of(points, labels, num_classes)
    padded = groups.padded(points, np.arange(len(groups.counts)), int(groups.counts.max()))
    return jax.tree.map(jnp.asarray, padded)


def real_points(mu: Measure) -> jax.Array:
    """The points [n, d] of one measure, with zero-weight points moved to the origin, so that their NaN reach no sum."""
    return jnp.where(mu.weights[:, None] > 0, mu.points, 0.0)


def centred(points: Array, weights: Array) -> tuple[jax.Array, jax.Array]:
    """Points [n, d] minus their weighted mean, and the mean as far as the dtype can represent it, [d].

    A sum in float32 loses digits where the mean is large. The second sum, of what remains, restores them.
    """
    total = jnp.sum(weights)
    shares = weights[:, None] / jnp.where(total > 0, total, 1.0)
    rough = jnp.sum(shares * points, axis=0)
    mean = rough + jnp.sum(shares * (points - rough), axis=0)
    return jnp.asarray(points) - mean, mean


def standardise(mu: Measure) -> tuple[Measure, jax.Array, jax.Array]:
    r"""Transform a measure to total variance one about a point b near most of its mass: :math:`x \mapsto (x - b) / s`.

    Tolerances then have the same meaning on any data, and squared distances lose no digits to a distant origin. b is
    the mean, unless a few points are so far away that they move the mean out of the rest; then b is the point nearest
    to it. Zero-weight points are moved to a weighted point, so that none is a farthest point or NaN.

    Args:
      mu: one measure, points [n, d], weights [n].

    Returns:
      The standardised measure, the shift b, [d], and the scale s, a positive scalar (1 for constant data).

    Raises:
      InputError: see `check_shapes`.
    """
    check_shapes(mu)
    real = mu.weights > 0
    points, shift = centred(real_points(mu), mu.weights)
    peak = jnp.max(jnp.where(real[:, None], jnp.abs(points), 0.0))
    # Points that differ by less than one rounding are equal; what remains is the rounding of their mean.
    peak = jnp.where(peak > jnp.finfo(peak.dtype).eps ** 1.5 * jnp.max(jnp.abs(shift)), peak, 0.0)
    unit = power_of_two(peak)
    points = jnp.where(peak > 0, points / unit, 0.0)
    norms = jnp.sum(points**2, axis=1)
    variance = jnp.sum(jnp.where(real, mu.weights * norms, 0.0))
    spread = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 1.0)
    central = points[jnp.argmin(jnp.where(real, norms, jnp.inf))]
    # Some points tell. If they are no fair sample, b is a point of the data without need, which does no harm.
    among = jnp.sum((points[:_SAMPLE] - central) ** 2, axis=1)
    is_apart = jnp.sum(central**2) > 1e2 * jnp.nanmedian(jnp.where(real[:_SAMPLE], among, jnp.nan))
    moved = jnp.where(is_apart, central, 0.0)
    points = jnp.where(real[:, None], points, central) - moved
    return Measure(points / spread, mu.weights), shift + moved * unit, spread * unit


_SAMPLE = 256


def power_of_two(size: jax.Array) -> jax.Array:
    """The power of two above a positive scalar, by which division is exact; 1 for zero."""
    return jnp.where(size > 0, jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1]), 1.0)
