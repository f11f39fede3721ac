"""Repositories of the hub that hold shards: the library names their archives, which are read as those on disk."""

import datasets
import huggingface_hub
import numpy as np
import pytest
from helpers import message
from source_helpers import NAMES, as_folder, as_shards, pictures

import jaxdd
from jaxdd import data
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import FORMS
from jaxdd.ground import dry

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub, which is not reachable here: repositories lie in a folder, and what is downloaded is written down."""
    genuine, asked = datasets.load_dataset_builder, []

    def builder(name, config=None, **given):
        place = tmp_path / name
        found = genuine(str(place), config)
        for split, files in found.config.data_files.items():
            address = f"hf://datasets/{name}@refs%2Fpr%2F1/"
            found.config.data_files[split] = [file.replace(f"{place}/", address) for file in files]
        return found

    def download(name, repo_type, revision, allow_patterns, local_files_only):
        asked.append((name, repo_type, revision, sorted(allow_patterns), local_files_only))
        return str(tmp_path / name)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def everything(source):
    return {split: source.read(split, np.arange(len(part))).tolist() for split, part in source.labels.items()}


@pytest.mark.parametrize("label", ["cls", "json"])
def test_a_repository_of_shards_is_read_like_their_folder(tmp_path, hub, label):
    found = pictures(3)
    as_shards(tmp_path / "owner/name", found, label)
    folder = data.load(as_folder(tmp_path / "folder", found))
    local = data.load(tmp_path / "owner/name")
    source = data.load("hf:owner/name")
    assert source.name == "hf:owner/name" and source.class_names == local.class_names == tuple(NAMES)
    assert everything(source) == everything(local) == everything(folder)
    shards = ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    assert hub == [("owner/name", "dataset", "refs/pr/1", ["classes.json", "classes.txt", *shards], False)]
    swapped = data.load("hf:owner/name?train=validation&test=train")
    assert everything(swapped)["test"] == everything(source)["train"]


def test_a_folder_of_shards_under_the_name_of_a_hub(tmp_path):
    found = pictures(1)
    as_shards(tmp_path / "set", found)
    assert everything(data.load(f"hf:{tmp_path / 'set'}")) == everything(data.load(tmp_path / "set"))


def test_an_export_on_the_hub_is_judged_with_its_weights(tmp_path, hub):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    given = DistilledDataset.from_arrays(pixels, [0, 0, 1, 1], np.arange(1.0, 5.0), ("cat", "dog"))
    (tmp_path / "owner/mine").mkdir(parents=True)
    FORMS.find("webdataset").write(tmp_path / "owner/mine", given, None)
    found = jaxdd.open_distilled("hf:owner/mine")
    np.testing.assert_array_equal(found.pixels(), pixels)
    np.testing.assert_allclose(found.weights, given.weights, rtol=1e-6)
    assert found.class_names == ("cat", "dog")


def test_a_plan_downloads_no_shards(tmp_path, hub, monkeypatch):
    found = pictures(1)
    as_shards(tmp_path / "owner/name", found)
    with dry.run(None):
        assert len(data.load("hf:owner/name").labels["train"]) == 6
        assert hub[-1][-1] is True
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **more: str(tmp_path))
        line = message(lambda: data.load("hf:owner/name"))
    assert "hf:owner/name" in line and "a plan downloads nothing" in line


def test_archives_elsewhere_are_not_fetched(tmp_path, hub, monkeypatch):
    as_shards(tmp_path / "owner/name", pictures(1))
    before = datasets.load_dataset_builder

    def builder(*given, **more):
        found = before(*given, **more)
        found.config.data_files["train"] = ["https://example.org/train.tar"]
        return found

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    line = message(lambda: data.load("hf:owner/name"))
    assert "https://example.org/train.tar" in line and "not in its repository" in line and hub == []
