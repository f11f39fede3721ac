"""Distilled datasets from anywhere: exported in the order of the labels, kept pixel by pixel, or one line."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import message, mutants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxdd import data
from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.ground.manifest import MANIFEST
from jaxdd.ground.normalise import Normalisation, normalise

NORM = Normalisation(np.float32([0.3, 0.4, 0.5]), np.float32([0.2, 0.3, 0.25]))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
LABELS = np.repeat(np.arange(3), 2)


def made(**changes):
    """Two images of each of three classes, in the plain constructor."""
    parts = {"images": np.asarray(normalise(NORM, PIXELS)), "labels": LABELS, "weights": np.full(6, 0.5, np.float32)}
    parts |= {"class_names": ("a", "b", "c"), "norm": NORM, "provenance": {"method": "mine"}}
    return DistilledDataset(**parts | changes)


# The order of the exported folders

FASHION = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
]  # fmt: skip


def natural(name):
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


READERS = (
    sorted,
    lambda names: sorted(names, key=str.casefold),
    lambda names: sorted(names, key=str.lower),
    lambda names: sorted(names, key=natural),
    lambda names: sorted(names, key=lambda name: natural(name.lower())),
    lambda names: sorted(names, key=os.fsencode),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("aB1_./ -09\u00e9\u00c9"), max_size=5), min_size=1, max_size=12))
@example(FASHION)
@example(list(map(str, range(47))))
@example([f"class {c}" for c in range(12)])
@example(["Zebra", "apple"])
@example(["a/b", "a b"])
@example(["Straße", "STRASSE"])
@example(["1", "01"])
@example(["x" * 300, "x" * 300 + "y"])
@example(["é" * 200] * 11)
@example(["9" * 5000, "a"])
def test_every_reader_finds_the_labels_in_the_order_of_the_folders(names):
    folders = distilled.folder_names(names)
    for reader in READERS:
        assert reader(folders) == list(folders)
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(len(os.fsencode(folder)) <= 255 and re.fullmatch(r"[\w-][\w.-]*", folder) for folder in folders)
    assert [distilled.folder_name(tuple(names), c) for c in range(len(names))] == list(folders)


@pytest.mark.parametrize(
    "names",
    [tuple("0123456789"), ("airplane", "automobile", "bird"), ("n01440764", "n02102040"), ("a.b", "a_c"), ("x",)],
)
def test_plain_names_in_order_stay_as_they_are(names):
    assert distilled.folder_names(names) == names


def test_label_c_of_the_exported_folder_is_label_c(tmp_path):
    names = tuple(FASHION)
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    distilled.save(DistilledDataset.from_arrays(pixels, np.arange(10), class_names=names), tmp_path / "distilled")
    os.mkdir(tmp_path / "distilled" / "test")
    os.symlink("../train/3_Dress", tmp_path / "distilled" / "test" / "3_Dress")
    source = data.load(tmp_path / "distilled")
    assert (
        source.labels["train"].tolist() == list(range(10)) == source.read("train", np.arange(10))[:, 0, 0, 0].tolist()
    )
    assert source.class_names[9] == "9_Ankle_boot"


def test_more_than_a_thousand_images_of_a_class_stay_in_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1002, 1, 1, 1), np.uint8)
    distilled.save(DistilledDataset.from_arrays(pixels, np.zeros(1002, int)), tmp_path / "d")
    files = sorted(os.listdir(tmp_path / "d" / "train" / "0"))
    assert files[0] == "0000.png" and files[-1] == "1001.png"
    seen = [np.asarray(Image.open(tmp_path / "d" / "train" / "0" / name))[0, 0] for name in files[::100]]
    assert seen == pixels[::100, 0, 0, 0].tolist()


# What users give


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("std", [1 / 255, 0.2, 1.0, 3.0])
def test_pixels_given_are_the_pixels_everywhere(tmp_path, channels, std):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(channels, 3)
    norm = Normalisation(np.full(channels, 0.37, np.float32), np.full(channels, std, np.float32))
    plain = DistilledDataset(levels, [0], [1], ["only"], norm, {})
    for k, dataset in enumerate((plain, DistilledDataset.from_arrays(levels, [0], norm=norm))):
        assert dataset.images.dtype == np.float32
        np.testing.assert_array_equal(dataset.images, plain.images)
        distilled.save(dataset, tmp_path / str(k))
        back = distilled.load(tmp_path / str(k))
        picture = np.asarray(Image.open(next((tmp_path / str(k)).rglob("*.png"))))
        for pixels in (dataset.pixels(), back.pixels(), picture.reshape(1, 16, 16, channels)):
            np.testing.assert_array_equal(pixels, levels)


def test_other_dtypes_mean_the_same():
    dataset = made()
    other = made(
        images=dataset.images.astype(np.float64),
        labels=LABELS.astype(np.uint8),
        weights=[0.5] * 6,
        class_names=["a", "b", "c"],
    )
    for name in ("images", "labels", "weights"):
        np.testing.assert_array_equal(getattr(other, name), getattr(dataset, name), strict=True)
    assert (dataset.labels.dtype, dataset.weights.dtype) == (np.int32, np.float32)
    assert other.class_names == dataset.class_names
    np.testing.assert_array_equal(replace(dataset, images=PIXELS).images, dataset.images)


FLOATS = np.asarray(normalise(NORM, PIXELS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": FLOATS.transpose(0, 3, 1, 2)}, "[n, ch, H, W], images.transpose(0, 2, 3, 1)"),
        ({"images": FLOATS[..., 0]}, "[6, 4, 4]; give [n, H, W, ch]"),
        ({"images": FLOATS[..., :2]}, "1 or 3 channels"),
        ({"images": FLOATS[:0]}, "[0, 4, 4, 3]"),
        ({"images": FLOATS[:5]}, "images [5, 4, 4, 3], labels [6] and weights [6]"),
        ({"images": FLOATS[..., :1]}, "norm of 3 channels, but images have 1"),
        ({"images": PIXELS.astype(np.int32)}, "int32"),
        ({"images": np.where(FLOATS > 1, np.nan, FLOATS)}, "not finite"),
        ({"images": FLOATS.astype(np.float64) * 1e300}, "not finite in float32"),
        ({"labels": np.eye(3)[LABELS]}, "labels.argmax(1) of one-hot rows"),
        ({"labels": LABELS / 1}, "float64"),
        ({"labels": LABELS - 1}, "label -1"),
        ({"labels": LABELS + 1}, "label 3"),
        ({"labels": LABELS[:5]}, "labels [5]"),
        ({"labels": LABELS % 2}, "class 'c' of a distilled dataset has no images"),
        ({"weights": np.ones((6, 1))}, "weights [6, 1]"),
        ({"weights": [1, 0, 1, 0, 1, -1]}, "weight -1.0"),
        ({"weights": [1, 0, 1, 0, 1, np.inf]}, "not finite"),
        ({"weights": np.zeros(6)}, "all zero"),
        ({"weights": list("abcdef")}, "<U1"),
        ({"class_names": ()}, "no classes"),
        ({"class_names": "abc"}, "one text"),
        ({"class_names": ("a", "b", None)}, "not text"),
        ({"class_names": ("a", "b", np.timedelta64(1))}, "not text"),
        ({"class_names": {"a", "b", "c"}}, "of type set"),
        ({"class_names": (name for name in "abc")}, "of type generator"),
        ({"class_names": np.ma.array(["a", "b", "c"])}, "of type MaskedArray"),
        ({"images": np.ma.masked_greater(FLOATS, 1)}, "masked array"),
        ({"images": [FLOATS[0], FLOATS[0, 1:]]}, "images of a distilled dataset are no array"),
        ({"labels": np.ma.masked_equal(LABELS, 1)}, "masked array"),
        ({"labels": LABELS.astype("m8[s]")}, "timedelta64"),
        ({"weights": np.ma.masked_equal(np.ones(6), 2)}, "masked array"),
        ({"weights": [[1], 2, 3, 4, 5, 6]}, "several shapes"),
        ({"norm": (0.5, 0.25)}, "Normalisation(mean, std)"),
        ({"class_names": ("a", "b", "c\n")}, "'c\\n'"),
        ({"class_names": ("a", "b", "\udc80")}, "UTF-8"),
        ({"norm": Normalisation(NORM.mean, NORM.std * 0)}, "positive std"),
        ({"norm": Normalisation(NORM.mean * np.nan, NORM.std)}, "mean [nan"),
        ({"norm": Normalisation(NORM.mean[:2], NORM.std)}, "2 channels"),
        ({"norm": None}, "Normalisation(mean, std)"),
        ({"images": PIXELS, "norm": Normalisation(NORM.mean + 1e6, NORM.std)}, "256 pixel values"),
        ({"provenance": ["x"]}, "give a dict"),
    ],
)
def test_parts_that_make_no_dataset_are_one_line(changes, words):
    text = message(lambda: made(**changes))
    assert words in text and text.encode()


def test_arrays_of_pytorch_are_told_their_layout():
    for images in (PIXELS.repeat(2, 1).repeat(2, 2).transpose(0, 3, 1, 2), np.zeros((6, 1, 28, 28), np.uint8)):
        assert "images.transpose(0, 2, 3, 1)" in message(
            lambda images=images: DistilledDataset.from_arrays(images, LABELS)
        )


def test_names_are_not_made_from_what_is_no_text():
    for names in (np.array([b"a", b"b", b"c"]), "abc", ("a", "b", None), ("a", "b", "c\n")):
        for call in (
            lambda names=names: DistilledDataset.from_arrays(PIXELS, LABELS, class_names=names),
            lambda names=names: data.from_arrays(PIXELS, LABELS, PIXELS, LABELS, names),
        ):
            assert "class name" in message(call)
    assert "images.transpose(0, 2, 3, 1)" in message(
        lambda: data.from_arrays(PIXELS.transpose(0, 3, 1, 2), LABELS, PIXELS, LABELS)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.array([0, 0, 0, 1, 1, 2])}, "class 'a' has 3 images, but 'c' has 1"),
        ({"weights": np.ones(6)}, "sum to 2"),
        ({"weights": [0.5, 0.5, 0, 0, 0.5, 0.5]}, "class 'b' sum to 0"),
        ({"provenance": {(1, 2): 3}}, "provenance"),
    ],
)
def test_what_is_no_measure_is_not_saved(tmp_path, changes, words):
    assert words in message(lambda: distilled.save(made(**changes), tmp_path / "x"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["/dev/null/x", "/dev/null", 3, None, b"x", "a\0b"])
def test_what_is_no_folder_is_one_line(place):
    for call in (lambda: distilled.save(made(), place), lambda: distilled.load(place)):
        assert repr(str(place))[1:-1] in message(call)


def test_arguments_the_other_way_round_are_one_line(tmp_path):
    assert "give a DistilledDataset, then the folder" in message(lambda: distilled.save(tmp_path / "x", made()))


def test_weights_of_any_size_are_shares():
    for size in (1e308, 5e-324, 1.0):
        dataset = DistilledDataset.from_arrays(PIXELS, LABELS, weights=np.full(6, size))
        np.testing.assert_array_equal(dataset.weights, np.full(6, 0.5, np.float32))
        np.testing.assert_array_equal(dataset.loss_weights(), np.ones(6, np.float32))
    weights = np.array([3e307, 1e307, 0, 1e308, 1e-320, 1e-320])
    shares = DistilledDataset.from_arrays(PIXELS, LABELS, weights=weights).weights
    np.testing.assert_allclose(shares, [0.75, 0.25, 0, 1, 0.5, 0.5])


# What lies on disk


def unlisted(folder):
    """The file of a dataset that is saved in a folder without manifest, so that the file itself is checked."""
    distilled.save(made(), folder)
    (folder / MANIFEST).unlink()
    return folder / "distilled.npz"


def test_the_manifest_is_checked_first(tmp_path):
    distilled.save(made(), tmp_path / "run" / "distilled")
    place = tmp_path / "run" / "distilled" / "distilled.npz"
    content = place.read_bytes()
    # The zip file has no checksum of the bytes that fill up its headers.
    place.write_bytes(content.replace(b" \n", b"\t\n", 1))
    for folder in (place.parent, place.parent.parent):
        assert f"{place} is damaged: it is not what manifest.json says" in message(
            lambda folder=folder: distilled.load(folder)
        )
    place.write_bytes(content)
    assert distilled.load(place.parent).class_names == distilled.load(place.parent.parent).class_names


@pytest.fixture
def stored(tmp_path):
    """The arrays of a saved dataset, and a function that loads the dataset with some of them replaced."""
    place = unlisted(tmp_path / "run")
    with np.load(place, allow_pickle=False) as file:
        arrays = dict(file)

    def load(**changes):
        np.savez(place, **{name: value for name, value in (arrays | changes).items() if value is not None})
        return distilled.load(tmp_path / "run")

    return arrays, load


def test_the_file_holds_what_is_given_and_is_read_as_it_is(stored):
    arrays, load = stored
    assert {name: array.dtype.kind for name, array in arrays.items()} == {
        "images": "f", "labels": "i", "weights": "f", "class_names": "U", "mean": "f", "std": "f", "provenance": "U",
    }  # fmt: skip
    back = load()
    np.testing.assert_array_equal(back.pixels(), PIXELS)
    assert back.provenance == {"method": "mine"} and back.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "'images' is missing"),
        ({"more": np.ones(3)}, "unknown array 'more'"),
        ({"images": PIXELS}, "images is uint8"),
        ({"images": FLOATS[:5]}, "disagree"),
        ({"images": FLOATS * np.nan}, "not finite"),
        ({"images": FLOATS.transpose(0, 3, 1, 2)}, "images [6, 3, 4, 4]"),
        ({"labels": LABELS - 1}, "label -1"),
        ({"labels": LABELS * 2}, "label 4"),
        ({"labels": LABELS / 1}, "labels is float64"),
        ({"labels": np.array([0, 0, 0, 1, 1, 2])}, "class 'a' has 3 images"),
        ({"labels": LABELS % 2}, "has no images"),
        ({"weights": np.array([2, -1, 1, 0, 1, 0.0])}, "negative"),
        ({"weights": np.full(6, np.nan)}, "not finite"),
        ({"weights": np.ones(6)}, "sum to 2"),
        ({"mean": np.float32([0, 0])}, "norm of 2 channels"),
        ({"std": np.float32([1, 1, 0])}, "std"),
        ({"std": np.float32([1, 1, np.inf])}, "std"),
        ({"class_names": np.array([], "<U1")}, "no classes"),
        ({"class_names": np.array([1, 2, 3])}, "class_names is int64"),
        ({"class_names": np.array("abc")}, "class_names is <U3"),
        ({"class_names": np.array(["a", "b", "c\n"])}, "'c\\n'"),
        ({"class_names": np.array(["a", "b", "\udcff"])}, "UTF-8"),
        ({"class_names": np.array([[1], [2], [2**31 - 1]], "<i4").view("<U1")[:, 0]}, "no letters"),
        ({"provenance": np.array("[1]")}, "give a dict"),
        ({"provenance": np.array("{")}, "is damaged"),
        ({"provenance": np.array("[" * 10**5)}, "is damaged"),
        ({"provenance": np.array(["{}"])}, "provenance is <U2 [1]"),
    ],
)
def test_a_file_that_save_does_not_write_is_one_line(stored, changes, words):
    text = message(lambda: stored[1](**changes))
    assert "distilled.npz" in text and "make it again or remove it" in text and text.encode()
    assert words.partition(";")[0] in text or words == "give a dict"


def test_a_pipe_in_its_place_is_no_dataset(tmp_path):
    os.mkfifo(tmp_path / "distilled.npz")
    assert "no distilled dataset" in message(lambda: distilled.load(tmp_path))


def test_a_damaged_file_is_one_line_or_a_whole_dataset(tmp_path):
    place = unlisted(tmp_path / "run")
    whole, refused = place.read_bytes(), 0
    for k, mutant in enumerate(mutants(whole, 300)):
        place.write_bytes(mutant)
        try:
            dataset = distilled.load(tmp_path / "run")
        except InputError as error:
            assert "\n" not in str(error) and str(error).encode(), k
            refused += 1
        else:
            np.testing.assert_array_equal(dataset.pixels(), PIXELS)
    assert 150 < refused < 300


def test_damaged_values_are_one_line_or_a_dataset_that_can_be_saved(stored, tmp_path):
    """Arrays whose bytes are changed before the checksums are made."""
    arrays, load = stored
    rng, refused = np.random.default_rng(0), 0
    for k in range(200):
        name = rng.choice(list(arrays))
        content = bytearray(arrays[name].tobytes())
        at = rng.integers(len(content))
        content[at : at + 1] = bytes([rng.integers(256)])
        try:
            dataset = load(**{name: np.frombuffer(bytes(content), arrays[name].dtype).reshape(arrays[name].shape)})
        except InputError as error:
            assert "\n" not in str(error) and str(error).encode(), k
            refused += 1
        else:
            assert dataset.pixels().shape == PIXELS.shape and json.dumps(dataset.provenance)
            distilled.folder_names(dataset.class_names)
    assert 20 < refused < 180
