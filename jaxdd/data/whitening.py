"""ZCA whitening of images, undone: the form in which some projects keep their distilled images."""

from typing import NamedTuple

import numpy as np

from jaxdd.data.source import Source, batches
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import progress

EPS = 0.1
"""What is added to the eigenvalues of the covariance, by Dataset Condensation, MTT and their successors."""
# 64 x 64 pixels in colour; the matrix takes 1.1 GiB and minutes.
_MOST = 12_288
_BATCH = 1000


class Whitening(NamedTuple):
    """How whitened images are turned back.

    Attributes:
      mean: of the images that it was fitted on, float64 [H, W, ch].
      root: (C + eps I)^(1/2) with their covariance C, float64 [d, d], d = H W ch.
      norm: their normalisation, and that of the images that are turned back.
    """

    mean: np.ndarray
    root: np.ndarray
    norm: Normalisation

    def undone(self, images: np.ndarray) -> np.ndarray:
        """Whitened images as normalised ones, float64 [n, H, W, ch].

        Raises:
          InputError: images of another size.
        """
        if images.shape[1:] != self.mean.shape:
            theirs, ours = ("x".join(map(str, shape)) for shape in (images.shape[1:], self.mean.shape))
            raise InputError(f"whitened images are {theirs}, but the real ones {ours}; give `image_size` "
                             f"{images.shape[1]} and `channels` {images.shape[3]}")  # fmt: skip
        flat = images.reshape(len(images), -1).astype(np.float64)
        return (flat @ self.root).reshape(images.shape) + self.mean


def fit_zca(source: Source, norm: Normalisation | None = None, eps: float = EPS) -> Whitening:
    """Fit the whitening of all train images x, as `kornia.enhance.ZCAWhitening(eps)` does, in float64.

        dataset = jaxdd.open_distilled("images_best.pt", image_norm=jaxdd.fit_zca(source))

    The images are z = (x / 255 - mean) / std by ``norm``, d numbers each; default: z = x / 255. With their mean m and
    covariance C, whose divisor is n - 1, the whitened image is (z - m) (C + eps I)^(-1/2). The square root is the
    symmetric one.

    Raises:
      InputError: fewer than two images, or images of more than 12,288 numbers.
    """
    norm = Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32)) if norm is None else norm
    shape, count = source.image_shape, len(source.labels["train"])
    size = int(np.prod(shape))
    if count < 2 or size > _MOST:
        raise InputError(f"the whitening of {count} images of {size} numbers cannot be fitted; give two or more, of up "
                         f"to {_MOST} numbers")  # fmt: skip
    total, products = np.zeros(size), np.zeros((size, size))
    for images, _, valid in progress(
        batches(source, "train", min(_BATCH, count)), "fit the whitening", -(-count // _BATCH)
    ):
        # Sums of products of whole numbers are exact.
        flat = images[valid > 0].reshape(-1, size).astype(np.float64)
        total += flat.sum(0)
        products += flat.T @ flat
    mean, std = (np.broadcast_to(np.float64(part), shape).reshape(-1) for part in norm)
    scale = 1 / (255 * std)
    centre = total / count
    covariance = (products - np.outer(total, centre)) / (count - 1) * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0) + eps)) @ vectors.T
    return Whitening(((centre / 255 - mean) / std).reshape(shape), root, norm)
