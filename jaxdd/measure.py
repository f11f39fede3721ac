"""The one type that flows between the stages: a weighted point cloud."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.errors import InputError


class Measure(NamedTuple):
    r"""A finite measure :math:`\nu = \sum_j w_j \, \delta(z_j)`.

    A point of weight zero carries nothing: ragged classes are padded with such points, so that one `vmap`
    over the leading axis serves all classes, and no result depends on where they lie.

    Attributes:
      points: the support z, float, [..., m, d]; the leading axis, where there is one, is the class.
      weights: the masses w, float, [..., m], non-negative, summing to one over the last axis.
    """

    points: jax.Array
    weights: jax.Array


def from_labels(points: np.ndarray, labels: np.ndarray, num_classes: int) -> Measure:
    r"""The empirical measure of each class, :math:`\mu_c = \frac{1}{n_c} \sum_{i : y_i = c} \delta(x_i)`.

    Runs on the host. Points keep their order; shorter classes end in zero-weight points at the origin.

    Args:
      points: the data x, finite, [n, d].
      labels: integer classes y in [0, num_classes), [n].
      num_classes: the number of classes C.

    Returns:
      A Measure with points float32 [C, n_max, d] and weights float32 [C, n_max].

    Raises:
      InputError: shapes that disagree, a label that is no integer or out of range, a class without points
        or with NaN or infinite ones.
    """
    points, labels = np.asarray(points, np.float32), np.asarray(labels)
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise InputError(f"from_labels: points {points.shape} and labels {labels.shape}; give [n, d] and [n]")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"from_labels: labels have dtype {labels.dtype}; give integer class indices")
    stray = labels[(labels < 0) | (labels >= num_classes)]
    if stray.size:
        raise InputError(f"from_labels: label {stray[0]} outside [0, {num_classes}); raise num_classes")
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes < 1 or not counts.all():
        empty = int(np.argmin(counts)) if num_classes else 0
        raise InputError(f"from_labels: class {empty} has no points; lower num_classes or add some")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(f"from_labels: class {labels[row]} has NaN or inf in row {row}; drop that row")

    padded = np.zeros((num_classes, counts.max(), points.shape[1]), np.float32)
    weights = np.zeros(padded.shape[:2], np.float32)
    for c, count in enumerate(counts):
        padded[c, :count] = points[labels == c]
        weights[c, :count] = 1.0 / count
    return Measure(jnp.asarray(padded), jnp.asarray(weights))


def standardise(mu: Measure) -> tuple[Measure, jax.Array, jax.Array]:
    r"""Moves a measure to mean zero and total variance one: :math:`x \mapsto (x - b) / s`.

    Every tolerance then means the same on any data, and squared distances lose no digits to a far mean.
    Zero-weight points are put on the real point nearest the mean: never a farthest point, never NaN.

    Args:
      mu: one measure, points [n, d], weights [n].

    Returns:
      The standardised measure, the shift b, [d], and the scale s, a positive scalar (1 for constant data).
    """
    real = mu.weights > 0
    points = jnp.where(real[:, None], mu.points, 0.0)
    shift = jnp.einsum("n,nd->d", mu.weights, points, precision="highest")
    points = points - shift
    norms = jnp.sum(points**2, axis=1)
    variance = jnp.sum(jnp.where(real, mu.weights * norms, 0.0))
    scale = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 1.0)
    central = points[jnp.argmin(jnp.where(real, norms, jnp.inf))]
    return Measure(jnp.where(real[:, None], points, central) / scale, mu.weights), shift, scale
