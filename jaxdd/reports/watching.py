"""Watching a run of `jaxdd distill`: a picture of the images as they grow, and event files for TensorBoard.

What is seen of a run does not change it, and is no part of what determines it.
"""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdd.ground import extras, hosts, settings
from jaxdd.ground.errors import InputError, one_line
from jaxdd.ground.files import atomic, read_arrays
from jaxdd.ground.normalise import denormalise
from jaxdd.reports.events import Events
from jaxdd.reports.names import readable
from jaxdd.reports.preview import sheet
from jaxdd.stages.context import OnSnapshot, Snapshot
from jaxdd.workspace import runs
from jaxdd.workspace.beside import CLASSES, IMAGES
from jaxdd.workspace.teachers import OnTraining

EVENTS = "events"
"""The folder of the event files, inside that of the run."""


@dataclass(frozen=True)
class WatchSettings:
    """What to write into the run folder while a run goes on."""

    preview: bool = False
    """Write the images as they grow into preview.png."""
    seconds: float = settings.bounded(20.0, settings.Bounds(0, 10**6))
    """At least so many seconds apart."""
    tensorboard: bool = False
    """Write losses, accuracies, distances and images for TensorBoard into events; needs jaxdd[tensorboard]."""


class Watched(NamedTuple):
    """What a run calls while it goes on.

    Attributes:
      on_snapshot: see `Context`.
      on_training: see `Workspace`.
    """

    on_snapshot: OnSnapshot | None = None
    on_training: OnTraining | None = None


def check(chosen: WatchSettings) -> None:
    """Raise InputError if event files cannot be written here."""
    if chosen.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise InputError(f"`watch.tensorboard` needs tensorboardX; use: {extras.install('tensorboard')}")


@contextlib.contextmanager
def watched(chosen: WatchSettings, out: Path, class_names: Sequence[str], ipc: int) -> Iterator[Watched]:
    """A context manager for a run in the folder ``out``. Of several processes the first watches, its own classes.

    When the block ends well, the distances W2² along the rounds of the summarizer are written as well.

    Raises:
      InputError: see `check`.
    """
    check(chosen)
    with contextlib.ExitStack() as stack:
        snapshots: list[OnSnapshot] = []
        on_training = None
        if hosts.is_first() and chosen.preview:
            snapshots.append(Preview(out, class_names, ipc, chosen.seconds))
        events = stack.enter_context(Events(out / EVENTS)) if hosts.is_first() and chosen.tensorboard else None
        if events is not None:
            snapshots.append(_grown(events, class_names))
            on_training = _learnt(events)
        yield Watched(_all(snapshots), on_training)
        if events is not None:
            _distances(events, out / "atoms.npz")


def _all(hooks: Sequence[OnSnapshot]) -> OnSnapshot | None:
    """One hook for several."""

    def every(snapshot: Snapshot) -> None:
        for hook in hooks:
            hook(snapshot)

    return every if hooks else None


class Preview:
    """Writes the images of the first fifty classes as they are into preview.png of a run folder; an ``on_snapshot``.

    Classes that an earlier attempt finished are shown as well. Images that are not begun yet are grey.
    """

    def __init__(self, out: Path, class_names: Sequence[str], ipc: int, seconds: float):
        self.out, self.names, self.count = out, class_names[:CLASSES], min(ipc, IMAGES)
        self.seconds, self.written = seconds, -np.inf
        self.images: list[np.ndarray] = []

    def __call__(self, snapshot: Snapshot) -> None:
        """Keep the images of a snapshot, and write the picture if it is time, or if these are the last ones."""
        if not self.images:
            shape = self.count, *snapshot.images.shape[2:]
            self.images = [np.full(shape, 230, np.uint8) for _ in self.names]
            self._finished(snapshot)
        for c, first, pixels in zip(snapshot.classes, snapshot.first, snapshot.pixels()):
            if c < len(self.names) and first < self.count:
                self.images[c][first : first + len(pixels)] = pixels[: self.count - first]
        if time.monotonic() - self.written >= self.seconds or snapshot.step == snapshot.steps:
            with atomic(self.out / "preview.png") as place:
                sheet(self.images, self.names).save(place, "PNG")
            self.written = time.monotonic()

    def _finished(self, snapshot: Snapshot) -> None:
        for c in range(len(self.names)):
            place = runs.part(self.out / runs.PARTS, c)
            if place.is_file():
                self.images[c] = np.asarray(denormalise(snapshot.norm, read_arrays(place, ("images",))["images"]))
                self.images[c] = self.images[c][: self.count]


def _grown(events: Events, class_names: Sequence[str]) -> OnSnapshot:
    """A hook that writes the losses and the images of a snapshot; classes that grow together are a run of their own."""

    def hook(snapshot: Snapshot) -> None:
        ends = sorted({int(snapshot.classes.min()), int(snapshot.classes.max())})
        run = f"recover, class {' to '.join(map(str, ends))}"
        means = {f"loss/{name}": values.mean(1) for name, values in snapshot.losses.items()}
        count = max(map(len, means.values()), default=0)
        for k in range(count):
            events.scalars(run, snapshot.step - count + k, {tag: float(values[k]) for tag, values in means.items()})
        strips = {}
        for c, first, pixels in zip(snapshot.classes, snapshot.first, snapshot.pixels()):
            if c < CLASSES:
                slice_ = f", from {first}" if first else ""
                name = one_line(readable(class_names[c]), 60)
                strips[f"images/{c:02d} {name}{slice_}"] = np.concatenate(pixels[:IMAGES], 1)
        events.images(run, snapshot.step, strips)
        events.flush()

    return hook


def _learnt(events: Events) -> OnTraining:
    def hook(step: int, values: Mapping[str, float]) -> None:
        events.scalars("teacher", step, {f"teacher/{name}": value for name, value in values.items()})
        events.flush()

    return hook


def _distances(events: Events, place: Path) -> None:
    """Write W2² between the classes and their atoms along the rounds, if the run has any."""
    costs = read_arrays(place, ("costs",))["costs"] if place.is_file() else np.zeros((0, 0))
    kinds: dict[str, Callable] = {"mean of the classes": np.mean, "largest": np.max, "smallest": np.min}
    for step, values in enumerate(costs.T):
        events.scalars("summarize", step, {f"W2 squared/{name}": float(of(values)) for name, of in kinds.items()})
