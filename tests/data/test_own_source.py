"""A user's own source: whatever it holds or reads is right, or one line where it is used."""

import numpy as np
import pytest
from helpers import message

from jaxdd import data
from jaxdd.data import Source

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
LABELS = np.arange(12) % 3


def source(images=PIXELS, labels=LABELS, **changes):
    """A source as a user writes it, not by `make_source`."""
    read = lambda split, rows: images[rows]
    splits = {"train": labels, "test": labels[:6]}
    return Source("mine", ["a", "b", "c"], [4, 4, 1], splits, read)._replace(**changes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, ">i4"])
def test_labels_of_any_integer_dtype_are_the_same_labels(dtype):
    ours = data.checked(source(labels=LABELS.astype(dtype)))
    assert ours.class_names == ("a", "b", "c") and ours.image_shape == (4, 4, 1)
    for own in (ours, source(labels=LABELS.astype(dtype))):
        for split, count in (("train", 12), ("test", 6)):
            images, labels, _ = next(data.batches(own, split, count))
            np.testing.assert_array_equal(images, PIXELS[:count])
            np.testing.assert_array_equal(labels, LABELS[:count])
            assert labels.dtype == np.int32
        assert [rows.tolist() for rows in data.class_indices(own)] == [[c, c + 3, c + 6, c + 9] for c in range(3)]
        assert sorted(data.hold_out(own, 0.25).labels["test"].tolist()) == [0, 1, 2]
    assert data.checked(source(class_names=range(3))).class_names == ("0", "1", "2")


USES = {
    "checked": lambda s: data.checked(s).read("train", np.arange(3)),
    "batches": lambda s: next(data.batches(s, "train", 5)),
    "shuffled": lambda s: next(data.shuffled(s, "train", 5, 0)),
    "in_memory": lambda s: data.in_memory(s).read("train", np.arange(3)),
    "streamed": lambda s: data.in_memory(s, 0).read("train", np.arange(3)),
    "hold_out": lambda s: data.hold_out(s, 0.25).read("test", np.arange(3)),
    "statistics": data.statistics,
    "without_damaged": data.without_damaged,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("images", "words"),
    [
        # Black, or normalised already, if they were taken for what the library computes with.
        (PIXELS / 255, "float64"),
        (PIXELS.astype(np.float32) / 255, "values from 0 to 255"),
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS > 127, "bool"),
        (PIXELS[..., 0], "4, 4]; give uint8"),
        (PIXELS.repeat(3, -1), "4, 4, 3]"),
        (PIXELS.repeat(2, 1), "8, 4, 1]"),
        (PIXELS.repeat(3, -1).transpose(0, 3, 1, 2), "images.transpose(0, 2, 3, 1)"),
    ],
)
def test_images_that_are_no_pixels_are_refused_where_they_are_read(use, images, words):
    text = message(lambda: USES[use](source(images)))
    assert words in text and "mine" in text and "4, 4, 1]" in text


def test_a_reader_must_return_as_many_images_as_it_is_asked_for():
    for use in USES.values():
        text = message(lambda use=use: use(source(read=lambda split, rows: PIXELS[:1].repeat(len(rows) + 1, 0))))
        assert "reading images of mine" in text
        text = message(lambda use=use: use(source(read=lambda split, rows: [PIXELS[0], *PIXELS[1:, :2]])))
        assert "images read from mine are no array: their parts have several shapes" in text
        assert "images read from mine are a masked" in message(lambda use=use: use(source(np.ma.array(PIXELS))))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS / 1, "float64 [12]"),
        (LABELS > 0, "bool [12]"),
        (LABELS.astype("m8[s]"), "timedelta64[s] [12]"),
        (np.ma.masked_equal(LABELS, 1), "labels of split 'train' of mine are a masked array"),
        ([[0], *LABELS[1:]], "labels of split 'train' of mine are no array: their parts have several shapes"),
        (np.eye(3)[LABELS], "float64 [12, 3]; give integers [n], such as labels.argmax(1)"),
        (np.array(list("abcabcabcabc")), "<U1"),
        (LABELS + 1, "label 3 of split 'train' of mine"),
        (LABELS - 1, "label -1"),
        (LABELS.astype(np.uint64) + 2**63, "label 9223372036854775808"),
        (LABELS + 2**32, "label 4294967296"),
    ],
)
@pytest.mark.parametrize("use", ["checked", "batches", "shuffled", "in_memory", "hold_out", "statistics"])
def test_labels_that_are_no_classes_are_refused(use, labels, words):
    assert words in message(lambda: USES[use](source(labels=labels)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"train": LABELS % 2, "test": LABELS}}, "class 'c' of mine has no train images"),
        ({"labels": {"train": LABELS}}, "no split 'test'"),
        ({"labels": {"train": LABELS, "test": LABELS[:0]}}, "'test' of mine holds no images"),
        ({"labels": {"train": LABELS[:0], "test": LABELS}}, "'train' of mine holds no images"),
        ({"labels": LABELS}, "dict of the splits"),
        ({"read": PIXELS}, "function that reads"),
        ({"image_shape": (4, 4)}, "give (H, W, C)"),
        ({"image_shape": (4, 0, 1)}, "give (H, W, C)"),
        ({"image_shape": (4, 5, 1)}, "squares"),
        ({"image_shape": (4, 4, 2)}, "1 or 3 channels"),
        ({"class_names": ()}, "no classes"),
        ({"class_names": "abc"}, "one text"),
        ({"class_names": {"a", "b", "c"}}, "of type set"),
        ({"class_names": 3}, "of type int"),
        ({"class_names": ("a", None, "c")}, "None"),
        ({"class_names": ("a", "b\n", "c")}, "'b\\n'"),
        ({"class_names": ("a", "b\udcff", "c")}, "UTF-8"),
        ({"name": "a\nb"}, "'a\\nb'"),
        ({"name": None}, "None"),
    ],
)
def test_what_can_not_be_distilled_is_one_line(changes, words):
    text = message(lambda: data.checked(source()._replace(**changes)))
    assert words in text and text.encode()


def test_names_of_every_script_are_names():
    names = ("a b", "日本", "नेवी‍ब्लू")
    assert data.checked(source(class_names=names)).class_names == names
    assert "tuple" in message(lambda: data.checked(tuple(source())))
    only = source()._replace(labels={"train": LABELS})
    assert data.checked(only, needs_test=False).labels.keys() == {"train"}
