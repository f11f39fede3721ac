"""Newton's plans against Sinkhorn's algorithm and linear programs; the exact distance against both."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ot_helpers import clustered, distances, exact_cost, linear_program, padded, random_points
from scipy.special import logsumexp

from jaxdd.ground.measure import Measure
from jaxdd.ot import NewtonSettings, exact, semidual

ROWS, COLUMNS = 20, 5
NEWTON = NewtonSettings()
ZERO = np.zeros(COLUMNS, np.float32)
solve, certified = jax.jit(semidual.solve), jax.jit(semidual.certified)


def problem(seed, dead_rows=0, dead_columns=0, scale=1.0):
    """Costs, row masses and column masses; the last few may be zero."""
    rng = np.random.default_rng(seed)
    live = [ROWS - dead_rows, COLUMNS - dead_columns]
    cost = distances(rng.normal(size=(ROWS, 3)), rng.normal(size=(COLUMNS, 3))) * scale
    a, b = (np.r_[rng.dirichlet(2 * np.ones(n)), np.zeros(size - n)] for n, size in zip(live, (ROWS, COLUMNS)))
    return tuple(np.asarray(v, np.float32) for v in (cost, a, b))


def sinkhorn(cost, a, b, epsilon, iterations=5000):
    """Plain Sinkhorn in the log domain: slow, simple and right."""
    cost, a, b = (np.asarray(v, np.float64) for v in (cost, a, b))
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    f, g = np.zeros(len(a)), np.where(b > 0, 0.0, -np.inf)
    for _ in range(iterations):
        f = -epsilon * logsumexp((g - cost) / epsilon, axis=1)
        columns = logsumexp(log_a[:, None] + (f[:, None] - cost) / epsilon, axis=0)
        g = np.where(b > 0, epsilon * (log_b - columns), -np.inf)
    return a[:, None] * np.exp((f[:, None] + g - cost) / epsilon)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
@pytest.mark.parametrize("dead", [(0, 0), (4, 2)])
def test_solve_finds_the_plan_of_sinkhorn(epsilon, dead):
    cost, a, b = problem(0, *dead)
    result = solve(cost, a, b, ZERO, np.float32(epsilon))
    plan = np.asarray(result.plan)
    np.testing.assert_allclose(plan, sinkhorn(cost, a, b, epsilon), atol=2e-4 * a.max() + 2e-5)
    assert result.error <= NEWTON.tolerance and result.steps <= 25
    np.testing.assert_array_equal(plan[:, b == 0], 0.0)
    np.testing.assert_array_equal(result.potential[b == 0], 0.0)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(-2.0, 1.0),
    st.integers(0, ROWS - 1),
    st.integers(0, COLUMNS - 1),
    st.floats(-100, 100),
)
@example(0, -1.26171875, 0, 3, 33.0)  # where values far from zero, compared, would be rounding
@example(0, -2.0, 11, 0, 1.0)  # more than a hundred steps
@example(17, -2.0, 17, 0, 0.0)
@example(2, -2.0, 17, 0, 1.0)
def test_solve_keeps_the_rows_fits_the_columns_and_bounds_from_below(seed, size, dead_rows, dead_columns, offset):
    cost, a, b = problem(seed, dead_rows, dead_columns)
    start = np.random.default_rng(seed).normal(size=COLUMNS).astype(np.float32)
    result = solve(cost, a, b, start, np.float32(10**size))
    plan = np.asarray(result.plan, np.float64)
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-6)
    error = np.abs(plan.sum(0) - b).sum()
    assert error <= NEWTON.tolerance + 1e-6
    np.testing.assert_allclose(result.error, error, atol=2e-6)
    np.testing.assert_array_equal(plan[:, b == 0], 0.0)
    optimum = linear_program(cost, a.astype(np.float64) / a.sum(dtype=np.float64), b / b.sum(dtype=np.float64))
    assert float(result.lower) <= optimum * (1 + 1e-5) + 1e-5
    # `lower` is the dual value of the potential: its c-transform, recomputed.
    g = np.where(b > 0, np.asarray(result.potential, np.float64), -np.inf)
    dual = b @ np.where(b > 0, g, 0.0) + a @ (cost - g).min(1)
    np.testing.assert_allclose(result.lower, dual, rtol=1e-4, atol=1e-4)
    # A constant a row and a constant of all potentials change nothing.
    rows = np.random.default_rng(seed).uniform(0, 3, (ROWS, 1)).astype(np.float32)
    again = solve(cost + rows, a, b, start + np.float32(offset), np.float32(10**size))
    assert again.error <= NEWTON.tolerance + 1e-6
    np.testing.assert_allclose(again.plan, plan, atol=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_solve_starts_anywhere_in_the_range_of_the_costs(seed):
    # Where no row feels the columns that it must fill, full Newton steps would go astray.
    cost, a, b = problem(seed)
    for start in (cost.max() * np.eye(COLUMNS)[2], -cost.max() * np.eye(COLUMNS)[1]):
        result = solve(cost, a, b, start.astype(np.float32), np.float32(0.05))
        assert result.error <= NEWTON.tolerance
        np.testing.assert_allclose(result.plan, sinkhorn(cost, a, b, 0.05, 2000), atol=1e-4)


def test_solve_stops_when_it_is_told_to():
    cost, a, b = problem(4)
    short = jax.jit(lambda *inputs: semidual.solve(*inputs, settings=replace(NEWTON, max_iterations=2)))
    result = short(cost, a, b, ZERO, np.float32(0.1))
    assert result.steps == 2
    np.testing.assert_allclose(result.error, np.abs(np.asarray(result.plan).sum(0) - b).sum(), rtol=1e-4)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(0, ROWS - COLUMNS), st.integers(0, COLUMNS - 1), st.sampled_from([1e-3, 1, 1e3])
)
def test_certified_is_a_coupling_that_brackets_the_linear_program(seed, dead_rows, dead_columns, scale):
    cost, a, b = problem(seed, dead_rows, dead_columns, scale)
    unit = semidual.spread(cost, a, b)
    result = certified(cost, a, b, ZERO, unit)
    plan = np.asarray(result.plan, np.float64)
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-6)
    np.testing.assert_allclose(result.cost, (plan * cost).sum(), rtol=1e-5)
    optimum = linear_program(cost, a.astype(np.float64) / a.sum(dtype=np.float64), b / b.sum(dtype=np.float64))
    assert optimum * (1 - 1e-5) <= float(result.cost) and float(result.lower) <= optimum * (1 + 1e-5)
    assert float(result.cost - result.lower) <= NEWTON.gap * float(result.cost) * (1 + 1e-3)


@pytest.mark.parametrize("sizes", [(7, 5, 8), (18, 1, 1)])
def test_certified_closes_the_gap_on_far_clusters(sizes):
    # Masses that do not fit the clusters: a fifth of each atom has to come from afar.
    x, z = clustered(0, sizes), clustered(9, (2, 2, 1))
    cost = distances(x, z).astype(np.float32)
    a, b = np.full(ROWS, 1 / ROWS, np.float32), np.full(COLUMNS, 1 / COLUMNS, np.float32)
    result = certified(cost, a, b, ZERO, semidual.spread(cost, a, b))
    assert result.cost - result.lower <= NEWTON.gap * result.cost
    np.testing.assert_allclose(result.cost, linear_program(cost, a / a.sum(), b / b.sum()), rtol=NEWTON.gap)


def test_certified_fills_a_column_that_is_far_from_every_row():
    cost, a, b = problem(8)
    far = cost + 1e3 * np.eye(COLUMNS, dtype=np.float32)[2]
    result = certified(far, a, b, ZERO, semidual.spread(far, a, b))
    np.testing.assert_allclose(result.plan.sum(0), b, atol=1e-6)
    optimum = linear_program(cost, a / a.sum(dtype=np.float64), b / b.sum(dtype=np.float64)) + 1e3 * b[2]
    np.testing.assert_allclose([result.cost, result.lower], optimum, rtol=NEWTON.gap)


def test_potential_of_certified_is_the_derivative_in_the_weights():
    # Rows of unequal masses make the optimum differentiable: no part of them sums to a part of the columns.
    cost, a, b = problem(5)
    g = np.asarray(certified(cost, a, b, ZERO, semidual.spread(cost, a, b)).potential)
    a, b = a.astype(np.float64) / a.sum(dtype=np.float64), b.astype(np.float64) / b.sum(dtype=np.float64)
    for j, k in itertools.combinations(range(COLUMNS), 2):
        step = 1e-5 * (np.eye(COLUMNS)[j] - np.eye(COLUMNS)[k])
        slope = (linear_program(cost, a, b + step) - linear_program(cost, a, b - step)) / 2e-5
        np.testing.assert_allclose(g[j] - g[k], slope, atol=0.05)


def test_spread_is_the_mean_cost_above_the_nearest_and_one_where_all_are_equal():
    cost, a, b = problem(6, 3, 2)
    expected = a @ (cost[:, b > 0].mean(1) - cost[:, b > 0].min(1))
    np.testing.assert_allclose(semidual.spread(cost, a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(semidual.spread(cost + 1e3 * (b == 0), a, b), expected, rtol=1e-5)
    assert semidual.spread(jnp.full((ROWS, COLUMNS), 7.0), a, b) == 1.0


def test_equal_costs_and_one_live_column_are_solved():
    cost, a, b = problem(7, 0, COLUMNS - 1)
    for costs in (cost, np.full_like(cost, 2.0)):
        result = certified(costs, a, b, ZERO, semidual.spread(costs, a, b))
        np.testing.assert_allclose(result.plan[:, 0], a, atol=1e-6)
        np.testing.assert_allclose([result.cost, result.lower], a @ costs[:, 0], rtol=1e-4)


# The exact distance


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 8), st.booleans())
def test_exact_is_the_dense_linear_program(seed, n, m, lattice):
    # On a lattice many pairs cost the same, and masses that are multiples of 1/n make the program degenerate.
    rng = np.random.default_rng(seed)
    if lattice:
        x, y = rng.integers(0, 3, (n, 2)).astype(float), rng.integers(0, 3, (m, 2)).astype(float)
        a, b = np.full(n, 1 / n), rng.multinomial(n, np.ones(m) / m) / n
    else:
        x, y, a, b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), rng.dirichlet(np.ones(n)), np.ones(m) / m
    mu, nu = Measure(x, a), Measure(y, b)
    truth = exact_cost(x, a, y, b)
    np.testing.assert_allclose(exact(mu, nu), truth, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(exact(nu, mu), truth, rtol=1e-7, atol=1e-9)
    assert exact(mu, mu) == pytest.approx(0.0, abs=1e-12)


def test_exact_closed_forms_in_float64():
    rng = np.random.default_rng(0)
    x, way = rng.normal(size=(80, 3)), np.array([1.0, -2.0, 2.0])
    weights = rng.dirichlet(np.ones(80))
    assert exact(Measure(x, weights), Measure(x[::-1] + way, weights[::-1])) == pytest.approx(9.0, rel=1e-10)
    line, other = rng.normal(size=(80, 1)), 2 * rng.normal(size=(80, 1)) + 1
    even = np.full(80, 1 / 80)
    sorted_cost = ((np.sort(line[:, 0]) - np.sort(other[:, 0])) ** 2).mean()
    assert exact(Measure(line, even), Measure(other, even)) == pytest.approx(sorted_cost, rel=1e-9)
    assert exact(Measure(np.ones((4, 2)), even[:4] * 20), Measure(np.ones((2, 2)), even[:2] * 40)) == 0.0


@pytest.mark.parametrize("filler", [1e6, np.nan, np.inf])
def test_exact_ignores_points_without_weight(filler):
    x, y = random_points(0, 7), random_points(1, 4)
    plain = exact(padded(x, size=7), padded(y, size=4))
    assert exact(padded(x, filler=filler), padded(y, filler=filler)) == pytest.approx(plain, rel=1e-6)


def test_exact_refuses_what_is_no_measure():
    good = padded(random_points(0, 4), size=4)
    bad = Measure(np.array([[0.0, np.nan], [1.0, 1.0]]), np.array([0.5, 0.5]))
    assert "nu has NaN" in message(lambda: exact(good, bad))
    assert "mu has NaN" in message(lambda: exact(bad, good))
    for weights in ([0.5, 0.6], [0.0, 0.0], [1.5, -0.5], [np.nan, 1.0]):
        assert "weights of nu" in message(lambda w=weights: exact(good, Measure(np.eye(2), np.array(w))))
