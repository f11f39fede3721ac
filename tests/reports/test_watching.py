"""Runs that are watched: the same images, a picture of them as they grow, and event files whose steps ascend."""

import io
import json
from collections import defaultdict

import numpy as np
import pytest
from helpers import message
from PIL import Image

from jaxdd.ground import extras, stop
from jaxdd.ground.checkpoint import Checkpoints
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports import events, watching
from jaxdd.reports.events import Events
from jaxdd.stages.context import Snapshot

NORM = Normalisation(np.float32([0.0]), np.float32([1.0]))
DISTILL = [
    "--dataset", "digits", "--ipc", "2", "--model", "convnet3", "--width", "8", "--teacher-train.epochs", "5",
    "--imager.steps", "120",
]  # fmt: skip
WATCHED = ["--watch.tensorboard", "--watch.preview", "--watch.seconds", "0"]


def snapshot(step, level, first=0, classes=(0, 2)):
    images = np.full((len(classes), 1, 8, 8, 1), level / 255, np.float32)
    losses = {"feature": np.float32([[s, s + 2] for s in range(step - 50, step)])} if step else {}
    return Snapshot(np.array(classes), images, np.full(len(classes), first), step, 100, NORM, losses)


def recorded(folder):
    """What TensorFlow reads: run -> tag -> the steps in the order of the files, and their values."""
    tensorflow = pytest.importorskip("tensorflow")
    found = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in tensorflow.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                content = value.image.encoded_image_string or value.simple_value
                found[file.parent.name][value.tag].append((event.step, content))
    return {run: dict(tags) for run, tags in found.items()}


def steps(values):
    return [step for step, _ in values]


def test_event_files_hold_the_losses_and_the_images(tmp_path):
    with Events(tmp_path) as written:
        hook = watching._grown(written, ("cat", "n01440764", "o|wl\n"))
        for step in (0, 50, 100):
            hook(snapshot(step, step))
    (run,) = recorded(tmp_path).values()
    assert run["loss/feature"] == [(step, step + 1) for step in range(100)]
    pictures = [tag for tag in run if tag.startswith("images/")]
    assert len(pictures) == 2 and any("cat" in tag for tag in pictures)
    for step, content in run[pictures[0]]:
        image = np.asarray(Image.open(io.BytesIO(content)))
        assert image.shape[:2] == (64, 64) and (image == step).all()


def test_a_run_that_goes_on_repeats_no_step(tmp_path):
    for first, last in ((0, 150), (100, 250), (0, 250)):
        with Events(tmp_path) as written:
            for step in range(first, last, 50):
                written.scalars("recover", step, {"loss": step, "a tag": 2 * step})
    (run,) = recorded(tmp_path).values()
    assert all(steps(values) == [0, 50, 100, 150, 200] for values in run.values()) and len(run) == 2
    # A process that is killed leaves a torn file; what is torn off is written again.
    file = max((tmp_path / "recover").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for cut in (1, 30, 10**6):
        content = file.read_bytes()[:-cut]
        file.write_bytes(content)
        known = events.last_steps(tmp_path / "recover")
        assert all(value in range(0, 250, 50) for value in known.values())
    file.write_bytes(b"\xff" * 40)
    assert list(events.read(file)) == []


def test_the_picture_shows_the_images_as_they_are(tmp_path):
    preview = watching.Preview(tmp_path, ("cat", "dog", "owl"), 2, 1e6)
    preview(snapshot(0, 10))
    at = lambda x, y: np.asarray(Image.open(tmp_path / "preview.png"))[4 + 68 * y + 32, -36 - 68 * (1 - x)].tolist()
    assert at(0, 0) == at(0, 2) == [10] * 3 and at(1, 0) == at(0, 1) == [230] * 3
    preview(snapshot(50, 90))
    assert at(0, 0) == [10] * 3  # it is not time yet
    preview(snapshot(100, 120, first=1, classes=(1,)))
    assert at(0, 0) == [90] * 3 and at(1, 1) == [120] * 3


def test_without_tensorboardx_it_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda name: None)
    line = refused("distill", *DISTILL, "--out", tmp_path / "x", "--watch.tensorboard")
    assert "--watch.tensorboard" in line and extras.install("tensorboard") in line
    assert "needs tensorboardX" in message(lambda: watching.check(watching.WatchSettings(tensorboard=True)))
    watching.check(watching.WatchSettings(preview=True))


@pytest.mark.slow
def test_a_watched_run_that_was_stopped_has_the_same_images_and_steps_in_order(program, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    plain, seen = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert program("distill", *DISTILL, "--out", plain)[0] == 0
    learnt, looks, save = [], [], Checkpoints.save

    def look(self, snapshot):
        looks.append(snapshot.step)
        if len(looks) == 3:
            stop._waiting = 15  # as on SIGTERM
        draw(self, snapshot)

    draw = watching.Preview.__call__
    monkeypatch.setattr(watching.Preview, "__call__", look)
    monkeypatch.setattr(Checkpoints, "save", lambda *args, **kwargs: learnt.append(args[1]) or save(*args, **kwargs))
    assert program("distill", *DISTILL, *WATCHED, "--out", seen)[0] == 143
    assert (seen / "preview.png").is_file() and (seen / "parts").is_dir() and learnt
    # Watching is no part of what determines a run: it goes on with other settings of it, and is the same.
    assert program("distill", *DISTILL, "--watch.tensorboard", "--out", seen)[0] == 0
    for name in ("request.json", "config.json"):
        assert "watch" not in json.loads((seen / name).read_text()) and "tensorboard" not in (seen / name).read_text()
    files = [run / "distilled" / "distilled.npz" for run in (plain, seen)]
    with np.load(files[0]) as one, np.load(files[1]) as other:
        assert all(one[name].tobytes() == other[name].tobytes() for name in ("images", "weights"))
    runs = recorded(seen / "events")
    every = [values for tags in runs.values() for values in tags.values()]
    assert all(steps(values) == sorted(set(steps(values))) for values in every)
    recovered = [tags for run, tags in runs.items() if run.startswith("recover")]
    for tags in recovered:
        assert {"loss/feature", "loss/moment", "loss/cross_entropy"} < set(tags)
        assert all(steps(values)[-1] == 120 for tag, values in tags.items() if tag.startswith("images"))
        assert steps(tags["loss/feature"]) == list(range(120)) and all(value > 0 for _, value in tags["loss/feature"])
    assert sum(tag.startswith("images/") for tags in recovered for tag in tags) == 10
    accuracies = [value for _, value in runs["teacher"]["teacher/accuracy"]]
    assert min(accuracies) >= 0 and 0.5 < accuracies[-1] <= 1 and len(runs["teacher"]["teacher/loss"]) >= 1
    costs = np.load(seen / "atoms.npz")["costs"]
    distances = [value for _, value in runs["summarize"]["W2_squared/largest"]]
    np.testing.assert_allclose(distances, costs.max(0), rtol=1e-6)
