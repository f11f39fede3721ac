"""The same pictures in every format give the same arrays; damaged and hostile files end in one line."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from helpers import message, mutants
from hypothesis import given
from hypothesis import strategies as st
from source_helpers import (
    NAMES,
    as_arrow,
    as_folder,
    as_npy,
    as_npz,
    as_parquet,
    as_shards,
    as_table,
    pictures,
    png,
    stacked,
    tar,
)

from jaxdd import data
from jaxdd.data import numpy_files, places, tar_index
from jaxdd.ground import dry, extras
from jaxdd.ground.errors import InputError

FORMATS = {
    "parquet": lambda root, found: as_parquet(root / "set", found),
    "arrow": lambda root, found: as_arrow(root / "set", found),
    "shards": lambda root, found: as_shards(root / "set", found),
    "shards with json": lambda root, found: as_shards(root / "set", found, "json"),
    "npz": lambda root, found: as_npz(root / "set.npz", found),
    "npy": lambda root, found: as_npy(root / "set", found),
}


pytestmark = pytest.mark.usefixtures("cache")


def everything(source):
    rows = {split: np.arange(len(part)) for split, part in source.labels.items()}
    return {split: source.read(split, part) for split, part in rows.items()}


def assert_same(one, other):
    assert one.class_names == other.class_names and one.image_shape == other.image_shape
    for split, labels in other.labels.items():
        np.testing.assert_array_equal(one.labels[split], labels)
        assert one.labels[split].dtype == np.int32
    for split, images in everything(other).items():
        np.testing.assert_array_equal(everything(one)[split], images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_arrays_of_a_folder(tmp_path, form, channels):
    found = pictures(channels)
    folder = data.load(as_folder(tmp_path / "folder", found))
    source = data.load(FORMATS[form](tmp_path, found))
    assert source.image_shape == (8, 8, channels) and source.class_names == tuple(NAMES)
    assert_same(source, folder)
    # In any order, with repeats.
    rows = np.array([5, 0, 5, 2])
    np.testing.assert_array_equal(source.read("train", rows), folder.read("train", rows))


@pytest.mark.parametrize("form", FORMATS)
def test_sizes_channels_and_test_images_are_asked_for_as_of_folders(tmp_path, form):
    found = pictures(3)
    place = FORMATS[form](tmp_path, found)
    folder = as_folder(tmp_path / "folder", found)
    for size, channels in ((4, 1), (11, 3), (8, 1)):
        assert_same(data.load(place, size, channels), data.load(folder, size, channels))
    alone = FORMATS[form](tmp_path / "alone", {"train": found["train"]})
    line = message(lambda: data.load(alone))
    assert "test or val or valid or validation" in line and "holdout" in line and "?test=" in line
    source = data.load(alone, needs_test=False)
    assert len(source.labels["train"]) == 6 and not len(source.labels["test"])
    assert len(data.hold_out(data.load(FORMATS[form](tmp_path / "b", found | {"train": found["train"] * 2}),
                             needs_test=False), 0.5).labels["test"]) == 6  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "arrow", "shards"])
def test_damaged_images_are_named_or_left_out(tmp_path, form, monkeypatch):
    found = pictures(1)
    monkeypatch.setattr("source_helpers.png", lambda pixels: b"no image" if pixels[0, 0] == 7 else png(pixels))
    for k, (_, _, pixels) in enumerate(found["train"]):
        pixels[0, 0] = 7 if k == 3 else 8
    for _, _, pixels in found["val"]:
        pixels[0, 0] = 8
    place = FORMATS[form](tmp_path, found)
    source = data.load(place, 8, 1)
    line = message(lambda: source.read("train", np.array([3])))
    assert str(tmp_path) in line and "cannot be read" in line and "repair it or remove it" in line
    kept = data.load(place, skip_corrupt=True)
    assert kept.image_shape == (8, 8, 1) and len(kept.labels["train"]) == 5 and kept.skipped[0].row == 3


@pytest.mark.slow
def test_importing_data_imports_no_library_of_a_format():
    code = "import sys, jaxdd.data; print({'datasets', 'pyarrow', 'pandas', 'webdataset'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Names


@given(st.dictionaries(st.sampled_from(["image", "label", "train", "test"]), st.text("ab/.-_ =%?é{}", min_size=1)))
def test_choices_are_found_again(choices):
    escape = {"%": "%25", "&": "%26", "?": "%3F"}
    query = "&".join(f"{key}={''.join(escape.get(c, c) for c in value)}" for key, value in choices.items())
    name = f"hf:owner/name?{query}" if choices else "hf:owner/name"
    assert places.parsed(name) == ("hf:owner/name", choices)


@pytest.mark.parametrize("query", ["img=x", "image", "image=", "image=a&image=b", ""])
def test_choices_that_are_none(query):
    line = message(lambda: data.load(f"hf:owner/name?{query}"))
    assert "KEY=VALUE" in line and "owner/name" in line


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("hf:ylecun/mnist", "mnist"),
        ("hf:uoft-cs/cifar100@main:plain?label=fine_label", "cifar100-plain"),
        ("imagenette/160px", "imagenette-160px"),
        ("a/b/train-{000000..000009}.tar", "b"),
        ("a/b/imagenet-train-{000000..000009}.tar", "imagenet-train"),
        ("train-000000.tar", "shards"),
        ("a/one.tar::a/two.tar?test=c.tar", "one"),
        ("digits", "digits"),
    ],
)
def test_short_names(name, title):
    assert places.title(name) == title


def test_a_folder_whose_name_has_a_question_mark(tmp_path):
    place = as_folder(tmp_path / "is it?image=this", pictures(1))
    assert data.load(place).class_names == tuple(NAMES)
    assert places.title(str(place)) == "is it?image=this"


def test_an_archive_that_was_left_beside_class_folders(tmp_path):
    found = pictures(1)
    as_folder(tmp_path / "set", found)
    (tmp_path / "set" / "train.tar").write_bytes(b"left over")
    np.save(tmp_path / "set" / "images.npy", np.zeros(3))
    assert data.load(tmp_path / "set").class_names == tuple(NAMES)


# The hub


def write_table(root, table, name="data/train-00000-of-00001.parquet"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(root / name)
    return root


def test_columns_by_choice(tmp_path):
    import datasets

    rows = pictures(1)["train"]
    table = as_table(rows, ("img", "fine_label"))
    coarse = table.add_column("coarse_label", [0] * len(rows)).cast_column(
        "coarse_label", datasets.ClassLabel(names=["all"])
    )
    place = write_table(tmp_path / "set", coarse)
    line = message(lambda: data.load(place, needs_test=False))
    assert "fine_label, coarse_label" in line and "?label=COLUMN" in line
    source = data.load(f"{place}?label=fine_label&test=train")
    assert source.class_names == tuple(NAMES) and len(source.labels["test"]) == len(rows)
    assert data.load(f"{place}?label=coarse_label&image=img", needs_test=False).class_names == ("all",)
    line = message(lambda: data.load(f"{place}?label=x", needs_test=False))
    assert "img, fine_label, coarse_label" in line


def test_labels_without_class_names(tmp_path):
    import datasets

    rows = pictures(1)["train"]
    held = {"image": [png(pixels) for _, _, pixels in rows]}
    for name, labels in (("number", [2, 1, 0, 0, 1, 2]), ("text", ["b", "a", "c", "c", "a", "b"])):
        table = datasets.Dataset.from_dict(held | {"label": labels})
        source = data.load(write_table(tmp_path / name, table), needs_test=False)
        expected = ("0", "1", "2") if name == "number" else ("a", "b", "c")
        assert source.class_names == expected
        assert [source.class_names[k] for k in source.labels["train"]] == [str(label) for label in labels]
    for name, labels in (("missing", [0, 1, None, 0, 0, 0]), ("negative", [0, 1, -1, 0, 0, 0])):
        place = write_table(tmp_path / name, datasets.Dataset.from_dict(held | {"label": labels}))
        assert "no labels in train" in message(lambda place=place: data.load(place, needs_test=False))
    place = write_table(tmp_path / "stray", datasets.Dataset.from_dict(held | {"label": [0, 1, 2**40, 0, 0, 0]}))
    assert "class '2' of" in message(lambda: data.load(place, needs_test=False))
    place = write_table(tmp_path / "float", datasets.Dataset.from_dict(held | {"label": [0.5] * 6}))
    assert "train labels" in message(lambda: data.load(place, needs_test=False))


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    found = pictures(1)
    place = as_parquet(tmp_path / "set", found)
    import datasets

    unlabelled = as_table(found["val"]).remove_columns("label").add_column("label", [-1] * 6)
    unlabelled = unlabelled.cast_column("label", datasets.ClassLabel(names=list(NAMES)))
    write_table(place, unlabelled, "data/test-00000-of-00001.parquet")
    np.testing.assert_array_equal(everything(data.load(place))["test"][..., 0], stacked(found["val"])[0])


@pytest.mark.parametrize("file", ["data/train-00000-of-00001.parquet", "train/data-00000-of-00001.arrow"])
def test_a_table_that_is_damaged(tmp_path, file):
    place = (as_parquet if "parquet" in file else as_arrow)(tmp_path / "set", pictures(1))
    content = (place / file).read_bytes()
    for part in (b"", b"PAR1", content[: len(content) // 2], b"x" * 100):
        (place / file).write_bytes(part)
        assert str(place) in message(lambda: data.load(place))


def test_tables_choose_no_files_elsewhere(tmp_path):
    import datasets

    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.zeros((8, 8), np.uint8)))
    rows = {"image": [{"bytes": None, "path": str(secret)}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a"])})
    place = write_table(tmp_path / "set", datasets.Dataset.from_dict(rows, features=features))
    source = data.load(place, 8, 1, needs_test=False)
    assert "lies elsewhere" in message(lambda: source.read("train", np.array([0])))
    # Nor does the card of a repository, or the state of what was saved.
    other = as_parquet(tmp_path / "elsewhere", pictures(1)) / "data" / "train-00000-of-00001.parquet"
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {other}\n---\n")
    assert "lies elsewhere" in message(lambda: data.load(place, needs_test=False))
    saved = as_arrow(tmp_path / "saved", pictures(1))
    state = json.loads((saved / "train" / "state.json").read_text())
    (saved / "train" / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../val/x.arrow"}]}))
    assert "no file in its folder" in message(lambda: data.load(saved))
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["../elsewhere"]}))
    assert "no file in its folder" in message(lambda: data.load(saved))


@pytest.mark.slow
def test_a_parquet_file_that_would_fill_the_disk(tmp_path):
    import pyarrow
    import pyarrow.parquet

    place = tmp_path / "set"
    place.mkdir()
    table = pyarrow.table({"image": [b"\0" * 2**26] * 2, "label": [0, 1]})
    pyarrow.parquet.write_table(table, place / "train.parquet", compression="zstd", use_dictionary=False)
    assert "would expand to" in message(lambda: data.load(place, needs_test=False))


def test_a_dataset_of_the_hub_is_opened_like_a_folder_of_its_files(tmp_path, monkeypatch):
    """The hub itself is not reachable here; the library is asked for the repository, and given its folder."""
    import datasets

    found = pictures(3)
    place, asked = as_parquet(tmp_path / "clone", found), []
    genuine = datasets.load_dataset_builder

    def builder(path, name=None, **given):
        asked.append((path, name, given["revision"]))
        return genuine(str(place), name)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    source = data.load("hf:owner/name@abc?image=image&test=validation")
    assert asked == [("owner/name", None, "abc")] and source.name == "hf:owner/name@abc?image=image&test=validation"
    assert_same(source, data.load(as_folder(tmp_path / "folder", found)))
    assert "other" in message(lambda: data.load("hf:owner/name:other")) and asked[-1][:2] == ("owner/name", "other")
    assert "hf:owner/name" in message(lambda: data.load("hf:../no such"))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *given, **more: 1 / 0)
    line = message(lambda: data.load("hf:owner/name"))
    assert "hf:owner/name cannot be opened" in line and "local folder" in line


def test_formats_of_the_hub_that_are_not_read(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    write_table(tmp_path / "set", as_table(pictures(1)["train"]), "data/train.parquet")
    (tmp_path / "set" / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.csv\n---\n")
    (tmp_path / "set" / "a.csv").write_text("image,label\nx,1\n")
    assert "csv" in message(lambda: data.load(tmp_path / "set", needs_test=False))


def test_without_the_library(tmp_path, monkeypatch):
    place = as_parquet(tmp_path / "set", pictures(1))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert extras.install("hub") in message(lambda: data.load(place))


# NumPy


def arrays(**named):
    content = io.BytesIO()
    np.savez(content, **named)
    return content.getvalue()


GREY = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
TWO = np.arange(2)


def opened(tmp_path, query="", needs_test=False, **named):
    (tmp_path / "set.npz").write_bytes(arrays(**named))
    return data.load(f"{tmp_path / 'set.npz'}{query}", needs_test=needs_test)


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("X_Train", "Y_Train"),
     ("data", "targets"), ("img-train", "label-train")],
)  # fmt: skip
def test_names_of_arrays(tmp_path, names):
    source = opened(tmp_path, **dict(zip(names, (GREY, TWO))))
    np.testing.assert_array_equal(source.read("train", np.arange(2))[..., 0], GREY)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"x_train": GREY}, ["no labels in train"]),
        ({"a": GREY}, ["no array of images", "it holds a", "?image="]),
        ({"x_train": GREY / 255, "y_train": TWO}, ["float64", "uint8"]),
        ({"x_train": GREY[:, None].repeat(3, 1), "y_train": TWO}, ["transpose(0, 2, 3, 1)"]),
        ({"x_train": GREY, "y_train": TWO[:1]}, ["2 train images and 1 labels"]),
        ({"x_train": GREY, "y_train": TWO / 2}, ["float64"]),
        ({"x_train": GREY, "y_train": np.eye(2)}, ["float64 [2, 2]"]),
        ({"x_train": GREY, "y_train": TWO - 1}, ["is -1"]),
        ({"x_train": GREY, "y_train": TWO * 2**40}, ["class '1'", "has no train images"]),
        ({"x_train": GREY, "images": GREY, "y_train": TWO}, ["images and x_train", "?image=NAME"]),
        ({"x_train": GREY, "y_train": TWO, "class_names": ["a"]}, ["label 1 of 1 classes"]),
        ({"x_train": GREY[:0], "y_train": TWO[:0]}, ["0 train images"]),
        ({"x_train": np.array([{}, {}]), "y_train": TWO}, ["cannot be read", "neither numbers nor text"]),
    ],
)
def test_arrays_that_are_no_dataset(tmp_path, named, words):
    line = message(lambda: opened(tmp_path, **named))
    assert all(word in line for word in words) and "set.npz" in line, line


def test_arrays_by_choice(tmp_path):
    named = {"pixels_train": GREY, "train_fine": TWO, "train_coarse": TWO * 0, "pixels_eval": GREY, "x_valid": GREY,
             "y_valid": TWO}  # fmt: skip
    assert opened(tmp_path, "?label=fine&image=pixels", **named).labels["train"].tolist() == [0, 1]
    assert opened(tmp_path, "?label=coarse&image=pixels", **named).class_names == ("0",)
    source = opened(tmp_path, "?train=valid&test=valid", **named)
    assert source.labels["test"].tolist() == [0, 1]


def test_medical_and_keras_layouts(tmp_path):
    medical = {f"{split}_{kind}": value + k for k, split in enumerate(("train", "val", "test"))
               for kind, value in (("images", GREY), ("labels", TWO[:, None].astype(np.uint8)))}  # fmt: skip
    medical |= {name: TWO[:, None] for name in medical if "labels" in name}
    source = opened(tmp_path, needs_test=True, **medical)
    # As of folders, the test images are preferred to the validation images.
    np.testing.assert_array_equal(source.read("test", np.arange(2))[..., 0], GREY + 2)
    assert data.load(f"{tmp_path}/set.npz?test=val").read("test", np.array([0]))[0, 0, 0, 0] == 1


def test_npy_files_are_mapped(tmp_path, monkeypatch):
    place = as_npy(tmp_path / "set", pictures(1))
    held = numpy_files.read(str(place))
    assert not held["x_train"].flags.writeable and not held["x_train"].flags.owndata
    (place / "x_train.npy").write_bytes((place / "x_train.npy").read_bytes()[:-1])
    assert "x_train.npy cannot be read" in message(lambda: data.load(place))


# Shards


def test_shards_by_range_list_and_choice(tmp_path):
    found = pictures(3)
    root = as_shards(tmp_path / "set", found)
    expected = data.load(root)
    train = [str(root / f"train-{k:06d}.tar") for k in range(2)]
    for name in (f"{root}/train-{{000000..000001}}.tar", "::".join(train),
                 f"{root}/train-{{000000..000001}}.tar?test=val-000000.tar", f"{root}?test=val"):  # fmt: skip
        assert_same(data.load(name), expected)
    only = data.load(f"{train[1]}::{train[0]}?test=train-000001.tar", needs_test=False)
    assert only.labels["train"].tolist() == [1, 1, 2, 0, 0, 0] and only.labels["test"].tolist() == [1, 1, 2]
    for folder in ("train", "val"):
        (tmp_path / "deep" / folder).mkdir(parents=True)
    for shard in sorted(root.glob("*.tar")):
        shard.rename(tmp_path / "deep" / shard.name[: shard.name.index("-")] / shard.name.removeprefix("train-"))
    assert data.load(tmp_path / "deep").class_names == ("0", "1", "2")


LABELLED = {"a.png": png(GREY[0]), "a.cls": b"0", "b.png": png(GREY[1]), "b.cls": b"1"}


def shards(tmp_path, files, query="", **beside):
    tar(tmp_path / "a.tar", files)
    for name, content in beside.items():
        (tmp_path / f"classes.{name}").write_text(content)
    return data.load(f"{tmp_path / 'a.tar'}{query}", needs_test=False)


def test_labels_and_classes_of_shards(tmp_path):
    assert shards(tmp_path, LABELLED).class_names == ("0", "1")
    named = LABELLED | {"a.cls": b"dog\n", "b.cls": "cät".encode()}
    source = shards(tmp_path, named)
    assert source.class_names == ("cät", "dog") and source.labels["train"].tolist() == [1, 0]
    assert shards(tmp_path, named, json='{"dog": 0, "cät": 1}').class_names == ("dog", "cät")
    assert shards(tmp_path, LABELLED, txt="x\ny\n").class_names == ("x", "y")
    line = message(lambda: shards(tmp_path, named))
    assert "'dog'" in line and "2 classes" in line
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").unlink()
    record = {"a.json": b'{"label": 1, "fine": 0}', "b.json": b'{"label": 0, "fine": 1}'}
    mixed = {name: content for name, content in LABELLED.items() if "cls" not in name} | record
    ordered = dict(sorted(mixed.items()))
    assert shards(tmp_path, ordered).labels["train"].tolist() == [1, 0]
    assert shards(tmp_path, ordered, "?label=fine").labels["train"].tolist() == [0, 1]
    several = {"a.left.png": png(GREY[0]), "a.right.png": png(GREY[1]), "a.cls": b"0"}
    line = message(lambda: shards(tmp_path, several))
    assert "left.png, right.png" in line and "?image=" in line
    source = shards(tmp_path, several, "?image=right.png")
    np.testing.assert_array_equal(source.read("train", np.array([0]))[0, ..., 0], GREY[1])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.cls": b"0"}, ["'a'", "no image"]),
        ({"a.png": LABELLED["a.png"]}, ["'a'", "no label"]),
        (LABELLED | {"b.cls": b"\xff"}, ["b.cls", "UTF-8"]),
        (LABELLED | {"b.cls": b"9" * 2**21}, ["b.cls", "2097152 bytes"]),
        (LABELLED | {"b.cls": b""}, ["b.cls", "''"]),
        (LABELLED | {"b.cls": b"-1"}, ["is -1"]),
        (LABELLED | {"b.cls": b"7"}, ["class '1'", "has no train images"]),
        ({"a.png": LABELLED["a.png"], "a.json": b'{"label": [1]}'}, ["a.json", "[1]"]),
        ({"a.png": LABELLED["a.png"], "a.json": b"{"}, ["a.json", "JSON"]),
        ({"x/readme": b""}, ["no samples"]),
        ({}, ["no samples"]),
    ],
)
def test_samples_that_are_none(tmp_path, files, words):
    line = message(lambda: shards(tmp_path, files))
    assert all(word in line for word in words), line


def entry(name, kind=tarfile.REGTYPE, size=0, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (entry("a.png", tarfile.SYMTYPE, link="/etc/passwd"), "a link"),
        (entry("a.png", tarfile.LNKTYPE, link="b.png"), "a link"),
        (entry("a.png", tarfile.FIFOTYPE), "a pipe"),
        (entry("a.png", tarfile.CHRTYPE), "a device"),
        (entry("a.png", b"Q"), "unknown kind"),
        (entry("../a.png"), "leads out"),
        (entry("x/../../a.png"), "leads out"),
        (entry("/etc/a.png"), "leads out"),
        (entry("a.png", size=10**9), "1000000000 bytes"),
        (entry("a.png", size=2**60), "1152921504606846976 bytes"),
        (entry("é" * 90 + "/../../a.png"), "leads out"),
    ],
)
def test_archives_that_are_hostile(tmp_path, member, words):
    line = message(lambda: shards(tmp_path, LABELLED | {"x": member}))
    assert words in line and str(tmp_path / "a.tar") in line


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
def test_compressed_archives(tmp_path, form):
    with tarfile.open(tmp_path / f"a.tar.{form}", f"w:{form}") as archive:
        archive.addfile(entry("a"))
    assert "unpack it to a" in message(lambda: data.load(tmp_path / f"a.tar.{form}"))
    (tmp_path / f"a.tar.{form}").rename(tmp_path / "b.tar")
    assert "is compressed" in message(lambda: data.load(tmp_path / "b.tar", needs_test=False))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.tar.gz").write_bytes(gzip.compress(b""))
    assert "train.tar.gz is compressed" in message(lambda: data.load(tmp_path / "set"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train-{000..001}.tar", "train-000.tar does not exist"),
        ("train-{9..1}.tar", "give a range"),
        ("train-{0..999999999}.tar", "give a range"),
        ("{0..9}{0..9}.tar", "two ranges"),
    ],
)
def test_shards_that_are_not_there(tmp_path, name, words):
    assert words in message(lambda: data.load(tmp_path / name))


@given(
    st.dictionaries(
        st.text(st.characters(blacklist_characters="/\0.", blacklist_categories=["Cs"]), min_size=1, max_size=150),
        st.binary(max_size=700),
        max_size=6,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_found_where_they_lie(tmp_path_factory, files, form):
    place = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(place, "w", format=form) as archive:
        for name, content in files.items():
            made = entry(name, size=len(content))
            made.mtime = 0.5  # which asks for a table of attributes
            try:
                archive.addfile(made, io.BytesIO(content))
            except ValueError:  # a name that is too long for the oldest format
                return
    found = {member.name: (member.offset, member.size) for member, _ in tar_index.members(str(place))}
    raw = place.read_bytes()
    assert {name: raw[start : start + size] for name, (start, size) in found.items()} == files


def test_damage_anywhere_in_an_archive_ends_in_values_or_one_line(tmp_path):
    content = tar(tmp_path / "whole.tar", LABELLED | {"é" * 120: b"x"}).read_bytes()
    for k, damaged in enumerate(mutants(content, 150)):
        place = tmp_path / f"{k}.tar"
        place.write_bytes(damaged)
        try:
            source = data.load(place, needs_test=False)
            source.read("train", np.arange(len(source.labels["train"])))
        except InputError as error:
            assert str(error) and "\n" not in str(error)
        os.remove(place)


def test_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    rows = pictures(3)["train"]
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=2, verbose=0) as sink:
        for number, (label, _, pixels) in enumerate(rows):
            sink.write({"__key__": f"sample{number:06d}", "png": pixels, "cls": list(NAMES).index(label)})
    source = data.load(f"{tmp_path}/train-{{000000..000002}}.tar", needs_test=False)
    images, labels = stacked(rows)
    np.testing.assert_array_equal(source.read("train", np.arange(len(rows))), images)
    assert source.labels["train"].tolist() == labels.tolist()


def test_class_folders_through_the_library(tmp_path):
    """The library `datasets` reads folders of images too, as repositories of the hub have them."""
    place = as_folder(tmp_path / "set", pictures(3))
    assert_same(data.load(f"hf:{place}"), data.load(place))


def test_lists_of_numbers_are_no_image_files(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict({"image": [[[1, 2], [3, 4]]] * 2, "label": [0, 1]})
    line = message(lambda: data.load(write_table(tmp_path / "set", table), needs_test=False))
    assert "column image" in line and "no image files" in line and ".npz" in line
    table = datasets.Dataset.from_dict({"image": ["/etc/passwd"] * 2, "label": [0, 1]})
    assert "no image files" in message(lambda: data.load(write_table(tmp_path / "paths", table), needs_test=False))


def test_a_plan_downloads_nothing(monkeypatch):
    import datasets

    asked = []

    def builder(path, name=None, **given):
        asked.append(given["download_config"])
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    with dry.run(None):
        line = message(lambda: data.load("hf:owner/name"))
    assert asked[0].local_files_only and "a plan downloads nothing" in line and "hf:owner/name" in line
