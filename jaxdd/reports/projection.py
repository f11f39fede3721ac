"""The atoms of a class among its points, in the plane in which the points vary most."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic
from jaxdd.ground.measure import Measure
from jaxdd.reports.plots import plain, png

_POINTS, _ATOMS = "#9aa5ad", "#d9722e"
_AREA = 900.0
"""The area of all atoms together, in square points of the figure."""


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first two principal components of points [n, d], d >= 2.

    Each direction points to where its largest entry is positive, so that a picture is not mirrored by chance.

    Returns:
      The mean [d], the directions as orthonormal rows [2, d], and the share of the variance along each, [2].
    """
    centre = points.mean(0)
    values, vectors = np.linalg.eigh(np.cov(points - centre, rowvar=False, bias=True))
    directions = vectors[:, [-1, -2]].T
    signs = np.sign(np.take_along_axis(directions, abs(directions).argmax(1)[:, None], 1))
    return centre, directions * signs, values[[-1, -2]] / max(values.sum(), np.finfo(float).tiny)


def atoms_among_points(points: np.ndarray, atoms: Measure, title: str = "", path: Path | None = None) -> Figure:
    """Draw the points of a class, and its atoms with areas in proportion to their weights.

    All are projected onto the first two principal components of the points. Distances in the plane are at most those
    in space: atoms that lie near each other here may be far apart.

    Args:
      points: the encoded real images of the class, [n, d] with d >= 2.
      atoms: its atoms, points [m, d] and weights [m].
      title: drawn above.
      path: where to write the figure as a PNG.

    Raises:
      InputError: shapes that disagree, or numbers that are not finite.
    """
    points, centres, weights = (np.asarray(x, float) for x in (points, *atoms))
    if points.ndim != 2 or points.shape[1] < 2 or centres.shape != (len(weights), points.shape[1]):
        shapes = f"points {list(points.shape)}, atoms {list(centres.shape)} and weights {list(weights.shape)}"
        raise InputError(f"{shapes} are not [n, d], [m, d] and [m] with d of two or more")
    if not all(np.isfinite(x).all() for x in (points, centres, weights)):
        raise InputError("points, atoms or weights are not finite; there is nothing to draw")
    mean, directions, shares = principal_plane(points)
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axes = figure.subplots()
    x, y = ((points - mean) @ directions.T).T
    axes.scatter(x, y, s=9, c=_POINTS, linewidths=0, alpha=0.6, label="real images")
    x, y = ((centres - mean) @ directions.T).T
    areas = _AREA * weights / weights.sum()
    axes.scatter(x, y, s=areas, c=_ATOMS, edgecolors="white", alpha=0.9, label="atoms, area in proportion to weight")
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"first principal component, {100 * shares[0]:.0f} % of the variance")
    axes.set_ylabel(f"second principal component, {100 * shares[1]:.0f} % of the variance")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(plain(title))
    if path:
        with atomic(Path(path)) as place:
            place.write_bytes(png(figure))
    return figure
