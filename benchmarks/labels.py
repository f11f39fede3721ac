"""Soft labels on the disk: what they take there, what students make of them, and what reading them costs a step.

    python -m benchmarks.labels [RUN] [--seeds N] [--steps EPOCHS] [--quick] [--json FILE]
    python -m benchmarks.labels --model resnet18 --image-size 64 --classes 1000 --ipc 1 [--json FILE]

For a run folder of experiments.distill (default: ten random digits of each class and a teacher trained on the spot),
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
from experiments import distill, evaluate, teachers
from jaxdd.data import distilled
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.nn import Apply, Classifier, Variables
from jaxdd.reports import tables as report
from jaxdd.stages.relabel.stored import Labels, LabelSettings, materialise, open_labels, record
from jaxdd.students.evaluation import accuracies, student_trainer, train_students
from jaxdd.students.protocol import HARD, SOFT, Protocol
from jaxdd.students.train import Trainer

CASE = Case("resnet18", 64, 1000, 1)
TIMED = 20
"""Epochs whose steps are timed."""


def digits(quick: bool) -> tuple[teachers.Teacher, teachers.Source, bool, DistilledDataset]:
    """A teacher, its data, whether they are mirrored, and random real images."""
    config = teachers.TeacherConfig(width=16 if quick else None)
    config = replace(config, teacher_train=replace(config.teacher_train, epochs=5 if quick else 30))
    source, norm, flip = teachers.open_data(config)
    teacher = teachers.train_teacher(config, source, norm, flip)
    makers = evaluate.makers_for({}, ("random",), 10, source, teacher, distill.encode_real(teacher, source))
    return teacher, source, flip, makers["random"](0)


def opened(run: Path) -> tuple[teachers.Teacher, teachers.Source, bool, DistilledDataset]:
    """The same of a run folder."""
    teacher = teachers.load_teacher(run / "teacher")
    return teacher, *evaluate.open_real(run, teacher), distilled.load(run)


class Question(NamedTuple):
    """What students are trained on, and their trainers by the number of steps that are stored, each compiled once."""

    model: Classifier
    teacher: tuple[Apply, Variables]
    dataset: DistilledDataset
    protocol: Protocol
    seeds: int
    trainers: dict[int | None, Trainer]

    def train(self, stored: Labels | None, **limits) -> Variables:
        steps, (apply, variables) = stored and stored.steps, self.teacher
        if steps not in self.trainers:
            self.trainers[steps] = student_trainer(self.model, self.protocol, apply, self.dataset, stored)
        lanes = [self.dataset] * self.seeds, list(range(self.seeds))
        labels = [stored] * self.seeds if stored else None
        return train_students(self.trainers[steps], self.protocol, *lanes, variables, labels=labels, **limits)[0]

    def stored(self, folder: Path, settings: LabelSettings) -> Labels:
        return materialise(folder, self.dataset, self.protocol, *self.teacher, settings)


def worth(flags, place: Path) -> tuple[list[dict], Question]:
    """The first table's rows, and what is asked about soft labels."""
    teacher, source, flip, dataset = opened(flags.run) if flags.run else digits(flags.quick)
    distilled.save(dataset, place / "images")
    pictures = sum(file.stat().st_size for file in place.glob("images/train/*/*.png"))
    model, classes, rows = teachers.build(teacher.info), len(dataset.class_names), []
    epochs = flags.steps or (60 if flags.quick else SOFT.train.epochs)
    hard, soft = (replace(p, train=replace(teachers.with_flip(p.train, flip), epochs=epochs)) for p in (HARD, SOFT))
    if flags.quick:
        # A resized crop takes most of the time that compiling takes.
        plain = replace(soft.train, augment=replace(soft.train.augment, crop="pad"))
        hard, soft = replace(hard, train=replace(plain, augment=Augment("pad", flip=flip))), replace(soft, train=plain)
    asked = Question(model, (teacher.model.apply, teacher.variables), dataset, soft, flags.seeds, {})

    def tell(name: str, variables: Variables, stored: Labels | None = None) -> None:
        found = accuracies(model.apply, variables, teacher.norm, teachers.test_batches(source)).tolist()
        rows.append({
            "benchmark": "labels", "labels": name, "dataset": teachers.short_name(source), "ipc": dataset.ipc,
            "epochs": soft.train.epochs, "epochs_stored": stored and stored.settings.epochs,
            "bytes": stored.nbytes if stored else 0, "png_bytes": pictures, "float32_bytes": dataset.images.nbytes,
            "accuracies": found, "mean": float(np.mean(found)),
            "std": float(np.std(found, ddof=1)) if len(found) > 1 else 0.0, **harness.versions(),
        })  # fmt: skip

    tell("hard", asked._replace(protocol=hard, trainers={}).train(None))
    tell("replayed", asked.train(None))
    tops = max(3, classes // 20), -(-classes // 100)
    kinds = [LabelSettings("int8", 1, epochs), LabelSettings("topk", tops[0], epochs)]
    if not flags.quick:
        kinds = [LabelSettings("float32", 1, epochs), LabelSettings("float16", 1, epochs), *kinds]
        kinds += [LabelSettings("topk", tops[1], epochs), LabelSettings("int8", 1, max(1, epochs // 10))]
    kinds.append(LabelSettings("int8", 1, 1))
    for settings in kinds:
        name = f"top {settings.top}" if settings.form == "topk" else settings.form
        name += "" if settings.epochs == epochs else f", {settings.epochs} of {epochs} epochs"
        stored = asked.stored(place / name, settings)
        tell(name, asked.train(stored), stored)
    return rows, asked


def timed(asked: Question, repeats: int, place: Path) -> list[dict]:
    """The second table's rows."""
    folder, data = place / "timed", asked.dataset
    settings = LabelSettings("int8", 1, asked.protocol.train.epochs)
    steps, batch = (getattr(asked.stored(folder, settings), name) for name in ("steps", "batch_size"))
    classes = len(data.class_names)
    # Room for what students.run holds besides the labels, and for nothing more.
    pool = data.images.nbytes + 4 * len(data.labels) * (classes + 1) + 4 * asked.seeds * steps * batch

    def streamed(_):
        for file in folder.glob("*.npy"):
            with file.open("rb+") as there:
                os.fsync(there.fileno())
                os.posix_fadvise(there.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        asked.train(open_labels(folder), resident_bytes=pool)

    sides = {
        "replayed": lambda _: asked.train(None),
        "resident": lambda _: asked.train(open_labels(folder), resident_bytes=2**40),
        "streamed": streamed,
    }
    timings = [Timing(Side(name, harness.turns(advance)), [], None, None) for name, advance in sides.items()]
    for timing in timings:
        timing.side.run(steps)
    harness.alternate(timings, repeats, steps)
    return [
        {
            "benchmark": "labels", "side": timing.side.name, "students": asked.seeds, "steps": steps, "batch": batch,
            "image_shape": list(data.images.shape[1:]), "classes": classes,
            "labels_bytes_a_step": batch * record(settings, classes).itemsize,
            "seconds_per_step": float(np.median(timing.seconds)), "seconds": timing.seconds,
            "replayed_over_it": float(np.median(np.array(timings[0].seconds) / timing.seconds)), **harness.versions(),
        }
        for timing in timings
    ]  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="run folder of experiments.distill; default: digits")
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
            asked = Question(model, (model.apply, variables), dataset, protocol, flags.seeds, {})
        else:
            rows, asked = worth(flags, Path(place))
            show_worth(rows)
            harness.write(flags.json, rows)
            short = replace(asked.protocol, train=replace(asked.protocol.train, epochs=TIMED))
            asked = asked._replace(protocol=short, trainers={})
        times = timed(asked, flags.repeats, Path(place))
    show_times(times)
    harness.write(flags.json, rows + times)


def show_worth(rows: list[dict]) -> None:
    print(f"{'labels':24} {'bytes':>13} {'x PNG':>8} {'x float32':>9}  accuracy")
    for row in rows:
        size = row["bytes"]
        print(f"{row['labels']:24} {size:13,d} {size / row['png_bytes']:8.2f} {size / row['float32_bytes']:9.2f}  "
              f"{report.cell(row['accuracies'])}")  # fmt: skip
    print(f"images: {rows[0]['png_bytes']:,d} bytes as PNG, {rows[0]['float32_bytes']:,d} as float32\n", flush=True)


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
