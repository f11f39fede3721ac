"""Datasets that have one split alone: with a share held out they serve in every format; else a line names the flag."""

import shutil

import numpy as np
import pytest
from helpers import message
from helpers import write_images as write
from source_helpers import as_arrow, as_npy, as_npz, as_parquet, as_shards, pictures, stacked

from jaxdd import data
from jaxdd.workspace import TeacherConfig, latent_models, teachers
from jaxdd.workspace.real_data import DataConfig, open_data

FORMATS = {"parquet": as_parquet, "arrow": as_arrow, "shards": as_shards, "npy": as_npy,
           "npz": lambda root, found: as_npz(root.with_suffix(".npz"), found)}  # fmt: skip
FILES = {f"{name}/{i}.png": 10 * c + i for c, name in enumerate("abc") for i in range(8)}

pytestmark = pytest.mark.usefixtures("cache")


def everything(source):
    return {split: source.read(split, np.arange(len(labels))) for split, labels in source.labels.items()}


def test_a_plain_folder_of_classes_is_one_of_train_images(tmp_path):
    plain = write(tmp_path / "plain", FILES)
    tree = write(tmp_path / "tree", {f"train/{name}": level for name, level in FILES.items()})
    one, other = (open_data(DataConfig(dataset=name, holdout=0.25)).source for name in (plain, tree))
    assert one.class_names == other.class_names == tuple("abc")
    assert one.labels["test"].tolist() == [0, 0, 1, 1, 2, 2] and len(one.labels["train"]) == 18
    for split, images in everything(other).items():
        np.testing.assert_array_equal(everything(one)[split], images)
    levels = np.concatenate([images[:, 0, 0, 0] for images in everything(one).values()])
    assert sorted(levels.tolist()) == sorted(FILES.values())
    rows = np.arange(6)
    files = data.names_of(one, "test", rows)
    assert [FILES[file] for file in files] == one.read("test", rows)[:, 0, 0, 0].tolist()
    assert data.names_of(other, "test", rows) == [f"train/{file}" for file in files]
    # Images in deeper folders, as below train/.
    deeper = write(tmp_path / "deeper", {f"{name[0]}/x/{name[2:]}": level for name, level in FILES.items()})
    assert len(data.load(deeper, needs_test=False).labels["train"]) == 24


def test_without_a_share_held_out_the_flag_is_named(tmp_path, refused, program):
    plain = write(tmp_path / "plain", FILES, (8, 8))
    assert "`holdout` 0.2" in message(lambda: data.load(plain))
    line = refused("distill", "--dataset", plain, "--out", tmp_path / "run")
    assert line == (
        f"error: folder {plain} has class folders, but no test images: give --holdout 0.2, which sets a share of the "
        "train images of each class aside as the test images, or the layout train/<class>/* and val/<class>/* or "
        "test/<class>/*"
    )
    arguments = ["--dataset", plain, "--holdout", 0.25, "--dry-run", "--out", tmp_path / "run"]
    assert program("distill", *arguments)[0] == 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"Train/a/0.png": 1, "Test/a/0.png": 1}, "no train folder"),
        ({"val/a/0.png": 1, "val/b/0.png": 1}, "no train folder"),
        ({"images/a/0.png": 1, "images/b/0.png": 1}, "no train folder"),
        ({"a/x.txt": b"", "b/x.txt": b""}, "no train folder"),
        ({"0.png": 1, "1.png": 1}, "no train folder"),
        ({**FILES, "hollow/x.txt": b""}, "hollow holds no images"),
    ],
)
def test_what_is_no_plain_folder(tmp_path, files, words):
    root = write(tmp_path, files)
    line = message(lambda: data.load(root, needs_test=False))
    assert words in line and root in line and ("`holdout` 0.2" in line) == ("hollow" not in words)


def test_an_archive_that_was_left_beside_plain_folders(tmp_path):
    root = write(tmp_path, FILES | {"archive.tar.gz": b"left over"})
    assert data.load(root, needs_test=False).class_names == tuple("abc")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_only_split_serves_whatever_it_is_called(tmp_path, capsys, form, split):
    rows = pictures(1)["train"] * 2
    place = str(FORMATS[form](tmp_path / "set", {split: rows}))
    capsys.readouterr()  # the library `datasets` draws bars as it writes
    line = message(lambda: data.load(place))
    assert "give `holdout` 0.2" in line and f"(its splits: {split})" in line and place in line
    assert capsys.readouterr().err == ""
    source = open_data(DataConfig(dataset=place, holdout=0.5)).source
    assert np.bincount(source.labels["test"]).tolist() == np.bincount(source.labels["train"]).tolist() == [3, 2, 1]
    assert ("its only split, test, is taken" in capsys.readouterr().err) == (split == "test")
    # The share is that of the same images in a folder.
    images, labels = stacked(rows)
    whole = data.from_arrays(images, labels, name="arrays")
    for part, pixels in everything(data.hold_out(whole, 0.5)).items():
        np.testing.assert_array_equal(everything(source)[part], pixels)
    # A split that is named is taken, or refused, as ever.
    assert "x" in message(lambda: data.load(f"{place}?train=x", needs_test=False))


def test_arrays_without_test_images():
    images, labels = stacked(pictures(3)["train"] * 2)
    source = data.from_arrays(images, labels)
    assert len(source.labels["test"]) == 0 and source.image_shape == (8, 8, 3)
    assert "give `holdout` 0.2" in message(lambda: open_data(DataConfig(), source))
    assert len(open_data(DataConfig(holdout=0.5), source).source.labels["test"]) == 6
    assert "given together" in message(lambda: data.from_arrays(images, labels, images))


def test_what_was_made_with_a_share_held_out_is_not_that_of_the_whole(tmp_path):
    root = write(tmp_path, {f"train/{name}": level for name, level in FILES.items()} | {"val/a/0.png": 1})
    identities = []
    for share in (0.0, 0.25, 0.5):
        config = TeacherConfig(dataset=root, holdout=share)
        real = open_data(config)
        identities.append((teachers.describe(config, real), latent_models._data_of(config, real)))
    for which in (0, 1):
        assert len({repr(identity[which]) for identity in identities}) == 3


def test_what_is_said_of_the_data_is_said_once_in_a_program(tmp_path, program):
    root = write(tmp_path / "set", {f"train/{name}": level for name, level in FILES.items()}, (8, 8))
    write(tmp_path / "set", {"val/a/0.png": 1, "train/a/notes.txt": b""}, (7, 6))
    write(tmp_path / "set", {"train/a/0.png": 1}, (7, 6))
    # The plan for another machine, which compiles nothing, opens the data for the teacher and for the latents.
    arguments = ["--dataset", root, "--method", "ddoq", "--on", "v5e-1", "--out", tmp_path / "run", "--channels", 3]
    _, _, err = program("distill", *arguments)
    sizes = f"{root}: images of several sizes, such as 7x6 and 8x8, become 224x224 pixels; --image-size says otherwise"
    assert [err.count(line) for line in (sizes, "left out 1 file that is no image (train/a/notes.txt)")] == [1, 1]
    for _ in range(2):  # and again in the next
        _, _, err = program("distill", *arguments, "--image-size", 16)
        assert err.count("left out") == 1 and "become" not in err


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_images_that_are_no_squares_are_said_to_change(tmp_path, capsys, form):
    if form == "npz":
        np.savez(tmp_path / "set.npz", x_train=np.zeros((2, 6, 7), np.uint8), y_train=[0, 1])
    else:
        write(tmp_path / "set.npz", {"train/a/0.png": 1, "train/b/0.png": 1}, (7, 6))
    assert data.load(tmp_path / "set.npz", needs_test=False).image_shape == (224, 224, 1)
    line = capsys.readouterr().err
    assert line == f"{tmp_path}/set.npz: images of 7x6 pixels become 224x224 pixels; `image_size` says otherwise\n"
    data.load(tmp_path / "set.npz", 32, needs_test=False)
    shutil.rmtree(tmp_path / "set.npz", ignore_errors=True)
    assert capsys.readouterr().err == ""
