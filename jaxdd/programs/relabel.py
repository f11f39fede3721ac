"""Store the teacher's soft labels for the images of a run folder, so that students can be trained without the teacher.

    jaxdd relabel runs/x --form int8 --epochs 300

Writes runs/x/labels, resumes if it was interrupted, and prints the sizes of labels and images on disk. Labels belong to
the images and to the augmentation and batch size of a protocol. Any student can learn from them, for any number of
epochs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdd import commands, planning
from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import views
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.locks import LOCK, locked
from jaxdd.ground.programs import Work
from jaxdd.reports.tables import label_sizes
from jaxdd.stages.relabel import storing
from jaxdd.stages.relabel.stored import LabelSettings
from jaxdd.students.protocol import Protocol
from jaxdd.workspace import Workspace, comparison, workspace_of
from jaxdd.workspace.protocols import ProtocolConfig


@dataclass(frozen=True)
class RelabelConfig(ProtocolConfig):
    run: tyro.conf.Positional[Path] = Path("runs/distilled")
    """A run folder of jaxdd distill."""
    form: str = LabelSettings.form
    """float32, float16, topk or int8."""
    top: int = LabelSettings.top
    """For topk: the number of classes whose probabilities are stored."""
    epochs: int | None = settings.bounded(None, settings.EPOCHS)
    """The number of epochs to store; default: that of the protocol."""
    protocol_name: Annotated[str, tyro.conf.arg(name="protocol")] = "soft"
    """The protocol whose batches and augmentation are used: soft, wmdd, ddoq, dd-ranking."""
    seed: int = settings.bounded(0, settings.SEED)
    """Seed of the order of the images and of their augmentation."""
    compute: str = "auto"
    """float32, bfloat16, or auto, which is bfloat16 on accelerators."""
    out: Path | None = None
    """The folder of the labels; default: labels in the run folder."""


Opened = tuple[DistilledDataset, Workspace, Protocol, LabelSettings, Path]


def opened(config: RelabelConfig) -> Opened:
    """The images, what they were made from, the protocol, the form of the labels, and their folder."""
    protocol = config.protocol(config.protocol_name)
    if not protocol.labels.asks_teacher:
        raise InputError(f"--protocol {config.protocol_name!r} has hard labels, which need no teacher; use a soft one")
    dataset = distilled.load(config.run)
    workspace = workspace_of(config.run, config.compute)
    protocol = comparison.with_flip(protocol, workspace.real.flip)
    epochs = protocol.train.epochs if config.epochs is None else config.epochs
    out = config.out or config.run / "labels"
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"cannot write to {out.parent}; give `out` in a folder that exists and is writable")
    return dataset, workspace, protocol, LabelSettings(config.form, config.top, epochs), out


def plan(config: RelabelConfig, known: Opened | None = None) -> list[Work]:
    dataset, workspace, protocol, form, out = known or opened(config)
    stream = protocol.stream(len(dataset.labels))
    steps = storing.steps_left(out, dataset, stream, workspace.labeller, form, config.seed)
    return planning.relabelling(workspace, stream, form, steps) if steps else []


def main(config: RelabelConfig) -> None:
    dataset, workspace, protocol, form, out = known = opened(config)
    stream = protocol.stream(len(dataset.labels))
    with (
        planning.followed(lambda: plan(config, known)),
        locked(out.with_name(f".{out.name}{LOCK}"), f"the folder of labels {out}"),
    ):
        labels = storing.materialise(out, dataset, stream, workspace.labeller, form, config.seed)
    print(label_sizes(labels, config.run, views.drawn_bytes(labels, dataset)))


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: RelabelConfig(), arguments, plan=plan)
