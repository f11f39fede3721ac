"""Images of every kind decoded to one shape, and image folders."""

import os
from functools import partial

import numpy as np
import pytest
from helpers import message
from helpers import write_images as write
from PIL import Image

from jaxdd import data
from jaxdd.data import image

real_data = pytest.mark.skipif("JAXDD_DATA" not in os.environ, reason="JAXDD_DATA names no folder of datasets")


# One image


def picture(mode, value, size=(6, 6)):
    return Image.new(mode, size, value)


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "expected"),
    [
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 257 * 41 + 100, "png", (41, 41, 41)),
        ("I;16", 257 * 41 + 200, "png", (42, 42, 42)),
        ("I;16", 65535, "tif", (255, 255, 255)),
        ("I", 65535, "tif", (255, 255, 255)),
        ("RGB", (10, 200, 30), "bmp", (10, 200, 30)),
        ("RGBA", (10, 200, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 100, 255, 51), "png", (204, 224, 255)),
        ("LA", (0, 51), "png", (204, 204, 204)),
        ("LA", (90, 255), "png", (90, 90, 90)),
        ("CMYK", (255, 0, 0, 0), "tif", (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), "jpg", (0, 0, 0)),
        ("RGB", (10, 200, 30), "webp", (10, 200, 30)),
        ("L", 77, "pgm", (77, 77, 77)),
    ],
)
def test_every_mode_comes_out_as_rgb(tmp_path, mode, value, suffix, expected):
    path = str(tmp_path / f"x.{suffix}")
    picture(mode, value).save(path, **({"lossless": True} if suffix == "webp" else {}))
    for content in (path, (tmp_path / f"x.{suffix}").read_bytes()):
        pixels = image.decode(("x", content), (6, 6, 3))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8(expected), (6, 6, 3)))
    assert image.decode(("x", path), (3, 3, 1)).shape == (3, 3, 1)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_entries_turn_white(tmp_path, suffix):
    paletted = picture("P", 0, (4, 4))
    paletted.putpalette([255, 0, 0, 0, 0, 255])
    paletted.paste(1, (0, 0, 2, 4))
    path = str(tmp_path / f"x.{suffix}")
    paletted.save(path, transparency=0)
    pixels = image.decode(("x", path), (4, 4, 3))
    np.testing.assert_array_equal(pixels[:, :2], np.broadcast_to(np.uint8([0, 0, 255]), (4, 2, 3)))
    assert (pixels[:, 2:] == 255).all()


def test_a_transparent_grey_level_turns_white(tmp_path):
    grey = picture("L", 50, (4, 4))
    grey.paste(90, (0, 0, 4, 2))
    grey.save(tmp_path / "x.png", transparency=50)
    pixels = image.decode(("x", str(tmp_path / "x.png")), (4, 4, 1))[..., 0]
    np.testing.assert_array_equal(pixels, np.repeat(np.uint8([[90], [90], [255], [255]]), 4, axis=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (5, 5), np.uint8)
    # How a camera stores the upright image under each orientation, by TIFF's table of row 0 and column 0.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(image.decode(("x", str(tmp_path / "x.png")), (5, 5, 1))[..., 0], upright)


def test_matching_shorter_side_is_a_pure_centre_crop():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 13, 3), np.uint8)
    np.testing.assert_array_equal(image.fit(Image.fromarray(pixels), 8, 3), pixels[:, 2:10])
    tall = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    np.testing.assert_array_equal(image.fit(Image.fromarray(tall), 8, 3), tall[2:10])
    square = np.ascontiguousarray(pixels[:, :8])
    np.testing.assert_array_equal(image.fit(Image.fromarray(square), 8, 3), square)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 60), (20, 20)])
def test_resize_equals_shorter_side_resized_then_cropped(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    original = Image.fromarray(pixels)
    whole = np.array(original.resize((width // 2, height // 2), Image.Resampling.BILINEAR))
    top, left = (height // 2 - 10) // 2, (width // 2 - 10) // 2
    np.testing.assert_array_equal(image.fit(original, 10, 3), whole[top : top + 10, left : left + 10])


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.tile(np.uint8([0, 255]), (64, 32))
    middle = image.fit(Image.fromarray(stripes), 8, 1)[2:-2, 2:-2]
    np.testing.assert_allclose(middle, 127.5, atol=2)


def test_a_very_long_image_is_cropped_without_resizing_all_of_it():
    assert image.fit(Image.new("L", (60_000, 1), 9), 224, 1).tobytes() == bytes([9]) * 224 * 224


# Folders


def test_folder_reads_every_image_under_its_class(tmp_path):
    files = {f"train/{name}/{i}.png": 10 * c + i for c, name in enumerate(["b", "a", "c"]) for i in range(3)}
    files |= {"val/c/1.PNG": 200, "val/b/0.png": 201}
    ignored = [".DS_Store", "train/.DS_Store", "train/.git/x.png", "train/a/.x.png", "train/a/notes.txt"]
    ignored += ["train/readme.md", "val/.git/config", ".git/HEAD", "train/a/deeper/x.png"]
    source = data.load(write(tmp_path, files | dict.fromkeys(ignored, b"no image")))
    assert source.class_names == ("a", "b", "c") and source.image_shape == (6, 6, 1)
    assert source.labels["train"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.labels["test"].tolist() == [1, 2]
    order = np.array([8, 0, 0, 4])
    assert source.read("train", order)[:, 0, 0, 0].tolist() == [22, 10, 10, 1]
    assert source.read("test", np.arange(2))[:, 5, 5, 0].tolist() == [201, 200]
    assert source.read("train", np.array([], int)).shape == (0, 6, 6, 1)


def test_folder_shape_follows_the_images_unless_asked(tmp_path):
    grey = write(tmp_path / "grey", {"train/a/0.png": 1, "train/a/1.png": 2, "test/a/0.png": 3}, (20, 20))
    assert data.load(grey).image_shape == (20, 20, 1)
    assert data.load(grey, image_size=9, channels=3).image_shape == (9, 9, 3)
    assert data.load(grey, image_size=9).read("test", np.array([0])).tobytes() == bytes([3]) * 81
    colour = write(tmp_path / "colour", {"train/a/0.png": 1, "train/a/1.png": (1, 2, 3), "test/a/0.png": 3})
    assert data.load(colour).image_shape == (6, 6, 3)
    oblong = write(tmp_path / "oblong", {"train/a/0.png": 1, "test/a/0.png": 3}, (7, 6))
    assert data.load(oblong).image_shape == (224, 224, 1)
    write(tmp_path / "grey", {"train/b/0.png": 1}, (21, 21))
    assert data.load(grey).image_shape == (224, 224, 1)


def test_opening_a_folder_reads_at_most_64_images(tmp_path):
    files = {f"train/a/{i:03}.png": b"damaged" for i in range(640)}
    files |= {f"train/a/{i:03}.png": 5 for i in range(0, 640, 10)}
    source = data.load(write(tmp_path, files | {"test/a/0.png": b"damaged"}))
    assert source.image_shape == (6, 6, 1) and len(source.labels["train"]) == 640
    assert source.read("train", np.array([10, 630])).max() == 5


def test_test_images_are_taken_from_the_labelled_folder(tmp_path):
    root = write(tmp_path, {"train/a/0.png": 1, "val/a/0.png": 2, "test/unlabelled.png": 3})
    assert data.load(root).read("test", np.array([0])).max() == 2
    write(tmp_path, {"test/a/0.png": 4})
    assert data.load(root).read("test", np.array([0])).max() == 4


def test_threads_and_a_single_thread_decode_alike(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (23, 80, 80, 3), np.uint8)
    encoded = []
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
        encoded.append((str(i), str(tmp_path / f"{i}.png")))
    for processors in (1, 5):
        monkeypatch.setattr(image.os, "cpu_count", lambda count=processors: count)
        np.testing.assert_array_equal(image.decode_batch(encoded, (80, 80, 3)), pixels)
    (tmp_path / "17.png").write_bytes(b"damaged")
    assert "image 17 " in message(lambda: image.decode_batch(encoded, (80, 80, 3)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"val/a/0.png": 1}, ["no train folder", "train/<class>/*"]),
        ({"train/a/0.png": 1}, ["no test images", "val/<class>/*", "test/<class>/*"]),
        ({"train/a/0.png": 1, "val/0.png": 1}, ["no test images"]),
        ({"train/0.png": 1, "val/a/0.png": 1}, ["no class folders"]),
        ({"train/a/0.png": 1, "train/hollow/x.txt": b"", "val/a/0.png": 1}, ["train/hollow", "no images"]),
        ({"train/a/0.png": 1, "val/a/x.txt": b""}, ["val/a", "no images"]),
        ({"train/a/0.png": 1, "val/a/0.png": 1, "val/new/0.png": 1}, ["'new'", "train"]),
    ],
)
def test_a_wrong_tree_is_told_what_is_wrong(tmp_path, files, words):
    root = write(tmp_path, files)
    text = message(lambda: data.load(root))
    assert all(word in text for word in [root, *words])


def damaged_images(tmp_path):
    write(tmp_path, {"whole.png": 7, "tiny.png": 7}, (90, 90))
    picture("RGB", (1, 2, 3), (90, 90)).save(tmp_path / "whole.jpg")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "deep.tif")
    png, jpg = (tmp_path / "whole.png").read_bytes(), (tmp_path / "whole.jpg").read_bytes()
    yield "cut.jpg", jpg[: len(jpg) - 60]
    yield "cut.png", png[:60]
    yield "noise.png", b"no image at all"
    yield "empty.jpg", b""
    yield "float.tif", (tmp_path / "float.tif").read_bytes()
    yield "deep.tif", (tmp_path / "deep.tif").read_bytes()


def test_a_damaged_image_is_named_when_read(tmp_path):
    for name, content in damaged_images(tmp_path):
        root = tmp_path / f"{name} tree"
        write(root, {"train/a/0.png": 1, f"train/a/{name}": content, "val/a/0.png": 1})
        source = data.load(str(root), image_size=6, channels=3)
        files = sorted(["0.png", name])
        damaged, whole = np.array([files.index(name)]), np.array([files.index("0.png")])
        assert name in message(partial(source.read, "train", damaged))
        assert source.read("train", whole).max() == 1


def test_a_folder_is_told_from_a_name(tmp_path, monkeypatch):
    write(tmp_path / "digits", {"train/a/0.png": 1, "test/a/0.png": 1})
    write(tmp_path / "mine", {"train/a/0.png": 1, "test/a/0.png": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine", "./mine", "~/mine", "./digits", tmp_path / "mine", f"mine{os.sep}"):
        assert data.load(name).class_names == ("a",)
    assert len(data.load("digits").class_names) == 10
    for name in ("./nothing", "~/nothing", str(tmp_path / "nothing"), ".nothing"):
        assert "does not exist" in message(lambda name=name: data.load(name))


@pytest.mark.parametrize(("size", "channels"), [(0, None), (-3, 1), (8.5, None), (None, 2), (None, 4)])
def test_impossible_shapes_are_refused(tmp_path, size, channels):
    root = write(tmp_path, {"train/a/0.png": 1, "test/a/0.png": 1})
    for name in ("digits", root):
        assert repr(size if size is not None else channels) in message(
            lambda name=name: data.load(name, image_size=size, channels=channels)
        )


# Published datasets as folders


@real_data
def test_cifar10_folder():
    source = data.load(os.path.join(os.environ["JAXDD_DATA"], "cifar10"))
    assert source.image_shape == (32, 32, 3)
    for split, each in (("train", 5000), ("test", 1000)):
        assert [len(indices) for indices in data.class_indices(source, split)] == [each] * 10
    mean, std = data.statistics(source, 2000)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.01)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=0.01)


@real_data
def test_imagenette_folder_mixes_grey_and_colour():
    source = data.load(os.path.join(os.environ["JAXDD_DATA"], "imagenette"))
    assert source.image_shape == (224, 224, 3) and len(source.class_names) == 10
    chosen = image.evenly_spaced(len(source.labels["train"]), 400)
    images = source.read("train", chosen)
    grey = (images[..., :1] == images).all(axis=(1, 2, 3))
    assert 0 < grey.sum() < 40
