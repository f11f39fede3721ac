"""A few weighted points for each class of any points: the summarize stage without images or a teacher."""

from typing import Literal

import jax
import numpy as np

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Groups, are_masses
from jaxdd.ground.memory import Resources
from jaxdd.ot.summary import check_counts
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Clouds, Solver, class_keys, solve_classes


def summarize(
    points: np.ndarray,
    labels: np.ndarray,
    ipc: int,
    *,
    weights: Literal["free", "uniform"] | np.ndarray = "free",
    solver: Solver | str | None = None,
    key: jax.Array | None = None,
    few: Literal["error", "zero"] = "error",
    num_classes: int | None = None,
    resources: Resources = Resources(2**30),  # noqa: B008
) -> ot.Summary:
    r"""A few weighted points that stand for each class: the argmin of :math:`W_2^2(\mu_c, \sum_j w_j \delta(z_j))`.

    With :math:`\mu_c` the empirical measure of class c, over the positions z of ``ipc`` atoms and, where they are
    free, their weights w. Classes are padded with zero-weight points, which change nothing, and solved side by
    side in chunks that fit the memory. Each class draws from its own key, so the result depends neither on the chunks
    nor on the devices.

        summary = jaxdd.summarize(features, labels, ipc=10)
        summary.atoms.points, summary.atoms.weights  # [C, 10, d], [C, 10]
        summary.cost  # [C], W2^2 attained

    Args:
      points: the data x, finite, [n, d]; read as float32.
      labels: integer classes, [n].
      ipc: the number of atoms of each class, m.
      weights: "free", "uniform", or the weights themselves, [m] or [C, m].
      solver: such as ``Quantization(restarts=8)`` or ``"clvq"``, which find free weights, or ``"barycenter"``, for
        any weights. Default: quantization for free weights, else barycenter.
      key: a PRNG key; default `jax.random.key(0)`.
      few: what to do with a class of fewer points than atoms: "error", or "zero" to let as many atoms as it has
        points stand on them, with free or equal weights, and give the others weight zero.
      num_classes: default: the largest label plus one.
      resources: the devices, and the memory that a chunk may take on all of them, beside the points themselves.

    Returns:
      A Summary with a leading class axis on every array.

    Raises:
      InputError: shapes that disagree, labels that are no classes, NaN or infinite points, too few points, weights
        that do not sum to one, or a solver that cannot hold them; classes are named by their index.
    """
    chosen = _check(weights, solver, few)
    groups = Groups.of(points, labels, num_classes)
    classes = np.arange(len(groups.counts))
    check_counts(groups.counts if few == "error" else np.full(len(classes), max(ipc, 0)), ipc)
    held = _held(weights, groups.counts, ipc)
    keys = class_keys(jax.random.key(0) if key is None else key, classes)
    clouds = Clouds(points, groups, classes, int(groups.counts.max()))
    return solve_classes(chosen, keys, clouds, ipc, held, resources)


def _check(weights, solver: Solver | str | None, few: str) -> Solver:
    """The solver to use; InputError where the arguments do not go together."""
    if isinstance(weights, str) and weights not in ("free", "uniform"):
        raise InputError(f"summarize: weights={weights!r}; choose 'free', 'uniform' or an array")
    free = isinstance(weights, str) and weights == "free"
    name = solver or ("quantization" if free else "barycenter")
    chosen = SUMMARIZERS.find(name)() if isinstance(name, str) else name
    if not isinstance(chosen, Solver):
        solvers = ", ".join(name for name, kind in SUMMARIZERS.items() if issubclass(kind, Solver))
        raise InputError(f"summarize: solver={solver!r} solves nothing; choose {solvers}")
    if not chosen.prescribes_weights and not free:
        kind = SUMMARIZERS.name_of(chosen)
        raise InputError(f"summarize: {kind} finds its own weights; choose weights='free' or solver='barycenter'")
    if few not in ("error", "zero"):
        raise InputError(f"summarize: few={few!r}; choose 'error' or 'zero'")
    if few == "zero" and not isinstance(weights, str):
        raise InputError("summarize: few='zero' cannot change given weights; choose 'free' or 'uniform' ones")
    return chosen


def _held(weights, counts: np.ndarray, m: int) -> np.ndarray | None:
    """The weights to hold, [C, m], or None."""
    if isinstance(weights, str):
        if weights == "free":
            return None
        atoms = np.minimum(counts, m)[:, None]
        return np.where(np.arange(m) < atoms, 1.0 / atoms, 0.0).astype(np.float32)
    try:
        held = np.broadcast_to(np.asarray(weights, np.float32), (len(counts), m))
    except ValueError:
        shapes = f"[{m}] or [{len(counts)}, {m}]"
        raise InputError(f"summarize: weights of shape {np.shape(weights)}; give {shapes}") from None
    bad = ~are_masses(held)
    if bad.any():
        c = int(np.argmax(bad))
        raise InputError(f"class {c} has weights that sum to {held[c].sum():g}; give non-negative ones that sum to one")
    return held
