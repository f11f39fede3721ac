"""Weights of a few bits: how far they are from the weights, and how many bytes they take."""

import jax
import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st

from jaxdd import nn


def variables_of(seed, channels=5, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (scale * rng.normal(size=shape)).astype(np.float32)
    return {"params": {"conv": {"kernel": draw(3, 3, 2, channels), "bias": draw(channels)}},
            "batch_stats": {"var": np.abs(draw(channels))}}  # fmt: skip


@given(st.integers(2, 16), st.integers(0, 50), st.sampled_from([1e-3, 1.0, 30.0]))
def test_each_channel_is_on_a_grid_of_its_own_and_no_further_than_plain_rounding(bits, seed, scale):
    given = variables_of(seed, scale=scale)
    arrived, size = nn.quantized(given, bits)
    kernel, rounded = given["params"]["conv"]["kernel"], np.asarray(arrived["params"]["conv"]["kernel"])
    most = 2 ** (bits - 1) - 1
    # The step of the plain grid is rounded to float16 as well, by up to 2^-11 and, below its normal numbers, 2^-25.
    step = np.abs(kernel).max((0, 1, 2)) / most
    plain = step * np.round(kernel / step)
    slack = np.square(most * (step * 2.0**-11 + 2.0**-25)).sum() * kernel[..., 0].size
    squares = lambda x: np.square(x - kernel).sum()
    assert squares(rounded) <= 1.01 * squares(plain) + slack
    for c in range(kernel.shape[-1]):
        levels = np.unique(rounded[..., c])
        assert len(levels) <= 2 * most + 1
    for path in (("params", "conv", "bias"), ("batch_stats", "var")):
        before, after = given, arrived
        for name in path:
            before, after = before[name], after[name]
        np.testing.assert_array_equal(np.asarray(after), before.astype(np.float16).astype(np.float32))
    # 90 codes, five steps, ten other numbers.
    assert size == -(-bits * 90 // 8) + 2 * 5 + 2 * 10


def test_sixteen_bits_answer_as_the_weights_do_and_zeros_stay():
    model = nn.get("convnet3", 10, 8, width=8)
    variables = model.init(jax.random.key(0), (8, 8, 1))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    logits = lambda variables: np.asarray(model.apply(variables, images).logits)
    arrived, size = nn.quantized(variables, 16)
    assert size < 2.2 * sum(map(np.size, jax.tree.leaves(variables)))
    np.testing.assert_allclose(logits(arrived), logits(variables), atol=5e-3)
    zeros, _ = nn.quantized(jax.tree.map(np.zeros_like, variables), 4)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(zeros))


def test_what_float16_cannot_hold_travels_whole():
    large = {"var": np.float32([1, 1e6]), "mean": np.float32([1, 2, 65504])}
    arrived, size = nn.quantized(large, 8)
    assert size == 2 * 4 + 3 * 2
    jax.tree.map(np.testing.assert_array_equal, arrived, large)


@pytest.mark.parametrize("bits", [1, 17, 0])
def test_numbers_of_bits_that_make_no_sense_are_refused(bits):
    assert f"weights of {bits} bits" in message(lambda: nn.quantized({}, bits))
