"""Cards of exports: what they say, and that the code on them runs and reads the images of this very export."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_helpers import same

import jaxdd
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import FORMS, ExportSettings, export
from jaxdd.exchange.card import Facts, card
from jaxdd.ground.files import write_json
from jaxdd.students.rows import row

READ = ["hf", "imagefolder", "webdataset"]
"""The forms that Hugging Face `datasets` reads by their card."""


def exported(place, form, dataset, soft=None):
    """A new folder with a dataset in a form, and its card."""
    place.mkdir(parents=True)
    FORMS.find(form).write(place, dataset, soft)
    facts = Facts("a 😀 title", "unknown", None, soft, None)
    (place / "README.md").write_text(card(dataset, FORMS.find(form), [], facts))
    return str(place)


def images_of(table):
    return np.stack([np.asarray(image) for image in table["png" if "png" in table.features else "image"]])


@pytest.mark.parametrize(("form", "label"), [("hf", "label"), ("imagefolder", "label"), ("webdataset", "cls")])
@pytest.mark.parametrize("has_soft", [True, False])
def test_the_label_is_a_class_with_a_name_for_hugging_face(dataset, soft, tmp_path, form, label, has_soft):
    datasets = pytest.importorskip("datasets")
    place = exported(tmp_path / "x", form, dataset, soft if has_soft else None)
    table = datasets.load_dataset(place, split="train", cache_dir=tmp_path / "cache")
    names = table.features[label].names
    assert names == ["0 a b", "1 Ünï|code", "2 <b>'\"#", "3 same", "4 same"]
    order = np.argsort(table[label], kind="stable")
    images = images_of(table)
    weights = table["weight"] if form != "webdataset" else [line["weight"] for line in table["json"]]
    same(dataset, soft, images[order], np.array(table[label])[order], np.array(weights)[order])
    if has_soft and form != "imagefolder":
        softs = np.float32(table["soft.npy" if form == "webdataset" else "soft_label"])
        np.testing.assert_array_equal(softs[order], soft)


def test_without_the_card_one_line_makes_the_label_a_class(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    place = exported(tmp_path / "x", "imagefolder", dataset)
    table = datasets.load_dataset("imagefolder", data_dir=place, split="train", cache_dir=tmp_path / "cache")
    assert not isinstance(table.features["label"], datasets.ClassLabel)
    names = ["0", "1", "2", "3", "4"]
    table = table.cast_column("label", datasets.ClassLabel(names=names))
    assert table.features["label"].names == names and sorted(table["label"]) == dataset.labels.tolist()


@pytest.mark.parametrize("form", READ)
def test_folders_of_the_same_name_keep_their_own_images_in_the_cache(dataset, tmp_path, form):
    datasets = pytest.importorskip("datasets")
    grey = lambda level: DistilledDataset.from_arrays(np.full((4, 6, 6, 3), level, np.uint8), [0, 0, 1, 1])
    load = lambda place: images_of(datasets.load_dataset(place, split="train", cache_dir=tmp_path / "cache"))
    for level in (10, 20):
        assert (load(exported(tmp_path / str(level) / "export", form, grey(level))) == level).all()
    # Another one in the same place.
    shutil.rmtree(tmp_path / "10")
    assert (load(exported(tmp_path / "10" / "export", form, grey(30))) == 30).all()


def test_the_configuration_is_named_after_all_of_the_content(dataset, soft):
    """Equal exports share a place in the cache, and any other has its own."""
    named = lambda images, weights, softs, names: jaxdd.exchange.items.configuration(
        DistilledDataset.from_arrays(images, dataset.labels, weights, names), softs
    )
    given = dataset.pixels(), dataset.weights, soft, dataset.class_names
    names = {named(*given), named(*given)}
    assert len(names) == 1 and re.fullmatch("distilled-[0-9a-f]{10}", *names)
    others = dataset.pixels() // 2, None, None, ("a", "b", "c", "d", "e")
    for k, other in enumerate(others):
        names.add(named(*given[:k], other, *given[k + 1 :]))
    assert len(names) == 5


@pytest.mark.parametrize("form", [*READ, "npz", pytest.param("tfds", marks=pytest.mark.slow)])
def test_the_code_on_a_card_runs_in_its_folder(finished, tmp_path, monkeypatch, form):
    libraries = {"npz": "numpy", "tfds": "tensorflow_datasets", "webdataset": "webdataset"}
    pytest.importorskip(libraries.get(form, "datasets"))
    if form in ("hf", "imagefolder"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    export(finished, form, tmp_path / "x")
    text = (tmp_path / "x" / "README.md").read_text()
    (code,) = re.findall("```python\n(.*?)\n```", text, re.DOTALL)
    assert f"In this folder:\n\n```python\n{code}" in text
    monkeypatch.chdir(tmp_path / "x")
    names = {}
    exec(code, names)
    count = len(jaxdd.load(finished).labels)
    assert len(names["images"] if form == "npz" else list(names["dataset"])) == count


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
    ("holdout", "where"), [(0.0, "on the real test images of digits"), (0.25, "on held-out train images of digits")]
)
def test_the_card_says_on_which_images_students_were_tested(finished, tmp_path, holdout, where):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "manifest.json").unlink()
    write_json(run / "config.json", json.loads((run / "config.json").read_text()) | {"holdout": holdout})
    export(run, "npz", tmp_path / "x")
    text = (tmp_path / "x" / "README.md").read_text()
    assert f"{where}, of 1 seed. " in text and "1 seeds" not in text


def test_the_accuracy_of_the_teacher_is_in_percent(dataset):
    known = {"model": "convnet3", "accuracy": 4 / 7}
    write = lambda teacher: card(
        DistilledDataset(
            dataset.images, dataset.labels, dataset.weights, dataset.class_names, dataset.norm, {"teacher": teacher}
        ),
        FORMS.find("npz"), [], Facts("x", "mit", None, None, None),
    )  # fmt: skip
    assert "- teacher: convnet3, accuracy 57.1 %\n" in write(known)
    assert "accuracy 57.1 % (held-out train images)\n" in write(known | {"holdout": 0.2})


def test_the_card_says_what_the_student_is_tested_on(finished, tmp_path):
    export(finished, "npz", tmp_path / "x")
    text = (tmp_path / "x" / "README.md").read_text()
    assert "`x_test`, uint8" in text and "`y_test`" in text and "docs/export.md" in text
