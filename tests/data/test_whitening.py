"""Whitened images, turned back: by a closed form of the whitening, written as its authors write it."""

import numpy as np
import pytest
from helpers import message
from source_helpers import as_torch

import jaxdd
from jaxdd import data
from jaxdd.data import foreign
from jaxdd.data.foreign import named
from jaxdd.data.whitening import fit_zca
from jaxdd.workspace import judging
from jaxdd.workspace.judging import JudgeConfig

EPS = 0.1


def whitened(images, fitted_on):
    """What kornia.enhance.ZCAWhitening(eps=0.1) makes of float images [n, ch, H, W], by its formula."""
    flat = fitted_on.reshape(len(fitted_on), -1).astype(np.float64)
    mean = flat.mean(0)
    vectors, values, _ = np.linalg.svd((flat - mean).T @ (flat - mean) / (len(flat) - 1))
    matrix = vectors @ np.diag(1 / np.sqrt(values + EPS)) @ vectors.T
    return ((images.reshape(len(images), -1) - mean) @ matrix).reshape(images.shape).astype(np.float32)


def first(pixels, norm="unit"):
    """Pixels as the floats that a project whitens, [n, ch, H, W]."""
    mean, std = (np.array(part) for part in foreign.NORMS[norm])
    return ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("norm", ["unit", "cifar10"])
@pytest.mark.parametrize("count", [20, 400])  # fewer and more than numbers of an image
def test_pixels_are_those_before_the_whitening(tmp_path, norm, count):
    rng = np.random.default_rng(0)
    # Neighbours are alike, as in pictures, so that the covariance is no multiple of the identity.
    real = rng.integers(0, 256, (count, 3, 3, 3), np.uint8).repeat(2, 1).repeat(2, 2)
    source = data.from_arrays(real, np.arange(count) % 2, real[:2], [0, 1])
    pixels = rng.integers(0, 256, (4, 6, 6, 3), np.uint8)
    place = as_torch(
        tmp_path / "best.pt", images=whitened(first(pixels, norm), first(real, norm)), labels=np.arange(4) // 2
    )
    whitening = fit_zca(source, named(norm, 3, "images"))
    dataset = jaxdd.open_distilled(place, image_norm=whitening)
    np.testing.assert_array_equal(dataset.pixels(), pixels)
    # Distilled images are between the levels of pixels, and beyond them.
    floats = first(pixels, norm) + 0.3 * rng.normal(size=(4, 3, 6, 6))
    as_torch(place, images=whitened(floats, first(real, norm)), labels=np.arange(4) // 2)
    dataset = jaxdd.open_distilled(place, image_norm=whitening)
    np.testing.assert_allclose(dataset.images.transpose(0, 3, 1, 2), floats, atol=1e-4)
    np.testing.assert_array_equal(dataset.norm.mean, whitening.norm.mean)
    if norm == "unit":
        by_default = jaxdd.open_distilled(place, image_norm=fit_zca(source))
        np.testing.assert_array_equal(by_default.images, dataset.images)


def test_images_of_another_size_are_refused(tmp_path):
    real = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    source = data.from_arrays(real, np.arange(9) % 2)
    place = as_torch(tmp_path / "best.pt", images=np.zeros((2, 3, 8, 8), np.float32), labels=np.arange(2))
    line = message(lambda: jaxdd.open_distilled(place, image_norm=fit_zca(source)))
    assert "best.pt" in line and "8x8x3" in line and "4x4x3" in line and "`image_size` 8" in line
    assert "cannot be fitted" in message(lambda: fit_zca(data.from_arrays(real[:1], [0])))


def test_the_flag_fits_it_on_the_real_images(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    digits = data.load("digits")
    real = digits.read("train", np.arange(len(digits.labels["train"])))
    rows = np.concatenate([rows[:2] for rows in data.class_indices(digits)])
    place = as_torch(tmp_path / "best.pt", images=whitened(first(real[rows]), first(real)),
                     labels=np.repeat(np.arange(10), 2))  # fmt: skip
    config = JudgeConfig(runs=(place,), dataset="digits", image_norm="zca")
    (dataset,) = judging.opened(config).datasets.values()
    np.testing.assert_array_equal(dataset.pixels(), real[rows])
    assert dataset.labels.tolist() == np.repeat(np.arange(10), 2).tolist()
    real_norm = ["--dataset", "digits", "--model", "convnet3"]
    assert "zca:NAME" in refused("evaluate", place, *real_norm, "--image-norm", "zca:x")
    assert "leave out --holdout" in refused("evaluate", place, *real_norm, "--image-norm", "zca", "--holdout", 0.2)
    line = refused("evaluate", place, *real_norm)
    assert "--image-norm cifar10" in line and "bytes or zca" in line
