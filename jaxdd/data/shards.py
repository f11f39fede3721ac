"""Datasets in shards of WebDataset: tar archives in which the files of a sample stand together under one key."""

import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxdd.data import image, places, tar_index
from jaxdd.data.checks import printable
from jaxdd.data.folder import EXTENSIONS
from jaxdd.data.labels import classes, names_beside
from jaxdd.data.source import Opened, Source, make_source
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.files import open_regular
from jaxdd.ground.progress import progress
from jaxdd.ground.reading import parse_json

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MOST_SHARDS = 100_000
_LONGEST_LABEL = 2**20
_BLOCK = 512
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_LABELS = ("cls", "json")
# Among the labels of a sample by their extension, which never has a slash.
_WEIGHT = "/weight"
_REPAIR = "repair it or remove it"


def load_shards(
    name: str,
    image_size: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open shards of WebDataset. Their headers and labels are read here, and an index of them is kept in memory.

    A sample has an image (.png, .jpg, .webp, ...) and a label: a number or the name of a class in .cls, or "label" in
    .json. Its key is the path up to the first dot of the file name. The names of the classes are the lines of
    classes.txt or the list in classes.json beside the shards; default: the numbers, or the names in the labels, sorted.

    Args:
      name: a folder of *.tar, one archive, several as ``a.tar::b.tar``, or a range as ``train-{000000..000009}.tar``.
        Shards whose name has the word train are the train images, and test, val, valid or validation the test images;
        other shards are train images. Choices follow, see `places.parsed`: ``?train=SHARDS&test=SHARDS``, relative to
        the folder, and ``?image=EXTENSION&label=EXTENSION`` where a sample has several (or a key of its .json).
      image_size, channels, skip_corrupt, needs_test: as for `load_folder`.

    Raises:
      InputError: no such shards, a compressed or damaged archive, one with links or names that lead out of it, a sample
        without an image or a label; at `Source.read`, a damaged image.
    """
    return open_shards(name, image_size, channels, skip_corrupt, needs_test).source


def open_shards(
    name: str, image_size: int | None, channels: int | None, skip_corrupt: bool, needs_test: bool
) -> Opened:
    """What `load_shards` opens; the weight of an image is the "weight" in its .json."""
    place = places.parsed(name)
    path = os.path.expanduser(place.path)
    shape = image_size, channels
    return open_found(name.replace(place.path, path, 1), _shards(path, place), *shape, skip_corrupt, needs_test)


def open_found(
    name: str,
    found: dict[str, list[str]],
    image_size: int | None,
    channels: int | None,
    skip_corrupt: bool,
    needs_test: bool,
) -> Opened:
    """The same of a dataset whose archives are ``found``, by the names of its splits."""
    image.check_request(image_size, channels)
    place = places.parsed(name)
    path = place.path
    splits = places.splits_of(place, tuple(found), lambda split: True, needs_test, path)
    indices = {split: _indexed(found[part], place) for split, part in splits.items()}
    labels = {split: np.array(index.labels, object if index.has_names else None) for split, index in indices.items()}
    known, labels = classes(labels, names_beside(os.path.dirname(found[splits["train"]][0])), path)

    def encoded(split: str, rows: np.ndarray) -> list[image.Encoded]:
        return [indices[split].encoded(row) for row in rows]

    def sample() -> list[image.Encoded]:
        return encoded("train", image.evenly_spaced(len(labels["train"]), image.PROBES))

    shape = image.shape_for(sample, image_size, channels, skip_corrupt, path)

    def read(split: str, rows: np.ndarray) -> np.ndarray:
        return image.decode_batch(encoded(split, rows), shape)

    source = make_source(name, known, shape, {"test": np.empty(0, np.int32)} | labels, read)
    return Opened(source, encoded, lambda: indices["train"].weights)


def is_shards(path: str) -> bool:
    """Whether a path names tar archives, or a folder of them."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return any(_in_folder(path))
    return path.lower().endswith((".tar", *_COMPRESSED)) or ".tar::" in path


_Sample = tuple[int, int, int | str, float | None]
"""The place and size of an image, its label and its weight."""


class _Index(NamedTuple):
    """The samples of a split: shard, place and size of each image, the labels, and the weights if all have one."""

    shards: list[str]
    places: np.ndarray
    labels: list
    weights: np.ndarray | None

    @property
    def has_names(self) -> bool:
        return any(isinstance(label, str) for label in self.labels)

    def encoded(self, row: int) -> image.Encoded:
        """The name and the bytes of an image. Its name is in the header before it, and so takes no memory."""
        shard, offset, size = self.places[row].tolist()
        path = self.shards[shard]
        try:
            with open_regular(path) as file:
                file.seek(offset - _BLOCK)
                content = file.read(_BLOCK + size)
        except OSError as error:
            raise image.DamagedImage(f"archive {printable(path)} cannot be read ({error.strerror or error}): "
                                     f"{_REPAIR}") from None  # fmt: skip
        inside = content[:100].partition(b"\0")[0].decode(errors="backslashreplace")
        return f"{inside} in {path}", content[_BLOCK:]


def _indexed(shards: list[str], place: places.Place) -> _Index:
    """The index of shards, which are read from beginning to end but for the images."""
    rows: list[tuple[int, int, int]] = []
    labels: list[int | str] = []
    weights: list[float | None] = []
    for number, shard in enumerate(progress(shards, "index shards") if len(shards) > 1 else shards):
        for offset, size, label, weight in _samples(shard, place):
            rows.append((number, offset, size))
            labels.append(label)
            weights.append(weight)
    if not rows:
        raise InputError(f"{printable(shards[0])} holds no samples; give archives of images (.png) and labels (.cls)")
    known = None if None in weights else np.array(weights, np.float64)
    return _Index(shards, np.array(rows, np.int64), labels, known)


def _samples(shard: str, place: places.Place) -> Iterator[_Sample]:
    """The samples of an archive."""
    key: str | None = None
    parts: dict[str, tuple[int, int]] = {}
    label: dict[str, Any] = {}
    wanted = place.choices.get("label", "")
    for member, file in tar_index.members(shard):
        folder, _, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot or stem.startswith("__"):  # such as ./.hidden, and notes about the archive
            continue
        if (new := f"{folder}/{stem}") != key:
            if key is not None:
                yield _sample(shard, key, parts, label, place)
            key, parts, label = new, {}, {}
        extension = extension.lower()
        if extension in parts:
            raise InputError(f"archive {printable(shard)} has {shown(member.name)} twice; {_REPAIR}")
        parts[extension] = member.offset, member.size
        if extension in _LABELS or extension == wanted:
            _read_label(file, member, extension, wanted, label)
    if key is not None:
        yield _sample(shard, key, parts, label, place)


def _sample(
    shard: str, key: str, parts: dict[str, tuple[int, int]], labels: dict[str, Any], place: places.Place
) -> _Sample:
    what = f"sample {shown(key.removeprefix('/'))} of {printable(shard)}"
    wanted = place.choices.get("image", "").lower().lstrip(".")
    images = [name for name in parts if name == wanted or not wanted and f".{name}".endswith(EXTENSIONS)]
    if len(images) != 1:
        held = ", ".join(map(printable, parts))
        if images:
            raise InputError(f"{what} has several images: {held[:200]}; choose one with ?image=EXTENSION")
        raise InputError(f"{what} has no image{f' .{wanted}' if wanted else ''}, but {held[:200]}; {_REPAIR}")
    wanted = place.choices.get("label", "").lstrip(".")
    chosen = [labels[name] for name in (wanted, *(() if wanted in labels else _LABELS)) if name in labels]
    if not chosen:
        raise InputError(f'{what} has no label; give a number in .cls, or "label" in .json')
    return *parts[images[0]], chosen[0], labels.get(_WEIGHT)


def _read_label(file: BinaryIO, member: tar_index.Member, extension: str, wanted: str, labels: dict[str, Any]) -> None:
    """Add the label of a sample, and its weight if there is one, to ``labels``, by its extension or key."""
    what = f"label {shown(member.name)} of {printable(str(file.name))}"
    if member.size > _LONGEST_LABEL:
        raise InputError(f"{what} takes {member.size} bytes; give a number, or the name of a class")
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"{what} is no text in UTF-8; {_REPAIR}") from None
    label: object = text
    is_plain = wanted in ("", *_LABELS)
    if extension == "json":
        record = parse_json(text, what, _REPAIR)
        weight = record.get("weight") if isinstance(record, dict) else None
        if isinstance(weight, int | float) and 0 <= weight < 1e30:
            labels[_WEIGHT] = float(weight)
        label = record.get("label" if is_plain else wanted) if isinstance(record, dict) else None
        if label is None:
            return
    elif re.fullmatch(r"-?\d{1,9}", text):
        label = int(text)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "" or abs(_as_number(label)) >= 2**31:
        raise InputError(f"{what} is {shown(label)}; give a number, or the name of a class")
    labels[wanted if extension == "json" and not is_plain else extension] = label


def _as_number(label: int | str) -> int:
    return label if isinstance(label, int) else 0


def _shards(path: str, place: places.Place) -> dict[str, list[str]]:
    """The archives of each split."""
    folder = path if os.path.isdir(path) else os.path.dirname(_expanded(path)[0])
    found: dict[str, list[str]] = {}
    if os.path.isdir(path):
        for shard in _in_folder(path):
            found.setdefault(_split_of(os.path.relpath(shard, path)), []).append(shard)
    else:
        found["train"] = _expanded(path)
        # The test images of train-{000000..000009}.tar lie beside them.
        for shard in _in_folder(folder) if _split_of(os.path.basename(path)) and "train" in path else ():
            if (split := _split_of(os.path.basename(shard))) != "train":
                found.setdefault(split, []).append(shard)
    for split in ("train", "test"):
        if split in place.choices and place.choices[split] not in found:
            found[place.choices[split]] = _expanded(os.path.join(folder, place.choices[split]))
    for shard in (shard for part in found.values() for shard in part):
        if shard.lower().endswith(_COMPRESSED):
            raise InputError(f"archive {printable(shard)} is compressed, and has no random access; unpack it to a .tar")
        if not os.path.exists(shard):
            near = places.meant(places.nearest(shard))
            raise InputError(f"archive {printable(shard)} does not exist{near}; give shards as "
                             "path/train-{000000..000009}.tar, or their folder")  # fmt: skip
    return found


def _in_folder(folder: str) -> list[str]:
    """The archives in a folder, and in its folders train/, val/ and so on, sorted."""
    inside = [folder, *(os.path.join(folder, split) for split in ("train", *places.TEST_SPLITS))]
    return [os.path.join(one, name) for one in inside if os.path.isdir(one) for name in sorted(os.listdir(one))
            if name.lower().endswith((".tar", *_COMPRESSED)) and not name.startswith(".")]  # fmt: skip


def _split_of(name: str) -> str:
    """The split that the name of an archive has as a word; train if it has none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for word in words if word in ("train", *places.TEST_SPLITS)), "train")


def _expanded(spec: str) -> list[str]:
    """The archives that ``a.tar::b.tar`` or ``train-{000000..000009}.tar`` names, in order."""
    shards = []
    for part in spec.split("::"):
        found = _RANGE.search(part)
        if found is None:
            shards.append(part)
            continue
        first, last = int(found[1]), int(found[2])
        if last < first or last - first >= _MOST_SHARDS:
            raise InputError(f"shards {printable(part)} are {last - first + 1}; give a range of 1 to {_MOST_SHARDS}")
        before, after = part[: found.start()], part[found.end() :]
        if _RANGE.search(after):
            raise InputError(f"shards {printable(part)} have two ranges; give one, and others after ::")
        shards += [f"{before}{number:0{len(found[1])}d}{after}" for number in range(first, last + 1)]
    if len(shards) > _MOST_SHARDS:
        raise InputError(f"{printable(spec)} names {len(shards)} shards; give at most {_MOST_SHARDS}")
    return shards
