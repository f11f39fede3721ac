"""Datasets of the Hugging Face hub: parquet or arrow files, class folders, shards; and folders in these layouts."""

import contextlib
import glob
import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from jaxdd.data import image, places
from jaxdd.data.checks import check_class_names, printable
from jaxdd.data.labels import classes
from jaxdd.data.shards import open_found
from jaxdd.data.source import Opened, Source, make_source
from jaxdd.ground import dry, extras
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.reading import read_json

_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?(?::(?P<config>[\w.-]+))?")
# Builders of the library that run no code of the dataset and give images as they are encoded.
_BUILDERS = ("parquet", "arrow", "imagefolder")
# Of this one only the names of the archives are used: it would decode their members, and copy all images.
_SHARDS = "webdataset"
_CLASSES = ("classes.txt", "classes.json")
_FILE = re.compile(r"hf://datasets/(?P<name>[^@]+)@(?P<revision>[^/]+)/(?P<file>.+)")
_IMAGES = ("image", "img", "pixel_values", "pixels", "picture", "jpg", "png")
_LABELS = ("label", "labels", "fine_label", "target", "class", "y")
_WEIGHTS = ("weight", "weights", "w")
_SAVED = ("dataset_dict.json", "state.json")
_CHUNK = 2**16
# Parquet files of images hardly shrink. A few bytes could otherwise fill the disk.
_MOST_EXPANSION, _SMALL = 100, 2**26


class Archives(NamedTuple):
    """The archives of a dataset that is stored as shards, by the names of its splits."""

    files: dict[str, list[str]]


class Table(NamedTuple):
    """The splits of a dataset, and the names of its columns of images and labels.

    Attributes:
      place: its name, and what was chosen.
      path: the same for messages.
      splits: those of the library, by the names in the dataset.
      image_column: that of the images, which are bytes as they are encoded.
      label_column: that of the labels.
      class_names: the names of the classes, if the label has them.
    """

    place: places.Place
    path: str
    splits: Mapping[str, Any]
    image_column: str
    label_column: str
    class_names: tuple[str, ...] | None

    def values(self, split: str, column: str) -> np.ndarray:
        """A column of numbers or texts of a split, [n]; missing values are None in an array of objects."""
        rows = self.splits[split].select_columns([column]).with_format("arrow")
        parts = [rows[start : start + _CHUNK][column] for start in range(0, len(rows), _CHUNK)]
        columns = [part.to_numpy(zero_copy_only=False) if part.null_count == 0 else np.array(part.to_pylist(), object)
                   for part in (part.combine_chunks() for part in parts)]  # fmt: skip
        return np.concatenate(columns) if columns else np.empty(0, np.int64)

    def weights(self, split: str) -> np.ndarray | None:
        """The column of weights of a split, if it has one."""
        chosen = self.place.choices.get("weight")
        columns = [name for name in self.splits[split].column_names if name == chosen
                   or chosen is None and name.lower() in _WEIGHTS]  # fmt: skip
        if chosen and not columns:
            raise InputError(f"{printable(self.path)} has no column {printable(chosen)}; leave out ?weight=")
        return self.values(split, columns[0]) if columns else None

    def is_labelled(self, split: str) -> bool:
        """Whether a split has a label for each image; in a split without labels all are missing or -1."""
        labels = self.values(split, self.label_column)
        if labels.dtype.kind == "O":
            return all(label is not None for label in labels.tolist())
        return bool(len(labels)) and (labels.dtype.kind not in "iu" or labels.min() >= 0)

    def encoded(self, split: str, rows: np.ndarray) -> list[image.Encoded]:
        """The images of some rows of a split, as they are encoded."""
        chosen = rows.tolist()
        items = self.splits[split][chosen][self.image_column] if chosen else []
        return [self._encoded(split, row, item) for row, item in zip(chosen, items)]

    def _encoded(self, split: str, row: int, item: Any) -> image.Encoded:
        item = item if isinstance(item, dict) else {}
        content, file = item.get("bytes"), item.get("path")
        what = f"{split} {row} of {self.path}" + (f" ({file})" if file else "")
        if isinstance(content, bytes):
            return what, content
        # A file from a stranger must not choose which other files are read.
        if isinstance(file, str) and _is_inside(file, _roots(self.place.path)):
            return what, file
        raise image.DamagedImage(f"image {printable(what)} cannot be read (it is empty, or lies elsewhere): repair it "
                                 "or remove it")  # fmt: skip


def load_hub(
    name: str,
    image_size: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open a dataset of the Hugging Face hub, or a folder in the layout of one; no code of a dataset is run.

    The images are decoded as those of a folder, from the bytes in the dataset, and only at `Source.read`. The split
    "test" is the first of test, val, valid and validation that is labelled.

    Args:
      name: ``hf:owner/name``, ``hf:owner/name:config`` or ``hf:owner/name@revision``, which is downloaded into the
        cache of the library `datasets`; or a folder of parquet files, or of `Dataset.save_to_disk`. A repository of
        shards is read as by `load_shards`, with the splits that the library finds. Choices follow, see
        `places.parsed`: ``?image=COLUMN&label=COLUMN&train=SPLIT&test=SPLIT&config=NAME``. Default: the only column of
        images and the only one of class labels by their features, else by their usual names.
      image_size, channels, skip_corrupt, needs_test: as for `load_folder`.

    Raises:
      InputError: `datasets` is not installed, no such dataset, one that is damaged or in another format, or no such
        columns or several.
    """
    return open_hub(name, image_size, channels, skip_corrupt, needs_test).source


def open_hub(name: str, image_size: int | None, channels: int | None, skip_corrupt: bool, needs_test: bool) -> Opened:
    """What `load_hub` opens; the weight of an image is in the column weight, weights, w, or ``?weight=COLUMN``."""
    image.check_request(image_size, channels)
    table = open_table(name)
    if isinstance(table, Archives):
        return open_found(name, table.files, image_size, channels, skip_corrupt, needs_test)
    splits = places.splits_of(table.place, tuple(table.splits), table.is_labelled, needs_test, table.path)
    raw = {split: table.values(part, table.label_column) for split, part in splits.items()}
    names, labels = classes(raw, table.class_names, table.path)

    def encoded(split: str, rows: np.ndarray) -> list[image.Encoded]:
        return table.encoded(splits[split], rows)

    def sample() -> list[image.Encoded]:
        return encoded("train", image.evenly_spaced(len(labels["train"]), image.PROBES))

    shape = image.shape_for(sample, image_size, channels, skip_corrupt, table.path)

    def read(split: str, rows: np.ndarray) -> np.ndarray:
        return image.decode_batch(encoded(split, rows), shape)

    place = table.place
    source = make_source(name.replace(place.path, os.path.expanduser(place.path), 1), names, shape,
                         {"test": np.empty(0, np.int32)} | labels, read)  # fmt: skip
    return Opened(source, encoded, lambda: table.weights(splits["train"]))


def is_hub(path: str) -> bool:
    """Whether a name is one of the hub, or a folder that the library `datasets` has written."""
    if path.startswith(places.HUB):
        return True
    folder = Path(os.path.expanduser(path))
    return folder.is_dir() and (any((folder / name).is_file() for name in _SAVED) or bool(_parquets(folder)))


def open_table(name: str) -> Table | Archives:
    """Open a dataset as a table, or find its archives, see `load_hub`."""
    place = places.parsed(name)
    path = place.path.removeprefix(places.HUB)
    is_folder = os.path.isdir(os.path.expanduser(path))
    path = os.path.expanduser(path) if is_folder else place.path
    library = _library(path)
    with _quiet(library):
        try:
            splits = _from_folder(library, path, place) if is_folder else _from_hub(library, path, place)
            if isinstance(splits, Archives):
                return splits
            image_column, label_column = _columns(library, place, next(iter(splits.values())).features, path)
            feature = next(iter(splits.values())).features[label_column]
            splits = {name: split.cast_column(image_column, library.Image(decode=False))
                      for name, split in splits.items()}  # fmt: skip
        except InputError:
            raise
        # Errors of the library, of Arrow, of the network and of the cache have no common base class.
        except Exception as error:
            raise InputError(f"dataset {printable(path)} cannot be opened: {_first_line(error)}; "
                             f"{_remedy(is_folder, error)}") from error  # fmt: skip
    names = feature.names if isinstance(feature, library.ClassLabel) else None
    return Table(place, path, splits, image_column, label_column, names and check_class_names(names, path))


def _library(path: str) -> Any:
    """The module `datasets`, which takes a second to import, and is an extra."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(f"dataset {printable(path)} needs the library `datasets`: {extras.install('hub')}") from error


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the progress bars of the library, and without its lines about each attempt to reach the hub."""
    logs = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [log.level for log in logs]
    shown_before = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
        if shown_before:
            library.enable_progress_bars()


def _remedy(is_folder: bool, error: Exception) -> str:
    if is_folder:
        return "download or write it again"
    if "script" in str(error):
        return "add @refs/convert/parquet, where the hub has most of these as parquet"
    return "check the name and the network, or give a local folder in that layout"


def _from_hub(library: Any, path: str, place: places.Place) -> dict[str, Any] | Archives:
    found = _NAME.fullmatch(path.removeprefix(places.HUB))
    if not found:
        raise InputError(f"dataset {printable(path)}; give hf:owner/name, hf:owner/name:config or a folder that exists")
    config = place.choices.get("config", found["config"])
    settings = library.DownloadConfig(local_files_only=True) if dry.is_on() else None
    try:
        builder = _builder(library, found["name"], config, revision=found["revision"], download_config=settings)
        if _kind(builder) == _SHARDS:
            return _archives(builder, path)
        if dry.is_on() and not os.path.isdir(builder.cache_dir):
            raise FileNotFoundError("it is not in the cache")
    except Exception as error:
        if dry.is_on() and not isinstance(error, InputError):
            raise InputError(f"dataset {printable(path)} is not in the cache of the hub, and a plan downloads nothing; "
                             "start the program without `dry_run` once") from error  # fmt: skip
        raise
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def _builder(library: Any, place: str, config: str | None, **given: Any) -> Any:
    """The builder of a dataset; InputError unless it is one of those that only read images."""
    # Until version 4 the library would run scripts of datasets, if asked.
    refuse = {"trust_remote_code": False} if int(library.__version__.partition(".")[0]) < 4 else {}
    builder = library.load_dataset_builder(place, config, **given, **refuse)
    is_packaged = type(builder).__module__.startswith("datasets.packaged_modules.")
    if not is_packaged or _kind(builder) not in (*_BUILDERS, _SHARDS):
        raise InputError(f"dataset {printable(place)} is in the format {_kind(builder)}; give one of "
                         f"{', '.join((*_BUILDERS, _SHARDS))}")  # fmt: skip
    return builder


def _kind(builder: Any) -> str:
    return type(builder).__module__.rpartition(".")[2]


def _archives(builder: Any, path: str) -> Archives:
    """The archives of a dataset in the cache of the hub, into which they are downloaded, or in a local folder."""
    named = {split: list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    every = [file for files in named.values() for file in files]
    if all(map(os.path.isabs, every)):
        return Archives(named)
    found = {file: _FILE.fullmatch(file) for file in every}
    for file, parts in found.items():
        if not parts:
            raise InputError(f"dataset {printable(path)} names {shown(file)}, which is not in its repository; download "
                             "its archives, and give their folder")  # fmt: skip
    inside = {file: parts["file"] for file, parts in found.items() if parts}
    first = next(parts for parts in found.values() if parts)
    # The names of the classes, which are no part of the dataset for the library.
    beside = {str(PurePosixPath(file).with_name(name)) for file in inside.values() for name in _CLASSES}
    root = importlib.import_module("huggingface_hub").snapshot_download(
        first["name"], repo_type="dataset", revision=unquote(first["revision"]),
        allow_patterns=[glob.escape(file) for file in (*inside.values(), *sorted(beside))],
        local_files_only=dry.is_on(),
    )  # fmt: skip
    local = {split: [os.path.join(root, inside[file]) for file in files] for split, files in named.items()}
    for file in (file for files in local.values() for file in files):
        if not os.path.isfile(file):
            raise FileNotFoundError(f"{file} is not there")
    return Archives(local)


def _from_folder(library: Any, path: str, place: places.Place) -> dict[str, Any] | Archives:
    folder = Path(path)
    if any((folder / name).is_file() for name in _SAVED):
        names = read_json(folder / _SAVED[0]).get("splits") if (folder / _SAVED[0]).is_file() else None
        for part in [folder] if names is None else [folder / _plain(name, folder / _SAVED[0]) for name in names]:
            files = read_json(part / "state.json").get("_data_files", [])
            for file in files:
                _check_inside(str(part / _plain(file.get("filename"), part / "state.json")), path)
        saved = library.load_from_disk(path)
        splits = dict(saved) if isinstance(saved, dict) else {"train": saved}
        return {name: split.with_format(None) for name, split in splits.items()}
    for file in _parquets(folder):
        _check_expansion(file)
    builder = _builder(library, path, place.choices.get("config"))
    for files in (builder.config.data_files or {}).values():
        for file in files:
            _check_inside(str(file), path)
    if _kind(builder) == _SHARDS:
        return _archives(builder, path)
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def _plain(name: Any, place: Path) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]*", name):
        raise InputError(f"{place} names {shown(name)}, which is no file in its folder; write it again")
    return name


def _roots(path: str) -> list[str]:
    """The folders in which the files of a local dataset may lie."""
    folder = os.path.realpath(os.path.expanduser(path.removeprefix(places.HUB)))
    if not os.path.isdir(folder):
        config = importlib.import_module("datasets").config
        caches = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, importlib.import_module(
            "huggingface_hub").constants.HF_HUB_CACHE)  # fmt: skip
        return [os.path.realpath(cache) for cache in caches]
    # The cache of the hub links each file of a snapshot to the blobs of its repository.
    return [folder, *(str(up.parent / "blobs") for up in Path(folder).parents if up.name == "snapshots")]


def _is_inside(file: str, roots: list[str]) -> bool:
    return any(Path(os.path.realpath(file)).is_relative_to(root) for root in roots)


def _check_inside(file: str, path: str) -> None:
    if not _is_inside(file, _roots(path)):
        raise InputError(f"dataset {printable(path)} names {shown(file)}, which lies elsewhere; write it again")


def _check_expansion(file: Path) -> None:
    """InputError if a parquet file is damaged, or declares far more than it holds."""
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        size, footer = file.stat().st_size, parquet.read_metadata(file)
        total = sum(footer.row_group(k).total_byte_size for k in range(footer.num_row_groups))
    except Exception as error:
        raise InputError(f"{file} cannot be read: {_first_line(error)}; download it again") from error
    if total > max(_SMALL, _MOST_EXPANSION * size):
        raise InputError(f"{file} cannot be read: {size} bytes would expand to {total}; download it again")


def _parquets(folder: Path) -> list[Path]:
    """The parquet files in a folder, and in its folders; in theirs if there are none."""
    files = [file for pattern in ("*.parquet", "*/*.parquet") for file in sorted(folder.glob(pattern))]
    return files or sorted(folder.glob("*/*/*.parquet"))


def _columns(library: Any, place: places.Place, features: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The columns of the images and of the labels."""
    found = {}
    for kind, feature, usual in (("image", library.Image, _IMAGES), ("label", library.ClassLabel, _LABELS)):
        held = ", ".join(map(printable, features))
        chosen = [place.choices[kind]] if kind in place.choices else (
            [name for name in features if isinstance(features[name], feature)]
            or [name for name in features if name.lower() in usual]
        )  # fmt: skip
        if len(chosen) > 1:
            raise InputError(f"dataset {printable(path)} has several columns of {kind}s: "
                             f"{', '.join(map(printable, chosen))}; choose one with ?{kind}=COLUMN")  # fmt: skip
        if not chosen or chosen[0] not in features:
            raise InputError(f"dataset {printable(path)} has no column {printable(chosen[0]) if chosen else 'of'} "
                             f"{'' if chosen else kind + 's '}(its columns: {held[:300]}); choose one with "
                             f"?{kind}=COLUMN")  # fmt: skip
        found[kind] = chosen[0]
    held_as = features[found["image"]]
    # The library would make images of lists of numbers, of as many bits as the numbers have.
    is_bytes = isinstance(held_as, dict) and set(held_as) == {"bytes", "path"}
    if not isinstance(held_as, library.Image) and not is_bytes and "binary" not in str(getattr(held_as, "dtype", "")):
        raise InputError(f"column {printable(found['image'])} of dataset {printable(path)} holds no image files, but "
                         f"{type(held_as).__name__}; give images as files, or pixels in an .npz file")  # fmt: skip
    return found["image"], found["label"]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
