"""Whether what the stages made is usable: atoms and images that are finite, in range, and not empty of content."""

from collections.abc import Callable

import numpy as np

from jaxdd.ground.errors import DivergenceError
from jaxdd.ground.watch import PINNED, is_flat, pinned
from jaxdd.stages.context import Context
from jaxdd.stages.images.base import Imager, Images
from jaxdd.stages.summarize.base import Summarizer, Summary

# Atoms are means of points or points themselves; the largest coordinate of an atom is no larger than that of a point.
_FAR = 1e3


def check_summary(context: Context, summarizer: Summarizer, summary: Summary) -> None:
    """Raise DivergenceError for atoms, weights or costs that are not finite, or atoms far outside of all points."""
    points, weights, costs = (np.asarray(part) for part in (*summary.atoms, summary.costs))
    name = type(summarizer).__name__.lower()
    largest = max(1.0, np.abs(context.classes.encoded.features).max(initial=0.0))
    for place, label in enumerate(context.labels):
        finite = np.isfinite(costs[place])
        if not finite.all():
            what, step = f"its cost is {costs[place][~finite][0]}", int(np.argmin(finite)) + 1
        elif not (np.isfinite(points[place]).all() and np.isfinite(weights[place]).all()):
            what, step = "its atoms or weights are not finite", len(finite)
        elif np.abs(points[place]).max(initial=0.0) > _FAR * largest:
            what, step = f"its atoms lie over {_FAR:.0f} times as far out as any image", len(finite)
        else:
            continue
        raise DivergenceError(f"{name}: class {label} diverged at step {step}: {what}; use other settings of the "
                              "`summarizer`")  # fmt: skip


def check_images(context: Context, imager: Imager, images: Images) -> None:
    """Raise DivergenceError for images that are not finite, or, unless the real ones are so, flat or saturated.

    Flat and saturated are defined in `ground.watch`; a class is judged by all of its images.
    """
    norm, name = context.teacher.norm, type(imager).__name__.lower()
    steps = max((len(term) for term in images.curve.values()), default=0)
    when = f" at step {steps}" if steps else ""
    faults: list[tuple[str, Callable[[np.ndarray], bool]]] = [
        ("the pixels of each image are all equal", lambda batch: is_flat(batch, norm)),
        ("its pixels are all black or white", lambda batch: bool(pinned(batch, norm) > PINNED)),
    ]
    for place, made in zip(images.places, np.asarray(images.images)):
        label, what = context.labels[place], None
        if not np.isfinite(made).all():
            what = "its images are not finite"
        elif not imager.is_real:
            found = [(phrase, is_bad) for phrase, is_bad in faults if is_bad(made)]
            what = next((phrase for phrase, is_bad in found if not is_bad(_real(context, label))), None)
        if what:
            raise DivergenceError(f"{name}: class {label} diverged{when}: {what}; use other settings of the `imager`")


def _real(context: Context, label: int) -> np.ndarray:
    """Some real images of a class, [k, H, W, ch]."""
    return context.classes.images(context.classes.groups.rows(label)[:100])
