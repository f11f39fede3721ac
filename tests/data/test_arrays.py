"""Datasets of arrays in memory: what comes out is what went in, and what makes no dataset is one line."""

import numpy as np
import pytest
from helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdd import data


def drawn(count, side=5, channels=None, seed=0):
    """Pixels [count, side, side], with a last axis if it has channels."""
    shape = (count, side, side) if channels is None else (count, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def sound(**changes):
    """Arguments that make a dataset of six train and three test images of three classes, with some replaced."""
    arguments = {
        "images": drawn(6),
        "labels": np.arange(6) % 3,
        "test_images": drawn(3, seed=1),
        "test_labels": np.arange(3),
    }
    return arguments | changes


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([None, 1, 3]), st.integers(1, 4), st.integers(0, 6))
def test_what_comes_out_is_what_went_in(draw, channels, classes, more):
    kinds = st.sampled_from([np.uint8, np.int32, np.int64, np.uint64])
    labels, images = {}, {}
    for split, count in (("train", classes + more), ("test", draw.draw(st.integers(1, 5)))):
        # Every class has a train image; of test images any may be missing.
        members = [*range(classes), *[0] * more] if split == "train" else [classes - 1] * count
        labels[split] = np.array(draw.draw(st.permutations(members)), draw.draw(kinds))
        images[split] = drawn(count, 5, channels, seed=count)
    column = draw.draw(st.booleans())
    shaped = {split: values[:, None] if column else values for split, values in labels.items()}
    source = data.from_arrays(images["train"], shaped["train"], images["test"], shaped["test"])
    assert source.name == "arrays" and source.image_shape == (5, 5, channels or 1)
    assert source.class_names == tuple(map(str, range(classes)))
    for split in ("train", "test"):
        np.testing.assert_array_equal(source.labels[split], labels[split])
        assert source.labels[split].dtype == np.int32 and source.labels[split].ndim == 1
        rows = draw.draw(st.lists(st.integers(0, len(labels[split]) - 1), max_size=6))
        pixels = source.read(split, np.array(rows, np.int64))
        assert pixels.dtype == np.uint8 and pixels.shape == (len(rows), *source.image_shape)
        np.testing.assert_array_equal(pixels, images[split][rows].reshape(pixels.shape))


def test_labels_as_keras_gives_them_and_names():
    """Labels of CIFAR-10 as `keras.datasets` loads them are uint8 [n, 1]."""
    images, test_images = drawn(200, 8, 3), drawn(30, 8, 3, seed=1)
    labels, test_labels = ((np.arange(n, dtype=np.uint8) % 10)[:, None] for n in (200, 30))
    names = [f"class {c}" for c in range(10)]
    source = data.from_arrays(images, labels, test_images, test_labels, names, "mine")
    assert source.name == "mine" and source.class_names == tuple(names)
    np.testing.assert_array_equal(source.labels["train"], np.arange(200) % 10)
    np.testing.assert_array_equal(source.read("test", np.arange(30)), test_images)
    pixels, targets, valid = next(data.batches(source, "train", 50))
    np.testing.assert_array_equal(pixels, images[:50])
    np.testing.assert_array_equal(targets, labels[:50, 0])
    assert valid.all()
    assert [rows.tolist() for rows in data.class_indices(source, "test")] == [[c, c + 10, c + 20] for c in range(10)]


def test_names_may_be_an_array_and_classes_may_lack_test_images():
    source = data.from_arrays(**sound(test_images=drawn(1), test_labels=[1]), class_names=np.array(["a", "b", "c"]))
    assert source.class_names == ("a", "b", "c") and all(type(name) is str for name in source.class_names)
    assert [len(rows) for rows in data.class_indices(source, "test")] == [0, 1, 0]


def test_no_image_is_copied():
    arguments = sound(images=drawn(6, 5, 3), test_images=drawn(3, 5, 3))
    source = data.from_arrays(**arguments)
    arguments["images"][2] = 7
    assert (source.read("train", np.array([2])) == 7).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": drawn(6).astype(np.float32)}, "train images are float32 [6, 5, 5, 1]"),
        ({"test_images": drawn(3).astype(np.int64)}, "test images are int64 [3, 5, 5, 1]"),
        ({"images": drawn(6)[0]}, "train images are uint8 [5, 5]"),
        ({"images": drawn(6, 5, 2)}, "[6, 5, 5, 2]"),
        ({"images": drawn(6)[:, :4]}, "train images are 4 x 5"),
        ({"images": drawn(0), "labels": np.zeros(0, int)}, "train images are uint8 [0, 5, 5, 1]"),
        ({"test_images": drawn(0), "test_labels": np.zeros(0, int)}, "test images are uint8 [0, 5, 5, 1]"),
        ({"test_images": drawn(3, 6)}, "train images are [5, 5, 1], test images [6, 6, 1]"),
        ({"test_images": drawn(3, 5, 3)}, "train images are [5, 5, 1], test images [5, 5, 3]"),
        ({"labels": np.arange(5) % 3}, "train labels are int64 [5]; give integers [6]"),
        ({"test_labels": np.zeros((3, 2), int)}, "test labels are int64 [3, 2]"),
        ({"labels": np.arange(6.0) % 3}, "train labels are float64"),
        ({"labels": np.array(list("abcabc"))}, "train labels are <U1"),
        ({"labels": np.array([0, 1, 2, 0, 1, -1])}, "train label -1"),
        ({"test_labels": np.array([0, 1, -2], np.int8)}, "test label -2"),
        ({"labels": np.array([0, 1, 3] * 2)}, "class '2' has no train images"),
        ({"test_labels": np.array([0, 1, 3])}, "class '3' has no train images"),
        ({"class_names": ("a", "b")}, "label 2 of 2 classes"),
        ({"class_names": ("a", "b", "c", "d")}, "class 'd' has no train images"),
        ({"class_names": ()}, "arrays has no classes"),
        ({"class_names": {"a", "b", "c"}}, "class names of arrays are of type set; give a list in the order"),
        ({"class_names": {"a": 0, "b": 1, "c": 2}}, "of type dict"),
        ({"class_names": (name for name in "abc")}, "of type generator"),
        ({"class_names": 3}, "of type int"),
        ({"name": None}, "dataset name None"),
        ({"images": [[[1, 2]], [[1]]]}, "train images are no array: their parts have several shapes"),
        ({"test_images": [drawn(1)[0], drawn(1, 6)[0], drawn(1)[0]]}, "test images are no array"),
        ({"labels": [0, [1], 2, 0, 1, 2]}, "train labels are no array"),
        ({"labels": (np.arange(6) % 3).astype("m8[s]")}, "train labels are timedelta64[s]"),
        ({"images": np.ma.masked_greater(drawn(6), 200)}, "train images are a masked array"),
        ({"images": [*np.ma.masked_greater(drawn(6), 200)]}, "train images are a masked array"),
        ({"test_labels": np.ma.masked_equal(np.arange(3), 1)}, "test labels are a masked array"),
        # Neither wraps around, nor is there a name for each number up to it.
        ({"labels": np.array([0, 1, 2, 0, 1, 2**32])}, "class '3' has no train images"),
        ({"test_labels": np.array([0, 1, 2**31])}, "class '3' has no train images"),
    ],
)
def test_what_makes_no_dataset_is_one_line(changes, words):
    assert words in message(lambda: data.from_arrays(**sound(**changes)))


def test_rows_outside_of_a_split_are_refused():
    source = data.from_arrays(**sound())
    assert "index 6" in message(lambda: source.read("train", np.array([6])))
    assert "'val'" in message(lambda: source.read("val", np.array([0])))
