"""A distilled dataset survives the disk, bit for bit, and its pictures are its pixels."""

import os
from dataclasses import replace

import numpy as np
import pytest
from helpers import message
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports import tables as report

WEIRD = ("a/b", "a b", "../up", ".hidden", "", "näme", "CON: x|y?", "a/b")


def make(channels=3, names=WEIRD, ipc=2):
    rng = np.random.default_rng(0)
    n = len(names) * ipc
    weights = rng.uniform(0.1, 1, (len(names), ipc)).astype(np.float32)
    return DistilledDataset(
        images=rng.normal(size=(n, 5, 5, channels)).astype(np.float32),
        labels=np.repeat(np.arange(len(names), dtype=np.int32), ipc),
        weights=(weights / weights.sum(1, keepdims=True)).reshape(-1),
        class_names=tuple(names),
        norm=Normalisation(np.full(channels, 0.4, np.float32), np.full(channels, 0.3, np.float32)),
        provenance={"method": "wmdd", "seed": 3, "recipe": {"steps": 10, "flip": None}, "names": ["ü", 1.5]},
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_saved_is_what_is_loaded_and_seen(tmp_path, channels):
    dataset = make(channels)
    (tmp_path / "run").mkdir()
    distilled.save(dataset, tmp_path / "run" / "distilled")
    for place in (tmp_path / "run", tmp_path / "run" / "distilled"):
        back = distilled.load(place)
        for name in ("images", "labels", "weights"):
            ours, theirs = getattr(dataset, name), getattr(back, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(back.norm.mean, dataset.norm.mean)
        np.testing.assert_array_equal(back.norm.std, dataset.norm.std)
        assert back.class_names == WEIRD and back.provenance == dataset.provenance and back.ipc == 2

    train = tmp_path / "run" / "distilled" / "train"
    assert len(list(train.iterdir())) == len(WEIRD)
    assert len(list(train.rglob("*.png"))) == len(dataset.labels)
    assert all(train.resolve() in picture.resolve().parents for picture in train.rglob("*.png"))
    pixels = dataset.pixels()
    for i, label in enumerate(dataset.labels):
        path = train / distilled.folder_name(WEIRD, label) / f"{i % 2:03d}.png"
        picture = np.asarray(Image.open(path))
        np.testing.assert_array_equal(picture.reshape(5, 5, channels), pixels[i])
    assert sorted(os.listdir(tmp_path / "run")) == ["distilled"]


@given(st.lists(st.text(st.sampled_from("aB1_./ \u00e9"), max_size=4), min_size=1, max_size=5))
@example(["a/", "a_", "1_a_"])
def test_every_class_has_a_folder_of_its_own_inside_train(names):
    folders = [distilled.folder_name(tuple(names), label) for label in range(len(names))]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder and "/" not in folder and not folder.startswith(".")


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="exists"):
        distilled.save(make(), tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"] and not os.listdir(tmp_path / "x")


def test_nothing_to_load_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no distilled dataset in") as caught:
        distilled.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("temper", "power"), [("w", 1.0), ("sqrt", 0.5), ("uniform", 0.0)])
def test_loss_weights_have_mean_one_and_tempered_ratios(temper, power):
    dataset = make()
    weights = dataset.loss_weights(temper)
    assert weights.dtype == np.float32 and weights.shape == dataset.weights.shape
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(weights / weights[0], (dataset.weights / dataset.weights[0]) ** power, rtol=1e-5)


def test_loss_weights_are_the_atoms_own_by_default_and_no_others():
    dataset = make()
    np.testing.assert_array_equal(dataset.loss_weights(), dataset.loss_weights("w"))
    for temper in ("root", "free", ""):
        assert repr(temper) in message(lambda t=temper: dataset.loss_weights(t))


@pytest.mark.parametrize("temper", ["w", "sqrt"])
def test_an_atom_without_weight_has_none_in_the_loss(temper):
    dataset = make()
    weights = dataset.weights.copy()
    weights[0] = 0
    tempered = replace(dataset, weights=weights).loss_weights(temper)
    assert tempered[0] == 0 and (tempered[1:] > 0).all() and tempered.mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ipc", [1, 3])
def test_the_preview_shows_the_pixels_magnified(tmp_path, ipc):
    dataset = make(3, ("one", "two"), ipc)
    report.preview(dataset, tmp_path / "preview.png")
    sheet = np.asarray(Image.open(tmp_path / "preview.png"))
    zoom = (96 if ipc == 1 else 64) // 5
    shown = 0
    for picture in dataset.pixels():
        tile = picture.repeat(zoom, 0).repeat(zoom, 1)
        windows = np.argwhere((sheet == tile[0, 0]).all(-1))
        shown += any(np.array_equal(sheet[y : y + 5 * zoom, x : x + 5 * zoom], tile) for y, x in windows)
    assert shown == len(dataset.labels)
    assert os.listdir(tmp_path) == ["preview.png"]


def test_a_table_puts_hard_and_soft_side_by_side():
    rows = [
        {"dataset": "d", "student": "s", "method": "m", "ipc": 1, "labels": "hard", "accuracies": [0.5, 0.7]},
        {"dataset": "d", "student": "s", "method": "m", "ipc": 1, "labels": "soft", "accuracies": [0.25]},
        {
            "dataset": "d",
            "student": "s",
            "method": "full",
            "ipc": None,
            "labels": "hard",
            "accuracies": [1.0],
        },
    ]
    lines = report.table(rows).splitlines()
    assert lines[0].split("  ")[0] == "dataset" and "hard labels" in lines[0] and "soft labels" in lines[0]
    assert len(lines) == 4
    assert "60.0 ± 14.1" in lines[2] and lines[2].endswith("25.0")
    assert "all" in lines[3] and "100.0" in lines[3]
