"""Coresets: greedy by their definitions, whatever the order of the points."""

import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st

from jaxdd.stages.summarize import herding, kcenter

CORESETS = {"herding": herding, "kcenter": kcenter}


def points(seed, n=9, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)) + 5


def greedy(x, m, score):
    """At each step the free point of least score, given the chosen ones."""
    chosen = []
    for _ in range(m):
        free = [i for i in range(len(x)) if i not in chosen]
        chosen.append(min(free, key=lambda i: score(x, chosen, i)))
    return chosen


def from_mean(x, chosen, i):
    return np.linalg.norm(x[[*chosen, i]].mean(0) - x.mean(0))


def not_covered(x, chosen, i):
    return -min(np.linalg.norm(x[i] - x[j]) for j in chosen) if chosen else from_mean(x, [], i)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_each_choice_is_the_best_of_all_free_points(seed, m):
    x = points(seed)
    assert list(herding(x, m)) == greedy(x, m, from_mean)
    assert list(kcenter(x, m)) == greedy(x, m, not_covered)


@pytest.mark.parametrize("name", CORESETS)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_points_does_not_matter(name, seed):
    x, turned = points(seed), np.random.default_rng(seed).permutation(9)
    np.testing.assert_array_equal(turned[CORESETS[name](x[turned], 4)], CORESETS[name](x, 4))


@pytest.mark.parametrize("name", CORESETS)
def test_equal_points_are_chosen_once_each(name):
    x = np.repeat(points(0, 2), 3, 0).astype(np.float32)
    assert sorted(CORESETS[name](x, 6)) == list(range(6))
    assert len(np.unique(x[CORESETS[name](x, 2)], axis=0)) == 2


def test_kcenter_covers_within_twice_the_best():
    """On a line of 0 .. 12 with three centres none is farther than 2 from the best, 4 from ours."""
    x = np.arange(13.0)[:, None]
    apart = np.abs(x - x[kcenter(x, 3)].T).min(1)
    assert apart.max() <= 4


@pytest.mark.parametrize("name", CORESETS)
@pytest.mark.parametrize("m", [0, 10])
def test_as_many_as_there_are(name, m):
    assert f"{m} of 9 points" in message(lambda: CORESETS[name](points(0), m))
