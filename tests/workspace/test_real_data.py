"""The real images of a run: a user's own are checked before any work, and damaged ones are left out if asked."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import message
from PIL import Image

from jaxdd import data
from jaxdd.data import Source
from jaxdd.data.augment import Augment
from jaxdd.data.image import DamagedImage
from jaxdd.methods import Recipe
from jaxdd.stages.images import Nearest
from jaxdd.stages.summarize import Herding
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import TeacherConfig, config_of, distill, distillation, latent_models, open_workspace, workspace_of
from jaxdd.workspace.real_data import DataConfig, open_data

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
LABELS = np.arange(12) % 3


def own(images=PIXELS, labels=LABELS, **changes):
    """A source as a user writes it."""
    splits = {"train": labels, "test": labels[:6]}
    return Source("mine", ["a", "b", "c"], (8, 8, 1), splits, lambda split, rows: images[rows])._replace(**changes)


def folder(root, damaged=(), splits=("train", "val")):
    """A folder of three classes with four images each, some of them damaged."""
    for split in splits:
        for i, (picture, label) in enumerate(zip(PIXELS[..., 0], LABELS)):
            place = root / split / "abc"[label] / f"{i:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place)
    for name in damaged:
        (root / name).write_bytes(b"rubbish")
    return str(root)


def test_a_source_of_ones_own_is_checked_before_any_work(tmp_path):
    for source, words in (
        (own(PIXELS / np.float32(255)), "float32"),
        (own(PIXELS.transpose(0, 3, 1, 2)), "[n, ch, H, W]"),
        (own(labels=LABELS + 1), "label 3"),
        (own(labels=LABELS % 2), "class 'c' of mine has no train images"),
        (own(class_names=("a", "b", "c\n")), "'c\\n'"),
        (own(image_shape=(8, 9, 1)), "squares"),
        (("mine", (), (), {}, None), "tuple"),
    ):
        for config in (DataConfig(), DataConfig(memory_gib=0.0), DataConfig(holdout=0.25)):
            assert words in message(lambda source=source, config=config: open_data(config, source))
    assert words in message(lambda: open_workspace(TeacherConfig(), tmp_path, source=source))
    out = tmp_path / "x" / "run"
    assert "float32" in message(lambda: distill(config_of("random", out=out), own(PIXELS / np.float32(255))))
    assert list(tmp_path.iterdir()) == []


def test_labels_of_other_dtypes_are_the_same_data():
    want = open_data(DataConfig(), own())
    for labels in (LABELS.astype(np.uint8), LABELS.astype(np.uint64)):
        real = open_data(DataConfig(), own(labels=labels))
        assert real.content == want.content and real.source.labels["train"].dtype == np.int32


def test_a_folder_without_test_images_serves_with_a_share_held_out(tmp_path):
    name = folder(tmp_path, splits=("train",))
    assert "`holdout`" in message(lambda: open_data(DataConfig(dataset=name)))
    real = open_data(DataConfig(dataset=name, holdout=0.25))
    assert real.source.labels["test"].tolist() == [0, 1, 2] and len(real.source.labels["train"]) == 9
    train_only = own()._replace(labels={"train": LABELS})
    assert "'test'" in message(lambda: open_data(DataConfig(), train_only))
    assert len(open_data(DataConfig(holdout=0.25), train_only).source.labels["test"]) == 3


def test_damaged_images_are_left_out_and_the_data_are_others_then(tmp_path, capsys):
    name = folder(tmp_path)
    config = TeacherConfig(dataset=name, skip_corrupt=True)
    whole = open_data(config)
    assert whole.content == "" and capsys.readouterr().err == ""
    folder(tmp_path, [f"train/a/{i:02}.png" for i in (3, 9)] + ["val/b/01.png"])
    assert "train/a/03.png" in message(lambda: open_data(replace(config, skip_corrupt=False)))
    two = open_data(config)
    *lines, last = capsys.readouterr().err.splitlines()
    assert [name in line for name, line in zip(("a/03.png", "a/09.png", "b/01.png"), lines)] == [True] * 3
    assert last == "skipped 3 damaged images"
    np.testing.assert_array_equal(two.source.read("train", np.arange(10)), PIXELS[[0, 6, 1, 4, 7, 10, 2, 5, 8, 11]])
    folder(tmp_path)
    folder(tmp_path, ["train/a/03.png", "train/a/06.png"])
    other = open_data(config)
    identities = {json.dumps(latent_models._data_of(config, real), default=str) for real in (whole, two, other)}
    assert len(identities) == 3 and other.content == open_data(config).content
    requests = {
        json.dumps(distillation.request(config_of("random"), real.content), default=str) for real in (whole, two)
    }
    assert len(requests) == 2
    # They are still known by the name of their folder, so they can be opened again at another size.
    assert not two.passed and open_data(DataConfig(), own()).passed


def test_only_damaged_images_are_skipped():
    def read(split, rows):
        if 5 in rows and split == "train":
            raise DamagedImage("image 5 cannot be read (it is mine): repair it or remove it")
        return PIXELS[rows]

    real = open_data(DataConfig(skip_corrupt=True), own(read=read))
    assert real.passed and real.source.skipped == (
        ("train", 5, "image 5 cannot be read (it is mine): repair it or remove it"),
    )
    assert real.source.labels["train"].tolist() == np.delete(LABELS, 5).tolist()
    assert real.content != open_data(DataConfig(skip_corrupt=True), own()).content
    assert "float64" in message(lambda: open_data(DataConfig(skip_corrupt=True), own(PIXELS / 255)))


def test_a_long_list_is_cut(tmp_path, capsys):
    for split in ("train", "val"):
        for i in range(30):
            place = tmp_path / split / "a" / f"{i:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"rubbish")
        Image.fromarray(PIXELS[0, ..., 0]).save(tmp_path / split / "a" / "30.png")
    source = open_data(DataConfig(dataset=str(tmp_path), skip_corrupt=True)).source
    assert len(source.skipped) == 60 and len(source.labels["train"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[-1] == "skipped 60 damaged images (...)"


@pytest.mark.slow
def test_a_run_lists_what_it_has_set_aside(tmp_path):
    name = folder(tmp_path / "images")
    training = TrainSettings(epochs=2, batch_size=10, learning_rate=0.1, augment=Augment(crop="none", flip=False))
    config = config_of(
        "herding", out=tmp_path / "runs" / "run", dataset=name, holdout=0.25, width=8, flip=False,
        teacher_train=training, recipe=Recipe(Herding(), Nearest()),
    )  # fmt: skip
    distill(config)
    names = (config.out / "heldout.txt").read_text().splitlines()
    source = workspace_of(config.out).real.source
    assert len(names) == len(source.labels["test"]) == 3
    for row, file in enumerate(names):
        pixels = np.asarray(Image.open(tmp_path / "images" / file))
        np.testing.assert_array_equal(source.read("test", np.array([row]))[0, ..., 0], pixels)
    assert "heldout.txt" in json.loads((config.out / "manifest.json").read_text())["files"]


@pytest.mark.slow
def test_a_run_lists_what_it_has_skipped(tmp_path):
    name = folder(tmp_path / "images", ["train/a/03.png", "train/a/09.png"])
    training = TrainSettings(epochs=2, batch_size=10, learning_rate=0.1, augment=Augment(crop="none", flip=False))
    config = config_of(
        "herding", out=tmp_path / "runs" / "run", dataset=name, skip_corrupt=True, width=8, flip=False,
        teacher_train=training, recipe=Recipe(Herding(), Nearest()),
    )  # fmt: skip
    dataset = distill(config)
    lines = (config.out / "skipped.txt").read_text().splitlines()
    assert len(lines) == dataset.provenance["skipped"] == 2
    assert "a/03.png" in lines[0] and "a/09.png" in lines[1]
    again = workspace_of(config.out)
    assert again.real.source.skipped and len(again.real.source.labels["train"]) == 10
    assert data.load(name, skip_corrupt=True).skipped == again.real.source.skipped
