"""Arrays, atoms, epsilons and settings that are odd: the right value, or one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_helpers import KEYS, M, N, padded
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure, check_points
from jaxdd.ot.distance import cell_masses

RNG = np.random.default_rng(0)
MU, NU = (padded(RNG.normal(size=(N, 2)) + shift) for shift in (0.0, 0.5))
Z = np.asarray(NU.points)[:M]
FUNCTIONS = {
    "w2_squared": lambda mu: ot.w2_squared(mu, NU),
    "sinkhorn_divergence": lambda mu: ot.sinkhorn_divergence(mu, NU),
    "distortion": lambda mu: ot.distortion(mu, Z),
    "quantization_loss": lambda mu: ot.quantization_loss(mu, Z),
    "cell_masses": lambda mu: cell_masses(mu, Z).max(),
    "quantize": lambda mu: ot.quantize(0, mu, M).cost,
    "barycenter": lambda mu: ot.barycenter(0, mu, M, weights="uniform").cost,
    "entropic_barycenter": lambda mu: ot.entropic_barycenter(0, mu, M).cost,
    "clvq": lambda mu: ot.clvq.fit(0, mu, M).cost,
}


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_that_jax_misreads_are_refused(name):
    other = np.asarray(MU.points).astype(">f4")
    refused(lambda: FUNCTIONS[name](MU._replace(points=other)), "byte order", "astype('float32')")
    refused(lambda: FUNCTIONS[name](MU._replace(weights=np.asarray(MU.weights).astype(">f8"))), "byte order")
    masked = np.ma.masked_greater(np.asarray(MU.points), 1.0)
    refused(lambda: FUNCTIONS[name](MU._replace(points=masked)), "masked")


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_are_computed_in_single_precision(name):
    for dtype in (np.float16, jnp.bfloat16):
        rounded = MU._replace(points=np.asarray(MU.points).astype(dtype))
        want = FUNCTIONS[name](rounded._replace(points=rounded.points.astype(np.float32)))
        found = FUNCTIONS[name](rounded)
        assert found.dtype == np.float32 and found == want


ATOMS = [Z * np.nan, Z * np.inf, Z * np.float32(1e20), 1j * Z, Z[:, :1], Z[0], Z[:0], [[1.0, 2.0], [3.0]], "z", None]


@pytest.mark.parametrize("name", ["distortion", "quantization_loss", "cell_masses"])
@pytest.mark.parametrize("z", ATOMS, ids=range(len(ATOMS)))
def test_atoms_that_are_none_are_refused(name, z):
    refused(lambda: {"cell_masses": cell_masses}.get(name, getattr(ot, name, None))(MU, z), "; ")


@pytest.mark.parametrize("hold", [np.ndarray.tolist, np.asfortranarray, lambda z: z.astype(">f8"), jnp.asarray])
def test_atoms_in_any_container(hold):
    assert ot.distortion(MU, hold(Z)) == ot.distortion(MU, Z)


@pytest.mark.parametrize("name", ["sinkhorn_divergence", "quantization_loss"])
@pytest.mark.parametrize("epsilon", [0, -1.0, np.nan, np.inf, 1e-7, 1e9, [0.1, 0.2]])
def test_epsilons_out_of_range_are_refused(name, epsilon):
    second = NU if name == "sinkhorn_divergence" else Z
    refused(lambda: getattr(ot, name)(MU, second, epsilon=epsilon), "epsilon")


def entropic(cost, a, b, epsilon):
    """OT_epsilon in float64, annealed."""
    f, g, now = np.zeros(len(a)), np.zeros(len(b)), 2.0
    for _ in range(3000):
        now = max(epsilon, 0.98 * now)
        f = -now * logsumexp((g - cost) / now, axis=1, b=b)
        g = -now * logsumexp((f[:, None] - cost) / now, axis=0, b=a[:, None])
    return f @ a + g @ b


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_divergence_is_right_down_to_its_least_epsilon(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 1.0
    a = np.full(20, 0.05)
    costs = [((p[:, None] - q) ** 2).sum(-1) for p, q in ((x, y), (x, x), (y, y))]
    mu, nu = (Measure(p.astype(np.float32), a.astype(np.float32)) for p in (x, y))
    for epsilon in (0.5, 1e-2, 3e-3):
        unit = epsilon * costs[0].mean()
        want = entropic(costs[0], a, a, unit) - sum(entropic(cost, a, a, unit) for cost in costs[1:]) / 2
        np.testing.assert_allclose(ot.sinkhorn_divergence(mu, nu, epsilon=epsilon), want, rtol=1e-3)
    exact = costs[0][linear_sum_assignment(costs[0])].mean()
    for epsilon in (1e-4, 1e-5):
        np.testing.assert_allclose(ot.sinkhorn_divergence(mu, nu, epsilon=epsilon), exact, rtol=2e-3)


@pytest.mark.parametrize("far", [2e3, 1e4, 1e5])
def test_exact_ends_beside_far_points(far):
    rng = np.random.default_rng(0)
    p = rng.normal(size=(30, 3))
    p[:3] = far
    q = p[rng.permutation(30)] + rng.normal(size=p.shape)
    cost = ((p[:, None] - q) ** 2).sum(-1)
    want = cost[linear_sum_assignment(cost)].mean()
    equal = np.full(30, 1 / 30)
    np.testing.assert_allclose(ot.exact(Measure(p, equal), Measure(q, equal)), want, rtol=1e-6, atol=1e-12 * far**2)


def test_exact_refuses_what_it_cannot_square():
    far = Measure(np.asarray(MU.points, np.float64) * 1e200, MU.weights)
    refused(lambda: ot.exact(far, NU), "float64")
    refused(lambda: ot.exact(MU._replace(points=[["a", "b"]] * N), NU), "points")


SETTINGS = [
    *(ot.KMeansSettings(**{name: value}) for name, value in
      (("restarts", 0), ("max_iterations", 0), ("exchanges", -1), ("tolerance", np.nan))),
    ot.BarycenterSettings(start=0.0), ot.BarycenterSettings(rounds=-1),
    ot.BarycenterSettings(k_means=ot.KMeansSettings(restarts=0)),
    ot.EntropicSettings(stages=0), ot.EntropicSettings(rounds=0), ot.EntropicSettings(epsilon=0.0),
    ot.ClvqSettings(batch_size=0), ot.ClvqSettings(epochs=0),
    *(ot.SinkhornSettings(**{name: value}) for name, value in
      (("epsilon", 0.0), ("decay", 1.0), ("max_iterations", 0), ("relaxation", 2.0))),
]  # fmt: skip
SOLVERS = {
    ot.KMeansSettings: lambda s: ot.quantize(0, MU, M, settings=s),
    ot.BarycenterSettings: lambda s: ot.barycenter(0, MU, M, settings=s),
    ot.EntropicSettings: lambda s: ot.entropic_barycenter(0, MU, M, settings=s),
    ot.ClvqSettings: lambda s: ot.clvq.fit(0, MU, M, settings=s),
    ot.SinkhornSettings: lambda s: ot.w2_squared(MU, NU, s),
}


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_settings_out_of_bounds_are_refused(given):
    refused(lambda: SOLVERS[type(given)](given), "; ")


def test_starts_are_checked():
    equal = np.full(M, 1 / M, np.float32)
    start = Measure(Z, equal)
    assert ot.barycenter(0, MU, M, start=start).cost > 0
    for wrong in (Measure(Z * np.nan, equal), Measure(Z[:2], equal), Measure(Z, equal[:2]), Measure(Z[:, :1], equal),
                  Measure(Z, 2 * equal), Measure(Z, equal * np.nan)):  # fmt: skip
        refused(lambda wrong=wrong: ot.barycenter(0, MU, M, start=wrong), "barycenter: start")


def test_batches_of_a_stream_are_checked():
    batch = Measure(np.asarray(MU.points), np.ones(N, np.float32))
    state = ot.clvq.init(0, batch, M)
    same = ot.clvq.step(jax.random.key(7), state, batch)
    jax.tree.map(np.testing.assert_array_equal, ot.clvq.step(7, state, batch), same)
    for wrong, word in (
        (batch._replace(points=batch.points[:, :1]), "1 dimensions"),
        (batch._replace(points=batch.points * np.nan), "NaN"),
        (batch._replace(weights=-batch.weights), "negative"),
        (batch._replace(weights=batch.weights * np.inf), "finite"),
    ):
        refused(lambda wrong=wrong: ot.clvq.step(0, state, wrong), word)
        if word != "1 dimensions":
            refused(lambda wrong=wrong: ot.clvq.init(0, wrong, M), word)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.bool_, np.int8])
def test_points_of_any_dtype_are_checked_as_they_are(dtype):
    check_points(np.arange(12).reshape(6, 2).astype(dtype), "x", np.arange(6))


@pytest.mark.parametrize("key", [np.zeros(4, np.uint32), np.zeros((1, 2), np.uint32), KEYS])
def test_keys_of_another_kind_are_refused(key):
    refused(lambda: ot.quantize(key, MU, M), "`key`")
