"""Protocols: how students are trained on a distilled dataset.

An accuracy has a meaning only together with its protocol: almost every paper of the field uses its own, and soft labels
alone give good results even for random images. So each protocol has a name, all methods in a table are compared under
the same one, and the table names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxdd.data import augment
from jaxdd.data.augment import Augment
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import POWERS
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import choice
from jaxdd.stages.relabel.forms import LabelForm
from jaxdd.stages.relabel.labelling import LABELLINGS, FixedLabels, HardLabels, Labelling, MseLabels, SoftLabels
from jaxdd.stages.relabel.stored import Stream
from jaxdd.students import train
from jaxdd.students.train import TrainSettings


@dataclass(frozen=True)
class Protocol:
    """How students are trained on a distilled dataset; the same for all methods that are compared."""

    labels: Labelling = choice(LABELLINGS, SoftLabels())
    """The labels to learn from: "hard" or "soft"."""
    weights: str = "free"
    """The factor of an image's loss: its weight ("free"), the square root of its weight ("sqrt"), or 1 ("uniform")."""
    train: TrainSettings = field(default_factory=lambda: TrainSettings(batch_size=25, augment=Augment(mix="cutmix")))

    def label_bytes(self, ipc: int, num_classes: int) -> int:
        """The bytes of the labels of a class that travel with its ``ipc`` images, see `Labelling.label_bytes`."""
        return ipc * self.labels.label_bytes(num_classes, self.train.epochs)

    def stream(self, images: int) -> Stream:
        """The label stream of a dataset of ``images`` images, to which stored labels belong.

        Raises:
          InputError: the protocol's labels do not come from a teacher.
        """
        if not self.labels.asks_teacher:
            name = LABELLINGS.name_of(self.labels)
            raise InputError(f"the protocol has {name} labels, which need no teacher; stored labels are soft ones")
        temperature = getattr(self.labels, "temperature", None)
        in_batch_mode = getattr(self.labels, "batch_statistics", False)
        return Stream(self.train.augment, self.train.batch(images), temperature, in_batch_mode)


SOFT = Protocol()
# Without a teacher to relabel them, mixed images or small crops have wrong labels.
HARD = Protocol(labels=HardLabels(), train=TrainSettings(batch_size=25, augment=Augment(min_scale=0.5)))
PROTOCOLS = Registry("protocol")
for _name, _protocol in {
    "hard": HARD,
    # FKD, as SRe2L uses it (Shen and Xing 2022; Yin et al. 2023), with batches for a few hundred images.
    "soft": SOFT,
    # Liu et al. 2025 (arXiv 2311.18531): 300 epochs of AdamW, batches of 100, T = 20, weighted.
    "wmdd": replace(SOFT, train=replace(SOFT.train, batch_size=100)),
    # Tan and Slade 2025 (arXiv 2501.07681) follow D4M and SRe2L, whose batches of 1,024 hold all of a small dataset.
    # The weights are those of the dataset, which the method has already tempered.
    "ddoq": replace(SOFT, train=replace(SOFT.train, batch_size=1024)),
    # Li et al. 2025 (arXiv 2505.13300): SGD and equal weights for all methods. In the paper the rate decays in steps
    # and is tuned for each method; here it decays along a cosine and is the same for all.
    "dd-ranking": replace(
        SOFT,
        labels=SoftLabels(temperature=1.0),
        weights="uniform",
        train=replace(SOFT.train, batch_size=256, optimizer="sgd", learning_rate=0.01, weight_decay=5e-4),
    ),
}.items():
    PROTOCOLS.register(_name, _protocol)

INT8 = LabelForm("int8")
CHANGES = Registry("change of a protocol")
CHANGES.register(
    "plain", lambda p: replace(p, train=replace(p.train, augment=Augment(crop="none", flip=False, mix="none")))
)
CHANGES.register("uniform", lambda p: replace(p, weights="uniform"))
CHANGES.register("hard", lambda p: replace(p, labels=HardLabels()))
CHANGES.register("fixed", lambda p: replace(p, labels=FixedLabels(form=INT8)))
CHANGES.register("int8", lambda p: _relabelled(p, form=INT8))
CHANGES.register("mse", lambda p: replace(p, labels=MseLabels()))
CHANGES.register("batch", lambda p: _relabelled(p, batch_statistics=True))
CHANGES.register("shared", lambda p: _relabelled(p, hard_share=0.1))
CHANGES.register("smooth", lambda p: replace(p, train=replace(p.train, horizon=2.0)))
CHANGES.register("averaged", lambda p: replace(p, train=replace(p.train, average=0.99)))
COUNTS = Registry("change of a protocol with a number")
"""Functions of a protocol and a whole number, for changes such as "pool=3"."""
COUNTS.register("pool", lambda p, count: _relabelled(p, pool=count))
COUNTS.register("epochs", lambda p, count: replace(p, train=replace(p.train, epochs=count)))


def _relabelled(protocol: Protocol, **changes: Any) -> Protocol:
    """The protocol with changes to the settings of its labels; InputError if they have no such setting."""
    for name in changes:
        if not hasattr(protocol.labels, name):
            raise InputError(f"{LABELLINGS.name_of(protocol.labels)} labels have no `{name}`; use soft ones")
    return replace(protocol, labels=replace(protocol.labels, **changes))


def named(name: str, protocols: Mapping[str, Protocol] | None = None) -> Protocol:
    """A protocol by name, with optional changes after colons.

    ":plain" removes all augmentation, ":uniform" gives all images equal weights, ":hard" replaces the teacher's labels
    by hard ones, ":fixed" by one an image and ":mse" by logits for a squared error. ":batch" lets BatchNorm of the
    teacher use the moments of the batch, ":shared" adds a tenth of the hard label, ":int8" rounds labels as they
    travel, and ":pool=3" gives views of three epochs labels, which are used again and again. ":epochs=3" trains for
    three epochs. ":smooth" ends at half the learning rate, ":averaged" keeps a running mean of the student. For
    example, "soft:plain" means soft labels on images without augmentation.

    Args:
      protocols: settings that replace the registered ones, by name.

    Raises:
      InputError: an unknown name or change, or unknown settings.
    """
    base, *changes = name.split(":")
    protocol = PROTOCOLS.find(base)
    protocol = (protocols or {}).get(base, protocol)
    for change in changes:
        protocol = _changed(protocol, change)
    check(protocol)
    return protocol


def _changed(protocol: Protocol, change: str) -> Protocol:
    what, equals, count = change.partition("=")
    if not equals:
        return CHANGES.find(change)(protocol)
    if not count.isdecimal() or not 1 <= int(count) <= settings.EPOCHS.high:
        raise InputError(f"{change!r} has no whole number after the sign; use, for example, {what}=3")
    return COUNTS.find(what)(protocol, int(count))


def check(protocol: Protocol) -> None:
    """Raise InputError for unknown settings, before any student is trained."""
    protocol.labels.check()
    settings.check(protocol)
    if protocol.weights not in POWERS:
        raise InputError(f"unknown `weights` {protocol.weights!r}; use {', '.join(POWERS)}")
    train.optimizer(protocol.train, protocol.train.steps(1))
    augment.pipeline(protocol.train.augment)
