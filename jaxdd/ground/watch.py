"""Watching a run for divergence: values that are no numbers, losses that blow up, pictures without content.

A run that diverges ends in a `DivergenceError`, and not in a result. The watch looks at a run every `EVERY` steps. It
reads values that were computed by the look before, so that no look waits for the device; a divergence is found within
twice as many steps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground import stop
from jaxdd.ground.checkpoint import Checkpoints
from jaxdd.ground.errors import DivergenceError
from jaxdd.ground.measure import Array
from jaxdd.ground.normalise import Normalisation, valid_range

EVERY = 50
"""Steps between two looks at a run."""

BLOWN = 1e3
"""A loss has blown up if its median over the steps of a look is so many times the first loss, or 1 if that is less."""

LARGEST = 1e18
"""Parameters beyond it have blown up: their squares soon leave the range of float32."""

PINNED = 0.995
"""Images are saturated if a larger share of their pixels is black or white, but not of those they are made from."""

FLAT = 1 / 255
"""Images are flat if no pixel of them is further than this from their mean, in units of the range of pixels."""

Hook = Callable[[int, Any, Sequence], None]
"""Called with the number of steps taken, the state after them, and the losses of all steps so far."""

Faults = Callable[[Any, Sequence], dict[str, Array]]
"""Maps a state and all losses to what may be wrong: a phrase -> whether it is, a boolean or one for each row."""


@partial(jax.jit, static_argnames="rows")
def out_of_range(tree: Any, largest: float = LARGEST, rows: bool = False) -> jax.Array:
    """Whether any floating number of a pytree is NaN or larger in magnitude than ``largest``.

    Returns:
      A boolean, or with ``rows`` one for each row of arrays [S, ...], [S].
    """
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    bad = [~(abs(x) <= largest).all(tuple(range(int(rows), x.ndim))) for x in floats]
    return jnp.stack(bad).any(0) if bad else jnp.zeros((), bool)


def state_faults(state: Any, losses: Sequence, rows: bool) -> dict[str, Array]:
    """The `Faults` of any state: numbers that are `out_of_range`, in all of it or in each row."""
    return {f"its state holds numbers that are not finite or above {LARGEST:.0e}": out_of_range(state, rows=rows)}


def pinned(images: Array, norm: Normalisation) -> Array:
    """The share of the pixels of normalised images [..., m, H, W, ch] that are black or white, [...].

    These are pixels within half a grey level of the valid range's bounds, or outside of it.
    """
    low, high = valid_range(norm)
    return (abs((images - low) / (high - low) - 0.5) >= 0.5 - 0.5 / 255).mean((-4, -3, -2, -1))


def is_flat(images: np.ndarray, norm: Normalisation) -> bool:
    """Whether each of some normalised images [..., H, W, ch] has the same value at all its pixels, see `FLAT`."""
    low, high = valid_range(norm)
    spread = (images.max((-3, -2)) - images.min((-3, -2))) / (np.asarray(high) - np.asarray(low))
    return bool((spread <= FLAT).all())


class Watch:
    """The watch over one run, or over several independent runs that step together, its rows.

    Args:
      stage: what runs, as the message calls it.
      rows: the names of the rows; None for a row that does not count. An empty name stands for a single run.
      curve: maps the losses of some steps, on the host, to [steps, rows].
      faults: see `Faults`; default: `state_faults`.
      remedy: what to do about it, the end of the message.
      also: called after every look with the same arguments, for example to save a checkpoint; call `settle` before a
        state is saved, so that none is saved that has diverged.
    """

    def __init__(
        self,
        stage: str,
        rows: Sequence[str | None] = ("",),
        curve: Callable[[list], np.ndarray] = lambda losses: np.reshape(losses, (-1, 1)),
        faults: Faults | None = None,
        remedy: str = "use a lower `learning_rate`",
        also: Sequence[Hook] = (),
    ):
        self.stage, self.curve, self.remedy, self.also = stage, curve, remedy, also
        self.rows = [(row, name) for row, name in enumerate(rows) if name is not None]
        self.count = len(rows)
        self.faults = faults or partial(state_faults, rows=False)
        self.first: np.ndarray | None = None
        self.checkpoints = Checkpoints(None)
        self.shorter = ""
        self._seen, self._step = 0, 0
        self._pending: tuple[int, int, Sequence, dict[str, Array]] | None = None

    def keeping(self, checkpoints: Checkpoints) -> "Watch":
        """The same watch, which also saves checkpoints, and never one of a state that has diverged."""
        self.checkpoints = checkpoints
        return self

    def shortened_by(self, change: str) -> "Watch":
        """The same watch of a run that this change makes shorter, see `progress.Bar`."""
        self.shorter = change
        return self

    def keep(self, step: int, state: Any, losses: Sequence, joined: Callable[[Sequence], Any]) -> None:
        """Save a checkpoint of the state and the losses if it is time for one, or if the process is asked to end.

        Args:
          joined: maps the losses on the host to few arrays.

        Raises:
          DivergenceError: the run has diverged.
          Stopped: the process is asked to end; what it has is saved.
        """
        if not self.checkpoints.is_due() and not stop.is_asked():
            return
        self.end(step, state, losses)
        self.checkpoints.save(step, {"state": state, "losses": joined(jax.device_get(losses))}, wait=stop.is_asked())
        stop.check()

    def is_due(self, step: int, launch: int = 1) -> bool:
        """Whether to look after this number of steps, because another launch of so many would exceed `EVERY`."""
        return step - self._step + launch > EVERY

    def look(self, step: int, state: Any, losses: Sequence) -> None:
        """Judge what the look before has seen, and note what there is now; a `Hook`.

        Raises:
          DivergenceError: the run has diverged.
        """
        self.settle()
        self._pending = self._step, step, losses[self._seen :], self.faults(state, losses)
        self._seen, self._step = len(losses), step
        for hook in self.also:
            hook(step, state, losses)

    def end(self, step: int, state: Any, losses: Sequence) -> None:
        """The last look, at the final state.

        Raises:
          DivergenceError: the run has diverged.
        """
        if step > self._step:
            self.look(step, state, losses)
        self.settle()

    def settle(self) -> None:
        """Judge everything seen so far, which waits for the device if that is not computed yet.

        Raises:
          DivergenceError: the run has diverged.
        """
        if self._pending is None:
            return
        (before, step, losses, faults), self._pending = self._pending, None
        losses, faults = jax.device_get((losses, faults))
        if losses:
            with np.errstate(all="ignore"):
                self._judge(self.curve(losses), before)
        for phrase, bad in faults.items():
            self._refuse(np.broadcast_to(bad, self.count), step, phrase)

    def _judge(self, values: np.ndarray, before: int) -> None:
        """Judge the losses [steps, rows] of the steps after ``before``."""
        for k, bad in enumerate(~np.isfinite(values)):
            self._refuse(bad, before + k + 1, "loss {}", values[k])
        self.first = np.maximum(abs(values[0]), 1) if self.first is None else self.first
        high = abs(values) > BLOWN * self.first
        blown = np.median(abs(values), 0) > BLOWN * self.first
        k = int(np.argmax((high & blown).any(1)))
        self._refuse(blown, before + k + 1, f"loss {{}}, over {BLOWN:.0f} times that of its first step", values[k])

    def _refuse(self, bad: np.ndarray, step: int, phrase: str, values: np.ndarray | None = None) -> None:
        """Raise DivergenceError for the rows [rows] that are bad."""
        found = {name: row for row, name in reversed(self.rows) if bad[row]}
        if not found:
            return
        names = list(reversed(found))
        text = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        value = None if values is None else f"{values[found[names[0]]]:.3g}"
        raise DivergenceError(
            f"{self.stage}{': ' if text else ''}{text} diverged at step {step}: {phrase.format(value)}; {self.remedy}"
        )
