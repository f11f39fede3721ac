"""Transport is the same with and without `jax.jit`, from arrays of JAX and of NumPy, and takes measures only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd import ot
from jaxdd.ground.measure import Measure, check_measure, standardise
from jaxdd.ot import (
    BarycenterSettings,
    ClvqSettings,
    EntropicSettings,
    KMeansSettings,
    SinkhornSettings,
    clvq,
    distance,
)

KEY = jax.random.key(0)
N, D, M = 12, 3, 2
K_MEANS = KMeansSettings(restarts=2, max_iterations=5, exchanges=5)
BRIEF = BarycenterSettings(rounds=3, polish=1, k_means=K_MEANS)


def two_clusters(seed, n, d=D):
    """Two clusters far from each other, of about a third and two thirds of the mass; the last point has no weight."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d)) + 8 * (np.arange(n) % 3 == 0)[:, None]
    weights = np.append(rng.uniform(0.8, 1.2, n - 1), 0.0)
    return Measure(points.astype(np.float32), (weights / weights.sum()).astype(np.float32))


MU, NU = two_clusters(0, N), two_clusters(1, 5)


def stream(mu):
    state = clvq.init(KEY, mu, M)
    for k in range(2):
        state = clvq.step(jax.random.fold_in(KEY, k), state, mu)
    return clvq.summary(state)


# Functions of two measures.
FUNCTIONS = {
    "standardise": lambda mu, nu: standardise(mu),
    "squared_distances": lambda mu, nu: ot.squared_distances(mu.points, nu.points),
    "distortion": lambda mu, nu: ot.distortion(mu, nu.points),
    "cell_masses": lambda mu, nu: distance.cell_masses(mu, nu.points),
    "quantization_loss": lambda mu, nu: ot.quantization_loss(mu, nu.points),
    "transport": lambda mu, nu: (
        ot.transport(
            ot.squared_distances(mu.points, nu.points), mu.weights, nu.weights, SinkhornSettings(epsilon=1e-2)
        ).plan
    ),
    "w2_squared": lambda mu, nu: ot.w2_squared(mu, nu, SinkhornSettings(epsilon=1e-2)),
    "sinkhorn_divergence": lambda mu, nu: ot.sinkhorn_divergence(mu, nu),
    "quantize": lambda mu, nu: ot.quantize(KEY, mu, M, settings=K_MEANS),
    "barycenter": lambda mu, nu: ot.barycenter(KEY, mu, M, weights="uniform", settings=BRIEF),
    "entropic_barycenter": lambda mu, nu: ot.entropic_barycenter(
        KEY, mu, M, settings=EntropicSettings(stages=2, rounds=1, weight_steps=1)
    ),
    "clvq_stream": lambda mu, nu: stream(mu),
    "clvq_fit": lambda mu, nu: clvq.fit(KEY, mu, M, settings=ClvqSettings(batch_size=4, epochs=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_from_arrays_of_jax_is_the_same_as_eager_from_arrays_of_numpy(name):
    function, measures = FUNCTIONS[name], jax.tree.map(jnp.asarray, (MU, NU))
    plain, compiled = function(MU, NU), jax.jit(function)(*measures)
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, compiled)
    chex.assert_trees_all_close(plain, compiled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "weights", "words"),
    [
        (np.zeros((2, 5, 3), np.float32), np.full(5, 0.2, np.float32), "[2, 5, 3]"),
        (np.zeros((5, 3), np.float32), np.full((5, 1), 0.2, np.float32), "[5, 1]"),
        (np.zeros((5, 3), np.float32), np.full(4, 0.25, np.float32), "float32 [4]"),
        (np.zeros((5, 3), np.int32), np.full(5, 0.2, np.float32), "int32"),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(points, weights, words):
    mu = Measure(points, weights)
    calls = [
        lambda: check_measure(mu),
        lambda: standardise(mu),
        lambda: ot.distortion(mu, NU.points),
        lambda: distance.cell_masses(mu, NU.points),
        lambda: ot.quantization_loss(mu, NU.points),
        lambda: ot.w2_squared(mu, NU),
        lambda: ot.w2_squared(NU, mu),
        lambda: ot.sinkhorn_divergence(mu, NU),
        lambda: ot.sinkhorn_divergence(NU, mu),
        lambda: ot.quantize(KEY, mu, M),
        lambda: ot.barycenter(KEY, mu, M),
        lambda: ot.entropic_barycenter(KEY, mu, M),
        lambda: clvq.init(KEY, mu, M),
        lambda: clvq.step(KEY, clvq.init(KEY, NU, M), mu),
        lambda: clvq.fit(KEY, mu, M),
    ]
    for call in calls:
        assert words in message(call)
