"""A labelled image dataset with random access, and the passes over it."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np

from jaxdd.data.image import evenly_spaced
from jaxdd.ground.errors import InputError
from jaxdd.ground.progress import progress

_DECODE_CHUNK = 1024
_AHEAD = 2
_T = TypeVar("_T")


class Source(NamedTuple):
    """A labelled image dataset with random access.

    name: the name or path it was loaded by.
    class_names: one name per class; label c is class_names[c].
    image_shape: (H, W, C).
    labels: split ("train", "test") -> int32 [n].
    read: (split, indices [k]) -> uint8 [k, H, W, C], in the order of the indices, repeats allowed.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    labels: dict[str, np.ndarray]
    read: Callable[[str, np.ndarray], np.ndarray]


def make_source(name, class_names, image_shape, labels, read) -> Source:
    """A Source whose `read` first checks the split and the indices, so that no reader has to.

    The checked `read` raises InputError for an unknown split and for indices that are not integers in [0, n).
    """
    labels = {split: np.asarray(values, np.int32) for split, values in labels.items()}
    source = Source(name, tuple(class_names), tuple(image_shape), labels, read)
    return source._replace(read=lambda split, indices: read(split, _check_indices(source, split, indices)))


def class_indices(source: Source, split: str = "train") -> list[np.ndarray]:
    """The indices i with labels[i] = c, ascending, for every class c: a list of int64 [n_c], n_c maybe 0."""
    labels = _labels(source, split)
    counts = np.bincount(labels, minlength=len(source.class_names))
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def in_memory(source: Source, limit_bytes: int = 2 * 2**30) -> Source:
    """The same dataset, each split decoded once at its first read and served from memory afterwards.

    A split of more than `limit_bytes` decoded bytes (n H W C) keeps streaming.
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
                    images[chunk] = source.read(split, chunk)
                decoded[split] = images
        return decoded[split][indices]

    return make_source(source.name, source.class_names, source.image_shape, source.labels, read)


def hold_out(source: Source, share: float, seed: int = 0) -> Source:
    """The same dataset with a share of each class's train images set aside as its test split; the real one is hidden.

    Settings chosen on what is set aside leave the test images unseen. From class c, round(share n_c) images go, drawn
    from `np.random.default_rng([seed, c])`; both parts keep their order.

    Raises InputError unless 0 < share < 1 and every class keeps and gives at least one image.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share} of the train images to set aside: give more than 0 and less than 1")
    aside = np.zeros(_count(source, "train"), bool)
    for c, own in enumerate(class_indices(source)):
        gives = round(share * len(own))
        if not 0 < gives < len(own):
            raise InputError(
                f"class {source.class_names[c]!r} of {source.name} has {len(own)} train images, of which {gives} would "
                "be set aside: choose another share"
            )
        aside[np.random.default_rng([seed, c]).permutation(own)[:gives]] = True
    rows = {"train": np.flatnonzero(~aside), "test": np.flatnonzero(aside)}
    labels = {split: source.labels["train"][chosen] for split, chosen in rows.items()}
    read = lambda split, indices: source.read("train", rows[split][indices])
    return make_source(source.name, source.class_names, source.image_shape, labels, read)


def statistics(source: Source, max_images: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel mean and standard deviation of the train pixels x / 255, over images and space.

    mean_c = E[x_c], std_c = max(sqrt(E[x_c^2] - E[x_c]^2), 1/255): the floor, one grey level, makes dividing
    by it safe for a constant channel. Sums are streamed in float64, where sums of squares of uint8 are exact.
    With more than `max_images` train images, evenly spaced ones are used.

    Returns (mean, std), float32 [C] each. Raises InputError if there is no train image or max_images < 1.
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
    """One pass over `indices` (default: the whole split) in their order, in batches of one shape.

    Yields (images uint8 [B, H, W, C], labels int32 [B], valid float32 [B]). The last batch repeats its last
    image up to B, with valid = 0 there, so that a sum weighted by `valid` is a sum over the indices. Of
    several arrays of indices each ends with such a batch, and none is in a batch with another. Two
    batches are read ahead on one thread; what fails there is raised here.

    Raises InputError, before the first batch, for an unknown split, indices out of range or batch_size < 1.
    """
    labels, size = _labels(source, split), _at_least(1, batch_size=batch_size)
    parts = [np.arange(len(labels))] if indices is None else [indices] if isinstance(indices, np.ndarray) else indices
    parts = [_check_indices(source, split, part) for part in parts]

    def read(chosen: np.ndarray):
        images, targets, valid = source.read(split, chosen), labels[chosen], np.ones(size, np.float32)
        if len(chosen) < size:
            rows = np.minimum(np.arange(size), len(chosen) - 1)
            images, targets, valid = images[rows], targets[rows], (np.arange(size) < len(chosen))
        return images, targets, valid.astype(np.float32)

    return _read_ahead(read, (part[first : first + size] for part in parts for first in range(0, len(part), size)))


def shuffled(
    source: Source, split: str, batch_size: int, seed: int, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless shuffled batches: every image once per epoch, epochs joined without a gap.

    Batch k holds elements [k B, (k + 1) B) of the concatenated permutations p_0, p_1, ..., with p_e drawn
    from `np.random.default_rng([seed, e])`. It depends on nothing else, so `start` = k resumes exactly there.
    B may exceed the size of the split. Two batches are read ahead on one thread; what fails there is raised
    here.

    Yields (images uint8 [B, H, W, C], labels int32 [B]). Raises InputError, before the first batch, for an
    unknown or empty split, batch_size < 1, or a negative seed or start.
    """
    labels, count = _labels(source, split), _count(source, split)
    orders = permutations(count, batch_size, seed, start)
    return _read_ahead(lambda chosen: (source.read(split, chosen), labels[chosen]), orders)


def permutations(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of indices: batch k holds elements [k B, (k + 1) B) of the concatenated permutations of `count`.

    Permutation e is drawn from `np.random.default_rng([seed, e])`, so batch k depends on nothing but (seed, k) and
    `start` = k resumes exactly there. Every batch is full, also where B does not divide `count` or exceeds it, so
    that one compiled step serves all.

    Yields int64 [B]. Raises InputError, before the first batch, for B < 1, a negative seed or start.
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
        pending = deque()
        try:
            for request in requests:
                pending.append(pool.submit(read, request))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After an error, or when the consumer stops early, nobody will see what is still queued.
            pool.shutdown(cancel_futures=True)


def _labels(source: Source, split: str) -> np.ndarray:
    if split not in source.labels:
        raise InputError(f"{source.name} has no split {split!r}: choose one of {', '.join(source.labels)}")
    return source.labels[split]


def _count(source: Source, split: str) -> int:
    count = len(_labels(source, split))
    if not count:
        raise InputError(f"split {split!r} of {source.name} holds no images: choose another dataset")
    return count


def _check_indices(source: Source, split: str, indices: np.ndarray) -> np.ndarray:
    count, indices = len(_labels(source, split)), np.asarray(indices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
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
