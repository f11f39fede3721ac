"""TFDS datasets, written here in both file formats; no network."""

import sys
import types

import numpy as np
import pytest
from helpers import message
from PIL import PngImagePlugin

from jaxdd import data
from jaxdd.data import tfds as tfds_source

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
pytest.importorskip("array_record", reason="array_record is not installed")


def square(label, index):
    """A 5x5 picture that only (label, index) has."""
    return np.full((5, 5, 3), [40 * label, index, 7], np.uint8)


class JaxddSquares(tfds.core.GeneratorBasedBuilder):
    """Three classes; an unlabelled test split, so that the validation split serves as the test."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["x", "y", "z"]),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "kind")
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(30),
            "validation": self._generate_examples(12),
            "test": self._generate_examples(4, -1),
        }

    def _generate_examples(self, count, label=None):
        for i in range(count):
            kind = i % 3 if label is None else label
            mask = np.zeros((5, 5, 1), np.uint8)
            yield i, {"picture": square(max(kind, 0), i), "kind": kind, "mask": mask, "note": "n"}


class JaxddGrey(tfds.core.GeneratorBasedBuilder):
    """Grey 6x6 images with labelled test and validation splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 6, 1)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        sizes = {"train": 8, "validation": 5, "test": 3}
        return {split: self._generate_examples(count) for split, count in sizes.items()}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((6, 6, 1), 10 * i + i % 2, np.uint8), "label": i % 2}


class JaxddText(tfds.core.GeneratorBasedBuilder):
    """Labelled text: no images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("text", "label")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "a", "label": 0}


class JaxddUnreachable(JaxddGrey):
    """Fails where a real one would download."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("no route to host\nand a long trace")


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def prepared(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp(request.param))
    for name in ("jaxdd_squares", "jaxdd_grey"):
        tfds.builder(name, data_dir=folder).download_and_prepare(file_format=request.param)
    return folder


def test_images_and_labels_belong_together_at_any_index(prepared):
    source = data.load("jaxdd_squares", data_dir=prepared)
    assert source.class_names == ("x", "y", "z") and source.image_shape == (5, 5, 3)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"train": 30, "test": 12}
    for split, count in (("train", 30), ("test", 12)):
        order = np.random.default_rng(0).integers(0, count, 50)
        images, labels = source.read(split, order), source.labels[split][order]
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        numbers = images[:, 0, 0, 1].astype(int)
        np.testing.assert_array_equal(images, [square(i % 3, i) for i in numbers])
        np.testing.assert_array_equal(labels, numbers % 3)
        everything = source.read(split, np.arange(count))[:, 0, 0, 1]
        assert sorted(everything.tolist()) == list(range(count))


def test_grey_images_and_a_labelled_test_split(prepared):
    source = data.load("jaxdd_grey", data_dir=prepared)
    assert source.class_names == ("0", "1") and source.image_shape == (6, 6, 1)
    assert len(source.labels["test"]) == 3
    images = source.read("train", np.arange(8))
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 10, source.labels["train"])
    assert data.load("jaxdd_grey", 12, 3, prepared).read("test", np.array([0, 1])).shape == (2, 12, 12, 3)


def test_both_formats_hold_the_same_dataset(tmp_path):
    result = []
    for form in ("array_record", "tfrecord"):
        folder = str(tmp_path / form)
        tfds.builder("jaxdd_grey", data_dir=folder).download_and_prepare(file_format=form)
        source = data.load("jaxdd_grey", data_dir=folder)
        result.append((source.read("train", np.arange(8)).tobytes(), source.labels["train"].tobytes()))
    assert result[0] == result[1]


def test_an_unprepared_dataset_is_prepared_for_random_access(tmp_path):
    source = data.load("jaxdd_grey", data_dir=str(tmp_path))
    assert len(source.labels["train"]) == 8
    builder = tfds.builder("jaxdd_grey", data_dir=str(tmp_path))
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def test_no_image_is_decoded_before_it_is_read(tmp_path, monkeypatch):
    folder = str(tmp_path)
    tfds.builder("jaxdd_squares", data_dir=folder).download_and_prepare(file_format="array_record")
    decoded = []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: decoded.append(self) or load(self))
    source = data.load("jaxdd_squares", data_dir=folder)
    assert not decoded
    source.read("train", np.array([3, 5]))
    assert len({id(one) for one in decoded}) == 2


def test_too_large_to_stream_is_refused_before_decoding(tmp_path, monkeypatch):
    folder = str(tmp_path)
    tfds.builder("jaxdd_grey", data_dir=folder).download_and_prepare(file_format="tfrecord")
    monkeypatch.setattr(tfds_source, "_STREAM_LIMIT", 11 * 36 - 1)
    text = message(lambda: data.load("jaxdd_grey", data_dir=folder))
    assert "array_record" in text and folder in text
    monkeypatch.setattr(tfds_source, "_STREAM_LIMIT", 11 * 36)
    assert data.load("jaxdd_grey", data_dir=folder).image_shape == (6, 6, 1)


@pytest.mark.parametrize(("name", "nearest"), [("cifar_10", "cifar10"), ("digts", "digits"), ("mnits", "mnist")])
def test_an_unknown_name_gets_the_nearest_ones(name, nearest, tmp_path):
    text = message(lambda: data.load(name, data_dir=str(tmp_path)))
    assert name in text and nearest in text


def test_what_cannot_be_used_is_told_in_one_line(tmp_path):
    folder = str(tmp_path)
    assert "'not a name!'" in message(lambda: data.load("not a name!", data_dir=folder))
    assert "9.9.9" in message(lambda: data.load("mnist:9.9.9", data_dir=folder))
    assert "class label" in message(lambda: data.load("jaxdd_text", data_dir=folder))
    text = message(lambda: data.load("jaxdd_unreachable", data_dir=folder))
    assert "no route to host" in text and folder in text and "network" in text


def test_a_name_with_a_config_is_no_path(tmp_path):
    # Nothing is prepared here, and nothing can be downloaded; what counts is who refuses.
    text = message(lambda: data.load("imagenette/nosuchconfig", data_dir=str(tmp_path)))
    assert "TFDS dataset 'imagenette/nosuchconfig'" in text and "nosuchconfig" in text
    assert "TFDS" not in message(lambda: data.load("nowhere/imagenette"))
    assert "TFDS" not in message(lambda: data.load(str(tmp_path / "imagenette")))


def test_a_share_of_the_train_images_needs_no_test_split(prepared):
    source = data.load("jaxdd_squares", data_dir=prepared, needs_test=False, skip_corrupt=True)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"test": 0, "train": 30}
    assert source.skipped == ()
    held_out = data.hold_out(source, 0.2)
    assert np.bincount(held_out.labels["test"]).tolist() == [2, 2, 2]
    assert (held_out.read("test", np.arange(6))[:, 0, 0, 0] == 40 * held_out.labels["test"]).all()


def test_splits_are_chosen_as_of_other_datasets(prepared):
    source = data.load("jaxdd_squares?train=validation&test=train", data_dir=prepared)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"test": 30, "train": 12}
    assert source.name == "jaxdd_squares?train=validation&test=train"
    line = message(lambda: data.load("jaxdd_squares?test=test", data_dir=prepared))
    assert "jaxdd_squares has no labels in test" in line and "give `holdout` 0.2" in line


def test_a_library_that_stays_empty_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.ModuleType("tensorflow_datasets"))
    for call in (lambda: tfds_source.is_builder("cifar10"), lambda: tfds_source.load_tfds("cifar10")):
        assert "do not fit each other" in message(call)
