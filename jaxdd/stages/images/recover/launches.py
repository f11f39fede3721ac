"""All steps of one chunk of classes, launch by launch: watched, kept in checkpoints, and ended early."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdd.ground import stop
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import log, progress
from jaxdd.ground.watch import PINNED, Watch, out_of_range, pinned
from jaxdd.stages.images.recover.descent import State
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms, total


def finished(
    step: Callable[..., tuple[State, Terms]],
    state: State,
    goal: Any,
    launches: list[tuple[int, bool]],
    watch: Watch,
    settings: RecoverSettings,
    title: str,
) -> tuple[State, Terms]:
    """The state after all launches, and the terms of all steps, [steps, k] each.

    It goes on from the last checkpoint of ``watch``, to the same result.

    Args:
      step: (state, goal, count=, coarse=) -> (state, terms [count, k]).
      goal: of the chunk, on its devices.
      launches: the number of steps and the coarseness of each launch.
      title: of the progress bar.

    Raises:
      DivergenceError: a class diverged.
      Stopped: the process is asked to end; a checkpoint is kept.
    """
    state, launched = _resumed(watch, state, launches)
    taken = sum(count for count, _ in launches[: len(launched)])
    with stop.deferred(), watch.checkpoints:
        for count, coarse in progress(launches[len(launched) :], title):
            state, values = step(state, goal, count=count, coarse=coarse)
            # Queue at most one launch behind the running one, so that the progress bar stays accurate.
            jax.block_until_ready(launched[-1:])
            launched.append(values)
            taken += count
            if watch.is_due(taken, count):
                watch.look(taken, state, launched)
            watch.keep(taken, state, launched, _joined)
            if settings.stops_early and len(launched) % max(1, 20 // count) == 0 and _is_over(state, settings, watch):
                break
        watch.end(taken, state, launched)
    return state, _joined(jax.device_get(launched))


def _is_over(state: State, settings: RecoverSettings, watch: Watch) -> bool:
    """Whether all classes that count have taken their last step."""
    over = np.asarray(state.pace.turned) + settings.anneal <= int(state.step)
    return bool(over[[row for row, _ in watch.rows]].all())


def _joined(launched: Sequence[Terms]) -> Terms:
    """The terms of all launches, [steps, k] each."""
    return jax.tree.map(lambda *steps: np.concatenate(steps), *launched)


def _resumed(watch: Watch, state: State, launches: list[tuple[int, bool]]) -> tuple[State, list[Terms]]:
    """The state to go on from and the terms of the launches before it; at the start there are none."""
    classes = len(state.images)

    def like(step: int) -> dict:
        terms = jax.ShapeDtypeStruct((step, classes), np.float32)
        return {"state": state, "losses": Terms(terms, terms, terms, terms)}  # type: ignore[arg-type]

    step, kept = watch.checkpoints.latest(like) or (0, None)
    if kept is None:
        return state, []
    log(f"{watch.stage}: goes on from step {step}")
    state = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), kept["state"], state)
    ends = np.cumsum([count for count, _ in launches])
    before = ends[: int(np.searchsorted(ends, step)) + 1]
    parts = [np.split(np.asarray(term), before[:-1]) for term in kept["losses"]]
    return state, [Terms(*terms) for terms in zip(*parts)]


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
