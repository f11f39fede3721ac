"""Files as other projects save distilled images: `python make_foreign_golden.py`, with torch 2.13 and numpy.

Two 8x8 digits of each class, as tensors in the usual normalisation of MNIST, by the names that these projects use.
The hostile files would run a command, name a function, or claim far more memory than they hold.
"""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

HERE = Path(__file__).parent / "foreign"
MEAN, STD = 0.1307, 0.3081


def digits():
    """Two digits of each class: normalised [20, 1, 8, 8] and labels [20]."""
    data = load_digits()
    rows = np.concatenate([np.flatnonzero(data.target == label)[:2] for label in range(10)])
    pixels = np.rint(data.images[rows] * 255 / 16).astype(np.uint8)
    images = (torch.from_numpy(pixels)[:, None].float() / 255 - MEAN) / STD
    return images, torch.from_numpy(data.target[rows]).long()


class Command:
    """What a hostile file holds."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def edited(content, change):
    """A file of PyTorch with another pickle."""
    old, new = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for entry in old.infolist():
            body = old.read(entry)
            archive.writestr(entry.filename, change(body) if entry.filename.endswith("data.pkl") else body)
    return new.getvalue()


def saved(value, **settings):
    content = io.BytesIO()
    torch.save(value, content, **settings)
    return content.getvalue()


def claimed(pickled):
    """The pickle of eight floats, whose storage is said to have 2^40."""
    assert pickled.count(b"K\x08t") == 1
    return pickled.replace(b"K\x08t", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"t").replace(
        b"K\x08\x85", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85"
    )


def main():
    HERE.mkdir(exist_ok=True)
    images, labels = digits()
    soft = torch.nn.functional.one_hot(labels, 10).float() * 0.9 + 0.01
    accuracies = {"ConvNet": [np.float64(0.5)], "MLP": [0.25]}
    files = {
        "dict.pt": saved({"images": images, "labels": labels}),
        # Dataset Condensation, DSA, DM: the sets of all experiments, and accuracies in NumPy's scalars.
        "dc.pt": saved({"data": [[images + 1, labels], [images, labels]], "accs_all_exps": accuracies}),
        # Matching training trajectories, TESLA: two files.
        "images_best.pt": saved(images.requires_grad_()),
        "labels_best.pt": saved(labels),
        "soft.pt": saved({"x": images.detach(), "y": soft}),
        "half.pth": saved((images.detach().half(), labels.int())),
        "brain.pt": saved({"image_syn": images.detach().bfloat16(), "label_syn": labels.to(torch.int8)}),
        "views.pt": saved(
            {"images": torch.cat([images.detach()] * 2)[::2].transpose(2, 3), "labels": torch.cat([labels] * 2)[::2]}
        ),
        "parameter.pt": saved({"syn_images": torch.nn.Parameter(images.detach()), "targets": labels.numpy()}),
        "legacy.pt": saved({"images": images.detach(), "labels": labels}, _use_new_zipfile_serialization=False),
        "command.pt": saved({"images": Command(os.system, "echo hostile > /tmp/jaxdd-hostile")}),
        "module.pt": saved(torch.nn.Linear(2, 2)),
        "claim.pt": edited(saved({"images": torch.zeros(8)}), claimed),
        "plain.pt": pickle.dumps({"images": Command(os.system, "echo hostile > /tmp/jaxdd-hostile")}),
    }
    for name, content in files.items():
        (HERE / name).write_bytes(content)


if __name__ == "__main__":
    main()
