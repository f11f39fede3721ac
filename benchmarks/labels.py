"""Soft labels on the disk: what they take there, what students make of them, and what reading them costs a step.

    python -m benchmarks.labels [RUN] [--seeds N] [--steps EPOCHS] [--quick] [--json FILE]
    python -m benchmarks.labels --model resnet18 --image-size 64 --classes 1000 --ipc 1 [--json FILE]

For a run folder of jaxdd distill (default: ten random digits of each class and a teacher trained on the spot),
students of several seeds: with hard labels, with the teacher in the step, then from stored labels of every form and of
fewer epochs, all of one stream. Bytes are those of the labels, beside the images as PNG files and as float32.

Then the seconds of a step of all students side by side, from drawing their first weights to having the last of 20
epochs: replayed (the teacher answers in the step), resident (int8 labels on the device, read at the start) and streamed
(from files that are not in the page cache, while the students learn). Given a model or a size, this alone, on images
and weights without meaning. --steps are epochs here, of the first table if there is one, else of the second.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import harness, students
from benchmarks.harness import Case, Side, Timing
from jaxdd.data import distilled
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import views
from jaxdd.nn import Classifier, Variables
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.stored import Labels, LabelSettings, open_labels, record
from jaxdd.stages.relabel.storing import materialise
from jaxdd.students.evaluation import Lane, accuracies, student_trainer, train_students
from jaxdd.students.lanes import Limits
from jaxdd.students.protocol import HARD, SOFT, Protocol
from jaxdd.students.rows import cell
from jaxdd.students.train import Trainer
from jaxdd.workspace import TeacherConfig, Workspace, makers_for, open_workspace, teachers, workspace_of
from jaxdd.workspace.comparison import with_flip
from jaxdd.workspace.real_data import test_batches

CASE = Case("resnet18", 64, 1000, 1)
TIMED = 20
"""Epochs whose steps are timed."""


def digits(quick: bool, root: Path) -> tuple[Workspace, DistilledDataset]:
    """A teacher of the digits, trained in a folder, and random real images."""
    config = TeacherConfig(width=16 if quick else None)
    config = replace(config, teacher_train=replace(config.teacher_train, epochs=5 if quick else 30))
    workspace = open_workspace(config, root)
    return workspace, makers_for({}, ("random",), 10, workspace)["random"](0)


class Question(NamedTuple):
    """What students are trained on, and their trainers by the number of steps that are stored, each compiled once."""

    model: Classifier
    teacher: Teacher
    dataset: DistilledDataset
    protocol: Protocol
    seeds: int
    trainers: dict[int | None, Trainer]

    def train(self, stored: Labels | None, limits: Limits = Limits()) -> Variables:  # noqa: B008
        steps = stored and stored.steps
        if steps not in self.trainers:
            self.trainers[steps] = student_trainer(self.model, self.protocol, self.teacher.apply, self.dataset, stored)
        lanes = [Lane(self.dataset, seed, stored) for seed in range(self.seeds)]
        return train_students(self.trainers[steps], self.protocol, lanes, self.teacher.variables, limits)[0]

    def stored(self, folder: Path, settings: LabelSettings) -> Labels:
        stream = self.protocol.stream(len(self.dataset.labels))
        return materialise(folder, self.dataset, stream, self.teacher, settings)


def protocols(quick: bool, epochs: int, flip: bool) -> tuple[Protocol, Protocol]:
    """Hard and soft labels."""
    hard, soft = (replace(p, train=replace(p.train, epochs=epochs)) for p in (HARD, SOFT))
    if quick:
        # A resized crop takes most of the time that compiling takes.
        hard = replace(hard, train=replace(soft.train, augment=Augment("pad")))
        soft = replace(soft, train=replace(soft.train, augment=replace(soft.train.augment, crop="pad")))
    return with_flip(hard, flip), with_flip(soft, flip)


def kinds(quick: bool, epochs: int, classes: int) -> list[LabelSettings]:
    """The forms and lengths of stored labels that are compared."""
    tops = max(3, classes // 20), -(-classes // 100)
    chosen = [LabelSettings("int8", 1, epochs), LabelSettings("topk", tops[0], epochs)]
    if not quick:
        chosen = [LabelSettings("float32", 1, epochs), LabelSettings("float16", 1, epochs), *chosen]
        chosen += [LabelSettings("topk", tops[1], epochs), LabelSettings("int8", 1, max(1, epochs // 10))]
    return [*chosen, LabelSettings("int8", 1, 1)]


def worth(flags, place: Path) -> tuple[list[dict], Question]:
    """The first table's rows, and what is asked about soft labels."""
    workspace, dataset = (
        (workspace_of(flags.run), distilled.load(flags.run)) if flags.run else digits(flags.quick, place)
    )
    distilled.save(dataset, place / "images")
    pictures = sum(file.stat().st_size for file in place.glob("images/train/*/*.png"))
    teacher, real, rows = workspace.teacher, workspace.real, []
    model, epochs = teachers.build(teacher.info), flags.steps or (60 if flags.quick else SOFT.train.epochs)
    hard, soft = protocols(flags.quick, epochs, real.flip)
    question = Question(model, teacher, dataset, soft, flags.seeds, {})

    def tell(name: str, variables: Variables, stored: Labels | None = None) -> None:
        scores = accuracies(model.apply, variables, teacher.norm, test_batches(real.source)).tolist()
        rows.append({
            "benchmark": "labels", "labels": name, "dataset": real.name, "ipc": dataset.ipc,
            "epochs": soft.train.epochs, "epochs_stored": stored and stored.settings.epochs,
            "bytes": stored.nbytes if stored else 0,
            "drawn_bytes": views.drawn_bytes(stored, dataset) if stored else 0,
            "png_bytes": pictures, "float32_bytes": dataset.images.nbytes,
            "accuracies": scores, "mean": float(np.mean(scores)),
            "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0, **harness.versions(),
        })  # fmt: skip

    tell("hard", question._replace(protocol=hard, trainers={}).train(None))
    tell("replayed", question.train(None))
    for settings in kinds(flags.quick, epochs, len(dataset.class_names)):
        name = f"top {settings.top}" if settings.form == "topk" else settings.form
        name += "" if settings.epochs == epochs else f", {settings.epochs} of {epochs} epochs"
        stored = question.stored(place / name, settings)
        tell(name, question.train(stored), stored)
    return rows, question


def timed(question: Question, repeats: int, place: Path) -> list[dict]:
    """The second table's rows."""
    folder, data = place / "timed", question.dataset
    settings = LabelSettings("int8", 1, question.protocol.train.epochs)
    stored = question.stored(folder, settings)
    steps, batch = stored.steps, stored.batch_size
    classes = len(data.class_names)
    # Room for what lanes.run holds besides the labels, and for nothing more.
    pool = data.images.nbytes + 4 * len(data.labels) * (classes + 1) + 4 * question.seeds * steps * batch

    def streamed(_):
        for file in folder.glob("*.npy"):
            with file.open("rb+") as there:
                os.fsync(there.fileno())
                os.posix_fadvise(there.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        question.train(open_labels(folder), Limits(resident_bytes=pool))

    sides = {
        "replayed": lambda _: question.train(None),
        "resident": lambda _: question.train(open_labels(folder), Limits(resident_bytes=2**40)),
        "streamed": streamed,
    }
    timings = [Timing(Side(name, harness.turns(advance)), [], None, None) for name, advance in sides.items()]
    for timing in timings:
        timing.side.run(steps)
    harness.alternate(timings, repeats, steps)
    return [
        {
            "benchmark": "labels", "side": timing.side.name, "students": question.seeds, "steps": steps, "batch": batch,
            "image_shape": list(data.images.shape[1:]), "classes": classes,
            "labels_bytes_a_step": batch * record(settings, classes).itemsize,
            "seconds_per_step": float(np.median(timing.seconds)), "seconds": timing.seconds,
            "replayed_over_it": float(np.median(np.array(timings[0].seconds) / timing.seconds)), **harness.versions(),
        }
        for timing in timings
    ]  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="run folder of jaxdd distill; default: digits")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    flags = parser.parse_args()
    alone = any(getattr(flags, name) is not None for name in Case._fields)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        if alone:
            (case,) = harness.cases(flags, [CASE], [CASE], [CASE])
            variables, dataset = students.problem(case)
            model = harness.classifier(case, harness.dtype(flags))
            settings = replace(SOFT.train, batch_size=min(100, case.batch), epochs=flags.steps or TIMED)
            protocol = replace(SOFT, train=settings)
            teacher = Teacher(model.apply, variables, dataset.norm)
            question = Question(model, teacher, dataset, protocol, flags.seeds, {})
        else:
            rows, question = worth(flags, Path(place))
            show_worth(rows)
            harness.write(flags.json, rows)
            short = replace(question.protocol, train=replace(question.protocol.train, epochs=TIMED))
            question = question._replace(protocol=short, trainers={})
        times = timed(question, flags.repeats, Path(place))
    show_times(times)
    harness.write(flags.json, rows + times)


def show_worth(rows: list[dict]) -> None:
    print(f"{'labels':24} {'bytes':>13} {'x PNG':>8} {'x float32':>9}  accuracy")
    for row in rows:
        size = row["bytes"]
        print(f"{row['labels']:24} {size:13,d} {size / row['png_bytes']:8.2f} {size / row['float32_bytes']:9.2f}  "
              f"{cell(row['accuracies'])}")  # fmt: skip
    drawn = next(row["drawn_bytes"] for row in rows if row["drawn_bytes"])
    print(f"images: {rows[0]['png_bytes']:,d} bytes as PNG, {rows[0]['float32_bytes']:,d} as float32")
    print(f"crops, flips and mixes of all epochs, which only an export holds: {drawn:,d} bytes\n", flush=True)


def show_times(rows: list[dict]) -> None:
    print(f"{'labels':10} {'ms/step':>9} {'least':>9} {'most':>9} {'replayed over it':>17}")
    for row in rows:
        seconds = row["seconds"]
        print(f"{row['side']:10} {1e3 * row['seconds_per_step']:9.3f} {1e3 * min(seconds):9.3f} "
              f"{1e3 * max(seconds):9.3f} {row['replayed_over_it']:17.2f}")  # fmt: skip
    first = rows[0]
    print(f"{first['students']} students, batches of {first['batch']} images {first['image_shape']}, {first['steps']} "
          f"steps, {first['labels_bytes_a_step']:,d} bytes of labels a step")  # fmt: skip
    harness.stamp(first)


if __name__ == "__main__":
    harness.entry(main)
