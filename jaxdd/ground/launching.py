"""Steps on the devices in launches of one or several: watched, kept in checkpoints, and never queued far ahead."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdd.ground import stop
from jaxdd.ground.progress import Bar, log, progress
from jaxdd.ground.watch import Watch


class Curve(NamedTuple):
    """The form of the losses of a launch.

    Attributes:
      one: the losses of one step, a pytree of `jax.ShapeDtypeStruct`.
      axis: that of the steps.
    """

    one: Any
    axis: int

    def of(self, steps: int) -> Any:
        """The losses of so many steps, as shapes."""
        shape = lambda x: (*x.shape[: self.axis], steps, *x.shape[self.axis + 1 :])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(x), x.dtype), self.one)

    def joined(self, launched: Sequence) -> Any:
        """The losses of several launches as those of one."""
        return jax.tree.map(lambda *parts: np.concatenate(parts, self.axis), *launched)

    def parted(self, losses: Any, counts: Sequence[int]) -> list:
        """The inverse of `joined`, for launches of ``counts`` steps."""
        ends = np.cumsum(counts)[:-1]
        leaves, form = jax.tree.flatten(losses)
        parts = [np.split(np.asarray(leaf), ends, self.axis) for leaf in leaves]
        return [jax.tree.unflatten(form, part) for part in zip(*parts)]


def run(
    launch: Callable[[Any, int], tuple[Any, Any]],
    state: Any,
    counts: Sequence[int],
    watch: Watch,
    curve: Curve,
    bar: Bar,
    is_over: Callable[[Any, int], bool] = lambda state, launched: False,
) -> tuple[Any, Any]:
    """The state after all launches, and the losses of all steps, on the host.

    It goes on from the last checkpoint of ``watch``, to the same result.

    Args:
      launch: (state, number of the launch) -> (state, losses of its steps); the numbers ascend.
      state: arrays on their devices.
      counts: the number of steps of each launch.
      curve: the form of the losses.
      bar: the progress bar.
      is_over: (state, number of launches so far) -> whether to end early.

    Raises:
      DivergenceError: the run diverged.
      Stopped: the process is asked to end; a checkpoint is kept.
    """
    like = lambda step: {"state": state, "losses": curve.of(step)}
    taken, kept = watch.checkpoints.latest(like) or (0, None)
    launched: list = []
    if kept is not None:
        log(f"{watch.stage}: goes on from step {taken}")
        state = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), kept["state"], state)
        launched = curve.parted(kept["losses"], counts[: int(np.searchsorted(np.cumsum(counts), taken)) + 1])
    with stop.deferred(), watch.checkpoints:
        for k in progress(range(len(launched), len(counts)), bar._replace(done=len(launched))):
            state, losses = launch(state, k)
            # Queue at most one launch behind the running one: batches do not pile up, and the bar is accurate.
            jax.block_until_ready(launched[-1:])
            launched.append(losses)
            taken += counts[k]
            if watch.is_due(taken, counts[k]):
                watch.look(taken, state, launched)
            watch.keep(taken, state, launched, curve.joined)
            if is_over(state, len(launched)):
                break
        watch.end(taken, state, launched)
    return state, curve.joined(jax.device_get(launched))
