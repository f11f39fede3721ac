"""A distilled dataset survives the disk, bit for bit, and its pictures are its pixels."""

import os
from dataclasses import replace

import numpy as np
import pytest
from helpers import message
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports import preview, tables

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


@pytest.mark.parametrize(("temper", "power"), [("free", 1.0), ("sqrt", 0.5), ("uniform", 0.0)])
def test_loss_weights_have_mean_one_and_tempered_ratios(temper, power):
    dataset = make()
    weights = dataset.loss_weights(temper)
    assert weights.dtype == np.float32 and weights.shape == dataset.weights.shape
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(weights / weights[0], (dataset.weights / dataset.weights[0]) ** power, rtol=1e-5)


def test_loss_weights_are_the_atoms_own_by_default_and_no_others():
    dataset = make()
    np.testing.assert_array_equal(dataset.loss_weights(), dataset.loss_weights("free"))
    for temper in ("root", "w", ""):
        assert repr(temper) in message(lambda t=temper: dataset.loss_weights(t))


@pytest.mark.parametrize("temper", ["free", "sqrt"])
def test_an_atom_without_weight_has_none_in_the_loss(temper):
    dataset = make()
    weights = dataset.weights.copy()
    weights[0] = 0
    tempered = replace(dataset, weights=weights).loss_weights(temper)
    assert tempered[0] == 0 and (tempered[1:] > 0).all() and tempered.mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ipc", [1, 3])
def test_the_preview_shows_the_pixels_magnified(tmp_path, ipc):
    dataset = make(3, ("one", "two"), ipc)
    preview.preview(dataset, tmp_path / "preview.png")
    sheet = np.asarray(Image.open(tmp_path / "preview.png"))
    zoom = (96 if ipc == 1 else 64) // 5
    shown = 0
    for picture in dataset.pixels():
        tile = picture.repeat(zoom, 0).repeat(zoom, 1)
        windows = np.argwhere((sheet == tile[0, 0]).all(-1))
        shown += any(np.array_equal(sheet[y : y + 5 * zoom, x : x + 5 * zoom], tile) for y, x in windows)
    assert shown == len(dataset.labels)
    assert os.listdir(tmp_path) == ["preview.png"]


def test_the_preview_begins_with_the_heaviest_image_as_the_page_does(tmp_path):
    dataset = make(3, ("one", "two"), 3)
    dataset = replace(dataset, weights=np.array([0.1, 0.6, 0.3, 0.3, 0.2, 0.5], np.float32))
    preview.preview(dataset, tmp_path / "preview.png")
    sheet, pixels, zoom = np.asarray(Image.open(tmp_path / "preview.png")), dataset.pixels(), 64 // 5
    for row, order in enumerate(([1, 2, 0], [5, 3, 4])):
        for column, i in enumerate(order):
            x, y = sheet.shape[1] - 4 - (3 - column) * (5 * zoom + 4), 4 + row * (5 * zoom + 4)
            tile = pixels[i].repeat(zoom, 0).repeat(zoom, 1)
            np.testing.assert_array_equal(sheet[y : y + 5 * zoom, x : x + 5 * zoom], tile)


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
    lines = tables.table(rows).splitlines()
    assert lines[0].split("  ")[0] == "dataset" and "hard labels" in lines[0] and "soft labels" in lines[0]
    assert len(lines) == 4
    assert "60.0 ± 14.1" in lines[2] and lines[2].endswith("25.0")
    assert "all" in lines[3] and "100.0" in lines[3]


# From arrays


def pixels_of(count, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 5, channels), np.uint8)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([None, 1, 3]), st.integers(1, 4), st.integers(1, 3))
def test_arrays_in_any_order_become_a_dataset_grouped_by_class(draw, channels, classes, ipc):
    labels = np.array(draw.draw(st.permutations(list(range(classes)) * ipc)), draw.draw(st.sampled_from(["u1", "i8"])))
    images = pixels_of(len(labels), channels or 1)
    weights = draw.draw(st.none() | st.lists(st.floats(0.01, 9), min_size=len(labels), max_size=len(labels)))
    dataset = DistilledDataset.from_arrays(images[..., 0] if channels is None else images, labels, weights)
    assert dataset.ipc == ipc and dataset.class_names == tuple(map(str, range(classes)))
    np.testing.assert_array_equal(dataset.labels, np.repeat(np.arange(classes), ipc))
    assert (dataset.images.dtype, dataset.labels.dtype, dataset.weights.dtype) == (np.float32, np.int32, np.float32)
    # Images of a class keep their order, and their weights stay with them.
    order = np.concatenate([np.flatnonzero(labels == c) for c in range(classes)])
    np.testing.assert_array_equal(dataset.pixels(), images[order])
    masses = np.ones(len(labels)) if weights is None else np.array(weights)
    of_class = dataset.weights.reshape(classes, ipc)
    np.testing.assert_allclose(of_class.sum(1), 1, rtol=1e-6)
    want = masses[order].reshape(classes, ipc)
    np.testing.assert_allclose(of_class, want / want.sum(1, keepdims=True), rtol=1e-5)


def test_pixels_are_normalised_by_their_own_moments_or_by_those_that_are_named():
    images, labels = pixels_of(6), np.arange(6) % 2
    dataset = DistilledDataset.from_arrays(images, labels)
    np.testing.assert_allclose(dataset.norm.mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.norm.std, (images / 255).std((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.images.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.images.std((0, 1, 2)), 1, rtol=1e-5)
    norm = Normalisation(np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.5, 0.6]))
    other = DistilledDataset.from_arrays(images, labels, norm=norm)
    assert other.norm is norm
    np.testing.assert_allclose(other.images, (images[[0, 2, 4, 1, 3, 5]] / 255 - norm.mean) / norm.std, atol=1e-6)
    np.testing.assert_array_equal(other.pixels(), dataset.pixels())
    # One grey level at least, so that a constant can be divided by.
    assert DistilledDataset.from_arrays(np.full_like(images, 9), labels).norm.std == pytest.approx(1 / 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_in_the_normalised_space_already(dtype):
    dataset = make(3, ("one", "two"))
    order = np.array([3, 0, 2, 1])
    again = DistilledDataset.from_arrays(
        dataset.images[order].astype(dtype),
        dataset.labels[order],
        3 * dataset.weights[order],
        dataset.class_names,
        dataset.norm,
    )
    assert again.class_names == ("one", "two") and again.norm is dataset.norm and again.images.dtype == np.float32
    grouped = np.array([0, 1, 3, 2])
    np.testing.assert_array_equal(again.images, dataset.images[grouped].astype(dtype))
    np.testing.assert_allclose(again.weights, dataset.weights[grouped], rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_dataset_of_arrays_survives_the_disk(tmp_path, channels):
    images, labels = pixels_of(6, channels), np.arange(6, dtype=np.uint8) % 3
    dataset = DistilledDataset.from_arrays(images, labels, np.arange(6) + 1.0, np.array(["a", "b", "c"]))
    distilled.save(dataset, tmp_path / "distilled")
    back = distilled.load(tmp_path)
    for name in ("images", "labels", "weights"):
        np.testing.assert_array_equal(getattr(back, name), getattr(dataset, name), strict=True)
    assert back.class_names == dataset.class_names == ("a", "b", "c")
    assert back.provenance == dataset.provenance == {"method": "arrays"}
    np.testing.assert_array_equal(back.pixels(), images[[0, 3, 1, 4, 2, 5]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": pixels_of(5)}, "(5, 5, 5, 3) and labels (6,)"),
        ({"images": pixels_of(6)[0, 0]}, "(5, 3)"),
        ({"images": pixels_of(0), "labels": np.zeros(0, int)}, "(0, 5, 5, 3)"),
        ({"labels": np.zeros((6, 1), int)}, "labels (6, 1)"),
        ({"labels": np.arange(6) % 2 / 1}, "float64"),
        ({"labels": np.array(list("ababab"))}, "<U1"),
        ({"labels": np.arange(6) % 2 - 1}, "labels from -1 to 0"),
        ({"labels": np.array([0, 0, 0, 0, 1, 1])}, "2 of 2 classes have images, from 2 to 4 each"),
        ({"labels": np.arange(6) % 2 * 2}, "2 of 3 classes have images"),
        ({"labels": np.arange(6) % 2 * 2**32}, "2 of 4294967297 classes have images"),
        ({"class_names": ("a",)}, "labels from 0 to 1 of 1 classes"),
        ({"class_names": ("a", "b", "c")}, "2 of 3 classes have images"),
        ({"class_names": ()}, "no classes"),
        ({"class_names": {"a", "b"}}, "of type set; give a list in the order of the labels"),
        ({"class_names": {"a": 0, "b": 1}}, "of type dict"),
        ({"class_names": 2}, "of type int"),
        ({"images": [[[1, 2]], [[1]]]}, "images of a distilled dataset are no array: their parts have several shapes"),
        ({"labels": [0, [1], 0, 1, 0, 1]}, "labels of a distilled dataset are no array"),
        ({"labels": (np.arange(6) % 2).astype("m8[s]")}, "timedelta64"),
        ({"images": np.ma.masked_greater(pixels_of(6), 9)}, "images of a distilled dataset are a masked array"),
        ({"labels": np.ma.masked_equal(np.arange(6) % 2, 1)}, "labels of a distilled dataset are a masked array"),
        ({"weights": np.ma.masked_equal(np.arange(6.0), 1)}, "weights of a distilled dataset are a masked array"),
        ({"weights": list("abcdef")}, "weights of dtype <U1; give numbers"),
        ({"weights": [1, [2], 3, 4, 5, 6]}, "several shapes"),
        ({"norm": (0.5, 0.25)}, "Normalisation(mean, std)"),
        ({"norm": ()}, "Normalisation(mean, std)"),
        ({"norm": Normalisation([0.5, [1]], 1)}, "norm are no array"),
        ({"weights": np.ones(5)}, "weights (5,); give [6]"),
        ({"weights": np.ones((6, 1))}, "weights (6, 1)"),
        ({"weights": [1, 1, 1, 1, 1, -1]}, "non-negative"),
        ({"weights": [1, 1, 1, 1, 1, np.nan]}, "finite"),
        ({"weights": [1, 0, 1, 0, 1, 0]}, "all zero"),
        ({"images": pixels_of(6).astype(np.float32)}, "give norm"),
        # Pixels of other types could lie beyond 255, or below zero.
        ({"images": pixels_of(6).astype(np.int64)}, "int64"),
        ({"images": pixels_of(6) > 127}, "bool"),
        ({"images": pixels_of(6, 1), "norm": Normalisation(np.zeros(3), np.ones(3))}, "3 channels, but images have 1"),
        ({"norm": Normalisation(np.zeros(3), np.ones(4))}, "4 channels, but images have 3"),
    ],
)
def test_arrays_that_make_no_dataset_are_one_line(changes, words):
    arguments = {"images": pixels_of(6), "labels": np.arange(6) % 2} | changes
    assert words in message(lambda: DistilledDataset.from_arrays(**arguments))
