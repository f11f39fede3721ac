"""Distilled images of other projects: folders, NumPy's and PyTorch's files, and datasets of the hub."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxdd.data import distilled, image, places
from jaxdd.data.checks import check_class_names, check_labels, printable
from jaxdd.data.distilled import DistilledDataset, folder_names
from jaxdd.data.foreign_values import Found, is_array_file, read, said_size
from jaxdd.data.whitening import Whitening
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import note

NORMS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "unit": ((0.0,), (1.0,)),
    "bytes": ((0.0,), (1 / 255,)),
}
"""The usual mean and standard deviation of datasets; "unit": images in [0, 1], "bytes": in [0, 255]."""
ZCA = "zca"
"""The name of images that were whitened, in [0, 1] before; zca:cifar10 if they were normalised before."""
__all__ = ["NORMS", "ZCA", "is_array_file", "is_saved", "open_distilled", "title"]
_UNIT = Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32))
_ROUNDING = 1e-3  # of a pixel
_ONE_HOT = 1e-6


def open_distilled(
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    norm: Normalisation | None = None,
    image_norm: str | Normalisation | Whitening | None = None,
    image_shape: tuple[int, int, int] | None = None,
    resize: bool = False,
    argmax: bool = False,
) -> DistilledDataset:
    """Distilled images that anybody published, as a dataset that students can be trained on. No code is run.

        dataset = jaxdd.open_distilled("images_best.pt", image_norm="cifar10")

    ``path`` is one of these, with choices as ``?image=KEY&label=KEY&set=0``, see `places.parsed`:

    - a .pt or .pth file of `torch.save`: a dict of images and labels by usual names, a pair of them, the list
      ``{"data": [[images, labels], ...]}`` of Dataset Condensation and its successors, or images_best.pt with
      labels_best.pt beside it. Tensors are [n, ch, H, W] or [n, H, W, ch].
    - an .npz or .safetensors file with arrays of such names, also ``weights``, ``class_names``, ``mean`` and ``std``.
    - a folder <class>/* or train/<class>/*, with or without metadata.csv (columns file_name, label, weight).
    - a dataset of the hub or of `datasets`, WebDataset shards, or what `jaxdd.save` wrote.

    Args:
      class_names: those of the real data, in the order of their labels. Classes are matched by name where the images
        have names; numbers are taken in order. Default: the names that the images have, else the numbers.
      norm: the normalisation of the result; default: that of floating images, or the statistics of pixels.
      image_norm: the normalisation of floating images, one of `NORMS` or mean and std, or the whitening of whitened
        ones, see `fit_zca`; default: what the file says, or pixels / 255 if all values are in [0, 1]. Uint8 images are
        pixels.
      image_shape: (H, W, ch) of the real images.
      resize: whether images of another size are resized, as far as they are pixels; otherwise they are refused.
      argmax: whether a class is taken from each row of probabilities [n, K]: its largest. They themselves are not
        used, as students ask a teacher for soft labels. Otherwise they are refused, unless they are one-hot.

    Returns:
      The dataset, sorted by class, with weights of sum one in each class (default: equal) and the name of the file as
      its method.

    Raises:
      InputError: nothing of the kind at ``path``, a damaged or hostile file, floating images of unknown normalisation,
        soft labels, unequal numbers of images per class, other classes, or another size.
    """
    name = os.fspath(path)
    what = printable(name)
    ours = None if class_names is None else check_class_names(class_names, "the real data")
    found = _found(name, image_shape, resize)
    images, own = _normalisation(found, image_norm, what)
    images = _sized(images, image_shape, resize, what)
    labels, names = _classes(_hard(found.labels, argmax, what), found.class_names, ours, what)
    try:
        made = _converted(images, own, norm, labels, (found.weights, names))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    return replace(made, provenance={"method": title(name), "source": name})


def _found(name: str, shape: tuple[int, int, int] | None, resize: bool) -> Found:
    """What lies at a path; images that are encoded, such as PNG files, are decoded to the shape of the real ones."""
    folder = Path(places.parsed(name).path).expanduser()
    if is_saved(folder):
        kept = distilled.load(folder)
        return Found(kept.images, kept.labels, kept.weights, kept.class_names, kept.norm)
    return read(name, (None, None) if shape is None else (shape[0] if resize else None, shape[2]))


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `distilled.save` wrote."""
    return (folder / "distilled.npz").is_file() and (folder / "train").is_dir()


def title(name: str) -> str:
    """The name of a file or folder without extension and choices."""
    path = places.parsed(name).path
    return Path(path).stem if os.path.isfile(os.path.expanduser(path)) else places.title(path.rstrip("/"))


def _converted(
    images: np.ndarray,
    own: Normalisation | None,
    norm: Normalisation | None,
    labels: np.ndarray,
    described: tuple[np.ndarray | None, tuple[str, ...] | None],
) -> DistilledDataset:
    """A dataset whose images are normalised by ``norm``; ``own`` is the present one of floating images."""
    if own is not None and norm is not None and not _same(own, norm):
        images = (images * np.float64(own.std) + np.float64(own.mean) - np.float64(norm.mean)) / np.float64(norm.std)
        images = images.astype(np.float32)
    return DistilledDataset.from_arrays(images, labels, *described, own if norm is None else norm)


def _same(one: Normalisation, other: Normalisation) -> bool:
    pairs = ((np.float32(a).reshape(-1), np.float32(b).reshape(-1)) for a, b in zip(one, other))
    return all(a.size in (1, b.size) and bool((a == b).all()) for a, b in pairs)


def _normalisation(
    found: Found, given: str | Normalisation | Whitening | None, what: str
) -> tuple[np.ndarray, Normalisation | None]:
    """Pixels without a normalisation, or floats with theirs."""
    images = found.images
    if images.dtype == np.uint8:
        return images, None
    if images.dtype.kind != "f" or not np.isfinite(images).all():
        kind = f"of dtype {images.dtype}" if images.dtype.kind != "f" else "not finite"
        raise InputError(f"images of {what} are {kind}; give uint8 pixels or finite floats")
    if isinstance(given, Whitening):
        try:
            images, given = given.undone(images), given.norm
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
    low, high = float(images.min()), float(images.max())
    norm = found.norm if given is None else named(given, images.shape[3], what)
    if norm is None:
        if low < 0 or high > 1:
            raise InputError(
                f"images of {what} have values from {low:.3g} to {high:.3g}, and the file does not say how they are "
                f"normalised; name it with `image_norm` {', '.join(NORMS)} or {ZCA}, or give `image_mean` and "
                "`image_std`"
            )
        norm = _UNIT
        note(f"{what}: values from {low:.3g} to {high:.3g} are taken as pixels / 255; `image_norm` says otherwise")
    if np.allclose(norm.mean, 0):
        levels = images.astype(np.float64) * norm.std * 255
        if (np.abs(levels - levels.round()) < _ROUNDING).all() and levels.min() > -0.5 and levels.max() < 255.5:
            return levels.round().astype(np.uint8), None
    return images.astype(np.float32), norm


def named(given: str | Normalisation, channels: int, what: str) -> Normalisation:
    """One of `NORMS`, or a mean and std, for images of these channels; ``what`` names them in messages."""
    if isinstance(given, str):
        if given not in NORMS:
            raise InputError(f"`image_norm` {given!r} is none of {', '.join(NORMS)}, {ZCA}, {ZCA}:NAME; give one, or "
                             "mean and std")  # fmt: skip
        given = Normalisation(*(np.array(part, np.float32) for part in NORMS[given]))
    mean, std = (np.asarray(part, np.float32).reshape(-1) for part in given)
    if any(part.size not in (1, channels) for part in (mean, std)) or not (std > 0).all():
        raise InputError(f"mean {mean.tolist()} and std {std.tolist()} do not fit images of {what} with {channels} "
                         "channels; give one number for each channel, or another `image_norm`")  # fmt: skip
    return Normalisation(mean, std)


def _sized(images: np.ndarray, shape: tuple[int, int, int] | None, resize: bool, what: str) -> np.ndarray:
    """Images of the shape of the real ones."""
    if shape is None or images.shape[1:] == tuple(shape):
        return images
    ours, theirs = "x".join(map(str, shape)), "x".join(map(str, images.shape[1:]))
    if images.shape[3] != shape[2] and images.dtype != np.uint8:
        raise InputError(f"images of {what} are {theirs}, but those of the data are {ours}; give `channels` "
                         f"{images.shape[3]}")  # fmt: skip
    if images.shape[1:3] != tuple(shape[:2]) and (not resize or images.dtype != np.uint8):
        remedy = "other images, as floats are not resized" if resize else f"`image_size` {images.shape[1]}"
        raise InputError(f"images of {what} are {theirs}, but those of the data are {ours}; give {remedy}")
    said_size(what, [images.shape[2:0:-1]], shape[0])
    if shape[2] == 1 and images.shape[3] == 3 and (images != images[..., :1]).any():
        note(f"{what}: images in colour become grey, as those of the data are")
    return image.fit_arrays(images, shape)


def _hard(labels: np.ndarray, argmax: bool, what: str) -> np.ndarray:
    """One class for each image."""
    if labels.ndim != 2 or labels.dtype.kind not in "fiub" or labels.shape[1] < 2:
        return labels
    if not np.isfinite(labels).all():
        raise InputError(f"labels of {what} are not finite; give probabilities, or classes")
    chosen = labels.argmax(1)
    is_one_hot = np.abs(labels - np.eye(labels.shape[1])[chosen]).max(initial=0) < _ONE_HOT
    if not is_one_hot and not argmax:
        raise InputError(
            f"labels of {what} are soft, {labels.dtype} {list(labels.shape)}, and students here learn from classes or "
            "from a teacher; take the largest of each row with `argmax`"
        )
    if not is_one_hot:
        note(f"{what}: the soft labels are not used; the class of an image is the largest of its row")
    return chosen


def _classes(
    labels: np.ndarray, theirs: tuple[str, ...] | None, ours: tuple[str, ...] | None, what: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels in the order of the classes of the real data, and the names of the classes."""
    labels = check_labels(labels, 2**31 - 1 if theirs is None else len(theirs), what)
    if ours is None or theirs == ours:
        return labels, theirs
    # With numbers if two classes have the same name, as in what is exported.
    for known in (ours, folder_names(ours), tuple(f"{k} {name}" for k, name in enumerate(ours))):
        if theirs is not None and set(theirs) <= set(known):
            return np.array([known.index(name) for name in theirs])[labels], ours
    if theirs is not None and all(re.fullmatch("[0-9]{1,9}", name) for name in theirs):
        labels, theirs = np.array([int(name) for name in theirs])[labels], None
    if theirs is None:
        if labels.max(initial=0) >= len(ours):
            raise InputError(f"{what} has label {labels.max()}, but the data have {len(ours)} classes; give the "
                             "dataset that these images were distilled from")  # fmt: skip
        if ours != tuple(map(str, range(len(ours)))):
            note(f"{what}: its labels are numbers, taken in the order of the classes: 0 is {printable(ours[0])}, "
                f"{len(ours) - 1} is {printable(ours[-1])}")  # fmt: skip
        return labels, ours
    strange = next(name for name in theirs if name not in ours)
    raise InputError(f"class {strange!r} of {what} is none of the {len(ours)} classes of the data ({ours[0]!r}, ...); "
                     "rename it, or give the dataset that these images were distilled from")  # fmt: skip
