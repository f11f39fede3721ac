"""Stored labels: labels.json and the shards beside it."""

import io
import json

import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target, packed, placed, unpacked

from jaxdd.stages.relabel import forms, stored

HEADER = {
    "settings": {"form": "int8", "top": 10, "epochs": 2}, "seed": 0, "batch_size": 4, "steps": 3, "num_classes": 5,
    "temperature": None, "augment": {"crop": "none"}, "images": "0" * 64, "teacher": "0" * 64, "device": "cpu",
    "steps_a_shard": 2,
}  # fmt: skip
# All forms: each has an input with its own records.
FORMS = {form: stored.LabelSettings(form, 3, 2) for form in forms.FORMS}


def npy(array):
    """An array as the bytes of an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def files(form):
    """A folder of labels of a form."""
    kind = forms.record(FORMS[form], 5)
    settings = {"form": form, "top": 3, "epochs": 2}
    return {
        "labels.json": json.dumps(HEADER | {"settings": settings, "temperature": 4.0}).encode(),
        "00000.npy": npy(np.zeros((2, 4), kind)),
        "00001.npy": npy(np.ones((1, 4), kind)),
    }


BASE = files("int8")


def read(folder, data):
    with placed(folder, unpacked(data, BASE), BASE):
        labels = stored.open_labels(folder)
        read = labels.read(np.arange(min(labels.steps, 4)))
        assert all(np.isfinite(part).all() for part in read.values())


TARGET = Target(
    "labels",
    lambda: [packed(files(form)) for form in FORMS],
    mutate.of_files(BASE, {".json": mutate.as_json, ".npy": mutate.as_npy}),
    read,
)
