"""What decides the soft-label accuracy of a distilled dataset, beside real images of the same number?

    python -m benchmarks.soft_labels RUN [--quick] [--json FILE]

For a run folder of jaxdd distill, trains one student a line with soft labels: schedules on random real images,
then random, medoid and the run's images under the last schedule, without the atoms' weights, and mixed half and half
with the medoids they started from. Students are scored on 5,000 train images, which the teacher knows, so that the test
images stay out of such choices: compare the lines with each other only.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxdd import data, nn
from jaxdd.data import distilled
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.students.evaluation import Lane, accuracies, student_trainer, train_students
from jaxdd.students.lanes import Limits
from jaxdd.students.protocol import SOFT, Protocol
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import Workspace, makers_for, workspace_of
from jaxdd.workspace.comparison import with_flip


def protocol(epochs: int, batch_size: int, min_scale: float = 0.08, mix: str = "cutmix") -> Protocol:
    settings = TrainSettings(epochs=epochs, batch_size=batch_size, augment=Augment(min_scale=min_scale, mix=mix))
    return dataclasses.replace(SOFT, train=settings)


class Line(NamedTuple):
    """One student: the images that it learns from, and how."""

    images: str
    what: str
    dataset: DistilledDataset
    protocol: Protocol


def lines_of(run: DistilledDataset, workspace: Workspace) -> list[Line]:
    """The students to train."""
    name = run.provenance["method"]
    makers = makers_for({name: run}, ("random", "medoid"), run.ipc, workspace)
    sets = {key: maker(0) for key, maker in makers.items()}
    half = dataclasses.replace(run, images=(run.images + sets["medoid"].images) / 2)
    last = protocol(400, 10)
    return [
        Line("random", "200 epochs, batch 25", sets["random"], protocol(200, 25)),
        Line("random", "the same, crops to 25 %", sets["random"], protocol(200, 25, min_scale=0.25)),
        Line("random", "the same, no CutMix", sets["random"], protocol(200, 25, mix="none")),
        Line("random", "200 epochs, batch 10", sets["random"], protocol(200, 10)),
        Line("random", "400 epochs, batch 10", sets["random"], last),
        Line("medoid", "400 epochs, batch 10", sets["medoid"], last),
        Line(name, "400 epochs, batch 10", run, last),
        Line(name, "the same, weights off", run, dataclasses.replace(last, weights="uniform")),
        Line(f"{name}/2 + medoid/2", "400 epochs, batch 10", half, last),
    ]


def scores(lines: list[Line], workspace: Workspace, quick: bool) -> Iterator[tuple[Line, float]]:
    """Each student's accuracy; those of one protocol are trained side by side."""
    source, teacher = workspace.real.source, workspace.teacher
    count = len(source.labels["train"])
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:5000])
    scored = list(data.batches(source, "train", min(500, count), chosen))
    model = nn.get(teacher.info["model"], len(source.class_names), source.image_shape[0])
    for kind in dict.fromkeys(line.protocol for line in lines):
        together = [line for line in lines if line.protocol == kind]
        changed = with_flip(kind, workspace.real.flip)
        if quick:
            changed = dataclasses.replace(changed, train=dataclasses.replace(changed.train, epochs=2))
        trainer = student_trainer(model, changed, teacher.apply, together[0].dataset)
        lanes = [Lane(line.dataset, 0) for line in together]
        variables, _ = train_students(trainer, changed, lanes, teacher.variables, Limits(title=together[0].what))
        yield from zip(together, accuracies(model.apply, variables, teacher.norm, scored).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of jaxdd distill, from real images")
    parser.add_argument("--quick", action="store_true", help="two epochs of each schedule")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    run, workspace = distilled.load(arguments.run), workspace_of(arguments.run)
    lines = lines_of(run, workspace)
    rows = []
    for line, score in scores(lines, workspace, arguments.quick):
        print(f"{line.images:20} {line.what:25} {100 * score:5.1f}", flush=True)
        rows.append({"images": line.images, "protocol": line.what, "accuracy": score, "seed": 0})
    places = [(line.images, line.what) for line in lines]
    rows.sort(key=lambda row: places.index((row["images"], row["protocol"])))
    for row in rows:
        row |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
