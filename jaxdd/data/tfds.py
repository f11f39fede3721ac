"""Image-classification datasets of TensorFlow Datasets (TFDS), with random access through array_record."""

import difflib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdd.data import image, places
from jaxdd.data.places import TAKEN, meant, nearest
from jaxdd.data.source import Source, make_source
from jaxdd.ground import dry, extras
from jaxdd.ground.errors import InputError

_LONGEST = 255  # of a name that is compared with others
_STREAM_LIMIT = 4 * 2**30
_CHUNK = 1024

Read = Callable[[str, np.ndarray], np.ndarray]
"""(split, indices) -> uint8 images, as `Source.read`."""


def load_tfds(
    name: str,
    image_size: int | None = None,
    channels: int | None = None,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    needs_test: bool = True,
) -> Source:
    """Open a TFDS dataset. If it is not in ``data_dir``, it is downloaded and prepared there as array_record.

    Images and labels are the supervised keys of the dataset. The split "test" is "test" of TFDS if that is labelled,
    else "validation"; ``name?train=SPLIT&test=SPLIT`` chooses others, see `places.parsed`. All labels are read here,
    but images are decoded only at `Source.read`. Conversion to the common shape, and the defaults of image_size and
    channels, are those of `load_folder`. A dataset on disk without random access (tfrecord) is decoded into memory
    here, up to 4 GiB at that shape, and must not hold a damaged image. ``skip_corrupt`` and ``needs_test`` are as for
    `load_folder`.

    Raises:
      InputError: TFDS is not installed or cannot be imported, an unknown name (the message lists similar ones), a
        dataset that cannot be prepared or has no labelled images, or one without random access that is too large for
        memory.
    """
    image.check_request(image_size, channels)
    given, place = name, places.parsed(name)
    name = place.path
    try:
        tfds = _library()
    except ImportError as error:
        raise InputError(
            f"{_nowhere(name, ['digits'])}; for a TFDS name install TFDS: {extras.install('tfds')}"
        ) from error

    builder = _builder(tfds, name, data_dir)
    keys = _supervised_keys(tfds, name, builder.info)
    _prepare(builder, name)
    examples = _open(tfds, builder, place, keys, needs_test)
    shape = image.shape_for(examples.sample, image_size, channels, skip_corrupt, name)
    if examples.random_access:
        labels, read = examples.on_disk(shape)
    else:
        needed = sum(len(split) for split in examples.splits.values()) * int(np.prod(shape))
        if needed > _STREAM_LIMIT:
            raise InputError(
                f"TFDS dataset {name!r} in {builder.data_dir} is {builder.info.file_format.value}, without random "
                f"access, {needed / 2**30:.1f} GiB decoded: prepare it as array_record in another data_dir"
            )
        labels, read = examples.in_memory(shape)

    class_names = builder.info.features[examples.label_key].names
    for split, values in labels.items():
        if values.min() < 0 or values.max() >= len(class_names):
            raise InputError(f"the {split} images of TFDS dataset {name!r} are not all labelled: choose another")
    return make_source(given, class_names, shape, {"test": np.empty(0, np.int32)} | labels, read)


@dataclass(frozen=True)
class _Examples:
    """The labelled examples of the splits "train" and "test", with the images as they are encoded on disk."""

    name: str
    image_key: str
    label_key: str
    splits: dict[str, Any]
    random_access: bool

    def encoded(self, split: str, index: int, example: dict) -> image.Encoded:
        return f"{split} {index} of {self.name}", example[self.image_key]

    def sample(self) -> list[image.Encoded]:
        """A few train images, from which the shape of all is chosen."""
        train = self.splits["train"]
        if not self.random_access:
            return [self.encoded("train", *item) for item in enumerate(itertools.islice(train, image.PROBES))]
        chosen = image.evenly_spaced(len(train), image.PROBES).tolist()
        return [self.encoded("train", *item) for item in zip(chosen, train.__getitems__(chosen))]

    def on_disk(self, shape: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], Read]:
        """The labels, and a function that reads and decodes the images it returns."""

        def read(split: str, indices: np.ndarray) -> np.ndarray:
            chosen = indices.tolist()
            records = self.splits[split].__getitems__(chosen)
            return image.decode_batch([self.encoded(split, *item) for item in zip(chosen, records)], shape)

        return {split: self._labels(records) for split, records in self.splits.items()}, read

    def in_memory(self, shape: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], Read]:
        """The labels, and a function that returns images; all images are decoded here."""
        images, labels = {}, {}
        for split in self.splits:
            images[split], labels[split] = self._decoded(split, shape)
        return labels, lambda split, indices: images[split][indices]

    def _labels(self, records) -> np.ndarray:
        labels = np.empty(len(records), np.int32)
        for start in range(0, len(labels), _CHUNK):
            chunk = list(range(start, min(start + _CHUNK, len(labels))))
            labels[chunk] = [example[self.label_key] for example in records.__getitems__(chunk)]
        return labels

    def _decoded(self, split: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        rows = self.splits[split]
        images, labels = np.empty((len(rows), *shape), np.uint8), np.empty(len(rows), np.int32)
        numbered = enumerate(rows)
        while chunk := list(itertools.islice(numbered, _CHUNK)):
            places = slice(chunk[0][0], chunk[-1][0] + 1)
            images[places] = image.decode_batch([self.encoded(split, *item) for item in chunk], shape)
            labels[places] = [example[self.label_key] for _, example in chunk]
        return images, labels


def is_builder(name: str) -> bool:
    """Whether TFDS is installed and has a dataset of this name, without regard to its config or version."""
    try:
        tfds = _library()
    except ImportError:
        return False
    return name.split("/")[0].split(":")[0] in tfds.list_builders(with_community_datasets=False)


def _library():
    """The module of TFDS; ImportError if it is not installed, InputError if it is but cannot be used."""
    import tensorflow_datasets as tfds

    # Where the versions of its own requirements do not fit each other, it logs the error and stays empty.
    if not hasattr(tfds, "builder"):
        raise InputError(
            "TFDS is installed, but its requirements do not fit each other, see its error above; with protobuf 5: "
            'pip install "tensorflow-metadata<1.18"'
        )
    return tfds


def _builder(tfds, name: str, data_dir: str | None):
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*tfds.list_builders(with_community_datasets=False), "digits"]
        raise InputError(f"{_nowhere(name, known)}; `dataset` takes {TAKEN}") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"TFDS dataset {name!r} cannot be opened: {_first_line(error)}") from error


def _nowhere(name: str, known: list[str]) -> str:
    """That a name is neither a folder nor one of the names that are known, with those that are most like it."""
    names = difflib.get_close_matches(name.split(":")[0][:_LONGEST], known, n=3)
    kinds = "neither a folder here nor a TFDS name" if len(known) > 1 else "no folder here"
    return f"dataset {name!r} is {kinds}{meant([*nearest(name), *names])}"


def _prepare(builder, name: str) -> None:
    if not builder.is_prepared():
        if dry.is_on():
            raise InputError(f"TFDS dataset {name!r} is not in {builder.data_dir}, and a plan downloads nothing; start "
                             "the program without `dry_run` once, or give the `data_dir` that has it")  # fmt: skip
        try:
            builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            raise InputError(f"preparing TFDS dataset {name!r} needs {error.name}: pip install it") from error
        # Builders run arbitrary code, so the exceptions of a failed download cannot be listed.
        except Exception as error:
            raise InputError(
                f"TFDS dataset {name!r} is not in {builder.data_dir} and preparing it failed "
                f"({_first_line(error)}): check the network, or copy a prepared one there"
            ) from error


def _supervised_keys(tfds, name: str, info) -> tuple[str, str]:
    keys = info.supervised_keys
    features = info.features
    if (
        keys is None
        or len(keys) != 2
        or not all(isinstance(key, str) for key in keys)
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise InputError(f"TFDS dataset {name!r} is not images with one class label each: choose another dataset")
    return keys


def _open(tfds, builder, place: places.Place, keys: tuple[str, str], needs_test: bool) -> _Examples:
    """The labelled splits of a prepared dataset."""
    info, name = builder.info, place.path
    # No image feature is decoded: labels need no pixels, and other images, such as segmentation maps, are not used.
    kept = {
        key: tfds.decode.SkipDecoding()
        for key, feature in info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    random_access = bool(info.available_file_formats() & tfds.core.FileFormat.with_random_access())

    def open_split(split: str):
        if random_access:
            return builder.as_data_source(split, decoders=kept)
        config = tfds.ReadConfig(try_autocache=False)
        return tfds.as_numpy(builder.as_dataset(split=split, decoders=kept, read_config=config))

    opened: dict[str, Any] = {}

    def is_labelled(split: str) -> bool:
        opened[split] = open_split(split)
        # In an unlabelled split of TFDS all labels are -1.
        return next(iter(opened[split]))[keys[1]] >= 0

    present = [split for split in info.splits if info.splits[split].num_examples]
    try:
        chosen = places.splits_of(place, present, is_labelled, needs_test, f"TFDS dataset {name}")
    except ImportError as error:
        raise InputError(f"reading TFDS dataset {name!r} needs {error.name}: {extras.install('tfds')}") from error
    return _Examples(name, *keys, {split: opened[part] for split, part in chosen.items()}, random_access)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
