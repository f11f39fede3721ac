import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdd.errors import InputError
from jaxdd.measure import Measure, from_labels, standardise


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 2**31))
def test_from_labels_is_the_empirical_measure_of_each_class(extra, seed):
    labels = np.random.default_rng(seed).permutation([0, 1, 2, 3, *extra])
    points = np.random.default_rng(seed).normal(size=(len(labels), 3)).astype(np.float32)
    mu = from_labels(points, labels, 4)
    counts = np.bincount(labels)
    assert mu.points.shape == (4, counts.max(), 3) and mu.weights.shape == (4, counts.max())
    for c in range(4):
        real = np.asarray(mu.weights[c]) > 0
        np.testing.assert_array_equal(np.asarray(mu.points[c])[real], points[labels == c])
        np.testing.assert_allclose(np.asarray(mu.weights[c])[real], 1 / counts[c], rtol=1e-6)
        assert real[: counts[c]].all() and not real[counts[c] :].any()


def test_measure_is_a_pytree_with_the_class_axis_in_front():
    mu = from_labels(np.eye(4), np.array([0, 1, 1, 0]), 2)
    means = jax.vmap(lambda nu: nu.weights @ nu.points)(mu)
    np.testing.assert_allclose(means, [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("points", "labels", "classes", "words"),
    [
        (np.zeros((3, 2)), [0, 0, 2], 3, "class 1 has no points"),
        (np.zeros((0, 2)), np.zeros(0, int), 1, "class 0 has no points"),
        (np.array([[0.0], [np.nan]]), [0, 1], 2, "class 1 has NaN"),
        (np.array([[0.0], [np.inf]]), [1, 0], 2, "class 0 has NaN or inf in row 1"),
        (np.zeros((2, 1)), [0, 5], 2, "label 5 outside"),
        (np.zeros((2, 1)), [0, -1], 2, "label -1 outside"),
        (np.zeros((2, 1)), [0.0, 1.0], 2, "dtype float64"),
        (np.zeros((2, 1)), [0, 1, 1], 2, r"\(2, 1\) and labels \(3,\)"),
        (np.zeros((2, 1, 1)), [0, 1], 2, r"give \[n, d\]"),
    ],
)
def test_from_labels_names_what_is_wrong(points, labels, classes, words):
    with pytest.raises(InputError, match=words) as caught:
        from_labels(points, np.asarray(labels), classes)
    assert "\n" not in str(caught.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_standardise_gives_mean_zero_variance_one_and_can_be_undone(seed, size, shift):
    rng = np.random.default_rng(seed)
    points = (size * rng.normal(size=(9, 2)) + shift).astype(np.float32)
    weights = np.append(rng.dirichlet(np.ones(7)), [0.0, 0.0]).astype(np.float32)
    points[7:] = np.nan
    standard, b, s = standardise(Measure(points, weights))
    noise = 1e-5 * (1 + abs(shift) / size)
    np.testing.assert_allclose(weights @ standard.points, 0.0, atol=noise)
    np.testing.assert_allclose(weights @ (np.asarray(standard.points) ** 2).sum(1), 1.0, rtol=1e-4)
    undone = np.asarray(standard.points * s + b)
    np.testing.assert_allclose(undone[:7], points[:7], atol=noise * size)
    nearest = np.linalg.norm(np.asarray(standard.points), axis=1).argmin()
    np.testing.assert_array_equal(standard.points[7:], standard.points[nearest][None].repeat(2, 0))


def test_standardise_leaves_constant_data_finite():
    standard, b, s = standardise(Measure(np.full((3, 2), 4.0, np.float32), np.full(3, 1 / 3, np.float32)))
    assert np.isfinite(standard.points).all() and s > 0
    np.testing.assert_allclose(standard.points * s + b, 4.0, rtol=1e-6)
