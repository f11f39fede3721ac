import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Groups, Measure, from_labels, standardise


@pytest.mark.slow
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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 2**31))
def test_groups_are_the_rows_of_each_class_as_they_came(extra, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 1, 2, 3, *extra])
    points = rng.normal(size=(len(labels), 2))
    groups = Groups.of(points, labels)
    np.testing.assert_array_equal(groups.counts, np.bincount(labels))
    rows = np.split(groups.order, np.cumsum(groups.counts)[:-1])
    for c in range(4):
        np.testing.assert_array_equal(rows[c], np.flatnonzero(labels == c))
    # Any classes in any order, even twice, on more rows than there are.
    chosen, size = np.array([2, 0, 2]), int(groups.counts.max()) + 3
    mu = groups.padded(points, chosen, size)
    assert mu.points.shape == (3, size, 2) and mu.points.dtype == mu.weights.dtype == np.float32
    for k, c in enumerate(chosen):
        n = groups.counts[c]
        np.testing.assert_array_equal(mu.points[k, :n], points[labels == c].astype(np.float32))
        np.testing.assert_allclose(mu.weights[k, :n], 1 / n, rtol=1e-6)
        assert not mu.points[k, n:].any() and not mu.weights[k, n:].any()


def test_the_number_of_classes_is_the_largest_label_plus_one_unless_given():
    points = np.arange(6.0).reshape(3, 2)
    assert from_labels(points, np.array([2, 0, 1])).points.shape == (3, 1, 2)
    np.testing.assert_array_equal(from_labels(points, np.array([2, 0, 1])).points[:, 0], points[[1, 2, 0]])
    assert from_labels(points, [1, 0, 1]).points.shape == (2, 2, 2)
    with pytest.raises(InputError, match="class 1 has no points"):
        from_labels(points, np.array([2, 0, 2]))
    with pytest.raises(InputError, match="class 3 has no points"):
        from_labels(points, np.array([2, 0, 1]), 4)
    with pytest.raises(InputError, match="class 0 has no points"):
        from_labels(np.zeros((0, 2)), np.zeros(0, int))


def test_rows_far_into_the_data_are_judged_too():
    points, labels = np.zeros((2**16 + 5, 1), np.float32), np.zeros(2**16 + 5, int)
    labels[-1] = 1
    points[-1] = np.nan
    with pytest.raises(InputError, match=f"class 1 has NaN or inf in row {2**16 + 4}"):
        Groups.of(points, labels)


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
        (np.zeros((2, 1)), [0, 5], 2, "label 5 is outside"),
        (np.zeros((2, 1)), [0, -1], 2, "label -1 is outside"),
        (np.zeros((2, 1)), [0.0, 1.0], 2, "dtype float64"),
        (np.zeros((2, 1)), [0, 1, 1], 2, r"\(2, 1\) and labels \(3,\)"),
        (np.zeros((2, 1, 1)), [0, 1], 2, r"give \[n, d\]"),
    ],
)
def test_from_labels_names_what_is_wrong(points, labels, classes, words):
    with pytest.raises(InputError, match=words) as caught:
        from_labels(points, np.asarray(labels), classes)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
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
