"""Passes over a source, and the embedded digits."""

import itertools
import sys
import threading

import numpy as np
import pytest
from helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdd import data
from jaxdd.data.source import make_source
from jaxdd.ground import extras
from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry


def synthetic(count, classes=3, shape=(2, 3, 3), seed=0):
    """A source in memory, its train images, and the list of the reads it served."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    labels = rng.integers(0, classes, count)
    reads = []

    def read(split, indices):
        reads.append(indices)
        return images[indices]

    names = [f"class {c}" for c in range(classes)]
    return make_source("synthetic", names, shape, {"train": labels, "test": labels[:0]}, read), images, reads


# Passes over a source


@given(st.integers(0, 40), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_class_indices_partition_the_split(count, classes):
    source, _, _ = synthetic(count, classes)
    result = data.class_indices(source)
    assert len(result) == classes
    for label, indices in enumerate(result):
        assert indices.tolist() == [i for i, y in enumerate(source.labels["train"]) if y == label]


@given(st.integers(12, 60), st.integers(1, 3), st.floats(0.2, 0.8), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_hold_out_parts_the_train_split_class_by_class(count, classes, share, seed):
    source, images, _ = synthetic(count, classes)
    counts = np.bincount(source.labels["train"], minlength=classes)
    held_out = [round(share * n) for n in counts]
    if not all(0 < gives < n for gives, n in zip(held_out, counts)):
        with pytest.raises(InputError, match="choose another share"):
            data.hold_out(source, share, seed)
        return
    parted = data.hold_out(source, share, seed)
    assert np.bincount(parted.labels["test"], minlength=classes).tolist() == held_out
    result = {split: parted.read(split, np.arange(len(labels))) for split, labels in parted.labels.items()}
    # Random pixels are all different, so they name the image they came from.
    row = {image.tobytes(): i for i, image in enumerate(images)}
    rows = {split: [row[image.tobytes()] for image in part] for split, part in result.items()}
    assert sorted(rows["train"] + rows["test"]) == list(range(count))
    for split, chosen in rows.items():
        assert chosen == sorted(chosen)
        np.testing.assert_array_equal(parted.labels[split], source.labels["train"][chosen])


def test_hold_out_depends_on_its_seed_alone_and_refuses_bad_shares():
    source, _, _ = synthetic(40)
    parts = [data.hold_out(source, 0.5, seed).read("test", np.arange(5)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert (parts[0] != parts[2]).any()
    for share in (0, 1, -0.5, 1.5):
        with pytest.raises(InputError, match="`holdout` .* share"):
            data.hold_out(source, share)


def test_images_keep_their_names_when_some_are_held_out():
    source, _, _ = synthetic(40)
    parted = data.hold_out(source, 0.25)
    rows = {split: data.names_of(parted, split, np.arange(len(labels))) for split, labels in parted.labels.items()}
    for split, names in rows.items():
        indices = np.array(names, int)
        np.testing.assert_array_equal(parted.labels[split], source.labels["train"][indices])
        np.testing.assert_array_equal(parted.read(split, np.arange(len(indices))), source.read("train", indices))
    assert len(set(rows["train"] + rows["test"])) == 40
    named = source._replace(names=lambda split, indices: [f"{split}/{index}" for index in indices])
    for copy in (named, data.in_memory(named), data.without_damaged(named)):
        assert data.names_of(data.hold_out(copy, 0.25), "test", np.arange(2)) == [
            f"train/{r}" for r in rows["test"][:2]
        ]


@given(st.integers(1, 30), st.integers(1, 40), st.data())
@settings(max_examples=25, deadline=None)
def test_batches_visit_the_indices_in_order_and_mark_the_padding(count, size, draw):
    source, images, _ = synthetic(count)
    indices = np.array(draw.draw(st.lists(st.integers(0, count - 1), max_size=50)), np.int64)
    result = list(data.batches(source, "train", size, indices))
    assert len(result) == -(-len(indices) // size)
    for pixels, labels, valid in result:
        assert pixels.shape == (size, 2, 3, 3) and pixels.dtype == np.uint8
        assert labels.shape == valid.shape == (size,)
        assert labels.dtype == np.int32 and valid.dtype == np.float32
    if result:
        pixels, labels, valid = (np.concatenate(parts) for parts in zip(*result))
        assert valid.sum() == len(indices) and valid[: len(indices)].all()
        padded = np.append(indices, np.full(len(valid) - len(indices), indices[-1]))
        np.testing.assert_array_equal(pixels, images[padded])
        np.testing.assert_array_equal(labels, source.labels["train"][padded])


def test_batches_take_the_whole_split_by_default():
    source, images, _ = synthetic(10)
    pixels = np.concatenate([batch[0] for batch in data.batches(source, "train", 5)])
    np.testing.assert_array_equal(pixels, images)
    assert list(data.batches(source, "test", 5)) == []


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 6), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_shuffled_batches_are_slices_of_the_joined_permutations(count, size, start, seed):
    source, images, _ = synthetic(count)
    end = (start + 3) * size
    joined = np.concatenate([np.random.default_rng([seed, e]).permutation(count) for e in range(-(-end // count))])
    for k, (pixels, labels) in enumerate(itertools.islice(data.shuffled(source, "train", size, seed, start), 3), start):
        expected = joined[k * size : (k + 1) * size]
        np.testing.assert_array_equal(pixels, images[expected])
        np.testing.assert_array_equal(labels, source.labels["train"][expected])
        assert labels.dtype == np.int32


def test_in_memory_decodes_a_split_once_and_serves_the_same_images():
    source, images, reads = synthetic(2500)
    kept = data.in_memory(source)
    assert not reads
    chosen = np.array([7, 3, 3, 2499])
    for _ in range(2):
        np.testing.assert_array_equal(kept.read("train", chosen), images[chosen])
    np.testing.assert_array_equal(np.concatenate(reads), np.arange(2500))
    first = kept.read("train", chosen)
    first[:] = 0
    np.testing.assert_array_equal(kept.read("train", chosen), images[chosen])


def test_in_memory_streams_what_exceeds_the_limit():
    source, images, reads = synthetic(50)
    exact = data.in_memory(source, limit_bytes=images.nbytes)
    exact.read("train", np.array([1]))
    assert sum(map(len, reads)) == 50
    reads.clear()
    streaming = data.in_memory(source, limit_bytes=images.nbytes - 1)
    np.testing.assert_array_equal(streaming.read("train", np.array([4, 1])), images[[4, 1]])
    assert sum(map(len, reads)) == 2


def test_statistics_are_the_pixel_moments():
    source, images, _ = synthetic(700, shape=(4, 5, 3))
    mean, std = data.statistics(source)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-6)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_statistics_of_a_sample_take_evenly_spaced_images():
    source, images, reads = synthetic(100)
    mean, _ = data.statistics(source, max_images=10)
    np.testing.assert_allclose(mean, images[::10].mean(axis=(0, 1, 2)) / 255, rtol=1e-6)
    assert sum(map(len, reads)) == 10


def test_statistics_of_a_constant_channel_can_be_divided_by():
    source, images, _ = synthetic(9)
    images[..., 1] = 200
    mean, std = data.statistics(source)
    assert mean[1] == np.float32(200 / 255)
    assert std[1] == np.float32(1 / 255)


def test_a_failure_while_reading_ahead_reaches_the_consumer_after_the_good_batches():
    source, images, _ = synthetic(20)

    def read(split, indices):
        if 9 in indices:
            raise InputError("image nine is damaged")
        return images[indices]

    broken = source._replace(read=read)
    for passed in (data.batches(broken, "train", 4), data.batches(broken, "train", 4)):
        np.testing.assert_array_equal(next(passed)[0], images[:4])
        next(passed)
        with pytest.raises(InputError, match="image nine"):
            next(passed)
    with pytest.raises(InputError, match="image nine"):
        for _ in data.shuffled(broken, "train", 4, seed=0):
            pass


def test_reading_ahead_is_bounded_and_leaves_no_thread_behind():
    before = threading.active_count()
    source, _, reads = synthetic(1000)
    endless = data.shuffled(source, "train", 10, seed=0)
    next(endless)
    assert threading.active_count() == before + 1
    endless.close()
    assert threading.active_count() == before
    assert len(reads) <= 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: data.batches(s, "val", 2), "'val'"),
        (lambda s: data.batches(s, "train", 0), "batch_size 0"),
        (lambda s: data.batches(s, "train", 2, np.array([1, 5])), "index 5"),
        (lambda s: data.batches(s, "train", 2, np.array([0.5])), "float64"),
        (lambda s: data.shuffled(s, "test", 2, 0), "no images"),
        (lambda s: data.shuffled(s, "train", 2, -1), "seed -1"),
        (lambda s: data.shuffled(s, "train", 2, 0, -3), "start -3"),
        (lambda s: data.class_indices(s, "valid"), "'valid'"),
        (lambda s: data.statistics(s, 0), "max_images 0"),
        (lambda s: s.read("train", np.array([-1])), "index -1"),
        (lambda s: data.in_memory(s).read("nowhere", np.array([0])), "'nowhere'"),
    ],
)
def test_bad_requests_name_the_value(call, words):
    assert words in message(lambda: call(synthetic(5)[0]))


# Digits


def test_digits_are_all_of_scikit_learns_split_by_class():
    from sklearn.datasets import load_digits

    source = data.load("digits")
    assert source.class_names == tuple("0123456789") and source.image_shape == (8, 8, 1)
    images = {split: source.read(split, np.arange(len(y))) for split, y in source.labels.items()}
    original = load_digits()
    everything = np.concatenate([images["train"], images["test"]])[..., 0]
    pairs = zip(everything, np.concatenate([source.labels["train"], source.labels["test"]]))
    expected = zip(np.rint(original.images * 255 / 16).astype(np.uint8), original.target)
    assert sorted((x.tobytes(), y) for x, y in pairs) == sorted((x.tobytes(), y) for x, y in expected)
    for c in range(10):
        train, test = (np.sum(source.labels[split] == c) for split in ("train", "test"))
        assert test == (train + test) // 5
    assert all(labels.dtype == np.int32 for labels in source.labels.values())


def test_digits_at_another_shape_are_the_same_digits():
    small, large = data.load("digits"), data.load("digits", image_size=32, channels=3)
    assert large.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(small.labels["train"], large.labels["train"])
    chosen = np.arange(50)
    pixels = large.read("train", chosen)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    means = pixels.mean(axis=(1, 2, 3)), small.read("train", chosen).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(*means, atol=6)


def test_without_tfds_the_remedy_is_a_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert extras.install("tfds") in message(lambda: data.load("cifar10"))
    assert data.load("digits").image_shape == (8, 8, 1)


# Names


def test_a_name_that_is_nowhere_says_what_lies_beside_and_what_is_taken(tmp_path, monkeypatch):
    for name in ("pets", "petals", ".petz"):
        (tmp_path / name).mkdir()
    (tmp_path / "pets.npz").touch()
    monkeypatch.chdir(tmp_path)
    text = message(lambda: data.load("petz"))
    assert "dataset 'petz' is neither a folder here nor a TFDS name (did you mean pets" in text
    assert "`dataset` takes digits, a folder, hf:owner/name" in text and ".petz" not in text
    assert "folder ./petz does not exist (did you mean ./pets?)" in message(lambda: data.load("./petz"))
    assert f"(did you mean {tmp_path / 'pets'}?)" in message(lambda: data.load(tmp_path / "petz"))
    assert "petz.npz does not exist (did you mean pets.npz?)" in message(lambda: data.load("petz.npz"))
    assert "folder nowhere/petz does not exist: give" in message(lambda: data.load("nowhere/petz"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    text = message(lambda: data.load("petz"))
    assert "dataset 'petz' is no folder here (did you mean pets" in text and extras.install("tfds") in text


def test_a_registered_dataset_is_opened_by_its_name_and_nothing_is_imported(monkeypatch):
    requests = []
    sources = Registry("dataset")
    sources.register("mine", lambda image_size, channels: requests.append((image_size, channels)) or synthetic(5)[0])
    monkeypatch.setattr(data, "SOURCES", sources)
    assert len(data.load("mine", 8).labels["train"]) == 5 and requests == [(8, None)]
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    text = message(lambda: data.load("somebody.elses:dataset"))
    assert "'somebody.elses:dataset' is not registered" in text and "`plugin` somebody.elses:dataset" in text
