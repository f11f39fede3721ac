"""Exports: each form is read back by the loader of its own ecosystem, and the card says where it comes from."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import message

import jaxdd
from jaxdd.data import distilled, load_folder
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import FORMS, ExportSettings, export, items
from jaxdd.exchange.card import Facts, card
from jaxdd.ground import extras
from jaxdd.ground.files import write_json
from jaxdd.students.rows import row
from jaxdd.workspace import teachers

NAMES = ("a b", "Ünï|code", "<b>'\"#", "same", "same")


@pytest.fixture(scope="module")
def dataset():
    """Two colour images of each of five classes with awkward names, of weights that add up to one."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
    return DistilledDataset.from_arrays(pixels, np.repeat(np.arange(5), 2), np.arange(1.0, 11.0), NAMES)


@pytest.fixture(scope="module")
def soft(dataset):
    logits = np.random.default_rng(1).normal(size=(10, 5))
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def written(dataset, soft, tmp_path):
    """A dataset in a form."""

    def write(form):
        FORMS.find(form).write(tmp_path, dataset, soft)
        return tmp_path

    return write


def same(dataset, soft, images, labels, weights, softs=None):
    np.testing.assert_array_equal(images, dataset.pixels())
    np.testing.assert_array_equal(labels, dataset.labels)
    np.testing.assert_allclose(weights, dataset.weights, rtol=1e-6)
    if softs is not None:
        np.testing.assert_array_equal(softs, soft)


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


@pytest.mark.parametrize(("form", "label"), [("hf", "label"), ("imagefolder", "label"), ("webdataset", "cls")])
@pytest.mark.parametrize("has_soft", [True, False])
def test_the_label_is_a_class_with_a_name_for_hugging_face(dataset, soft, tmp_path, form, label, has_soft):
    datasets = pytest.importorskip("datasets")
    chosen, given = FORMS.find(form), soft if has_soft else None
    (tmp_path / "x").mkdir()
    chosen.write(tmp_path / "x", dataset, given)
    facts = Facts("a 😀 title", "unknown", None, has_soft, None)
    (tmp_path / "x" / "README.md").write_text(card(dataset, chosen, [], facts))
    table = datasets.load_dataset(str(tmp_path / "x"), split="train", cache_dir=tmp_path / "cache")
    names = table.features[label].names
    assert names == ["0 a b", "1 Ünï|code", "2 <b>'\"#", "3 same", "4 same"]
    order = np.argsort(table[label], kind="stable")
    images = np.stack([np.asarray(image) for image in table["image" if form != "webdataset" else "png"]])
    weights = table["weight"] if form != "webdataset" else [line["weight"] for line in table["json"]]
    same(dataset, soft, images[order], np.array(table[label])[order], np.array(weights)[order])
    if has_soft and form != "imagefolder":
        softs = np.float32(table["soft.npy" if form == "webdataset" else "soft_label"])
        np.testing.assert_array_equal(softs[order], soft)


def test_without_the_card_one_line_makes_the_label_a_class(written, dataset):
    datasets = pytest.importorskip("datasets")
    place = written("imagefolder")
    table = datasets.load_dataset("imagefolder", data_dir=str(place), split="train", cache_dir=place / "cache")
    assert not isinstance(table.features["label"], datasets.ClassLabel)
    names = ["0", "1", "2", "3", "4"]
    table = table.cast_column("label", datasets.ClassLabel(names=names))
    assert table.features["label"].names == names and sorted(table["label"]) == dataset.labels.tolist()


def front(card):
    """The front matter of a card by its keys, each of which holds JSON."""
    _, text, _ = card.split("---\n", 2)
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_the_card_has_provenance_scores_licence_and_picture(finished, tmp_path):
    export(finished, "npz", tmp_path / "x", ExportSettings("cc-by-4.0"))
    card = (tmp_path / "x" / "README.md").read_text()
    assert json.loads(front(card)["license"]) == "cc-by-4.0"
    assert "![some of the images, a row a class](preview.png)" in card
    assert "| random | 1 | convnet3 | 50.0 |" in card and "hard labels" in card
    assert "jaxdd distill" in card and "convnet3, accuracy" in card and '"imager"' in card
    assert str(finished) not in card and os.path.expanduser("~") not in card


def test_an_export_without_stored_labels_says_so(program, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("labels")))
    (run / "manifest.json").unlink()
    status, _, err = program("export", run, "--to", "npz")
    assert status == 0 and f"jaxdd relabel {run}" in err
    assert program("export", run, "--to", "npz", "--no-labels", "--out", tmp_path / "x")[2] == ""


def test_a_card_before_there_are_scores_and_labels_says_so(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("labels", "evaluation.json")))
    (run / "manifest.json").unlink()
    export(run, "npz", tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    assert "Not measured" in card and "No licence was given" in card and "student.py" not in card
    assert not (tmp_path / "x" / "soft").exists()


def test_names_are_no_markup(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    write_json(run / "evaluation.json", [row("<script>|x", "digits", 1, "a`b", "hard", [0.5, 0.6])])
    export(run, "npz", tmp_path / "x", ExportSettings(title="# a\n---\nlicense: gpl <img src=x>"))
    card = (tmp_path / "x" / "README.md").read_text()
    text = re.sub("```.*?```", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<", text) and "\nlicense: gpl" not in text
    assert json.loads(front(card)["license"]) == "unknown"
    assert "| \\<script\\>\\|x | 1 | a\\`b | 55.0 ± 7.1 |" in text


def test_the_card_says_how_long_students_were_trained(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    long = {"epochs": 300, "steps": 1200, "batch_size": 25}
    rows = [row(method, "digits", 10, "convnet3", "hard", [0.5]) | long for method in ("random", "wmdd")]
    write_json(run / "evaluation.json", [*rows, row("full", "digits", None, "convnet3", "hard", [0.9])])
    export(run, "npz", tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    said = "Length of the training: hard labels, 10 images per class: 1,200 steps of 25 images (300 epochs)."
    assert card.count(said) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--to", "parquet"), "unknown form of an export 'parquet'"),
        (("--to",), "--to"),
        (("--license", "all rights, reserved"), "--license"),
        (("--out", "."), "exists"),
        (("--out", "/dev/null/x"), "cannot write to /dev/null/x"),
    ],
)
def test_what_cannot_be_exported_is_refused(flags, words, refused, finished):
    assert words in refused("export", finished, *flags)


def test_no_run_folder_is_refused(refused, tmp_path):
    assert "no config.json" in refused("export", tmp_path)


def test_a_library_that_is_not_there_is_named(monkeypatch, finished, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert extras.install("hub") in message(lambda: export(finished, "hf", tmp_path / "x"))
    assert not (tmp_path / "x").exists()
