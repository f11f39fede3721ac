"""Shared by the tests of datasets and of distilled images from elsewhere."""

import pytest


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """The library `datasets` keeps what it converts in a folder of this test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
