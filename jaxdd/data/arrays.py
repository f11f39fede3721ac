"""Datasets of arrays in memory."""

from collections.abc import Sequence

import numpy as np

from jaxdd.data.checks import check_class_names, check_name, layout
from jaxdd.data.labels import check_integers, counted
from jaxdd.data.source import Source, make_source
from jaxdd.ground.arrays import as_array
from jaxdd.ground.errors import InputError


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Source:
    """A dataset of arrays in memory, without a copy of the images.

        source = jaxdd.data.from_arrays(x_train, y_train, x_test, y_test)
        workspace = jaxdd.open_workspace(jaxdd.TeacherConfig(model="convnet3"), source=source)

    Args:
      images: train images, uint8 [n, H, W] or [n, H, W, C], with C 1 or 3.
      labels: the classes of the train images, integers from 0 on, [n] or [n, 1].
      test_images: test images of the same size; default: none, which is enough with the setting ``holdout``.
      test_labels: the classes of the test images.
      class_names: one per class; default: the numbers up to the largest label.
      name: the name of the dataset in tables.

    Raises:
      InputError: other dtypes, shapes that disagree, labels outside of the classes, or a class without train images.
    """
    check_name(name)
    if class_names is not None:
        class_names = check_class_names(class_names, name)
    if (test_images is None) != (test_labels is None):
        raise InputError("test images and their labels must be given together; give both or neither")
    pairs = {"train": (images, labels), "test": (test_images, test_labels)}
    pictures: dict[str, np.ndarray] = {}
    classes: dict[str, np.ndarray] = {}
    for split, (split_images, split_labels) in pairs.items():
        if split_images is None or split_labels is None:
            pictures[split], classes[split] = pictures["train"][:0], np.empty(0, np.int32)
            continue
        pictures[split] = _checked_images(split_images, split)
        classes[split] = _checked_labels(split_labels, len(pictures[split]), split)
    if pictures["train"].shape[1:] != pictures["test"].shape[1:]:
        shapes = [list(pictures[split].shape[1:]) for split in pairs]
        raise InputError(f"train images are {shapes[0]}, test images {shapes[1]}; give images of one size")
    names = counted(classes, class_names)
    read = lambda split, rows: pictures[split][rows]
    return make_source(name, names, pictures["train"].shape[1:], classes, read)


def _checked_images(images: np.ndarray, split: str) -> np.ndarray:
    images = as_array(images, f"{split} images")
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise InputError(
            f"{split} images are {images.dtype} {list(images.shape)}; give uint8 [n, H, W, 1 or 3]{layout(images)}"
        )
    if images.shape[1] != images.shape[2]:
        raise InputError(f"{split} images are {images.shape[1]} x {images.shape[2]}; give squares")
    return images


def _checked_labels(labels: np.ndarray, count: int, split: str) -> np.ndarray:
    return check_integers(as_array(labels, f"{split} labels"), count, f"{split} labels", f"{split} label")
