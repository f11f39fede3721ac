"""Weights from the Hugging Face hub: which files are asked for, and what is said when they do not come."""

import fnmatch
import shutil
import sys
from types import SimpleNamespace

import pytest
from helpers import message
from huggingface_hub import errors
from pretrained_helpers import FILES, FOLDER, READ

from jaxdd import pretrained
from jaxdd.ground import extras

HUB = {
    **{f"{part}/{name}": part for part, name in FILES.items()},
    **{f"{part}/config.json": part for part in FILES},
    **{f"{part}/{name.replace('.s', '.fp16.s')}": "" for part, name in FILES.items()},
    "unet/diffusion_pytorch_model.non_ema.safetensors": "",
    "vae/diffusion_pytorch_model.bin": "",
    "text_encoder/pytorch_model.bin": "",
    "safety_checker/model.safetensors": "",
    "v1-5-pruned-emaonly.safetensors": "",
    "v1-5-pruned.ckpt": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", READ)
def test_only_what_is_needed_is_downloaded(part, tmp_path, monkeypatch):
    arguments = []

    def download(name, *, revision, allow_patterns, ignore_patterns):
        arguments.append((name, revision))
        fits = lambda file, patterns: any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
        files = [file for file in HUB if fits(file, allow_patterns) and not fits(file, ignore_patterns)]
        assert {HUB[file] for file in files} == {part}
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copy(FOLDER / file, tmp_path / file)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert READ[part]("owner/name").config == READ[part]("owner/name@refs/pr/2").config == READ[part](FOLDER).config
    assert arguments == [("owner/name", None), ("owner/name", "refs/pr/2")]


def failing(kind):
    answer = SimpleNamespace(headers={}, status_code=404, request=None)
    if kind in ("RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"):
        return getattr(errors, kind)("no\nsuch thing", response=answer)
    return {"ConnectionError": ConnectionError, "OSError": OSError}.get(kind, getattr(errors, kind, None))("a\nb")


@pytest.mark.parametrize(
    "kind, words",
    [
        ("RepositoryNotFoundError", "no such public repository"),
        ("GatedRepoError", "accept its terms"),
        ("RevisionNotFoundError", "no revision v2"),
        ("HTTPError", "HTTPError: a"),
        ("LocalEntryNotFoundError", "LocalEntryNotFoundError: a"),
        ("HFValidationError", "HFValidationError: a"),
        ("XetDownloadError", "XetDownloadError: a"),
        ("ConnectionError", "ConnectionError: a"),
        ("OSError", "OSError: a"),
    ],
)
def test_downloads_that_fail(kind, words, monkeypatch):
    def download(*args, **kwargs):
        raise failing(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    text = message(lambda: pretrained.unet("owner/some-model@v2"))
    assert words in text and "owner/some-model" in text and "local folder" in text


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = message(lambda: pretrained.vae("owner/name"))
    assert "owner/name" in text and "local folder" in text


def test_libraries_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert extras.install("pretrained") in message(lambda: pretrained.vae("owner/name"))
    assert pretrained.find(FOLDER) == FOLDER
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert extras.install("pretrained") in message(lambda: pretrained.tokenizer(FOLDER))


@pytest.mark.parametrize("place", ["nothing", "a/b/c", FOLDER / "golden.npz", "owner/na me"])
def test_neither_folder_nor_repository(place):
    assert f"{place} is no folder" in message(lambda: pretrained.find(place))
    assert pretrained.find(FOLDER) == pretrained.find(str(FOLDER)) == FOLDER
