"""Protocols: how a student is trained on a distilled dataset, which decides what its accuracy means.

Every paper of the field uses another one, and soft labels alone make random images look good. So a protocol has a name,
is the same for all methods in a table, and each table says which it used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxdd.data import augment
from jaxdd.data.augment import Augment
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import POWERS
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import choice
from jaxdd.stages.relabel.labelling import LABELLINGS, HardLabels, Labelling, SoftLabels
from jaxdd.stages.relabel.stored import Stream
from jaxdd.students import train
from jaxdd.students.train import TrainSettings


@dataclass(frozen=True)
class Protocol:
    """How a student is trained on a distilled dataset: equal for all methods that are compared."""

    labels: Labelling = choice(LABELLINGS, SoftLabels())
    """What the student is asked to predict: "hard" or "soft" labels."""
    weights: str = "free"
    """What an image's loss is multiplied by: its weight ("free"), the root of it ("sqrt"), or one ("uniform")."""
    train: TrainSettings = field(default_factory=lambda: TrainSettings(batch_size=25, augment=Augment(mix="cutmix")))

    def stream(self, images: int) -> Stream:
        """What students see of a dataset of so many images: what stored labels belong to.

        Raises:
          InputError: nobody asks a teacher under this protocol.
        """
        if not self.labels.asks_teacher:
            name = LABELLINGS.name_of(self.labels)
            raise InputError(f"the protocol has {name} labels, which need no teacher; stored labels are soft ones")
        temperature = getattr(self.labels, "temperature", None)
        return Stream(self.train.augment, min(self.train.batch_size, images), temperature)


SOFT = Protocol()
# Without a teacher to relabel it, a mixed or narrowly cropped image is a wrong label.
HARD = Protocol(labels=HardLabels(), train=TrainSettings(batch_size=25, augment=Augment(min_scale=0.5)))
PROTOCOLS = Registry("protocol")
for _name, _protocol in {
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
        labels=SoftLabels(temperature=1.0),
        weights="uniform",
        train=replace(SOFT.train, batch_size=256, optimizer="sgd", learning_rate=0.01, weight_decay=5e-4),
    ),
}.items():
    PROTOCOLS.register(_name, _protocol)

CHANGES = Registry("change of a protocol")
CHANGES.register(
    "plain", lambda p: replace(p, train=replace(p.train, augment=Augment(crop="none", flip=False, mix="none")))
)
CHANGES.register("uniform", lambda p: replace(p, weights="uniform"))
CHANGES.register("hard", lambda p: replace(p, labels=HardLabels()))


def named(name: str, protocols: Mapping[str, Protocol] | None = None) -> Protocol:
    """A protocol by its name, changed by what follows colons.

    ":plain" takes all augmentation away, ":uniform" the weights of the images, ":hard" the teacher's labels; so
    "soft:plain" is soft labels on the images as they are.

    Args:
      protocols: settings that take the place of the registered ones, by name.

    Raises:
      InputError: a name or a change that does not exist, or settings that do not.
    """
    base, *changes = name.split(":")
    protocol = PROTOCOLS.find(base)
    protocol = (protocols or {}).get(base, protocol)
    for change in changes:
        protocol = CHANGES.find(change)(protocol)
    check(protocol)
    return protocol


def check(protocol: Protocol) -> None:
    """Raise InputError for a setting that does not exist, before any student is trained."""
    protocol.labels.check()
    if protocol.weights not in POWERS:
        raise InputError(f"unknown weights {protocol.weights!r}; use {', '.join(POWERS)}")
    train.optimizer(protocol.train, protocol.train.steps(1))
    augment.pipeline(protocol.train.augment)
