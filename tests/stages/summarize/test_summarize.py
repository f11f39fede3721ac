"""All classes at once: each as if it were alone, in whatever chunks and on however many devices."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import message
from ot_helpers import check_summary, clustered, padded, unlabelled

import jaxdd
from jaxdd import AtMost, Barycenter, Clvq, Herding, Quantization, Resources
from jaxdd.ground.measure import Groups
from jaxdd.ot import KMeansSettings, barycenter, clvq, quantize
from jaxdd.stages.summarize import solver as solving

# One shape for all: four classes, at most twelve points in the plane, three atoms.
M, ROWS, SIZES = 3, 12, ((3, 4, 2), (1, 2, 2), (6, 4, 2), (2, 3, 2))
KEY = jax.random.key(5)
HALF = np.array([0.5, 0.25, 0.25], np.float32)
EACH = np.array([[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0], [0.6, 0.1, 0.3]], np.float32)
SETTINGS = {
    "quantization": Quantization(),
    "clvq": Clvq(batch_size=5, epochs=40),
    "barycenter": Barycenter(rounds=8),
}
# A name for each way to ask: the solver, the weights.
WAYS = {
    "quantization": ("quantization", "free"),
    "clvq": ("clvq", "free"),
    "free": ("barycenter", "free"),
    "uniform": ("barycenter", "uniform"),
    "half": ("barycenter", HALF),
    "each": ("barycenter", EACH),
}
DIRECT = {
    "quantization": jax.jit(partial(quantize, m=M, settings=SETTINGS["quantization"])),
    "clvq": jax.jit(partial(clvq.fit, m=M, settings=SETTINGS["clvq"])),
    "free": jax.jit(partial(barycenter, m=M, settings=SETTINGS["barycenter"])),
    "held": jax.jit(lambda key, mu, w: barycenter(key, mu, M, weights=w, settings=SETTINGS["barycenter"])),
}


def data(sizes=SIZES):
    """Shuffled rows with labels; the clouds of the classes, in the same order."""
    clouds = [(clustered(c, k) + 10 * c).astype(np.float32) for c, k in enumerate(sizes)]
    labels = np.repeat(np.arange(len(clouds)), [len(x) for x in clouds])
    order = np.random.default_rng(0).permutation(len(labels))
    points, labels = np.concatenate(clouds)[order], labels[order]
    return points, labels, [points[labels == c] for c in range(len(clouds))]


POINTS, LABELS, CLOUDS = data()


def solve(way, points=POINTS, labels=LABELS, **changes):
    solver, weights = WAYS[way]
    options = {"ipc": M, "weights": weights, "solver": SETTINGS[solver], "key": KEY} | changes
    return jaxdd.summarize(points, labels, **options)


def same(result, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4), result, expected)


@pytest.fixture(scope="module")
def solved():
    """Each way's summary, made at its first use."""
    done = {}

    def get(way):
        if way not in done:
            done[way] = solve(way)
        return done[way]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_each_class_is_solved_as_if_it_were_alone(solved, way):
    result = solved(way)
    assert result.atoms.points.shape == (4, M, 2) and result.atoms.weights.shape == (4, M)
    assert result.cost.shape == result.lower.shape == result.converged.shape == (4,)
    mu = [padded(x, size=ROWS) for x in CLOUDS]
    check_summary(jax.tree.map(lambda *leaves: np.stack(leaves), *mu), result, gap=3e-3)
    held = {"uniform": np.full((4, M), 1 / M, np.float32), "half": np.tile(HALF, (4, 1)), "each": EACH}.get(way)
    for c in range(4):
        key = jax.random.fold_in(KEY, c)
        alone = DIRECT[way](key, mu[c]) if held is None else DIRECT["held"](key, mu[c], held[c])
        same(jax.tree.map(lambda v, c=c: v[c], result), alone)
    if held is not None:
        np.testing.assert_array_equal(result.atoms.weights, held)


@pytest.mark.slow
def test_the_default_solver_is_as_exact_as_the_weights_allow(solved):
    same(solve("quantization", solver=None), solved("quantization"))
    same(solve("uniform", solver=None), solve("uniform", solver=Barycenter()))
    same(solve("half", solver=None), solve("half", solver=Barycenter()))


@pytest.mark.slow
def test_a_name_stands_for_a_solver_with_its_defaults(solved):
    same(solve("quantization", solver="quantization"), solved("quantization"))
    same(solve("uniform", solver="barycenter"), solve("uniform", solver=Barycenter()))


@pytest.mark.slow
def test_free_weights_are_the_masses_of_the_clusters(solved):
    for way in ("quantization", "clvq", "free"):
        result = solved(way)
        for c, sizes in enumerate(SIZES):
            ends = np.cumsum(sizes)
            cloud = (clustered(c, sizes) + 10 * c).astype(np.float32)
            means = [cloud[end - k : end].mean(0) for end, k in zip(ends, sizes)]
            unlabelled(*jax.tree.map(lambda v, c=c: v[c], result.atoms), means, np.array(sizes) / sum(sizes), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "memory"), [("quantization", 2208), ("clvq", 1), ("each", 1)])
def test_chunks_change_nothing(solved, monkeypatch, way, memory):
    # 2,208 bytes hold three classes of this shape, but two by two fill their chunks; one byte holds one class.
    chunks, gather = [], Groups.padded

    def spy(self, points, classes, rows):
        chunks.append(list(classes))
        return gather(self, points, classes, rows)

    monkeypatch.setattr(Groups, "padded", spy)
    result = solve(way, resources=Resources(memory))
    assert chunks == ([[0], [1], [2], [3]] if memory == 1 else [[0, 1], [2, 3]])
    same(result, solved(way))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["quantization", "clvq", "each"])
def test_classes_in_lockstep_as_on_an_accelerator_find_the_same(solved, way):
    # On CPU they are solved one after the other.
    solver, weights = WAYS[way]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("class",))
    mu = Groups.of(POINTS, LABELS).padded(POINTS, np.arange(4), ROWS)
    keys = solving.class_keys(KEY, np.arange(4))
    held = None if isinstance(weights, str) else weights
    run = solving._compiled(SETTINGS[solver], M, mesh, True)
    same(run(keys, mu, held), solved(way))


def test_chunks_in_lockstep_hold_the_work_of_all_their_classes():
    two = SimpleNamespace(devices=np.arange(2))
    chunk = partial(solving.chunk_size, (1000, 64, 10), 100, local=two)
    data, work = 4 * 1000 * 65, 4 * 1000 * 208
    held = work + 4 * 1000 * 128
    assert chunk(2 * 5 * (2 * data + held), copies=2) == 2 * 5
    # All classes at once need no room for a second chunk.
    assert chunk(2 * 50 * (data + held), copies=2) == 2 * 50 > chunk(2 * 50 * (data + held) - 2, copies=2)
    assert chunk(2 * (10 * data + work), copies=0) == 2 * 5
    assert chunk(1, copies=2) == chunk(1, copies=0) == 2
    assert chunk(2**40, copies=2) == 2 * 50


@pytest.mark.slow
@pytest.mark.parametrize("way", ["quantization", "half"])
def test_the_order_of_the_classes_is_only_an_order(solved, way):
    names = np.array([2, 0, 3, 1])  # class c is now called names[c]
    result, before = solve(way, labels=names[LABELS]), solved(way)
    np.testing.assert_allclose(result.cost[names], before.cost, rtol=3e-3)
    for c in range(4):
        now, then = (jax.tree.map(lambda v, i=i: v[i], s.atoms) for s, i in ((result, names[c]), (before, c)))
        if way == "quantization":
            unlabelled(*now, *then, atol=1e-4)
        else:
            np.testing.assert_array_equal(now.weights, then.weights)


@pytest.mark.slow
def test_the_order_of_the_rows_and_the_other_classes_do_not_matter(solved):
    order = np.argsort(LABELS, kind="stable")
    same(solve("quantization", POINTS[order], LABELS[order]), solved("quantization"))
    other = np.where((LABELS == 2)[:, None], POINTS, 7 * POINTS[::-1])
    same(*(jax.tree.map(lambda v: v[2], s) for s in (solve("quantization", other), solved("quantization"))))


@pytest.mark.slow
def test_the_key_is_what_chooses_and_has_a_default():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(48, 2)), np.repeat(np.arange(4), 12)
    one, two = (solve("clvq", points, labels, key=jax.random.key(s)) for s in (0, 1))
    assert np.abs(one.atoms.points - two.atoms.points).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, solve("clvq", points, labels, key=None), one)


# Too few points


@pytest.mark.slow
@pytest.mark.parametrize("way", ["quantization", "free", "uniform", "clvq"])
def test_few_points_stand_for_themselves(way):
    points, labels, clouds = data(((1, 1, 0), (6, 4, 2), (0, 1, 0), (1, 1, 1)))
    assert "class 0 has 2 points, fewer than m=3" in message(lambda: solve(way, points, labels))
    result = solve(way, points, labels, ipc=AtMost(M))
    weights = np.asarray(result.atoms.weights)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)
    for c in (0, 2, 3):
        used = weights[c] > 0
        members = clouds[c]
        assert used.sum() == len(members)
        unlabelled(
            result.atoms.points[c][used], weights[c][used], members, np.full(len(members), 1 / len(members)), atol=0.01
        )
        np.testing.assert_allclose(result.cost[c], 0.0, atol=1e-3)
    assert (weights[1] > 0).all() and result.cost[1] < 0.5 * CLOUDS[2].var(0).sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


@pytest.mark.slow
def test_a_class_with_fewer_points_than_atoms_in_the_largest_class_too():
    # Even the largest class is too small: the rows are padded up to the number of atoms.
    result = jaxdd.summarize(np.eye(3, 2), np.array([0, 0, 1]), AtMost(4), key=KEY)
    np.testing.assert_allclose(np.sort(result.atoms.weights, axis=1), [[0, 0, 0.5, 0.5], [0, 0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(result.cost, 0.0, atol=1e-6)


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_name_the_class(value):
    points = POINTS.copy()
    row = int(np.flatnonzero(LABELS == 2)[3])
    points[row, 1] = value
    text = message(lambda: solve("quantization", points))
    assert "class 2" in text and f"row {row}" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "learned"}, "'learned'"),
        ({"weights": np.full(4, 0.25)}, r"(4,)"),
        ({"weights": np.full((3, M), 1 / M)}, "(3, 3)"),
        ({"weights": np.array([0.5, 0.4, 0.2])}, "class 0 has weights"),
        ({"weights": np.where(np.arange(4)[:, None] == 2, 0.5, EACH)}, "class 2 has weights that sum to 1.5"),
        ({"weights": np.array([1.5, -0.5, 0.0])}, "non-negative"),
        ({"weights": np.array([np.nan, 0.5, 0.5])}, "class 0"),
        ({"solver": "kmeans"}, "'kmeans'"),
        ({"solver": "random"}, "'random' solves nothing"),
        ({"solver": Herding()}, "solves nothing; choose barycenter, clvq, quantization"),
        ({"solver": KMeansSettings()}, "KMeansSettings("),
        ({"weights": "uniform", "solver": "quantization"}, "quantization finds its own weights"),
        ({"weights": HALF, "solver": "clvq"}, "clvq finds its own weights"),
        ({"weights": "uniform", "solver": Quantization()}, "quantization finds its own weights"),
        ({"ipc": AtMost(M), "weights": HALF}, "`ipc` AtMost"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes, words):
    assert words in message(lambda: jaxdd.summarize(POINTS, LABELS, **{"ipc": M} | changes))


@pytest.mark.parametrize(
    ("points", "labels", "ipc", "words"),
    [
        (POINTS, LABELS[:-1], M, "labels"),
        (POINTS[:, 0], LABELS, M, "[n, d]"),
        (POINTS, LABELS.astype(float), M, "float64"),
        (POINTS, LABELS - 1, M, "label -1"),
        (POINTS, np.where(LABELS == 1, 9, LABELS), M, "class 1 has no points"),
        (POINTS, LABELS, 6, "class 1 has 5 points, fewer than m=6"),
        (POINTS, LABELS, 0, "m=0"),
        (POINTS, LABELS, -1, "m=-1"),
    ],
)
@pytest.mark.parametrize("weights", ["free", "uniform"])
def test_data_that_is_no_set_of_classes_is_refused_in_one_line(points, labels, ipc, words, weights):
    assert words in message(lambda: jaxdd.summarize(points, labels, ipc, weights=weights))


@pytest.mark.parametrize("ipc", [0, -2])
def test_no_atoms_are_refused_as_a_limit_too(ipc):
    assert f"m={ipc}" in message(lambda: jaxdd.summarize(POINTS, LABELS, AtMost(ipc)))


# Devices

SHARDED = """
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

import jaxdd
from jaxdd import Barycenter, Quantization, Resources
from jaxdd.ground.measure import Measure
from jaxdd.stages.summarize import solver as solving

devices = jax.devices()
assert len(devices) == 8
rng = np.random.default_rng(0)
mesh = Mesh(np.array(devices), ("class",))
for weights, solver in (("free", Quantization(restarts=1)), ("uniform", Barycenter(rounds=5))):
    for classes in (10, 13):
        counts = rng.integers(4, 9, classes)
        counts[3] = 8
        labels = rng.permutation(np.repeat(np.arange(classes), counts))
        points = rng.normal(size=(len(labels), 2)).astype(np.float32)
        run = partial(jaxdd.summarize, points, labels, 3, weights=weights, solver=solver)
        many, one = run(), run(resources=Resources(1, tuple(devices[:1])))
        assert many.atoms.points.shape == (classes, 3, 2)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), many, one)
    held = None if weights == "free" else np.full((16, 3), 1 / 3, np.float32)
    inputs = jax.random.split(jax.random.key(0), 16), Measure(np.zeros((16, 8, 2)), np.ones((16, 8))), held
    compiled = solving._compiled(solver, 3, mesh, False).lower(*inputs).compile()
    print(compiled.as_text())
    assert {s.num_devices for s in jax.tree.leaves(compiled.output_shardings)} == {8}
"""


@pytest.mark.slow
def test_eight_devices_find_what_one_finds_and_say_nothing_to_each_other():
    root = Path(__file__).parents[3]
    # Unoptimised code compiles faster, and runs on little data.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SHARDED]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("HloModule") == 2 and "while" in done.stdout and "num_partitions=8" in done.stdout
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in done.stdout
