"""Convolutions for CPU are those of `jax.lax`, with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import nn
from jaxdd.nn import convolution, winograd

NUMBERS = ("NHWC", "HWIO", "NHWC")


def plain(strides=(1, 1), padding=((1, 1), (1, 1))):
    return lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NUMBERS)


def ours(strides=(1, 1), padding=((1, 1), (1, 1))):
    return lambda x, kernel: convolution.convolution(x, kernel, strides, padding, dimension_numbers=NUMBERS)


def arrays(images, height, width, channels, kernel, out):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((images, height, width, channels), np.float32)
    return x, rng.standard_normal((*kernel, channels, out), np.float32)


def assert_same(one, other, x, kernel, tolerance=1e-5):
    """The values and the gradients of both, relative to the norm."""
    results = []
    for function in (one, other):
        y, pull = jax.vjp(function, x, kernel)
        bar = np.random.default_rng(1).standard_normal(y.shape, np.float32)
        results.append((y, *pull(bar)))
    for a, b in zip(*results):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a - b), 0, atol=tolerance * float(jnp.abs(a).max()))


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (5, 7), (3, 9), (1, 1)])
@pytest.mark.parametrize(("channels", "out"), [(3, 5), (70, 2)])
def test_winograds_filtering_is_the_convolution_with_its_gradients(height, width, channels, out):
    assert_same(plain(), winograd.convolution, *arrays(3, height, width, channels, (3, 3), out))


def test_winograds_matrices_multiply_polynomials():
    """y = A^T [(G k) * (B^T d)] is the correlation of four outputs with three taps, for every k and d."""
    for tap in range(3):
        for place in range(6):
            k, d = np.eye(3)[tap], np.eye(6)[place]
            y = winograd._AT @ ((winograd._G @ k) * (winograd._BT @ d))
            np.testing.assert_allclose(y, np.correlate(d, k, "valid"), atol=1e-12)


def test_winograds_filtering_of_many_small_products_is_in_parts():
    assert_same(plain(), winograd.convolution, *arrays(40, 20, 12, 4, (3, 3), 6))


def test_winograds_filtering_is_about_as_exact_as_the_convolution():
    x, kernel = arrays(4, 16, 16, 128, (3, 3), 64)
    with jax.enable_x64(True):
        exact = np.asarray(plain()(x.astype(np.float64), kernel.astype(np.float64)))
    error = np.linalg.norm(np.asarray(winograd.convolution(x, kernel)) - exact) / np.linalg.norm(exact)
    assert error < 3e-6


@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [
        ((3, 3), (2, 2), ((1, 1), (1, 1))),
        ((1, 1), (2, 2), ((0, 0), (0, 0))),
        ((1, 1), (1, 1), ((0, 0), (0, 0))),
        ((7, 7), (2, 2), ((3, 3), (3, 3))),
        ((3, 2), (1, 2), ((0, 1), (2, 0))),
    ],
)
@pytest.mark.parametrize("side", [8, 9])
def test_the_gradient_of_a_kernel_as_a_matrix_product_is_that_of_the_convolution(kernel, strides, padding, side):
    assert_same(plain(strides, padding), ours(strides, padding), *arrays(3, side, side, 4, kernel, 5))


def test_a_convolution_that_pays_takes_the_filtering_and_can_be_batched():
    x, kernel = arrays(8, 8, 8, 32, (3, 3), 32)
    assert winograd.pays(x, kernel)
    assert_same(plain(), jax.jit(ours()), x, kernel)
    several = jnp.stack([x, 2 * x])
    batched = jax.vmap(ours(), (0, None))(several, kernel)
    np.testing.assert_allclose(batched, jax.vmap(plain(), (0, None))(several, kernel), atol=1e-3)


def test_few_channels_few_tiles_and_much_padding_do_not_pay():
    for shape in [(8, 8, 8, 16, (3, 3), 32), (4, 8, 8, 32, (3, 3), 32), (64, 5, 5, 32, (3, 3), 32)]:
        assert not winograd.pays(*arrays(*shape))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_dtypes_groups_and_dilations_are_left_to_jax(dtype):
    x, kernel = arrays(8, 8, 8, 32, (3, 3), 32)
    arguments = ((1, 1), ((1, 1), (1, 1)))
    narrow = convolution.convolution(x.astype(dtype), kernel.astype(dtype), *arguments, dimension_numbers=NUMBERS)
    assert narrow.dtype == dtype
    for options in ({"rhs_dilation": (2, 2)}, {"feature_group_count": 8}):
        part = kernel[:, :, : 32 // options.get("feature_group_count", 1)]
        result = convolution.convolution(x, part, *arguments, dimension_numbers=NUMBERS, **options)
        wanted = jax.lax.conv_general_dilated(x, part, *arguments, dimension_numbers=NUMBERS, **options)
        np.testing.assert_array_equal(result, wanted)


def test_another_platform_gets_a_single_convolution():
    model = nn.get("convnet3", 10, 16, width=32)
    variables = jax.eval_shape(lambda key: model.init(key, (16, 16, 3)), jax.random.key(0))
    image = jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32)
    traced = jax.jit(lambda variables, image: model.apply(variables, image).logits).trace(variables, image)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "dot_general" not in text.replace("dot_general", "", 1)  # the last layer alone
