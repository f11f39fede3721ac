"""Protocols: how a student is trained on a distilled dataset, which decides what its accuracy means.

Every paper of the field uses another one, and soft labels alone make random images look good. So a protocol has a name,
is the same for all methods in a table, and each table says which it used.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxdd.data import augment
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import TEMPERS
from jaxdd.ground.errors import InputError
from jaxdd.students import train
from jaxdd.students.train import TrainSettings


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
PROTOCOLS: dict[str, Protocol] = {
    "hard": HARD,
    # FKD, as SRe2L uses it (Shen and Xing 2022; Yin et al. 2023), with batches for a few hundred images.
    "soft": SOFT,
    # Liu et al. 2025 (arXiv 2311.18531): 300 epochs of AdamW, batches of 100, T = 20, weighted.
    "wmdd": replace(SOFT, train=replace(SOFT.train, batch_size=100)),
    # Tan and Slade 2025 (arXiv 2501.07681) follow D4M and SRe2L, whose batches of 1,024 are all of a small dataset. The
    # weights are the dataset's, which the method has tempered.
    "ddoq": replace(SOFT, train=replace(SOFT.train, batch_size=1024)),
    # Li et al. 2025 (arXiv 2505.13300): SGD and no weights for anyone. Theirs decays in steps and looks for the best
    # rate of each method; here it decays along a cosine, and the rate is one flag for all.
    "dd-ranking": replace(
        SOFT,
        temperature=1.0,
        weights="uniform",
        train=replace(SOFT.train, batch_size=256, optimizer="sgd", learning_rate=0.01, weight_decay=5e-4),
    ),
}
_CHANGES = {
    "plain": lambda p: replace(p, train=replace(p.train, augment=Augment(crop="none", flip=False, mix="none"))),
    "uniform": lambda p: replace(p, weights="uniform"),
    "hard": lambda p: replace(p, labels="hard"),
}


def named(name: str, protocols: Mapping[str, Protocol] = PROTOCOLS) -> Protocol:
    """A protocol by its name, changed by what follows colons.

    ":plain" takes all augmentation away, ":uniform" the weights of the images, ":hard" the teacher's labels; so
    "soft:plain" is soft labels on the images as they are.

    Args:
      protocols: where names are looked up; default: the published settings.

    Raises:
      InputError: a name or a change that does not exist, or settings that do not.
    """
    base, *changes = name.split(":")
    if base not in protocols:
        near = difflib.get_close_matches(base, protocols, 3, 0.3)
        raise InputError(f"unknown protocol {base!r}; nearest: {', '.join(near or protocols)}")
    protocol = protocols[base]
    for change in changes:
        if change not in _CHANGES:
            raise InputError(f"unknown change {change!r} of protocol {name!r}; use {', '.join(_CHANGES)}")
        protocol = _CHANGES[change](protocol)
    check(protocol)
    return protocol


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
