"""Run folders: the records beside the distilled dataset, as the page, the tables and the next run read them."""

import dataclasses
import hashlib
import json
from unittest import mock

import numpy as np
from faults.fuzz import distilled, mutate
from faults.fuzz.rules import Target, packed, placed, unpacked

from jaxdd.ground import manifest
from jaxdd.ground.errors import InputError
from jaxdd.reports import gallery, run_page, tables
from jaxdd.students.rows import read as read_rows
from jaxdd.students.rows import row
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import config_of, distillation, records, runs, teachers

ROWS = [
    row("wmdd", "digits", 1, "convnet3", "hard", [0.5, 0.25]),
    row("random", "digits", 1, "convnet3", "soft", [0.5]),
    row("full", "digits", None, "convnet3", "hard", [1.0]),
]
PART = {"images": np.zeros((2, 2, 2, 1)), "points": np.zeros((2, 3)), "weights": np.full(2, 0.5), "costs": np.zeros(3),
        "curve_feature": np.zeros(4)}  # fmt: skip
REAL = {"places": np.arange(2), "nearest": np.zeros((2, 2, 2, 1), np.uint8), "distances": np.ones(2, np.float32),
        "random": np.zeros((2, 1, 2, 2, 1), np.uint8), "by": np.array("teacher")}  # fmt: skip
TEACHER = {
    "dataset": "digits", "model": "convnet3", "stem": "auto", "width": 8, "image_shape": [2, 2, 1],
    "class_names": ["cat", "dog"], "mean": [0.5], "std": [0.25], "holdout": 0.0, "seed": 0, "accuracy": 0.5,
    "train": dataclasses.asdict(TrainSettings(1, 4, "sgd", 0.1)), "jax": "0",
}  # fmt: skip
# Of the file with the request; that of another folder is not looked at.
ENTRY = {"bytes": 18, "sha256": hashlib.sha256(b'{"method": "wmdd"}').hexdigest()}


def as_json(value):
    return json.dumps(value, default=str).encode()


def lines(count):
    """Losses of so many steps."""
    return "".join(json.dumps({"step": 10 * i, "feature": 1 / (i + 1), "moment": 0.5}) + "\n" for i in range(count))


def files(method="wmdd"):
    """A finished run folder, with the parts of an unfinished one."""
    return {
        "config.json": as_json(distillation.record(config_of(method))),
        "evaluation.json": as_json(ROWS),
        "metrics.jsonl": lines(3).encode(),
        "atoms.npz": distilled.npz(costs=np.array([[2.0, 1.0], [3.0, 2.0]]), weights=np.full((2, 2), 0.5)),
        "real.npz": distilled.npz(**REAL),
        "manifest.json": as_json({"files": {"parts/request.json": ENTRY, "other/a.png": ENTRY}}),
        "teacher/teacher.json": as_json(TEACHER),
        "parts/request.json": as_json({"method": method}),
        "parts/00000.npz": distilled.npz(**PART),
        "distilled.npz": distilled.npz(**distilled.arrays()),
    }


BASE = files()


def read(folder, data):
    """All readers of the changed files, whatever the others say of them."""
    files = unpacked(data, BASE)
    with placed(folder, files, BASE):
        refused = None
        for names, reader in READERS:
            if files and not names & files.keys():
                continue
            try:
                reader(folder)
            except InputError as error:
                refused = refused or error
        if refused:
            raise refused


def page(folder):
    # Pictures need a device; what they show is checked before.
    with mock.patch.object(gallery, "grid", lambda dataset, **_: "<div></div>"):
        run_page.run_page(folder).encode()


def rows(folder):
    tables.table(read_rows(folder / "evaluation.json")).encode()


def teacher(folder):
    info = records.teacher(folder / "teacher" / "teacher.json")
    teachers.training_of(teachers.Teacher(None, None, None, info))


READERS = (
    ({"config.json", "evaluation.json", "metrics.jsonl", "atoms.npz", "real.npz", "distilled.npz"}, page),
    ({"evaluation.json"}, rows),
    ({"teacher/teacher.json"}, teacher),
    ({"manifest.json"}, lambda folder: manifest.verify(folder, "parts", "distilled")),
    ({"parts/request.json"}, lambda folder: runs.begun_otherwise(folder, {"method": "wmdd"})),
    ({"parts/00000.npz"}, lambda folder: runs.kept_class(folder / "parts", 0)),
)
KINDS = {".json": mutate.as_json, ".jsonl": mutate.as_lines, ".npz": mutate.as_npz}
TARGET = Target(
    "runs",
    lambda: [packed({}), *(packed({"config.json": files(method)["config.json"]}) for method in ("ddoq", "rded"))],
    mutate.of_files(BASE, KINDS),
    read,
)
