"""The layouts in which people have their images: what is read, and what is left out and said."""

import os

import numpy as np
import pytest
from helpers import message
from helpers import write_images as write

from jaxdd import data


def levels(source, split):
    """The grey level of each image of a split."""
    return source.read(split, np.arange(len(source.labels[split])))[:, 0, 0, 0].tolist()


WNIDS = ("n01443537", "n01629819", "n01641577")


def tiny_imagenet(root):
    """Tiny ImageNet as it is shipped, with three classes of two images each; the level names the class and image."""
    files = {"wnids.txt": b"", "words.txt": b"", "test/images/test_0.JPEG": 99, "test/images/test_1.JPEG": 99}
    lines = []
    for c, name in enumerate(WNIDS):
        files |= {f"train/{name}/images/{name}_{i}.JPEG": 10 * c + i for i in range(2)}
        files[f"train/{name}/{name}_boxes.txt"] = b"n_0.JPEG\t0\t0\t5\t5\n"
        # The images of a class are neither together nor in the order of the classes.
        for i in range(2):
            files[f"val/images/val_{2 - c + 3 * i}.JPEG"] = 100 + 10 * c + i
            lines.append(f"val_{2 - c + 3 * i}.JPEG\t{name}\t0\t32\t44\t62")
    files["val/val_annotations.txt"] = "\n".join(reversed(lines)).encode() + b"\n"
    return write(root, files)


def test_tiny_imagenet_as_it_is_shipped(tmp_path, capsys):
    source = data.load(tiny_imagenet(tmp_path))
    assert source.class_names == WNIDS and source.image_shape == (6, 6, 1)
    assert source.labels["train"].tolist() == source.labels["test"].tolist() == [0, 0, 1, 1, 2, 2]
    assert levels(source, "train") == [0, 1, 10, 11, 20, 21]
    assert levels(source, "test") == [100, 101, 110, 111, 120, 121]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{tmp_path}: left out 3 files that are no images (train/{WNIDS[0]}/{WNIDS[0]}_boxes.txt, "
        f"train/{WNIDS[1]}/{WNIDS[1]}_boxes.txt, train/{WNIDS[2]}/{WNIDS[2]}_boxes.txt), "
        "2 images without labels in test/ (test/images/test_0.JPEG, test/images/test_1.JPEG)"
    )


def test_tiny_imagenet_sorted_into_class_folders_by_a_script(tmp_path, capsys):
    root = tiny_imagenet(tmp_path)
    for line in (tmp_path / "val/val_annotations.txt").read_text().splitlines():
        file, name = line.split("\t")[:2]
        (tmp_path / f"val/{name}").mkdir(exist_ok=True)
        (tmp_path / f"val/images/{file}").rename(tmp_path / f"val/{name}/{file}")
    assert levels(data.load(root), "test") == [100, 101, 110, 111, 120, 121]
    line = capsys.readouterr().err
    assert "4 files that are no images (train/" in line and "boxes.txt, ...)" in line


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"val_0.JPEG\tn99\n", ["'n99'", "val", "train"]),
        (b"val_0.JPEG n01443537\n", ["line 1", "val_annotations.txt", "TAB"]),
        (b"val_0.JPEG\t\xff\n", ["val_annotations.txt", "utf-8"]),
    ],
)
def test_annotations_that_are_none(tmp_path, lines, words):
    root = tiny_imagenet(tmp_path)
    (tmp_path / "val/val_annotations.txt").write_bytes(lines)
    text = message(lambda: data.load(root))
    assert all(word in text for word in words)


def test_annotations_and_images_that_lack_each_other_are_counted(tmp_path, capsys):
    root = tiny_imagenet(tmp_path)
    place = tmp_path / "val/val_annotations.txt"
    lines = place.read_text().splitlines()
    place.write_text("\n".join([*lines[1:], lines[1], "none.JPEG\tn01443537"]))
    assert len(data.load(root).labels["test"]) == 5
    text = capsys.readouterr().err
    assert f"2 lines of val_annotations.txt without an image of their own (val/images/{lines[1].split()[0]}, " in text
    assert "1 image without labels in val/ (val/images/" in text
    os.remove(place)
    os.mkfifo(place)
    assert "not a regular file" in message(lambda: data.load(root))


def test_deeper_folders_are_read_where_a_class_has_no_other_images(tmp_path, capsys):
    files = {"train/a/x/1.png": 1, "train/a/x/0.png": 0, "train/a/b/c/9.png": 9, "train/a/.x/3.png": 3}
    files |= {"train/b/0.png": 20, "train/b/crops/0.png": 21, "train/b/crops/1.png": 22, "val/a/deep/0.png": 30}
    root = write(tmp_path, files | {"train/stray.png": 5, "train/b/notes.txt": b""})
    (tmp_path / "train/a/x/loop").symlink_to("..")
    source = data.load(root)
    assert levels(source, "train") == [9, 0, 1, 20] and levels(source, "test") == [30]
    assert capsys.readouterr().err.splitlines() == [
        f"{root}: 1 of 2 classes have no test images",
        f"{root}: left out 1 image outside of class folders (train/stray.png), 1 file that is no image "
        "(train/b/notes.txt), 2 images in deeper folders, below others (train/b/crops/0.png, train/b/crops/1.png)",
    ]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_each_name_of_a_test_split(tmp_path, name, capsys):
    root = write(tmp_path, {"train/a/0.png": 1, f"{name}/a/0.png": 2})
    assert levels(data.load(root), "test") == [2] and capsys.readouterr().err == ""
    write(tmp_path, {"validation/a/1.png": 3, "test/images/7.png": 4, "test/8.png": 4})
    if name == "test":
        assert "'images'" in message(lambda: data.load(root))
        return
    assert levels(data.load(root), "test") == ([2, 3] if name == "validation" else [2])
    text = capsys.readouterr().err
    assert "2 images without labels in test/" in text
    assert ("1 image in validation/, as there is another test split (validation/a/1.png)" in text) == (
        name != "validation"
    )


def test_classes_of_the_test_images_must_be_known(tmp_path):
    root = write(tmp_path, {"train/cat/0.png": 1, "val/Cat/0.png": 2})
    text = message(lambda: data.load(root))
    assert "'Cat'" in text and "val" in text and "train" in text


def test_without_test_images_some_are_held_out(tmp_path, capsys):
    root = write(tmp_path, {f"train/{name}/{i}.png": i for name in "ab" for i in range(4)} | {"test/0.png": 7})
    assert "`holdout`" in message(lambda: data.load(root))
    source = data.load(root, needs_test=False)
    assert len(source.labels["test"]) == 0 and source.labels["test"].dtype == np.int32
    held_out = data.hold_out(source, 0.25)
    assert held_out.labels["test"].tolist() == [0, 1] and len(held_out.labels["train"]) == 6
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [b"a\nb", b"a\xff", b"a\x1b[31m", "a\u2028b".encode()])
def test_class_names_that_no_table_can_hold_are_refused_at_opening(tmp_path, name):
    root = write(tmp_path, {"train/a/0.png": 1, "val/a/0.png": 2})
    os.rename(tmp_path / "train" / "a", os.fsencode(tmp_path / "train") + b"/" + name)
    text = message(lambda: data.load(root))
    assert "control characters or is not UTF-8" in text and str(tmp_path) in text and text.encode()
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    assert message(lambda: data.load(odd)).encode()


def test_what_is_no_regular_file_is_named_when_read(tmp_path):
    root = write(tmp_path, {"train/a/0.png": 1, "val/a/0.png": 2})
    os.mkfifo(tmp_path / "train/a/1.png")
    (tmp_path / "train/a/2.png").symlink_to("nowhere.png")
    (tmp_path / "train/a/3.png").symlink_to("3.png")
    assert "a/1.png" in message(lambda: data.load(root))
    source = data.load(root, 6, 1)
    for row, words in ((1, "not a regular file"), (2, "No such file"), (3, "symbolic links")):
        text = message(lambda row=row: source.read("train", np.array([row])))
        assert f"{row}.png" in text and words in text


def test_damaged_images_are_skipped_and_listed(tmp_path):
    files = {f"train/{name}/{i:03}.png": i for name in "ab" for i in range(150)}
    bad = {"train/a/000.png", "train/a/149.png", "train/b/077.png"}
    files |= dict.fromkeys(bad, b"rubbish") | {"val/a/0.png": 1, "val/b/0.png": b""}
    root = write(tmp_path, files)
    os.remove(tmp_path / "train/b/078.png")
    os.mkfifo(tmp_path / "train/b/078.png")
    assert "train/a/000.png" in message(lambda: data.load(root))
    source = data.load(root, skip_corrupt=True)
    assert source.image_shape == (6, 6, 1)
    assert [(found.split, found.row) for found in source.skipped] == [
        ("train", 0), ("train", 149), ("train", 227), ("train", 228), ("test", 1),
    ]  # fmt: skip
    for found, name in zip(source.skipped, [*sorted(bad), "train/b/078.png", "val/b/0.png"]):
        assert f"{tmp_path}/{name} cannot be read" in found.line and "\n" not in found.line
    assert levels(source, "train") == [*range(1, 149), *range(77), *range(79, 150)]
    assert source.labels["train"].tolist() == [0] * 148 + [1] * 148 and source.labels["test"].tolist() == [0]
    for other in (data.in_memory(source), data.hold_out(source, 0.1)):
        assert other.skipped == source.skipped
    whole = data.load("digits")
    assert data.without_damaged(whole) is whole
    (tmp_path / "train/c").mkdir()
    write(tmp_path, {"train/c/0.png": b"", "val/c/0.png": 3})
    lost = data.load(root, skip_corrupt=True)
    assert "class 'c'" in message(lambda: data.checked(lost))
