"""MobileNetV2, EfficientNet, ViT and Swin: published sizes, parity with torchvision and timm, small images.

The references come from golden/make_students_golden.py, in float64. They are small networks under the published
rules; that the named networks have the published rows shows in their parameters and multiply-adds, which nothing has
to compute.
"""

import functools
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_helpers import close, golden, uniform

from jaxdd import nn
from jaxdd.ground.errors import InputError
from jaxdd.nn import efficientnet, mobilenet, swin, vit


@functools.cache
def published(name):
    """Shapes of the variables at 224 pixels and 1,000 classes, and the program that makes them, a pass of one image."""
    init = nn.get(name, 1000, 224).init
    program, variables = jax.make_jaxpr(lambda key: init(key, (224, 224, 3)), return_shape=True)(jax.random.key(0))
    return variables, program.jaxpr


def jaxprs(value):
    """The programs inside a parameter of an equation."""
    leaves = value if isinstance(value, (tuple, list)) else [value]
    return [x.jaxpr if hasattr(x, "jaxpr") else x for x in leaves if hasattr(x, "jaxpr") or hasattr(x, "eqns")]


def multiply_adds(jaxpr):
    """Those of convolutions and matrix products; of a choice between platforms the dearest branch."""
    total = 0
    for e in jaxpr.eqns:
        shapes = [v.aval.shape for v in (*e.invars, *e.outvars)]
        if e.primitive.name == "conv_general_dilated":
            total += prod(shapes[2]) * prod(shapes[1]) // shapes[1][e.params["dimension_numbers"].rhs_spec[0]]
        elif e.primitive.name == "dot_general":
            total += prod(shapes[2]) * prod(shapes[0][i] for i in e.params["dimension_numbers"][0][0])
        else:
            inner = [multiply_adds(x) for value in e.params.values() for x in jaxprs(value)]
            total += max(inner, default=0) if e.primitive.name == "cond" else sum(inner)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "parameters", "billions"),
    [
        ("mobilenet_v2", 1280, 3_504_872, "0.301"),
        ("efficientnet_b0", 1280, 5_288_548, "0.386"),
        ("vit_tiny", 192, 5_717_416, "1.3"),
        ("vit_small", 384, 22_050_664, "4.6"),
        ("swin_tiny", 768, 28_288_354, "4.491"),
    ],
)
def test_published_networks_have_the_published_parameters_and_multiply_adds(name, features, parameters, billions):
    variables, program = published(name)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters
    assert variables["params"]["head"]["kernel"].shape == (features, 1000)
    digits = len(billions.partition(".")[2])
    assert f"{multiply_adds(program) / 1e9:.{digits}f}" == billions


@pytest.mark.parametrize(("name", "side"), [("mobilenet_v2", 8), ("swin_tiny", 97)])
def test_the_same_variables_serve_images_of_many_sizes(name, side):
    variables, _ = published(name)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    out = jax.eval_shape(nn.get(name, 1000, side).apply, variables, images)
    assert out.logits.shape == (2, 1000) and out.logits.dtype == jnp.float32
    assert out.features.shape == (2, variables["params"]["head"]["kernel"].shape[0])


@pytest.mark.slow
def test_patches_follow_the_size_of_the_images():
    sides = (8, 16, 32, 64, 96, 128, 224, 384)
    assert [vit.patch_size(side) for side in sides] == [2, 2, 4, 8, 8, 16, 16, 16]
    for side in range(16, 256):
        assert 8 <= -(-side // vit.patch_size(side)) <= 16
    for name, side, stem, patch in [("vit_tiny", 9, "auto", 2), ("vit_tiny", 33, "imagenet", 16),
                                    ("swin_tiny", 8, "auto", 1), ("swin_tiny", 64, "auto", 2)]:  # fmt: skip
        model = nn.get(name, 3, side, width=8, stem=stem)
        params = jax.eval_shape(lambda key, model=model, side=side: model.init(key, (side, side, 1)), jax.random.key(0))
        assert params["params"]["embed"]["kernel"].shape == (patch * patch, 8)
        if name == "vit_tiny":
            assert params["params"]["positions"].shape == (1, 1 + (-(-side // patch)) ** 2, 8)


SMALL = {
    "mobilenet": (
        mobilenet.MobileNet(5, ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 3, 64, 1, 2)), stem="small", width=4),
        9,
    ),
    "efficientnet": (
        efficientnet.EfficientNet(5, rows=((1, 3, 16, 1, 1), (6, 5, 24, 2, 2)), width=8, last=24),
        23,
    ),
    "vit": (vit.ViT(5, 4, 24, 2, 3), 14),
    "swin": (swin.Swin(5, 2, 12, (2, 2), 6, 4), 13),
}


def draw(name, shape):
    u = uniform(name, shape)
    if name.endswith("kernel"):
        return (2 * u - 1) * np.float32(np.sqrt(3 / np.prod(shape[:-1])))
    return u + np.float32(0.5) if name.endswith(("scale", "var")) else u - np.float32(0.5)


@functools.cache
def small(tag):
    """The pure functions, the drawn variables and the images of a small network."""
    module, side = SMALL[tag]
    model = nn.from_linen(module)
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), (side, side, 3))), sep="/")
    variables = {path: draw(f"{tag}/{path.partition('/')[2]}", leaf.shape) for path, leaf in shapes.items()}
    images = uniform(f"{tag}/images", (3, side, side, 3)) * np.float32(3) - np.float32(1.5)
    return model, unflatten_dict(variables, sep="/"), images


# Compiled without the optimisations that would take longer than they save here.
fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def matches(tag, out):
    close(out.features, golden("students")[f"{tag}/features"])
    close(out.logits, golden("students")[f"{tag}/logits"])


@pytest.mark.slow
@pytest.mark.parametrize("tag", SMALL)
def test_forward_pass_of_the_public_implementation(tag):
    model, variables, images = small(tag)
    matches(tag, fast(model.apply)(variables, images))


@pytest.mark.slow
def test_depthwise_convolutions_fold_too():
    model, variables, images = small("efficientnet")
    out = fast(model.apply)(nn.fold(variables), images)
    assert out.moments == {}
    matches("efficientnet", out)


@pytest.mark.slow
def test_every_parameter_of_a_shifted_and_padded_transformer_has_a_gradient():
    model = nn.from_linen(swin.Swin(3, 1, 4, (2,), 2, 3))
    params = drawn(lambda key: model.init(key, (5, 5, 1)), 0)["params"]
    images = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
    loss = lambda params: jnp.square(model.apply_train({"params": params}, images)[0]).sum()
    for path, leaf in flatten_dict(fast(jax.grad(loss))(params), sep="/").items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 6), (5, 1, 3)])
def test_the_two_forms_of_a_depthwise_convolution_agree_with_their_gradients(kernel, stride, side):
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2, side, side, 4), (kernel, kernel, 1, 4)))
    padding = ((kernel // 2, kernel // 2),) * 2

    @fast
    def both(x, w):
        ways = [
            lambda x, w, way=way: way(x, w, (stride, stride), padding)
            for way in (mobilenet.taps, mobilenet.convolution)
        ]
        return [(y, back(jnp.cos(y))) for y, back in (jax.vjp(way, x, w) for way in ways)]

    ours, truth = both(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, truth)


def test_windows_cover_every_grid_with_few_positions_too_many():
    assert [swin.cover(g, 7) for g in (56, 28, 14, 7)] == [(8, 7), (4, 7), (2, 7), (1, 7)]  # as published at 224
    for grid in range(1, 80):
        count, side = swin.cover(grid, 7)
        assert count == -(-grid // 7) and side <= min(7, grid)
        assert 0 <= count * side - grid < count


def test_the_bias_of_a_window_is_the_entry_of_the_table_at_query_minus_key():
    table, (h, w) = np.random.default_rng(0).normal(size=(13, 13, 2)), (3, 5)
    bias = swin.relative_bias(table, (h, w)).reshape(2, h, w, h, w)
    for i, j, a, b in np.ndindex(h, w, h, w):
        np.testing.assert_array_equal(bias[:, i, j, a, b], table[6 + i - a, 6 + j - b])


@pytest.mark.parametrize(
    ("name", "side", "kwargs", "message"),
    [
        ("mobilenet_v2", 7, {}, "halves the image 3 times, but images are only 7 pixels"),
        ("efficientnet_b0", 16, {"stem": "imagenet"}, "halves the image 5 times.* use stem small"),
        ("swin_tiny", 7, {}, "swin_tiny halves the image 3 times"),
        ("swin_tiny", 31, {"stem": "imagenet"}, "halves the image 5 times.* use stem small"),
        ("vit_tiny", 8, {"stem": "imagenet"}, "patches of 16 pixels, but images are only 8 .* use stem auto"),
        ("vit_small", 0, {}, "images are only 0 pixels"),
        ("vit_small", 32, {"width": 129}, "width 129 of vit_small has no whole heads of 64"),
        ("swin_tiny", 32, {"width": 26}, "width 26 of swin_tiny has no whole heads of 32"),
    ],
)
def test_impossible_sizes_are_refused(name, side, kwargs, message):
    with pytest.raises(InputError, match=message):
        nn.get(name, 10, side, **kwargs)
