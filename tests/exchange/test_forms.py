"""Exports: each form is read back by the loader of its own ecosystem, and the card says where it comes from."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from export_helpers import NAMES, same
from helpers import message

import jaxdd
from jaxdd.data import distilled, load_folder
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import FORMS, export, items
from jaxdd.ground import extras
from jaxdd.ground.errors import InputError
from jaxdd.workspace import teachers


@pytest.fixture
def written(dataset, soft, tmp_path):
    """A dataset in a form."""

    def write(form):
        FORMS.find(form).write(tmp_path, dataset, soft)
        return tmp_path

    return write


def test_hugging_face_reads_the_parquet_files(written, dataset, soft):
    datasets = pytest.importorskip("datasets")
    place = written("hf")
    table = datasets.Dataset.from_parquet(
        str(place / "data" / "train-00000-of-00001.parquet"), cache_dir=place / "cache"
    )
    images = np.stack([np.asarray(image) for image in table["image"]])
    same(dataset, soft, images, table["label"], table["weight"], np.float32(table["soft_label"]))
    assert table.features["label"].names == ["0 a b", "1 Ünï|code", "2 <b>'\"#", "3 same", "4 same"]


def test_hugging_face_reads_the_folder_of_images(written, dataset, soft):
    datasets = pytest.importorskip("datasets")
    place = written("imagefolder")
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(place / "train"), split="train", cache_dir=place / "cache"
    )
    order = np.argsort(table["label"], kind="stable")
    images = np.stack([np.asarray(image) for image in table["image"]])
    same(dataset, soft, images[order], np.array(table["label"])[order], np.array(table["weight"])[order])


def test_any_reader_of_folders_reads_the_folder_of_images(written, dataset, soft):
    place = written("imagefolder")
    source = load_folder(str(place), needs_test=False)
    same(dataset, soft, source.read("train", np.arange(10)), source.labels["train"], dataset.weights)
    with open(place / "train" / "metadata.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class_name"] for line in lines] == [NAMES[label] for label in dataset.labels]
    same(dataset, soft, dataset.pixels(), [int(line["label"]) for line in lines],
         [float(line["weight"]) for line in lines], np.load(place / "soft_labels.npy"))  # fmt: skip
    assert all((place / "train" / line["file_name"]).is_file() for line in lines)


@pytest.mark.slow
def test_tensorflow_datasets_reads_its_folder(written, dataset, soft):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(written("tfds") / "distilled" / "1.0.0")
    rows = list(tfds.as_numpy(builder.as_dataset(split="train")))
    columns = [np.stack([line[name] for line in rows]) for name in ("image", "label", "weight", "soft_label")]
    same(dataset, soft, *columns)
    assert len(builder.info.features["label"].names) == 5


def test_webdataset_reads_its_shards(written, dataset, soft):
    webdataset = pytest.importorskip("webdataset")
    place = written("webdataset")
    shard = webdataset.WebDataset(str(place / "train-000000.tar"), shardshuffle=False).decode("pil")
    rows = list(shard.to_tuple("png", "cls", "json", "soft.npy"))
    same(dataset, soft, np.stack([np.asarray(line[0]) for line in rows]), [line[1] for line in rows],
         [line[2]["weight"] for line in rows], np.stack([line[3] for line in rows]))  # fmt: skip
    assert (place / "classes.txt").read_text(encoding="utf-8").splitlines()[3] == "3 same"


def test_shards_are_equal_bytes_again(dataset, soft, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        FORMS.find("webdataset").write(tmp_path / name, dataset, soft)
    assert (tmp_path / "a/train-000000.tar").read_bytes() == (tmp_path / "b/train-000000.tar").read_bytes()


@pytest.mark.parametrize(("form", "pattern"), [("hf", "data/*.parquet"), ("webdataset", "*.tar")])
def test_large_datasets_become_several_shards(form, pattern, dataset, soft, tmp_path, monkeypatch):
    module = __import__(f"jaxdd.exchange.{'huggingface' if form == 'hf' else form}", fromlist=["_SHARD_BYTES"])
    monkeypatch.setattr(module, "_SHARD_BYTES", 4 * 6 * 6 * 3)
    FORMS.find(form).write(tmp_path, dataset, soft)
    assert len(list(tmp_path.glob(pattern))) == 3


def test_numpy_reads_its_file(written, dataset, soft):
    arrays = np.load(written("npz") / "distilled.npz")
    same(dataset, soft, arrays["images"], arrays["labels"], arrays["weights"], arrays["soft_labels"])
    assert tuple(arrays["class_names"]) == NAMES


def test_grey_images_stay_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    grey = DistilledDataset.from_arrays(pixels, [0, 0, 1, 1])
    FORMS.find("imagefolder").write(tmp_path, grey, None)
    source = load_folder(str(tmp_path), needs_test=False)
    np.testing.assert_array_equal(source.read("train", np.arange(4)), pixels)
    assert not (tmp_path / "soft_labels.npy").exists()


# Whole exports


def test_the_soft_labels_are_those_of_the_teacher_for_the_files(finished):
    dataset, teacher = distilled.load(finished), teachers.load_teacher(finished / "teacher")
    found = items.soft_labels(dataset, teacher)
    logits = teacher.apply(teacher.variables, jaxdd.normalise(teacher.norm, dataset.pixels())).logits
    expected = np.exp(logits - np.max(logits, 1, keepdims=True))
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_a_program_writes_a_folder_for_each_form(program, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    status, out, err = program("export", run, "--to", "imagefolder", "npz", "--license", "cc-by-4.0")
    assert (status, err) == (0, "") and len(out.splitlines()) == 2
    for form in ("imagefolder", "npz"):
        names = {place.name for place in (run / "export" / form).iterdir()}
        assert {"README.md", "preview.png", "soft", "student.py"} <= names
    assert jaxdd.load(run).ipc == 1  # the run is as whole as before
    assert program("export", run, "--to", "npz")[0] == 2
    status, out, _ = program("export", run, "--to", "npz", "--no-labels", "--out", tmp_path / "x")
    assert status == 0 and {place.name for place in (tmp_path / "x").iterdir()} == {
        "README.md", "preview.png", "distilled.npz"
    }  # fmt: skip


def test_an_export_without_stored_labels_says_so(program, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("labels")))
    (run / "manifest.json").unlink()
    status, _, err = program("export", run, "--to", "npz")
    assert status == 0 and f"jaxdd relabel {run}" in err
    assert program("export", run, "--to", "npz", "--no-labels", "--out", tmp_path / "x")[2] == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--to", "parquet"), "unknown form of an export 'parquet'"),
        (("--to",), "--to"),
        (("--license", "all rights, reserved"), "--license"),
        (("--out", "."), "exists"),
        (("--out", "/dev/null/x"), "cannot write to /dev/null/x"),
        (("--to", "hff"), "use hf or imagefolder or npz or tfds or webdataset"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "plan"])
def test_what_cannot_be_exported_is_refused(flags, words, dry, refused, finished):
    assert words in refused("export", finished, *flags, *dry)


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "plan"])
def test_no_run_folder_is_refused(dry, refused, finished, tmp_path):
    assert "no config.json" in refused("export", tmp_path, *dry)
    shutil.copy(finished / "config.json", tmp_path)
    assert "distilled" in refused("export", tmp_path, *dry)


@pytest.mark.parametrize(("module", "form", "extra"), [("datasets", "hf", "hub"), ("tensorflow", "tfds", "tfds")])
def test_a_library_that_is_not_there_is_named(module, form, extra, monkeypatch, refused, finished, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    said = f"{form} needs {module}; install it with: {extras.install(extra)}"
    assert f"`to` {said}" in message(lambda: export(finished, form, tmp_path / "x"))
    # Nothing is written in the other form either.
    for dry in ((), ("--dry-run",)):
        assert f"--to {said}" in refused("export", finished, "--to", "npz", form, "--out", tmp_path / "x", *dry)


def test_a_plan_of_an_export_writes_nothing(program, finished, tmp_path):
    status, out, _ = program("export", finished, "--to", "npz", "--out", tmp_path / "x", "--dry-run")
    assert status == 0 and "writing" not in out and not (tmp_path / "x").exists()


def test_each_form_has_a_line_when_it_begins(program, finished, tmp_path, monkeypatch):
    """The lines name forms as flags do, and a form that fails was announced."""

    def failing(*_):
        raise InputError("no room")

    monkeypatch.setattr(FORMS, "_known", FORMS._known | {"npz": FORMS.find("npz")._replace(write=failing)})
    status, out, err = program("export", finished, "--to", "imagefolder", "npz", "--out", tmp_path / "x")
    assert status == 2 and "no room" in err
    assert out.splitlines() == [f"writing {form}: {tmp_path / 'x' / form}" for form in ("imagefolder", "npz")]
