"""Models without their norms, and backward passes that keep one activation a block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxdd import nn
from jaxdd.ground.errors import InputError


def random_variables(model, side, seed=0):
    """Statistics far from mean 0 and variance 1, scales of both signs."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.normal(scale=np.sqrt(2 / np.prod(x.shape[:-1])), size=x.shape).astype(np.float32)
        if path[-1].key == "var":
            return rng.uniform(0.3, 3, x.shape).astype(np.float32)
        return rng.normal(size=x.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda key: model.init(key, (side, side, 3)), jax.random.key(0))
    return jax.tree.map_with_path(draw, shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem", "side"),
    [
        ("convnet3", "auto", 16),
        ("resnet18", "small", 16),
        ("resnet18", "imagenet", 33),
        ("resnet50", "small", 16),
        ("resnet50", "imagenet", 33),
    ],
)
def test_a_folded_model_is_the_same_function_without_norms(name, stem, side):
    model = nn.get(name, 7, side, width=4, stem=stem)
    variables = random_variables(model, side)
    leaves = jax.tree.leaves(variables)
    before = [x.copy() for x in leaves]
    folded = nn.fold(variables)
    assert all(np.array_equal(x, y) for x, y in zip(leaves, before))

    names, left = (set(flatten_dict(v["params"], sep="/")) for v in (variables, folded))
    assert folded.keys() == {"params"}
    kernels = {path for path in names if path.endswith("/kernel")}
    assert left == kernels | {path.replace("/kernel", "/bias") for path in kernels}
    assert nn.fold(folded) == folded

    images = jax.random.normal(jax.random.key(1), (3, side, side, 3))
    assert "rsqrt" in str(jax.make_jaxpr(model.apply)(variables, images))
    assert "rsqrt" not in str(jax.make_jaxpr(model.apply)(folded, images))
    truth, got = jax.jit(model.apply)(variables, images), jax.jit(model.apply)(folded, images)
    assert got.moments == {} and truth.moments
    for want, ours in zip(truth[:2], got[:2]):
        np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_a_norm_without_its_convolution_is_not_folded():
    variables = {"params": {"norm1": {"bn": {"scale": np.ones(2), "bias": np.zeros(2)}}},
                 "batch_stats": {"norm1": {"bn": {"mean": np.zeros(2), "var": np.ones(2)}}}}  # fmt: skip
    with pytest.raises(InputError, match="norm1/bn has no convolution conv1 .* jaxdd.nn.get"):
        nn.fold(variables)


def everything(apply, variables, images):
    """A scalar that every output of a model has a share in."""
    out = apply(variables, images)
    moments = sum(jnp.log(layer.var + 1).mean() + jnp.tanh(layer.mean).mean() for layer in out.moments.values())
    return jnp.tanh(out.logits).mean() + jnp.tanh(out.features).mean() + moments


# Sides, channels and numbers of the outputs: of ConvNet's blocks; of a ResNet's stem and blocks.
BLOCKS = {
    "convnet3": [(8, 4, 1), (4, 4, 1), (2, 4, 1)],
    "resnet18": [(16, 4, 3), (8, 8, 2), (4, 16, 2), (2, 32, 2)],
    "resnet50": [(16, 4, 1), (16, 16, 3), (8, 32, 4), (4, 64, 6), (2, 128, 3)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_rematerialisation_keeps_the_images_and_one_activation_a_block(name):
    # What the backward pass asks for is told before compilation: on CPU the compiler merges the second forward pass
    # with the first, so that the compiled program has no less memory.
    model, batch = nn.get(name, 7, 16, width=4), 5
    variables = random_variables(model, 16)
    images = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)

    def kept(apply):
        keep = lambda x: jax.vjp(lambda x: everything(apply, variables, x), x)[1]
        return sorted(x.shape for x in jax.tree.leaves(jax.eval_shape(keep, images)) if x.shape[:1] == (batch,))

    activations = [shape for shape in kept(nn.remat(model.apply)) if len(shape) == 4]
    blocks = [(batch, side, side, width) for side, width, count in BLOCKS[name] for _ in range(count)]
    # Nothing but a mean or a linear layer follows the last block, and their derivatives ask for no input.
    assert activations == sorted([images.shape, *blocks[:-1]])
    size = lambda shapes: sum(np.prod(shape) for shape in shapes)
    assert size(activations) < 0.5 * size(kept(model.apply))


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient():
    model = nn.get("resnet18", 7, 16, width=4)
    variables = random_variables(model, 16)
    images = jax.random.normal(jax.random.key(1), (5, 16, 16, 3))
    grad = lambda apply: jax.jit(jax.grad(lambda x: everything(apply, variables, x)))
    want, got = (grad(apply)(images) for apply in (model.apply, nn.remat(model.apply)))
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
