"""What the stages work on: the teacher, the encoded real data, a latent model, memory and devices."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.measure import Groups
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation, denormalise
from jaxdd.latent.decoding import LatentModel
from jaxdd.nn.classifier import Apply, Variables, moment_layers, takes
from jaxdd.stages.encode import Encoded


class Teacher(NamedTuple):
    """A trained classifier as a pure function of its variables.

    Attributes:
      apply: (variables, images [N, H, W, ch]) -> `nn.Output`, in evaluation mode.
      variables: its parameters and statistics.
      norm: the normalisation of its training images.
      info: the record of its training; empty for a model from elsewhere.
      apply_train: as of a `Classifier`; None if it cannot be trained.
    """

    apply: Apply
    variables: Variables
    norm: Normalisation
    info: Mapping[str, Any] = {}
    apply_train: Callable[[Variables, Any], tuple[Any, Variables]] | None = None


class Classes(NamedTuple):
    """The encoded real data with access to the images.

    Attributes:
      encoded: features, labels, counts and moments.
      images: indices into the encoded rows [k] -> normalised float32 images [k, H, W, ch].
      image_shape: (H, W, ch).
      groups: the encoded rows of each class.
    """

    encoded: Encoded
    images: Callable[[np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    groups: Groups

    @classmethod
    def of(cls, encoded: Encoded, images: Callable[[np.ndarray], np.ndarray], image_shape: tuple) -> "Classes":
        """Group the encoded rows by class."""
        return cls(encoded, images, tuple(image_shape), Groups.by_label(encoded.labels, len(encoded.counts)))


class Problem(NamedTuple):
    """A request as far as it is known before anything is computed.

    Attributes:
      method: the name used in error messages.
      ipc: images per class.
      counts: real images of each class, [C].
      class_names: the names of the classes.
      moment_layers: lists the layers whose moments the teacher outputs, and raises InputError if one is missing, see
        `nn.moment_layers`; None if the teacher is unknown.
      image_shape: (H, W, ch) of the images; None if they are unknown.
      takes: whether the teacher takes images of a shape (H, W, ch); None if it is unknown.
    """

    method: str
    ipc: int
    counts: np.ndarray
    class_names: tuple[str, ...]
    moment_layers: Callable[[], list[str]] | None = None
    image_shape: tuple[int, int, int] | None = None
    takes: Callable[[tuple[int, int, int]], bool] | None = None


class Snapshot(NamedTuple):
    """The images of some classes while they are optimised.

    Attributes:
      classes: the labels of these classes, [k].
      images: float32 [k, j, H, W, ch], in the normalised space of ``norm``. These are all m images of each class, or a
        slice of them where many classes share global moments.
      first: the index of ``images[:, 0]`` among the m images of its class, [k].
      step: the number of steps taken.
      steps: the number of all steps; a run that may stop early takes at most as many.
      norm: the normalisation of ``images``.
      losses: the terms of the loss at each of the last s steps, name -> [s, k]: of all since the snapshot before, or
        of all so far if the run went on from a checkpoint. Those of a step are of the images before it.
    """

    classes: np.ndarray
    images: np.ndarray
    first: np.ndarray
    step: int
    steps: int
    norm: Normalisation
    losses: Mapping[str, np.ndarray] = {}

    def pixels(self) -> np.ndarray:
        """The images as uint8 [k, j, H, W, ch]."""
        return np.asarray(denormalise(self.norm, self.images))


OnSnapshot = Callable[[Snapshot], None]


class Context(NamedTuple):
    """All that a summarizer or an imager may use.

    Attributes:
      teacher: the classifier used to recover, crop and label.
      classes: the real data, encoded in the recipe's space.
      latent: the model that decodes latents; None for recipes of the feature space.
      flip: whether a mirrored image still belongs to its class.
      resources: memory and devices of this process.
      subset: the classes to distil, ascending; None means all. The result of a class does not depend on the others.
      scratch: where unfinished classes keep checkpoints.
      committee: more teachers, which see the same images, each with the data that it has encoded.
      on_snapshot: called with a `Snapshot` by an imager that optimises images: of the images that it starts from, or
        goes on from, about every `ground.watch.EVERY` steps, and after the last one. Classes come some at a time, and
        in a run of several processes each shows its own. The images do not depend on it. What it raises ends the run.
    """

    teacher: Teacher
    classes: Classes
    latent: LatentModel | None = None
    flip: bool = True
    resources: Resources = Resources()
    subset: np.ndarray | None = None
    scratch: Scratch = Scratch()
    on_snapshot: OnSnapshot | None = None
    committee: "tuple[tuple[Teacher, Classes], ...]" = ()

    @property
    def labels(self) -> np.ndarray:
        """The classes to distil, ascending [C]."""
        return np.arange(len(self.classes.encoded.counts)) if self.subset is None else self.subset

    def problem(self, method: str, ipc: int) -> Problem:
        """The request for ``ipc`` images of each class; ``method`` is its name in error messages."""
        counts, names = self.classes.encoded.counts[self.labels].astype(int), tuple(map(str, self.labels))
        apply, variables = self.teacher[:2]
        shape = self.classes.image_shape
        layers = partial(moment_layers, apply, variables, shape, complete=True)
        return Problem(method, ipc, counts, names, layers, shape, partial(takes, apply, variables))

    def points(self, label: int) -> np.ndarray:
        """The encoded real images of a class, [n, d]."""
        return self.classes.encoded.features[self.classes.groups.rows(label)]
