"""Distilled images as other projects save them: read as they are, or refused with one line; nothing is run."""

import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from golden_helpers import HERE
from helpers import message, mutants
from safetensors.numpy import save_file
from source_helpers import (
    NAMES,
    as_arrow,
    as_folder,
    as_npy,
    as_parquet,
    as_shards,
    as_table,
    pictures,
    png,
    stacked,
    tensor,
    zipped,
)

import jaxdd
from jaxdd.data import foreign, torch_file, torch_pickle
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import FORMS
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation, normalise

GOLDEN = HERE / "foreign"
MNIST = Normalisation(*(np.array(part, np.float32) for part in foreign.NORMS["mnist"]))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def digits():
    """The digits of the golden files: pixels [20, 8, 8, 1] and labels, two of each class."""
    from sklearn.datasets import load_digits

    given = load_digits()
    rows = np.concatenate([np.flatnonzero(given.target == label)[:2] for label in range(10)])
    return np.rint(given.images[rows] * 255 / 16).astype(np.uint8)[..., None], given.target[rows]


# Tensors


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("dict.pt", 1e-6), ("dc.pt?set=1", 1e-6), ("images_best.pt", 1e-6), ("parameter.pt", 1e-6), ("half.pth", 2e-3),
     ("brain.pt", 2e-2)],
)  # fmt: skip
def test_layouts_of_tensors(digits, name, tolerance):
    pixels, labels = digits
    dataset = jaxdd.open_distilled(f"{GOLDEN}/{name}", image_norm="mnist")
    expected = np.asarray(normalise(MNIST, pixels))
    np.testing.assert_allclose(dataset.images, expected, atol=tolerance)
    assert dataset.images.shape == (20, 8, 8, 1) and dataset.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(dataset.weights, np.full(20, 0.5, np.float32))
    assert dataset.class_names == tuple("0123456789") and dataset.ipc == 2
    assert dataset.provenance["method"] == name.partition(".")[0]
    if tolerance == 1e-6:
        np.testing.assert_array_equal(dataset.pixels(), pixels)


def test_labels_in_a_file_of_another_name(digits, tmp_path):
    for name, other in (("images_best.pt", "images_zca_5000.pt"), ("labels_best.pt", "labels_5000.pt")):
        (tmp_path / other).write_bytes((GOLDEN / name).read_bytes())
    assert "without labels" in message(
        lambda: jaxdd.open_distilled(tmp_path / "images_zca_5000.pt", image_norm="mnist")
    )
    dataset = jaxdd.open_distilled(f"{tmp_path}/images_zca_5000.pt?label=labels_5000.pt", image_norm="mnist")
    np.testing.assert_array_equal(dataset.pixels(), digits[0])


def test_strides_and_other_normalisations(digits):
    pixels, _ = digits
    views = jaxdd.open_distilled(GOLDEN / "views.pt", image_norm="mnist")
    np.testing.assert_array_equal(views.pixels(), np.concatenate([pixels[::2]] * 2)[np.repeat(np.arange(10), 2)
                                  + 10 * np.tile([0, 1], 10)].transpose(0, 2, 1, 3))  # fmt: skip
    other = Normalisation(np.float32([0.3]), np.float32([0.2]))
    dataset = jaxdd.open_distilled(GOLDEN / "dict.pt", norm=other, image_norm="mnist")
    np.testing.assert_array_equal(dataset.pixels(), pixels)
    np.testing.assert_allclose(dataset.images, np.asarray(normalise(other, pixels)), atol=2e-6)
    by_numbers = jaxdd.open_distilled(GOLDEN / "dict.pt", image_norm=Normalisation([0.1307], [0.3081]))
    np.testing.assert_array_equal(
        by_numbers.images, jaxdd.open_distilled(GOLDEN / "dict.pt", image_norm="mnist").images
    )


def test_the_first_of_several_sets_is_taken_and_said(digits, capsys):
    dataset = jaxdd.open_distilled(GOLDEN / "dc.pt", image_norm="mnist")
    np.testing.assert_allclose(dataset.images, 1 + np.asarray(normalise(MNIST, digits[0])), atol=1e-6)
    assert "the first of 2 sets" in capsys.readouterr().err
    assert "?set=" in message(lambda: jaxdd.open_distilled(f"{GOLDEN}/dc.pt?set=2", image_norm="mnist"))


def test_soft_labels_are_taken_only_on_request(digits, capsys):
    line = message(lambda: jaxdd.open_distilled(GOLDEN / "soft.pt", image_norm="mnist"))
    assert "soft, float32 [20, 10]" in line and "`argmax`" in line
    dataset = jaxdd.open_distilled(GOLDEN / "soft.pt", image_norm="mnist", argmax=True)
    assert dataset.labels.tolist() == digits[1].tolist() and "are not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("command.pt", ["posix.system", "no code of a file is run"]),
        ("module.pt", ["torch.nn.modules.linear.Linear"]),
        ("claim.pt", ["4398046511104 bytes", "32 are there"]),
        ("legacy.pt", ["before 1.6", "weights_only=True"]),
        ("plain.pt", ["no file of torch.save"]),
        ("labels_best.pt", ["without labels", "?label=FILE"]),
        ("nothing.pt", ["does not exist"]),
    ],
)
def test_files_that_are_refused(name, words):
    line = message(lambda: jaxdd.open_distilled(GOLDEN / name, image_norm="mnist"))
    assert all(word in line for word in [str(GOLDEN / name), *words]), line


def test_unknown_normalisations_are_asked_for():
    line = message(lambda: jaxdd.open_distilled(GOLDEN / "dict.pt"))
    assert "from -0.424 to 2.82" in line and "`image_norm` cifar10, " in line and "`image_mean`" in line
    assert "none of cifar10" in message(lambda: jaxdd.open_distilled(GOLDEN / "dict.pt", image_norm="cifar"))
    assert "1 channels" in message(lambda: jaxdd.open_distilled(GOLDEN / "dict.pt", image_norm="cifar10"))


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [Call(os.system, "touch TOUCHED"), Call(eval, "open('TOUCHED', 'w')"), Call(getattr, "a", "join"), b"".__class__,
     Call(exec, "1"), np.random.default_rng, Call(print, "x"), np.array([{}], object), {(1, 2): 3}, {1, 2}, 1 + 2j],
)  # fmt: skip
def test_pickles_run_nothing_and_build_nothing_else(tmp_path, monkeypatch, protocol, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(zipped(pickle.dumps({"images": value}, protocol)))
    assert "cannot be read" in message(lambda: torch_file.read(tmp_path / "a.pt"))
    assert not (tmp_path / "TOUCHED").exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_values_are_those_of_pickle(tmp_path, protocol):
    value = {"a": [1, -2, 2**70, 1.5, None, True, "ü", b"\0\xff", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 3: {}}
    value["twice"] = value["a"]
    (tmp_path / "a.pt").write_bytes(zipped(pickle.dumps(value, protocol)))
    assert torch_file.read(tmp_path / "a.pt") == value
    arrays = {"x": np.arange(6.0).reshape(2, 3), "y": np.asfortranarray(np.eye(2, 3, dtype=np.int8)), "z": np.int32(7),
              "big": np.arange(3, dtype=">i4"), "flags": np.array([True, False])}  # fmt: skip
    (tmp_path / "a.pt").write_bytes(zipped(pickle.dumps(arrays, protocol)))
    found = torch_file.read(tmp_path / "a.pt")
    for name, array in arrays.items():
        other = found[name]
        np.testing.assert_array_equal(other, array)
        assert other.dtype == array.dtype.newbyteorder("=")


MARK_BOMB = b"\x80\x02" + b"(" * 3000 + b"." * 1
BOMBS = {
    "many lists": b"\x80\x02" + b"]" * 2_000_000 + b".",
    "a memo far away": b"\x80\x02]r\xff\xff\xff\x7f.",
    "marks": MARK_BOMB,
    "a long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "a deep tuple as key": b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"K\x01s.",
    "nothing": b"\x80\x02.",
    "no end": b"\x80\x02]",
    "a class": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "state of a name": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_are_bombs(tmp_path, name):
    (tmp_path / "a.pt").write_bytes(zipped(BOMBS[name]))
    if name == "a memo far away":
        assert torch_file.read(tmp_path / "a.pt") == []
    else:
        assert "cannot be read" in message(lambda: torch_file.read(tmp_path / "a.pt"))


def one(*given, **more):
    return b"\x80\x02" + tensor(*given, **more) + b"."


FLOATS = np.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": (5,), "stride": (1,)}, "does not fit"),
        ({"size": (4,), "stride": (1,), "offset": 1}, "does not fit"),
        ({"size": (2, 2), "stride": (3, 1)}, "does not fit"),
        ({"size": (2**40,), "stride": (0,)}, "does not fit"),
        ({"size": (2,), "stride": (-1,), "offset": 3}, "no storage, shape or strides"),
        ({"size": (2,), "stride": (1, 1)}, "no storage, shape or strides"),
        ({"size": (2.0,), "stride": (1,)}, "no storage, shape or strides"),
        ({"size": (4,), "stride": (1,), "count": 2**50}, "bytes, but 16 are there"),
        ({"size": (4,), "stride": (1,), "count": -1}, "no name or size"),
        ({"size": (4,), "stride": (1,), "key": "../../x"}, "but 0 are there"),
        ({"size": (4,), "stride": (1,), "key": 0}, "no name or size"),
    ],
)
def test_tensors_outside_of_their_storage(tmp_path, given, words):
    (tmp_path / "a.pt").write_bytes(zipped(one((2, 2), (1, 2)), [FLOATS]))
    np.testing.assert_array_equal(torch_file.read(tmp_path / "a.pt"), [[0, 2], [1, 3]])
    (tmp_path / "a.pt").write_bytes(zipped(one(**given), [FLOATS]))
    assert words in message(lambda: torch_file.read(tmp_path / "a.pt"))


def test_archives_that_are_none(tmp_path):
    good = zipped(one((4,), (1,)), [FLOATS])
    for content in (b"", b"PK", good[:50], good[:-30], zipped(b"", [], compression=zipfile.ZIP_DEFLATED)):
        (tmp_path / "a.pt").write_bytes(content)
        assert "a.pt" in message(lambda: torch_file.read(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for folder in ("a", "b"):
            archive.writestr(f"{folder}/data.pkl", b"\x80\x02N.")
    assert "no data.pkl of its own" in message(lambda: torch_file.read(tmp_path / "a.pt"))
    (tmp_path / "a.pt").unlink()
    os.mkfifo(tmp_path / "a.pt")
    assert "not a regular file" in message(lambda: torch_file.read(tmp_path / "a.pt"))


@pytest.mark.parametrize("name", ["dict.pt", "dc.pt", "parameter.pt"])
def test_damage_anywhere_ends_in_values_or_one_line(tmp_path, name):
    content = (GOLDEN / name).read_bytes()
    with zipfile.ZipFile(GOLDEN / name) as archive:
        (inside,) = (archive.read(entry) for entry in archive.namelist() if entry.endswith("data.pkl"))
    for k, damaged in enumerate([*mutants(content, 60), *map(zipped, mutants(inside, 200, 1))]):
        place = tmp_path / f"{k}.pt"
        place.write_bytes(damaged)
        try:
            jaxdd.open_distilled(place, image_norm="mnist", argmax=True)
        except InputError as error:
            assert "\n" not in str(error)


def test_the_interpreter_knows_no_other_names():
    """What a pickle may name is data: none of it is looked up in a module."""
    assert all(path.split(".")[0] in ("torch", "numpy", "collections", "_codecs") for path in torch_pickle._CALLS)
    assert "torch" not in sys.modules


# Arrays and pictures


def written(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
LABELS = np.array([1, 0, 1, 0])


def test_arrays_of_pixels_and_weights(tmp_path):
    place = written(tmp_path, x=PIXELS, y=LABELS, weights=np.array([3, 1, 1, 1]), class_names=["cat", "dog"])
    dataset = jaxdd.open_distilled(place)
    np.testing.assert_array_equal(dataset.pixels(), PIXELS[[1, 3, 0, 2]])
    assert dataset.weights.tolist() == [0.5, 0.5, 0.75, 0.25] and dataset.class_names == ("cat", "dog")
    turned = jaxdd.open_distilled(place, class_names=("dog", "cat"))
    assert turned.class_names == ("dog", "cat")
    np.testing.assert_array_equal(turned.pixels(), PIXELS[[0, 2, 1, 3]])
    line = message(lambda: jaxdd.open_distilled(place, class_names=("dog", "horse")))
    assert "'cat'" in line and "none of the 2 classes" in line and str(place) in line


def test_safetensors(tmp_path):
    place = tmp_path / "set.safetensors"
    save_file({"images": np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)), "labels": LABELS}, place)
    np.testing.assert_array_equal(jaxdd.open_distilled(place).pixels(), PIXELS[[1, 3, 0, 2]])
    place.write_bytes(place.read_bytes()[:-1])
    assert f"{place} cannot be read" in message(lambda: jaxdd.open_distilled(place))
    (tmp_path / "set.txt").write_text("images")
    assert "no format of distilled images" in message(lambda: jaxdd.open_distilled(tmp_path / "set.txt"))


def test_numbers_are_taken_in_order_and_said(tmp_path, capsys):
    place = written(tmp_path, x=PIXELS, y=LABELS)
    assert jaxdd.open_distilled(place, class_names=("dog", "cat")).class_names == ("dog", "cat")
    assert "0 is dog, 1 is cat" in capsys.readouterr().err
    assert "label 1, but the data have 1 classes" in message(lambda: jaxdd.open_distilled(place, class_names=("dog",)))


@pytest.mark.parametrize("form", ["unit", "unit channels first", "bytes", "float64"])
def test_floats_that_are_pixels_equal_pixels(tmp_path, form, capsys):
    images = {"unit": PIXELS / np.float32(255), "unit channels first": PIXELS.transpose(0, 3, 1, 2) / np.float32(255),
              "bytes": PIXELS.astype(np.float32), "float64": PIXELS / 255}[form]  # fmt: skip
    norm = Normalisation(np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.2]))
    given = {"image_norm": "bytes"} if form == "bytes" else {}
    dataset = jaxdd.open_distilled(written(tmp_path, images=images, labels=LABELS), norm=norm, **given)
    expected = DistilledDataset.from_arrays(PIXELS, LABELS, norm=norm)
    np.testing.assert_array_equal(dataset.images, expected.images)
    assert ("taken as pixels / 255" in capsys.readouterr().err) == (form != "bytes")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": PIXELS}, ["without labels"]),
        ({"a": PIXELS, "y": LABELS}, ["but a, y", "?image=KEY"]),
        ({"x": PIXELS, "images": PIXELS, "y": LABELS}, ["several images", "?image=KEY"]),
        ({"x": PIXELS, "y": LABELS[:3]}, ["images (4, 8, 8, 3) and labels (3,)"]),
        ({"x": PIXELS, "y": [0, 0, 0, 1]}, ["from 1 to 3 each"]),
        ({"x": PIXELS, "y": LABELS - 1}, ["label -1"]),
        ({"x": PIXELS, "y": LABELS / 3}, ["float64"]),
        ({"x": PIXELS, "y": np.full((4, 2), np.nan)}, ["not finite"]),
        ({"x": PIXELS.astype(int), "y": LABELS}, ["int64"]),
        ({"x": PIXELS * np.nan, "y": LABELS}, ["not finite"]),
        ({"x": PIXELS[..., :2], "y": LABELS}, ["1 or 3 channels"]),
        ({"x": PIXELS, "y": LABELS, "weights": -LABELS}, ["non-negative"]),
        ({"x": PIXELS, "y": LABELS, "class_names": ["a"]}, ["label 1", "1 classes"]),
    ],
)
def test_arrays_that_are_no_distilled_images(tmp_path, arrays, words):
    place = written(tmp_path, **arrays)
    line = message(lambda: jaxdd.open_distilled(place, class_names=("a", "b")))
    assert all(word in line for word in [str(place), *words]), line


def test_images_of_another_size(tmp_path):
    place, shape = written(tmp_path, x=PIXELS, y=LABELS), (16, 16, 3)
    line = message(lambda: jaxdd.open_distilled(place, image_shape=shape))
    assert "8x8x3" in line and "16x16x3" in line and "`image_size` 8" in line
    assert jaxdd.open_distilled(place, image_shape=shape, resize=True).images.shape == (4, *shape)
    assert jaxdd.open_distilled(place, image_shape=(8, 8, 1)).images.shape == (4, 8, 8, 1)
    floats = written(tmp_path, x=PIXELS / 256, y=LABELS)
    line = message(lambda: jaxdd.open_distilled(floats, image_shape=shape, resize=True))
    assert "floats are not resized" in line


@pytest.mark.parametrize("form", ["npz", "npy", "folder", "list", "parquet", "shards", "mixed"])
def test_what_is_resized_or_turned_grey_is_said(tmp_path, form, capsys):
    rows, place = even(), tmp_path / "set"
    pixels, labels = stacked(rows)
    write = {"parquet": as_parquet, "shards": as_shards, "npy": as_npy}.get(form, as_folder)
    if form == "npz":
        place = tmp_path / "set.npz"
        np.savez(place, images=pixels, labels=labels, class_names=list(NAMES))
    else:
        write(place, {"train": rows})
    if form == "list":
        lines = [f'"train/{label}/{name}","{label}"' for label, name, _ in rows]
        (place / "metadata.csv").write_text("\n".join(["file_name,label", *lines]), encoding="utf-8")
    if form == "mixed":
        (place / "train" / "a" / "0.png").write_bytes(png(np.zeros((16, 8, 3), np.uint8)))
    capsys.readouterr()  # the library `datasets` draws bars as it writes
    for shape, resized, is_grey in (
        ((8, 8, 3), form == "mixed", False),
        ((4, 4, 3), True, False),
        ((4, 4, 1), True, True),
    ):
        dataset = jaxdd.open_distilled(place, tuple(NAMES), image_shape=shape, resize=True)
        assert dataset.images.shape == (3, *shape)
        lines = [line.partition("set")[2].partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
        sizes = "images of several sizes, such as 8x8 and 8x16," if form == "mixed" else "images of 8x8 pixels"
        said = [f"{sizes} are resized to {shape[0]}x{shape[0]}, as `image_size` says"] if resized else []
        assert lines == said + ["images in colour become grey, as those of the data are"] * is_grey


def even(channels=3):
    """One picture of each class."""
    rows = {}
    for row in pictures(channels)["train"]:
        rows.setdefault(row[0], row)
    return list(rows.values())


def test_folders_of_numbers(tmp_path, capsys):
    for k in range(12):
        for style in ("{}", "{:05d}"):
            place = tmp_path / style[:2] / style.format(k) / "0.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(png(np.full((4, 4), 20 * k, np.uint8)))
    names = tuple("lkjihgfedcba")
    for folder in tmp_path.iterdir():
        # Sorted by name, 10 comes before 2.
        dataset = jaxdd.open_distilled(folder, names)
        assert dataset.class_names == names and dataset.pixels()[:, 0, 0, 0].tolist() == list(range(0, 240, 20))
        assert "0 is l, 11 is a" in capsys.readouterr().err
    assert "label 11, but the data have 2 classes" in message(lambda: jaxdd.open_distilled(folder, ("a", "b")))


@pytest.mark.parametrize("form", ["train/<class>", "<class>", "parquet", "arrow", "shards", "range", "jaxdd.save"])
def test_pictures_in_every_format(tmp_path, form):
    rows = even()
    pixels, labels = stacked(rows)
    norm = Normalisation(np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.2]))
    expected = DistilledDataset.from_arrays(pixels, labels, class_names=tuple(NAMES), norm=norm)
    place = tmp_path / "set"
    if form == "jaxdd.save":
        jaxdd.save(expected, place)
    elif form == "range":
        as_shards(place, {"train": rows})
        place = f"{place}/train-{{000000..000001}}.tar"
    else:
        write = {"parquet": as_parquet, "arrow": as_arrow, "shards": as_shards}.get(form, as_folder)
        write(place, {"train": rows})
        place = place / "train" if form == "<class>" else place
    for names in (None, tuple(NAMES), tuple(reversed(NAMES))):
        dataset = jaxdd.open_distilled(place, names, norm, image_shape=(8, 8, 3))
        order = [list(NAMES).index(name) for name in names or NAMES]
        assert dataset.class_names == (names or tuple(NAMES))
        np.testing.assert_array_equal(dataset.images, expected.images[order])


def test_a_list_of_images(tmp_path):
    rows = even(1)
    as_folder(tmp_path, {"train": rows})
    table = ["file_name,label,weight", *(f'"train/{label}/{name}","{label}",{k + 1}'
             for k, (label, name, _) in enumerate(rows) for _ in range(1))]  # fmt: skip
    (tmp_path / "metadata.csv").write_text("\n".join(table), encoding="utf-8")
    dataset = jaxdd.open_distilled(tmp_path)
    np.testing.assert_array_equal(dataset.pixels()[..., 0], stacked(rows)[0])
    assert dataset.class_names == tuple(NAMES) and dataset.weights.tolist() == [1, 1, 1]
    # Beside the images, without labels: these are the names of the folders.
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(["file_name,weight", *(f'"{label}/{name}",2'
                                                     for label, name, _ in rows)]))  # fmt: skip
    assert jaxdd.open_distilled(tmp_path).class_names == tuple(NAMES)


def test_weights_of_a_list_and_a_table(tmp_path):
    rows = even(1)
    two = [*rows, *rows]
    lines = ["file_name,label,weight"]
    for k, (label, _, pixels) in enumerate(two):
        (tmp_path / f"{k}.png").write_bytes(png(pixels))
        lines.append(f'{k}.png,"{label}",{1 + 2 * (k >= 3)}')
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    dataset = jaxdd.open_distilled(tmp_path)
    assert dataset.weights.tolist() == [0.25, 0.75] * 3
    table = as_table(two).add_column("weight", [1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    (tmp_path / "table").mkdir()
    table.to_parquet(tmp_path / "table" / "train.parquet")
    other = jaxdd.open_distilled(tmp_path / "table")
    assert other.weights.tolist() == [0.25, 0.75] * 3
    np.testing.assert_array_equal(other.images, dataset.images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2", ["no column file_name"]),
        ("", ["no column file_name"]),
        ("file_name,label\n/etc/passwd,a", ["line 2", "'/etc/passwd'"]),
        ("file_name,label\nx/../../y.png,a", ["line 2", "no file in its folder"]),
        ("file_name,label\n..\\y.png,a", ["line 2", "no file in its folder"]),
        ("file_name,label\nx.png,", ["line 2", "no label"]),
        ("file_name\nx.png", ["line 2", "no label"]),
        ("file_name,label,weight\nx.png,a,much", ["weight 'much'"]),
        ("file_name,label\nmissing.png,a", ["missing.png cannot be read"]),
        ('file_name,label\n"x.png', ["no table with commas"]),
    ],
)
def test_lists_that_are_none(tmp_path, text, words):
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    (tmp_path / "metadata.csv").write_text(text)
    line = message(lambda: jaxdd.open_distilled(tmp_path))
    assert all(word in line for word in [str(tmp_path), *words]), line


def test_unequal_classes_are_refused_with_the_place(tmp_path):
    place = as_folder(tmp_path / "set", {"train": pictures(1)["train"]})
    line = message(lambda: jaxdd.open_distilled(place))
    assert str(place) in line and "equally many of each class" in line


def test_a_whole_dataset_is_no_distilled_one(tmp_path, monkeypatch):
    from jaxdd.data import foreign_values

    monkeypatch.setattr(foreign_values, "_MOST_BYTES", 3 * 8 * 8 - 1)
    for write in (as_folder, as_parquet):
        place = write(tmp_path / write.__name__, {"train": even(1)})
        assert "3 images" in message(lambda place=place: jaxdd.open_distilled(place))


@pytest.mark.parametrize("form", ["hf", "imagefolder", "webdataset", "npz"])
def test_what_is_exported_is_read_back(tmp_path, form):
    names = ("b, ü", "a", "<c>")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    norm = Normalisation(np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.2]))
    given = DistilledDataset.from_arrays(pixels, np.repeat(np.arange(3), 2), np.arange(1.0, 7.0), names, norm)
    soft = np.full((6, 3), 1 / 3, np.float32)
    (tmp_path / "set").mkdir()
    FORMS.find(form).write(tmp_path / "set", given, soft)
    for expected in (names, ("<c>", "b, ü", "a")):
        found = jaxdd.open_distilled(tmp_path / "set", expected, norm, image_shape=(8, 8, 3))
        order = np.concatenate([np.flatnonzero(given.labels == names.index(name)) for name in expected])
        assert found.class_names == expected
        np.testing.assert_array_equal(found.images, given.images[order])
        np.testing.assert_allclose(found.weights, given.weights[order], rtol=1e-6)
    assert jaxdd.open_distilled(tmp_path / "set").class_names == names
