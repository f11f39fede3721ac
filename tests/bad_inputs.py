"""What the matrix of bad inputs damages, and how: a run folder, a folder of images, published weights, a grid."""

import dataclasses
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from golden_helpers import HERE
from pretrained_helpers import FILES, READ, vocabulary
from safetensors.numpy import load, save

from jaxdd import commands, pretrained, workspace
from jaxdd.ground.files import write_json
from jaxdd.ground.manifest import MANIFEST
from jaxdd.reports import run_page
from jaxdd.stages.relabel import stored, storing
from jaxdd.students.protocol import named
from jaxdd.students.rows import row
from jaxdd.workspace import comparison

OUT = object()
"""The argument that stands for an output folder."""
DROP = object()
"""The value of a key to remove."""
SMALL = ["--width", 8, "--teacher-train.epochs", 1]
STUDENTS = ["--seeds", 1, "--full", 0, "--hard.train.epochs", 1, "--soft.train.epochs", 1, "--baselines", "random"]
GRID = """# A grid.

title = "small"

[grid]
dataset = "digits"
width = 8
teacher_train = { epochs = 1 }
ipc = [1]
seeds = 1
full = 0
protocols = ["hard"]

[methods.random]

[methods.medoid]
"""


@dataclass
class Box:
    """What one entry may damage.

    Attributes:
      tmp: a folder of its own.
      finished: a run folder, which is copied.
      fixture: a function from the name of a fixture to its value.
    """

    tmp: Path
    finished: Path
    fixture: Callable[[str], Any]

    @cached_property
    def run(self) -> Path:
        """A copy of a run folder with results and labels."""
        return Path(shutil.copytree(self.finished, self.tmp / "run"))

    @cached_property
    def images(self) -> Path:
        """Two classes of 8x8 images."""
        return self.fixture("folder")

    def call(self, name, *arguments):
        """Run a program; `OUT` in the arguments is a new output folder."""
        given = [str(self.tmp / "out") if one is OUT else str(one) for one in arguments]
        return self.fixture("program")(name, *given)

    def opened(self, read):
        """Call a function of published weights as a program would."""
        return self.status(lambda: commands.run(lambda config: read(self.tmp / "hub"), lambda _: Nothing(), []))

    def status(self, call):
        """The status, stdout and stderr of a call."""
        status, output = 0, self.fixture("capfd")
        try:
            call()
        except SystemExit as stop:
            status = stop.code
        return status, *output.readouterr()

    def hub(self, part):
        """A copy of the small published weights of one component."""
        return Path(shutil.copytree(HERE / "latent" / part, self.tmp / "hub" / part))


@dataclass(frozen=True)
class Nothing:
    """A config without settings."""


def flags(name, *arguments):
    """An entry that calls a program with these flags."""
    return lambda box: box.call(name, *arguments)


def distill(*arguments):
    """The same for distill, into a new folder."""
    return flags("distill", *arguments, "--out", OUT)


def edited(place, **changes):
    """Change or remove keys of a JSON file."""
    record = json.loads(place.read_text()) | changes
    place.write_text(json.dumps({key: value for key, value in record.items() if value is not DROP}))


def replaced(place, content):
    """Replace a file: by bytes or text, or by a folder, a pipe, a link to itself or nothing."""
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if content == "folder":
        place.mkdir()
    elif content == "pipe":
        os.mkfifo(place)
    elif content == "loop":
        place.symlink_to(place)
    elif content == "nowhere":
        place.symlink_to(place.with_name("nowhere"))
    elif isinstance(content, bytes):
        place.write_bytes(content)
    elif content is not None:
        place.write_text(content)


def in_run(file, what, *call, listed=False):
    """An entry that damages a file of a run folder, then calls a program on it.

    Args:
      what: keys to change in a JSON file, what `replaced` takes, or a function of its place.
      call: the program and its flags; default: report.
      listed: whether the manifests stay, by which the damage is noticed before the file is read.
    """
    name, *arguments = call or ("report",)

    def entry(box):
        place = box.run / file
        listed or unlisted(box.run)
        if callable(what):
            what(place)
        else:
            edited(place, **what) if isinstance(what, dict) else replaced(place, what)
        return box.call(name, box.run, *arguments)

    return entry


def unlisted(folder):
    """Remove the manifests in a folder, so that the files themselves have to be checked."""
    for place in folder.rglob(MANIFEST):
        place.unlink()


def flipped(place):
    """Change one bit of a file."""
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


def teacher(what):
    """An entry with a damaged record of a teacher."""

    def entry(box):
        place = box.run / "teacher" / "teacher.json"
        unlisted(place.parent)
        edited(place, **what) if isinstance(what, dict) else replaced(place, what)
        return box.call("distill", "--method", "random", "--teacher", box.run / "teacher", "--out", OUT)

    return entry


def grid(old, new, *arguments, file="small.toml"):
    """An entry with a grid file in which one text is replaced by another; no old text appends the new one."""

    def entry(box):
        assert old in GRID
        text = GRID.replace(old, new, 1) if old else GRID + new
        place = box.tmp / file
        place.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        return box.call("tables", "wmdd-main", "--grid", place, "--out", box.tmp / "tables", *arguments)

    return entry


def published(part, what, file="config.json"):
    """An entry with a damaged file of a published component; the config by default."""

    def entry(box):
        folder = box.hub(part)
        place = folder / file
        edited(place, **what) if isinstance(what, dict) else replaced(place, what)
        return box.opened(READ.get(part, pretrained.schedule))

    return entry


def weights(change, part="vae"):
    """An entry with damaged weights: ``change`` maps the tensors to other tensors, or to the bytes of a file."""

    def entry(box):
        place = box.hub(part) / FILES[part]
        tensors = change(load(place.read_bytes()))
        place.write_bytes(tensors if isinstance(tensors, bytes) else save(tensors))
        return box.opened(READ[part])

    return entry


def header(record, body=b"", size=None):
    """A safetensors file of any header."""
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def index(names):
    """An entry with an index whose shard is said to be ``names``; link.safetensors leads out of the folder."""

    def entry(box):
        folder = box.hub("vae")
        place = folder / FILES["vae"]
        tensors = load(place.read_bytes())
        place.rename(box.tmp / "elsewhere.safetensors")
        shards = dict.fromkeys(tensors, names)
        (folder / f"{FILES['vae']}.index.json").write_text(json.dumps({"weight_map": shards}))
        if names == "link.safetensors":
            (folder / names).symlink_to(box.tmp / "elsewhere.safetensors")
        return box.opened(pretrained.vae)

    return entry


def tokens(what, file="vocab.json"):
    """An entry with a damaged tokenizer."""

    def entry(box):
        place = vocabulary(box.tmp / "hub" / "tokenizer") / file
        edited(place, **what) if isinstance(what, dict) else replaced(place, what)
        return box.opened(pretrained.tokenizer)

    return entry


def resnet(config=None, **tensors):
    """An entry with damaged weights of a ResNet."""

    def entry(box):
        folder = box.tmp / "hub"
        folder.mkdir()
        known = {"conv1.weight": np.zeros((8, 3, 3, 3), np.float32), "fc.weight": np.zeros((4, 8), np.float32)}
        (folder / "model.safetensors").write_bytes(save(known | tensors))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return box.opened(partial(pretrained.resnet, name="resnet18"))

    return entry


def labels(what, file="labels.json"):
    """An entry with damaged stored labels."""

    def entry(box):
        place = box.run / "labels" / file
        if callable(what):
            what(place)
        elif isinstance(what, dict):
            edited(place, **what)
        else:
            replaced(place, what)
        return box.call("evaluate", box.run, "--stored", "--protocols", "soft", *STUDENTS)

    return entry


def shard(change):
    """A change of the records of the first shard."""

    def damage(place):
        records = np.load(place)
        np.save(place, change(records))

    return labels(damage, "00000.npy")


def picture(what, split="train", name="0.png"):
    """An entry with a damaged image of a folder of images."""

    def entry(box):
        replaced(box.images / split / "dog" / name, what)
        return box.call("distill", "--dataset", box.images, "--method", "random", *SMALL, "--out", OUT)

    return entry


def numbers(config, before=""):
    """The dotted path, the owner and the field of every number of a config."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{before}{item.name}.")
        elif not isinstance(value, bool | str | Path):
            yield before + item.name, config, item


def make_run(place):
    """A run folder of random digits with a teacher of one epoch, stored labels and results."""
    config = workspace.config_of("random", dataset="digits", width=8, out=place)
    training = dataclasses.replace(config.teacher_train, epochs=1)
    dataset = workspace.distill(dataclasses.replace(config, teacher_train=training))
    run_page.write(place)
    opened = workspace.workspace_of(place)
    stream = comparison.with_flip(named("soft"), opened.real.flip).stream(len(dataset.labels))
    storing.materialise(place / "labels", dataset, stream, opened.teacher, stored.LabelSettings(epochs=2))
    write_json(place / "evaluation.json", [row("random", "digits", 1, "convnet3", "hard", [0.5])])
    return place
