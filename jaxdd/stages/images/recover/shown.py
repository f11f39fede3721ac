"""Snapshots of the images while they are optimised, for whoever wants to see them."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxdd.ground.normalise import Normalisation
from jaxdd.stages.context import OnSnapshot, Snapshot
from jaxdd.stages.images.recover.descent import State
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms

Launch = Callable[[State, int], tuple[State, Terms]]


class Shown:
    """Calls ``on_snapshot`` with the images of a chunk; a `ground.watch.Hook`.

    Args:
      goal: the goal of all classes.
      places: the rows of the goal that the chunk has; -1, and a row whose weights are all zero, is padding.
    """

    def __init__(
        self,
        on_snapshot: OnSnapshot,
        settings: RecoverSettings,
        goal: Goal,
        places: np.ndarray,
        norm: Normalisation,
    ):
        self.on_snapshot, self.steps = on_snapshot, settings.steps
        self.seen = 0
        self.terms = [name for name in Terms._fields if name != "mean" or settings.mean_weight]
        self.norm = Normalisation(np.asarray(norm.mean), np.asarray(norm.std))
        self.kept = (places >= 0) & (np.asarray(goal.atoms.weights)[places] > 0).any(-1)
        rows = places[self.kept]
        self.classes = np.asarray(goal.classes)[rows]
        self.slices = np.zeros_like(self.classes) if goal.slices is None else np.asarray(goal.slices)[rows]

    def __call__(self, step: int, state: State, launched: Sequence = ()) -> None:
        """Show the images of a state; waits until they are computed."""
        images = np.asarray(state.images)[self.kept]  # a copy: the next step overwrites the arrays of the state
        first = self.slices * images.shape[1]
        new, self.seen = launched[self.seen :], len(launched)
        joined = lambda name: np.concatenate([np.asarray(getattr(part, name)) for part in new])[:, self.kept]
        losses = {name: joined(name) for name in self.terms if len(new)}
        self.on_snapshot(Snapshot(self.classes, images, first, step, self.steps, self.norm, losses))

    def from_start(self, launch: Launch) -> Launch:
        """The same launches, the first of which also shows the state that it starts from, new or from a checkpoint."""
        begun = False

        def shown(state: State, k: int) -> tuple[State, Terms]:
            nonlocal begun
            if not begun:
                self(int(state.step), state)
            begun = True
            return launch(state, k)

        return shown
