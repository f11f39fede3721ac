"""Stage 5: what a classifier, or a distilled dataset, is worth on real test images."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxdd import augment, data, relabel, train
from jaxdd.augment import Augment
from jaxdd.data import Source, permutations
from jaxdd.distilled import TEMPERS, DistilledDataset
from jaxdd.errors import InputError
from jaxdd.nn.classifier import Apply, Classifier, Variables
from jaxdd.normalise import Normalisation, normalise
from jaxdd.progress import progress
from jaxdd.train import Trainer, TrainSettings


@dataclass(frozen=True)
class Protocol:
    """How a student is trained on a distilled dataset: equal for all methods that are compared."""

    labels: str = "soft"
    """"hard": cross-entropy to the class. "soft": KL to the teacher on the same augmented images."""
    temperature: float = 20.0
    weights: str = "w"
    """What an image's loss is multiplied by: its atom's weight ("w"), the weight tempered ("sqrt"), one ("uniform")."""
    train: TrainSettings = field(default_factory=lambda: TrainSettings(batch_size=25, augment=Augment(mix="cutmix")))


SOFT = Protocol()
# Without a teacher to relabel it, a mixed or narrowly cropped image is a wrong label.
HARD = Protocol(labels="hard", train=TrainSettings(batch_size=25, augment=Augment(min_scale=0.5)))


def check(protocol: Protocol) -> None:
    """Raise InputError for a setting that does not exist, before any student is trained."""
    if protocol.labels not in ("hard", "soft"):
        raise InputError(f"unknown labels {protocol.labels!r}; use hard or soft")
    if protocol.weights not in TEMPERS:
        raise InputError(f"unknown weights {protocol.weights!r}; use {', '.join(TEMPERS)}")
    if protocol.temperature <= 0:
        raise InputError(f"temperature {protocol.temperature}: give one above 0")
    train.optimizer(protocol.train, protocol.train.steps(1))
    augment.pipeline(protocol.train.augment)


def student_trainer(model: Classifier, protocol: Protocol, teacher_apply: Apply, dataset: DistilledDataset) -> Trainer:
    """The trainer for students of one shape; use it for every dataset of that size and every seed."""
    n = len(dataset.labels)
    criterion = relabel.soft(teacher_apply, protocol.temperature) if protocol.labels == "soft" else relabel.hard()
    settings = replace(protocol.train, batch_size=min(protocol.train.batch_size, n))
    return train.trainer(model, settings, settings.steps(n), criterion, dataset.norm)


def train_student(
    trainer: Trainer,
    protocol: Protocol,
    dataset: DistilledDataset,
    seed: int,
    context: Any,
    title: str = "student",
) -> tuple[Variables, np.ndarray]:
    """Train one student from scratch: its variables and loss curve. ``context``: the teacher's variables."""
    n, classes = len(dataset.labels), len(dataset.class_names)
    targets = train.one_hot(dataset.labels, classes)
    weights = dataset.loss_weights(protocol.weights)
    batch_size = min(protocol.train.batch_size, n)
    key = jax.random.key(seed)
    state = trainer.init(jax.random.fold_in(key, 0), dataset.images.shape[1:])
    order = permutations(n, batch_size, seed)
    batches = ((dataset.images[i], targets[i], weights[i]) for i in order)
    steps = protocol.train.steps(n)
    state, losses = train.fit(trainer.step, state, jax.random.fold_in(key, 1), batches, steps, context, title)
    return state.variables, losses


@lru_cache(maxsize=8)
def _hits(apply: Apply):
    @jax.jit
    def hits(variables, mean, std, images, labels, valid):
        logits = apply(variables, normalise(Normalisation(mean, std), images)).logits
        return (valid * (logits.argmax(-1) == labels)).sum(), valid.sum()

    return hits


def accuracy(apply: Apply, variables: Variables, norm: Normalisation, batches: Iterable) -> float:
    """Top-1 accuracy in [0, 1] over batches of (images, labels [N], valid [N]); invalid rows do not count."""
    hits = _hits(apply)
    counts = [hits(variables, *norm, images, labels, valid) for images, labels, valid in progress(batches, "test")]
    correct, total = np.sum(jax.device_get(counts), axis=0)
    return float(correct / total)


def recognised(apply: Apply, variables: Variables, dataset: DistilledDataset, batch_size: int = 250) -> float:
    """The share of a distilled dataset's images that a classifier takes for their class, in [0, 1]."""
    read = lambda split, rows: dataset.images[rows]
    source = Source("distilled", dataset.class_names, dataset.images.shape[1:], {"train": dataset.labels}, read)
    chunks = data.batches(source, "train", min(batch_size, len(dataset.labels)))
    return accuracy(apply, variables, dataset.norm, chunks)


def row(
    method: str,
    dataset: str,
    ipc: int | None,
    student: str,
    labels: str,
    accuracies: list[float],
    **more: Any,
) -> dict:
    """A row of evaluation.json; accuracies in [0, 1], standard deviation over the seeds (0 for a single one)."""
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return {
        "method": method, "dataset": dataset, "ipc": ipc, "student": student, "labels": labels,
        "accuracies": accuracies, "mean": float(np.mean(accuracies)), "std": spread, **more,
    }  # fmt: skip
