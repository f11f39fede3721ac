"""What tests of exports share."""

import numpy as np

NAMES = ("a b", "Ünï|code", "<b>'\"#", "same", "same")


def same(dataset, soft, images, labels, weights, softs=None):
    np.testing.assert_array_equal(images, dataset.pixels())
    np.testing.assert_array_equal(labels, dataset.labels)
    np.testing.assert_allclose(weights, dataset.weights, rtol=1e-6)
    if softs is not None:
        np.testing.assert_array_equal(softs, soft)
