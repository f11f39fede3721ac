"""Access to published weights, in a folder on disk or a repository of the Hugging Face hub."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdd.ground import extras, reading, settings
from jaxdd.ground.errors import InputError, one_line

LATENT = ("vae", "unet", "transformer", "text_encoder", "scheduler", "tokenizer")


def patterns_of(*components: str) -> tuple[str, ...]:
    """Patterns for the files of these components, or of a repository that is a single component."""
    inside = (f"{component}/*.{kind}" for component in components for kind in ("json", "safetensors", "txt"))
    # The last are tiny autoencoders.
    alone = ("config.json", "diffusion_pytorch_model*.safetensors*", "model*.safetensors*")
    halves = (f"{before}{part}.safetensors" for part in ("encoder", "decoder") for before in ("", "tae*_"))
    return (*inside, *alone, *halves)


# The same weights in half precision, or not averaged over training, unlike those of published samples.
_DUPLICATES = ("*.fp16.safetensors", "*.fp16-*", "*non_ema*")


def find(place: str | Path, patterns: Sequence[str] = patterns_of(*LATENT)) -> Path:
    """The path of a local folder, or of a repository downloaded from the Hugging Face hub.

    Args:
      place: a folder, or a repository "owner/name" or "owner/name@revision".
      patterns: the files of a repository to download, which include no pickles.

    Raises:
      InputError: place is neither, huggingface_hub is not installed, or the download failed.
    """
    if Path(place).is_dir():
        return Path(place)
    if Path(place).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", str(place)):
        raise InputError(f"{place} is no folder; give one with weights, or a repository of the hub as owner/name")
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise InputError(
            f"no folder {place}, and to download it huggingface_hub is missing; {extras.install('pretrained')}"
        ) from error
    name, _, revision = str(place).partition("@")
    cause: Exception
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=list(patterns), ignore_patterns=list(_DUPLICATES)
            )
        )
    except errors.GatedRepoError as error:
        reason, cause = "its owner wants you to log in and accept its terms first", error
    except errors.RepositoryNotFoundError as error:
        reason, cause = "there is no such public repository", error
    except errors.RevisionNotFoundError as error:
        reason, cause = f"it has no revision {revision}", error
    except Exception as error:  # Other errors of the library, of the network and the cache, have no common base class.
        reason, cause = f"{type(error).__name__}: {(str(error).strip() or 'no answer').splitlines()[0]}", error
    raise InputError(
        f"no folder {place}, and downloading {name} from the Hugging Face hub failed: {reason}; give a local folder "
        f"in that layout, as made elsewhere by: hf download {name} --local-dir FOLDER"
    ) from cause


def component(place: str | Path, subfolder: str, marker: str = "config.json") -> Path:
    """The folder of one component: ``place/subfolder``, or ``place`` if that contains ``marker``.

    Raises:
      InputError: see `find`, or neither folder contains ``marker``.
    """
    folder = find(place, patterns_of(subfolder))
    for candidate in (folder / subfolder, folder):
        if (candidate / marker).is_file():
            return candidate
    raise InputError(f"no {marker} in {folder / subfolder} or {folder}; give a folder in the layout of diffusers")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      InputError: no such file, or it is damaged or not a JSON object.
    """
    if not path.exists():
        raise InputError(f"no {path}; give a folder in the layout of diffusers")
    record = reading.read_json(path, "download it again")
    if not isinstance(record, dict):
        raise InputError(f"{path} holds {type(record).__name__}, not a JSON object; download it again")
    return record


def read_config(
    path: Path, kind: type, only: Mapping[str, Sequence], optional: Sequence[str] = (), known: Mapping | None = None
) -> Any:
    """The dataclass ``kind`` from a published JSON file.

    Args:
      path: the file.
      kind: a dataclass of numbers, strings and tuples, whose fields have the names of the file's keys.
      only: the supported values of keys, which may be missing. Every entry of a list must be supported.
      optional: fields that may be missing, because their default is also the published one.
      known: the content of the file, if it was already read and completed.

    Raises:
      InputError: not JSON, a key that is missing or of the wrong type, or a value that is out of bounds or unsupported.
    """
    record = read_json(path) if known is None else known
    for key, allowed in only.items():
        values = record.get(key, allowed[0])
        for value in values if isinstance(values, list) else [values]:
            if value not in allowed:
                choices = " or ".join(json.dumps(a) for a in allowed)
                raise InputError(f"{path}: {key} {_json(value)} is not covered, only {choices}; use other weights")
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name in record:
            fields[field.name] = _typed(path, field, record[field.name])
        elif field.name not in optional:
            raise InputError(f"{path} has no {field.name}; add it, as the weights were trained with it")
    config = kind(**fields)
    settings.check(config, str(path))
    return config


def _json(value):
    return one_line(json.dumps(value), 100)


def _typed(path, field, value):
    default = field.default
    if isinstance(default, tuple) and isinstance(value, list) and value:
        if all(type(entry) is type(default[0]) for entry in value):
            return tuple(value)
    elif type(value) is type(default):
        return value
    elif isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        return float(value)
    raise InputError(f"{path}: {field.name} is {_json(value)}, not a value such as {json.dumps(default)}; correct it")
