"""What decides the soft-label accuracy of a distilled dataset, beside real images of the same number?

    python -m benchmarks.soft_labels RUN [--quick] [--json FILE]

For a run folder of experiments.distill, trains one student a line with soft labels: schedules on random real images,
then random, medoid and the run's images under the last schedule, without the atoms' weights, and mixed half and half
with the medoids they started from. Students are scored on 5,000 train images, which the teacher knows, so that the test
images stay out of such choices: compare the lines with each other only.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from experiments import distill, evaluate, teachers
from jaxdd import data, nn
from jaxdd.data import distilled
from jaxdd.data.augment import Augment
from jaxdd.students import evaluation as students
from jaxdd.students.protocol import SOFT, Protocol
from jaxdd.students.train import TrainSettings


def protocol(epochs: int, batch_size: int, min_scale: float = 0.08, mix: str = "cutmix") -> Protocol:
    settings = TrainSettings(epochs=epochs, batch_size=batch_size, augment=Augment(min_scale=min_scale, mix=mix))
    return dataclasses.replace(SOFT, train=settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of experiments.distill, from real images")
    parser.add_argument("--quick", action="store_true", help="two epochs of each schedule")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()

    run = distilled.load(arguments.run)
    name = run.provenance["method"]
    teacher = teachers.load_teacher(arguments.run / "teacher")
    source, flip = evaluate.open_real(arguments.run, teacher)
    classes = distill.encode_real(teacher, source)
    makers = evaluate.makers_for({name: run}, ("random", "medoid"), run.ipc, source, teacher, classes)
    sets = {key: maker(0) for key, maker in makers.items()}
    half = dataclasses.replace(run, images=(run.images + sets["medoid"].images) / 2)

    count = len(source.labels["train"])
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:5000])
    scored = list(data.batches(source, "train", min(500, count), chosen))
    model = nn.get(teacher.info["model"], len(source.class_names), source.image_shape[0])
    last = protocol(400, 10)
    lines = [
        ("random", "200 epochs, batch 25", sets["random"], protocol(200, 25)),
        ("random", "the same, crops to 25 %", sets["random"], protocol(200, 25, min_scale=0.25)),
        ("random", "the same, no CutMix", sets["random"], protocol(200, 25, mix="none")),
        ("random", "200 epochs, batch 10", sets["random"], protocol(200, 10)),
        ("random", "400 epochs, batch 10", sets["random"], last),
        ("medoid", "400 epochs, batch 10", sets["medoid"], last),
        (name, "400 epochs, batch 10", run, last),
        (name, "the same, weights off", run, dataclasses.replace(last, weights="uniform")),
        (f"{name}/2 + medoid/2", "400 epochs, batch 10", half, last),
    ]
    asked = {}
    for line in lines:
        asked.setdefault(line[-1], []).append(line)
    rows = []
    for chosen, together in asked.items():
        settings = teachers.with_flip(chosen.train, flip)
        if arguments.quick:
            settings = dataclasses.replace(settings, epochs=2)
        chosen = dataclasses.replace(chosen, train=settings)
        learnt = [dataset for _, _, dataset, _ in together]
        trainer = students.student_trainer(model, chosen, teacher.model.apply, learnt[0])
        title = together[0][1]
        variables, _ = students.train_students(
            trainer, chosen, learnt, [0] * len(learnt), teacher.variables, title=title
        )
        scores = students.accuracies(model.apply, variables, teacher.norm, scored)
        for (images, what, *_), score in zip(together, scores.tolist()):
            print(f"{images:20} {what:25} {100 * score:5.1f}", flush=True)
            rows.append({"images": images, "protocol": what, "accuracy": score, "seed": 0})
    places = [(images, what) for images, what, *_ in lines]
    rows.sort(key=lambda row: places.index((row["images"], row["protocol"])))
    for row in rows:
        row |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
