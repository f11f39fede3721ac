"""What users have at hand: labels of any integer dtype, lists and tables of points, seeds for keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdd
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import as_points, checked_classes

POINTS = np.random.default_rng(0).integers(-4, 5, (60, 3)).astype(np.float32)
LABELS = np.arange(60) % 3
SETTINGS = jaxdd.Quantization(restarts=1, exchanges=0, max_iterations=5)


class Table:
    """A table as pandas and polars have them: NumPy reads it, indices select columns."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __getitem__(self, name):
        raise KeyError(name)


def summary(points=POINTS, labels=LABELS, **options):
    return jaxdd.summarize(points, labels, 2, solver=SETTINGS, **options)


USUAL = summary()


def same(other):
    jax.tree.map(np.testing.assert_array_equal, other, USUAL)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int64"])
def test_labels_of_every_integer_dtype(kind):
    same(summary(labels=LABELS.astype(kind)))
    same(summary(labels=LABELS.astype(kind)[:, None]))
    np.testing.assert_allclose(jaxdd.from_labels(POINTS, LABELS.astype(kind)).weights.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("hold", [list, tuple, jnp.asarray, Table])
def test_labels_in_any_container(hold):
    same(summary(labels=hold(LABELS.tolist() if hold in (list, tuple) else LABELS)))


@pytest.mark.parametrize(
    "hold",
    [np.ndarray.tolist, jnp.asarray, Table, np.asfortranarray, lambda x: x.astype(np.float64), lambda x: x.astype(int),
     lambda x: x.astype(np.float16), lambda x: x.astype(object), lambda x: x.astype(jnp.bfloat16),
     lambda x: x.astype(">f8")],
)  # fmt: skip
def test_points_in_any_container(hold):
    same(summary(points=hold(POINTS)))
    np.testing.assert_array_equal(jaxdd.from_labels(hold(POINTS), LABELS).points, jaxdd.from_labels(POINTS, LABELS)[0])


def test_points_of_a_memory_map(tmp_path):
    np.save(tmp_path / "points.npy", POINTS)
    same(summary(points=np.load(tmp_path / "points.npy", mmap_mode="r")))


@pytest.mark.parametrize("key", [0, np.uint8(0), jax.random.key(0), jax.random.PRNGKey(0), None])
def test_a_seed_is_a_key(key):
    same(summary(key=key))


@pytest.mark.parametrize(
    "points",
    [
        [[1.0], [2.0, 3.0]],
        [["a"], ["b"]],
        1j * POINTS,
        POINTS[0],
        POINTS[None],
        None,
        np.datetime64("now"),
        np.zeros((3, 0)),
        np.zeros((3, 2), "m8[s]"),
        np.ma.masked_greater(POINTS, 1.0),
    ],
)
def test_points_that_are_none_are_refused(points):
    with pytest.raises(InputError, match="points"):
        as_points(points)


@pytest.mark.parametrize(
    "labels",
    [LABELS * 0.5, LABELS - 1, LABELS * 2, LABELS.astype(str), LABELS > 0, LABELS.astype("m8[s]"),
     np.ma.masked_equal(LABELS, 1), [[0], [0, 1]]],
)  # fmt: skip
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(InputError, match="label|class"):
        summary(labels=labels)


@pytest.mark.parametrize("count", [2.0, "2", True])
def test_numbers_of_classes_that_are_none_are_refused(count):
    with pytest.raises(InputError, match="num_classes"):
        jaxdd.from_labels(POINTS, LABELS, count)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.uint64])
def test_points_that_cannot_be_negated(dtype):
    small = (np.abs(POINTS) * 3).astype(dtype)
    jax.tree.map(np.testing.assert_array_equal, summary(small), summary(small.astype(np.float32)))


@pytest.mark.parametrize(
    "weights", [[0.5 + 1j, 0.5], 0.5, [[0.5, 0.5], [1.0]], ["a", "b"], np.ma.masked_less([0.5, 0.5], 1)]
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        jaxdd.summarize(POINTS, LABELS, 2, weights=weights)


@pytest.mark.parametrize("weights", ["uniform", "free"])
def test_small_classes_consist_of_their_points(weights):
    """Exactly, also beside points far away."""
    points = np.r_[np.full((3, 2), 1e4), np.random.default_rng(0).normal(size=(17, 2))].astype(np.float32)
    result = jaxdd.summarize(points, np.zeros(20, int), jaxdd.AtMost(22), weights=weights)
    np.testing.assert_array_equal(result.atoms.points[0, :20], points)
    np.testing.assert_allclose(result.atoms.weights[0], np.r_[np.full(20, 0.05), 0, 0])
    assert result.cost[0] == result.lower[0] == 0 and result.converged[0]


@pytest.mark.parametrize("largest", [2**62, 2**64 - 1, 10**9])
def test_a_stray_label_takes_no_memory(largest):
    with pytest.raises(InputError, match="class 1 has no points"):
        checked_classes(np.array([0, largest], np.uint64))


def test_weights_in_the_settings_of_a_solver_are_not_ignored():
    with pytest.raises(InputError, match="give `weights` instead"):
        jaxdd.summarize(POINTS, LABELS, 2, solver=jaxdd.Barycenter(weights="uniform"))
