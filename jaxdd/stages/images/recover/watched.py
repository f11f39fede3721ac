"""The watch over the classes of a chunk."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.watch import PINNED, Watch, out_of_range, pinned
from jaxdd.stages.images.recover.descent import State
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms, total


def watched(settings: RecoverSettings, goal: Goal, places: np.ndarray, state: State, norm: Normalisation) -> Watch:
    """The watch over the classes ``places`` of a chunk, which starts from ``state``.

    The images of a class are saturated if a share of more than `PINNED` of their pixels has come to lie at the bounds
    of the valid range, where less than nine tenths did at the start, and the loss is no lower than at the start. A rate
    above the range of pixels does that: they jump from one bound to the other at each step.
    """
    norm = Normalisation(np.asarray(norm.mean), np.asarray(norm.std))
    before = _pinned(state.images, norm)

    def faults(state: State, launched: Sequence[Terms]) -> dict:
        worse = total(launched[-1], settings)[-1] >= total(launched[0], settings)[0]
        saturated = (_pinned(state.images, norm) > PINNED) & (before < 0.9) & worse
        return {
            "its images or their moments in Adam are not finite": out_of_range(
                state, np.finfo(np.float32).max, rows=True
            ),
            "its pixels are all black or white": saturated,
        }

    names = [f"class {goal.classes[place]}" if place >= 0 else None for place in places]
    curve = lambda launched: np.concatenate([np.asarray(total(terms, settings)) for terms in launched])
    remedy = "use a lower `imager.learning_rate` or smaller weights of the loss"
    return Watch("recover", names, curve, faults, remedy)


_pinned = jax.jit(pinned)
