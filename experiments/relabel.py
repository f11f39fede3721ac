"""Ask the teacher of a run folder about its images and keep the answers, so that students can do without the teacher.

    python -m experiments.relabel runs/x --form int8 --epochs 300

Writes runs/x/labels, goes on there if it was cut off, and prints what labels and images take on the disk. Labels belong
to the images, the augmentation and the batch size of a protocol; any student may learn from them, for any time.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments import cli, evaluate, teachers
from jaxdd.data import distilled
from jaxdd.ground.errors import InputError
from jaxdd.stages.relabel import stored as labels
from jaxdd.stages.relabel.stored import LabelSettings


@dataclass(frozen=True)
class RelabelConfig(evaluate.ProtocolConfig):
    run: tyro.conf.Positional[Path] = Path("runs/distilled")
    """A run folder of experiments.distill."""
    form: str = LabelSettings.form
    """float32, float16, topk or int8."""
    top: int = LabelSettings.top
    """topk: classes that keep their own probability."""
    epochs: int | None = None
    """Epochs of the images that are labelled; default: those of the protocol."""
    protocol_name: Annotated[str, tyro.conf.arg(name="protocol")] = "soft"
    """The protocol whose batches and augmentation the teacher sees: soft, wmdd, ddoq, dd-ranking."""
    seed: int = 0
    """Decides the order of the images and their augmentation."""
    compute: str = "auto"
    """float32, bfloat16, or auto, which is bfloat16 on accelerators."""
    out: Path | None = None
    """The folder of the labels; default: labels in the run folder."""


def main(config: RelabelConfig) -> None:
    protocol = config.protocol(config.protocol_name)
    if protocol.labels != "soft":
        raise InputError(f"protocol {config.protocol_name!r} has hard labels, which need no teacher; use a soft one")
    dataset = distilled.load(config.run)
    teacher = teachers.load_teacher(config.run / "teacher", config.compute)
    _, flip = evaluate.open_real(config.run, teacher)
    protocol = evaluate.flipped(protocol, flip)
    epochs = protocol.train.epochs if config.epochs is None else config.epochs
    settings = LabelSettings(config.form, config.top, epochs)
    out = config.out or config.run / "labels"
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"cannot write to {out.parent}; give --out a place in a folder that is there and yours")
    made = labels.materialise(out, dataset, protocol, teacher.model.apply, teacher.variables, settings, config.seed)
    print(sizes(made, config.run))


def sizes(made: labels.Labels, run: Path) -> str:
    """What labels and images of a run folder take on the disk, as a table."""
    folder = run / "distilled" if (run / "distilled").is_dir() else run
    pictures = sum(place.stat().st_size for place in folder.glob("train/*/*.png"))
    exact, kept = (folder / "distilled.npz").stat().st_size, made.settings
    form = f"top {kept.top}" if kept.form == "topk" else kept.form
    rows = [(f"labels, {form}, {kept.epochs} epochs", made.nbytes), ("images, PNG", pictures)]
    rows.append(("images, exact (npz)", exact))
    return "\n".join(f"{name:32} {size:14,d} bytes {size / pictures:9.2f} x PNG" for name, size in rows)


if __name__ == "__main__":
    cli.run(main, lambda arguments: RelabelConfig())
