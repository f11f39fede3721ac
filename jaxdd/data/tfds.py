"""Image-classification datasets of TensorFlow Datasets (TFDS), with random access through array_record."""

import difflib
import itertools
import os

import numpy as np

from jaxdd.data import image
from jaxdd.data.source import Source, make_source
from jaxdd.ground.errors import InputError

_INSTALL = 'pip install "jaxdd[tfds]"'
_STREAM_LIMIT = 4 * 2**30
_CHUNK = 1024


def load_tfds(
    name: str, image_size: int | None = None, channels: int | None = None, data_dir: str | None = None
) -> Source:
    """Open a TFDS dataset. If it is not in ``data_dir``, it is downloaded and prepared there as array_record.

    Images and labels are the supervised keys of the dataset. The split "test" is "test" of TFDS if that is labelled,
    else "validation". All labels are read here, but images are decoded only at `Source.read`. Conversion to the common
    shape, and the defaults of image_size and channels, are those of `load_folder`. A dataset on disk without random
    access (tfrecord) is decoded into memory here, up to 4 GiB at that shape.

    Raises:
      InputError: TFDS is not installed, an unknown name (the message lists similar ones), a dataset that cannot be
        prepared or has no labelled images, or one without random access that is too large for memory.
    """
    image.check_request(image_size, channels)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        near = " (did you mean digits?)" if difflib.get_close_matches(name, ["digits"]) else ""
        raise InputError(
            f"dataset {name!r} is neither 'digits'{near} nor a folder; for a TFDS name install TFDS: {_INSTALL}"
        ) from error

    builder = _builder(tfds, name, data_dir)
    info = builder.info
    image_key, label_key = _supervised_keys(tfds, name, info)
    _prepare(builder, name)
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

    try:
        examples = {
            "train": _first_labelled(("train",), name, info, open_split, label_key),
            "test": _first_labelled(("test", "validation"), name, info, open_split, label_key),
        }
    except ImportError as error:
        raise InputError(f"reading TFDS dataset {name!r} needs {error.name}: {_INSTALL}") from error

    def encoded(split: str, index: int, example: dict) -> image.Encoded:
        return f"{split} {index} of {name}", example[image_key]

    def sample() -> list[image.Encoded]:
        train = examples["train"]
        if not random_access:
            return [encoded("train", *item) for item in enumerate(itertools.islice(train, image.PROBES))]
        chosen = image.evenly_spaced(len(train), image.PROBES).tolist()
        return [encoded("train", *item) for item in zip(chosen, train.__getitems__(chosen))]

    shape = image.shape_for(sample, image_size, channels)
    if random_access:
        labels = {split: _labels(records, label_key) for split, records in examples.items()}

        def read(split: str, indices: np.ndarray) -> np.ndarray:
            chosen = indices.tolist()
            records = examples[split].__getitems__(chosen)
            return image.decode_batch([encoded(split, *item) for item in zip(chosen, records)], shape)

    else:
        needed = sum(len(rows) for rows in examples.values()) * int(np.prod(shape))
        if needed > _STREAM_LIMIT:
            raise InputError(
                f"TFDS dataset {name!r} in {builder.data_dir} is {info.file_format.value}, without random "
                f"access, {needed / 2**30:.1f} GiB decoded: "
                "prepare it as array_record in another data_dir"
            )
        images, labels = {}, {}
        for split, rows in examples.items():
            images[split], labels[split] = _decoded(split, rows, label_key, encoded, shape)

        def read(split: str, indices: np.ndarray) -> np.ndarray:
            return images[split][indices]

    class_names = info.features[label_key].names
    for split, values in labels.items():
        if values.min() < 0 or values.max() >= len(class_names):
            raise InputError(f"the {split} images of TFDS dataset {name!r} are not all labelled: choose another")
    return make_source(name, class_names, shape, labels, read)


def is_builder(name: str) -> bool:
    """Whether TFDS is installed and has a dataset of this name, without regard to its config or version."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        return False
    return name.split("/")[0].split(":")[0] in tfds.list_builders(with_community_datasets=False)


def _builder(tfds, name: str, data_dir: str | None):
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = [*tfds.list_builders(with_community_datasets=False), "digits"]
        nearest = difflib.get_close_matches(name.split(":")[0], known, n=3)
        remedy = f"did you mean {' or '.join(nearest)}?" if nearest else "tfds.list_builders() lists the names"
        raise InputError(f"dataset {name!r} is neither 'digits', a folder nor a TFDS name: {remedy}") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"TFDS dataset {name!r} cannot be opened: {_first_line(error)}") from error


def _prepare(builder, name: str) -> None:
    if not builder.is_prepared():
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


def _first_labelled(candidates: tuple[str, ...], name: str, info, open_split, label_key: str):
    for split in candidates:
        if split in info.splits and info.splits[split].num_examples:
            examples = open_split(split)
            # In an unlabelled split of TFDS all labels are -1.
            if next(iter(examples))[label_key] >= 0:
                return examples
    raise InputError(
        f"TFDS dataset {name!r} has no labelled {' or '.join(candidates)} split "
        f"(its splits: {', '.join(info.splits)}): choose another dataset"
    )


def _labels(records, label_key: str) -> np.ndarray:
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(labels), _CHUNK):
        chunk = list(range(start, min(start + _CHUNK, len(labels))))
        labels[chunk] = [example[label_key] for example in records.__getitems__(chunk)]
    return labels


def _decoded(split: str, rows, label_key: str, encoded, shape) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.empty((len(rows), *shape), np.uint8), np.empty(len(rows), np.int32)
    numbered = enumerate(rows)
    while chunk := list(itertools.islice(numbered, _CHUNK)):
        places = slice(chunk[0][0], chunk[-1][0] + 1)
        images[places] = image.decode_batch([encoded(split, *item) for item in chunk], shape)
        labels[places] = [example[label_key] for _, example in chunk]
    return images, labels


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
