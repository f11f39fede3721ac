"""The 1,797 handwritten digits of 8x8 pixels in scikit-learn, available without a download."""

import numpy as np
from PIL import Image

from jaxdd.data import image
from jaxdd.data.source import Source, make_source

_TEST_EVERY = 5


def load_digits(image_size: int | None = None, channels: int | None = None) -> Source:
    """The optical digits 0 to 9 (UCI, Alpaydin and Kaynak 1998), 8x8x1, with values v in 0..16 as round(255 v / 16).

    The test split is every fifth image of each class in scikit-learn's order (the 5th, 10th, ... of the class). The
    train split is the rest. The split is stratified, about 80 to 20, and deterministic. `image.fit` converts to other
    sizes and channels.

    Args:
      image_size: the side of the images; default 8.
      channels: 1 or 3; default 1.

    Raises:
      InputError: an image_size below 1, or channels other than 1 or 3.
    """
    from sklearn import datasets

    image.check_request(image_size, channels)
    data = datasets.load_digits()
    images = np.rint(data.images * 255 / 16).astype(np.uint8)
    shape = (image_size or 8, image_size or 8, channels or 1)
    images = np.stack([image.fit(Image.fromarray(picture), shape[0], shape[2]) for picture in images])
    # The rank of each image within its class makes the split stratified and deterministic.
    rank = np.zeros(len(images), np.int64)
    for label in range(10):
        members = np.flatnonzero(data.target == label)
        rank[members] = np.arange(len(members))
    is_test = rank % _TEST_EVERY == _TEST_EVERY - 1
    rows = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
    return make_source(
        "digits",
        [str(label) for label in range(10)],
        shape,
        {split: data.target[chosen] for split, chosen in rows.items()},
        lambda split, indices: images[rows[split][indices]],
    )
