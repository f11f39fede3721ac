"""A labelled image dataset with random access, and iteration over it."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np

from jaxdd.data.checks import check_class_names, check_labels, check_name, check_pixels
from jaxdd.data.image import DamagedImage, Encoded, evenly_spaced
from jaxdd.data.places import HOLD_OUT
from jaxdd.ground.arrays import as_array, is_integer
from jaxdd.ground.errors import InputError
from jaxdd.ground.progress import progress

_DECODE_CHUNK = 1024
_CHECK_CHUNK = 128
_AHEAD = 2
_T = TypeVar("_T")


class Skipped(NamedTuple):
    """A damaged image that was left out: its split, its row there, and a line with its name and the reason."""

    split: str
    row: int
    line: str


class Source(NamedTuple):
    """A labelled image dataset with random access.

    Attributes:
      name: the name or path of the dataset.
      class_names: one name per class, in the order of the labels.
      image_shape: (H, W, C).
      labels: integers [n] for each split, "train" and "test"; int32 from all functions of this package.
      read: (split, indices [k]) -> uint8 [k, H, W, C], in the order of the indices; repeats are allowed.
      skipped: the damaged images that were left out, see `without_damaged`.
      names: (split, indices [k]) -> what each image is called, such as its file below the folder of the dataset; None
        if images have no names, see `names_of`.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    labels: dict[str, np.ndarray]
    read: Callable[[str, np.ndarray], np.ndarray]
    skipped: tuple[Skipped, ...] = ()
    names: Callable[[str, np.ndarray], list[str]] | None = None


class Opened(NamedTuple):
    """A dataset of image files, with what distilled images need of it beside.

    Attributes:
      source: the dataset.
      encoded: (split, rows [k]) -> the images as they are encoded.
      weights: () -> the weight of each train image, float64 [n], or None if not all have one.
    """

    source: Source
    encoded: Callable[[str, np.ndarray], list[Encoded]]
    weights: Callable[[], np.ndarray | None]


def make_source(name, class_names, image_shape, labels, read, skipped=(), names=None) -> Source:
    """A Source of checked parts, whose ``read`` checks the split, the indices, and what the given ``read`` returns.

    It raises InputError for an unknown split, for indices that are not integers in [0, n), and for anything but uint8
    images of ``image_shape``.

    Raises:
      InputError: class names that `check_class_names` refuses, labels that are not the numbers of classes, or an
        image_shape that is not (H, W, C).
    """
    classes = check_class_names(class_names, check_name(name))
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(side, int | np.integer) and side > 0 for side in shape):
        raise InputError(f"images of {name} have shape {image_shape}; give (H, W, C)")
    shape = tuple(int(side) for side in shape)
    labels = {split: check_labels(part, len(classes), f"split {split!r} of {name}") for split, part in labels.items()}
    source = Source(name, classes, shape, labels, read, tuple(skipped), names)
    return source._replace(read=lambda split, rows: _read(source, split, _check_indices(source, split, rows)))


def checked(source: Source, needs_test: bool = True) -> Source:
    """A dataset that can be distilled: a `Source` from anywhere, with parts that `make_source` has checked.

    Raises:
      InputError: also images that are not squares of 1 or 3 channels, no train images of a class, or no test images.
    """
    if not isinstance(source, Source):
        raise InputError(f"a dataset of type {type(source).__name__}; give a jaxdd.Source, or use jaxdd.from_arrays")
    if not isinstance(source.labels, Mapping) or not callable(source.read):
        raise InputError(f"{source.name}: give its labels as a dict of the splits, and a function that reads images")
    source = make_source(*source)
    height, width, channels = source.image_shape
    if height != width or channels not in (1, 3):
        raise InputError(f"images of {source.name} are {list(source.image_shape)}; give squares of 1 or 3 channels")
    _count(source, "train")
    if needs_test and not len(source.labels.get("test", ())):
        state = f"split 'test' of {source.name} holds no images" if "test" in source.labels else (
            f"{source.name} has no split 'test'")  # fmt: skip
        raise InputError(f"{state}: add some, or give {HOLD_OUT}")
    empty = np.flatnonzero(np.bincount(source.labels["train"], minlength=len(source.class_names)) == 0)
    if empty.size:
        raise InputError(
            f"class {source.class_names[empty[0]]!r} of {source.name} has no train images; add some, or drop the class"
        )
    return source


def without_damaged(source: Source) -> Source:
    """The same dataset without the images whose reading raises `image.DamagedImage`; `Source.skipped` lists them.

    Every image is decoded once for this.
    """
    kept, skipped = {}, list(source.skipped)
    for split, labels in source.labels.items():
        chunks = np.array_split(np.arange(len(labels)), -(-len(labels) // _CHECK_CHUNK)) if len(labels) else []
        damaged = [row for chunk in progress(chunks, f"check {split} images") for row in _damaged(source, split, chunk)]
        kept[split] = np.delete(np.arange(len(labels)), np.array([row for row, _ in damaged], int))
        skipped += [Skipped(split, row, line) for row, line in damaged]
    if len(skipped) == len(source.skipped):
        return source
    left = {split: source.labels[split][rows] for split, rows in kept.items()}
    read = lambda split, indices: source.read(split, kept[split][indices])
    names = lambda split, indices: names_of(source, split, kept[split][indices])
    return make_source(source.name, source.class_names, source.image_shape, left, read, skipped, names)


def _damaged(source: Source, split: str, rows: np.ndarray) -> list[tuple[int, str]]:
    """Those of ``rows`` that cannot be decoded, with a line about each, found by bisection."""
    try:
        _read(source, split, rows)
        return []
    except DamagedImage as error:
        if len(rows) == 1:
            return [(int(rows[0]), str(error))]
    return [found for half in np.array_split(rows, 2) for found in _damaged(source, split, half)]


def names_of(source: Source, split: str, indices: np.ndarray) -> list[str]:
    """What images are called: by the source, or else by their numbers in their split, from 0 on.

    Without damaged images, or with some held out, they are called as in the source before.
    """
    return [str(index) for index in indices] if source.names is None else source.names(split, indices)


def class_indices(source: Source, split: str = "train") -> list[np.ndarray]:
    """For each class c, the indices i with labels[i] = c, ascending, int64 [n_c]; n_c may be 0."""
    labels = _labels(source, split)
    counts = np.bincount(labels, minlength=len(source.class_names))
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def in_memory(source: Source, limit_bytes: int = 2 * 2**30) -> Source:
    """The same dataset, with each split decoded at its first read and then kept in memory.

    A split of more than ``limit_bytes`` decoded bytes (n H W C) is still read from its source each time.
    """
    decoded: dict[str, np.ndarray] = {}
    lock = Lock()

    def read(split: str, indices: np.ndarray) -> np.ndarray:
        count = len(source.labels[split])
        if count * int(np.prod(source.image_shape)) > limit_bytes:
            return source.read(split, indices)
        with lock:
            if split not in decoded:
                images = np.empty((count, *source.image_shape), np.uint8)
                for start in progress(range(0, count, _DECODE_CHUNK), f"decode {split} images"):
                    chunk = np.arange(start, min(start + _DECODE_CHUNK, count))
                    images[chunk] = _read(source, split, chunk)
                decoded[split] = images
        return decoded[split][indices]

    return make_source(*source._replace(read=read))


def hold_out(source: Source, share: float, seed: int = 0) -> Source:
    """A validation split: the test split is replaced by a share of the train images of each class.

    Settings can then be chosen without the real test images. From class c, round(share n_c) images are drawn with
    `np.random.default_rng([seed, c])`. Both parts keep the order of the train images.

    Raises:
      InputError: share is not between 0 and 1, or some class would have no image in one of the two splits.
    """
    if not 0 < share < 1:
        raise InputError(
            f"`holdout` {share} of the train images to set aside: give a share of more than 0 and less than 1"
        )
    held_out = np.zeros(_count(source, "train"), bool)
    for c, members in enumerate(class_indices(source)):
        count = round(share * len(members))
        if not 0 < count < len(members):
            raise InputError(
                f"`holdout` {share}: class {source.class_names[c]!r} of {source.name} has {len(members)} train images, "
                f"of which {count} would be set aside: choose another share"
            )
        held_out[np.random.default_rng([seed, c]).permutation(members)[:count]] = True
    rows = {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
    labels = {split: _labels(source, "train")[chosen] for split, chosen in rows.items()}
    read = lambda split, indices: source.read("train", rows[split][indices])
    names = lambda split, indices: names_of(source, "train", rows[split][indices])
    return make_source(source.name, source.class_names, source.image_shape, labels, read, source.skipped, names)


def statistics(source: Source, max_images: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel mean and standard deviation of the train pixels x / 255, over images and space.

    mean_c = E[x_c], std_c = max(sqrt(E[x_c^2] - E[x_c]^2), 1/255). The lower bound, one grey level, allows division by
    std for a constant channel. Sums are accumulated in float64, where sums of squares of uint8 are exact. If there are
    more than ``max_images`` train images, that many evenly spaced ones are used.

    Returns:
      (mean, std), float32 [C] each.

    Raises:
      InputError: there is no train image, or max_images < 1.
    """
    chosen = evenly_spaced(_count(source, "train"), _at_least(1, max_images=max_images))
    first, second = np.zeros((2, source.image_shape[2]))
    for images, _, valid in batches(source, "train", min(len(chosen), 256), chosen):
        pixels = images[valid > 0].astype(np.float64)
        first += pixels.sum(axis=(0, 1, 2))
        second += np.square(pixels).sum(axis=(0, 1, 2))
    pixel_count = len(chosen) * source.image_shape[0] * source.image_shape[1]
    mean = first / pixel_count
    variance = np.maximum(second / pixel_count - mean**2, 1.0)
    return (mean / 255).astype(np.float32), (np.sqrt(variance) / 255).astype(np.float32)


def batches(
    source: Source, split: str, batch_size: int, indices: np.ndarray | Sequence[np.ndarray] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One pass over ``indices`` (default: the whole split), in their order, in batches of one shape.

    The last batch is padded to B with its last image and valid = 0, so that a sum weighted by ``valid`` is a sum over
    the indices. If there are several arrays of indices, each is padded in this way, and no batch contains indices of
    two. Two batches are read ahead on a thread, and its exceptions are raised here.

    Yields:
      images uint8 [B, H, W, C], labels int32 [B], valid float32 [B].

    Raises:
      InputError: before the first batch, for an unknown split, indices out of range or batch_size < 1.
    """
    labels, size = _labels(source, split), _at_least(1, batch_size=batch_size)
    parts = [np.arange(len(labels))] if indices is None else [indices] if isinstance(indices, np.ndarray) else indices
    parts = [_check_indices(source, split, part) for part in parts]

    def read(chosen: np.ndarray):
        images, targets, valid = _read(source, split, chosen), labels[chosen], np.arange(size) < len(chosen)
        if len(chosen) < size:
            rows = np.minimum(np.arange(size), len(chosen) - 1)
            images, targets = images[rows], targets[rows]
        return images, targets, valid.astype(np.float32)

    return _read_ahead(read, (part[first : first + size] for part in parts for first in range(0, len(part), size)))


def shuffled(
    source: Source, split: str, batch_size: int, seed: int, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless shuffled batches, in which every image occurs once per epoch; a batch may span two or more epochs.

    The order is that of `permutations`, so ``start`` = k resumes an interrupted iteration at batch k. Two batches are
    read ahead on a thread, and its exceptions are raised here.

    Yields:
      images uint8 [B, H, W, C], labels int32 [B].

    Raises:
      InputError: before the first batch, for an unknown or empty split, batch_size < 1, or a negative seed or start.
    """
    labels, count = _labels(source, split), _count(source, split)
    orders = permutations(count, batch_size, seed, start)
    return _read_ahead(lambda chosen: (_read(source, split, chosen), labels[chosen]), orders)


def permutations(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of indices: batch k is elements [k B, (k + 1) B) of concatenated permutations of 0 .. count - 1.

    Permutation e is drawn from `np.random.default_rng([seed, e])`. Batch k thus depends only on count, B, seed and k,
    and ``start`` = k resumes an interrupted iteration at batch k. Every batch is full, even if B does not divide
    ``count`` or exceeds it, so that one compiled step serves all.

    Yields:
      int64 [B].

    Raises:
      InputError: before the first batch, for B < 1, or a negative seed or start.
    """
    size = _at_least(1, batch_size=batch_size)
    _at_least(0, seed=seed), _at_least(0, start=start)

    def draw() -> Iterator[np.ndarray]:
        drawn, permutation = -1, np.empty(0, np.int64)
        for k in itertools.count(start):
            epochs, places = np.divmod(np.arange(k * size, (k + 1) * size), count)
            chosen = np.empty(size, np.int64)
            for epoch in np.unique(epochs):
                if epoch != drawn:
                    drawn, permutation = epoch, np.random.default_rng([seed, epoch]).permutation(count)
                chosen[epochs == epoch] = permutation[places[epochs == epoch]]
            yield chosen

    return draw()


def _read_ahead(read: Callable[..., _T], requests: Iterable) -> Iterator[_T]:
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[_T]] = deque()
        try:
            for request in requests:
                pending.append(pool.submit(read, request))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After an error, or if the consumer stops early, the queued reads are not needed.
            pool.shutdown(cancel_futures=True)


def _labels(source: Source, split: str) -> np.ndarray:
    """The labels of a source that may be the user's own, int32 [n]."""
    return check_labels(_split(source, split), len(source.class_names), f"split {split!r} of {source.name}")


def _split(source: Source, split: str) -> np.ndarray:
    if split not in source.labels:
        raise InputError(f"{source.name} has no split {split!r}: choose one of {', '.join(source.labels)}")
    return source.labels[split]


def _read(source: Source, split: str, rows: np.ndarray) -> np.ndarray:
    """Images of a source that may be the user's own, uint8 [k, H, W, C]; InputError if they are anything else."""
    return check_pixels(source.read(split, rows), len(rows), source.image_shape, source.name)


def _count(source: Source, split: str) -> int:
    count = len(_split(source, split))
    if not count:
        raise InputError(f"split {split!r} of {source.name} holds no images: add some, or choose another dataset")
    return count


def _check_indices(source: Source, split: str, indices: np.ndarray) -> np.ndarray:
    count, indices = len(_split(source, split)), as_array(indices, f"indices into {source.name}")
    if indices.ndim != 1 or (indices.size and not is_integer(indices)):
        raise InputError(f"indices into {source.name} are {indices.dtype} {list(indices.shape)}: give integers [k]")
    wrong = indices[(indices < 0) | (indices >= count)]
    if wrong.size:
        raise InputError(f"index {wrong[0]} into split {split!r} of {source.name}: give 0 to {count - 1}")
    return indices.astype(np.int64)


def _at_least(least: int, **named: int) -> int:
    ((name, value),) = named.items()
    if not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} {value!r}: give an integer of at least {least}")
    return int(value)
