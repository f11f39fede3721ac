"""Moments of BatchNorm layers of a user's own Linen and NNX models, against NumPy's in float64."""

from concurrent.futures import ThreadPoolExecutor

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import message

from jaxdd import nn
from jaxdd.data.augment import Augment
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.stages.images.recover import Goal, RecoverSettings
from jaxdd.stages.images.recover import loss as recover
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import train

N, SHAPE = 3, (4, 5, 2)
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (N, *SHAPE))
RUNNING = {"use_running_average": True}


class Block(linen.Module):
    """Two layers whose names do not sort in the order of execution."""

    @linen.compact
    def __call__(self, x):
        self.sow("inputs", "post_in", x)
        x = linen.BatchNorm(**RUNNING, name="post")(x)
        x = linen.relu(linen.Conv(x.shape[-1], (1, 1))(x))
        self.sow("inputs", "after_in", x)
        return linen.BatchNorm(**RUNNING, name="after")(x)


class Plain(linen.Module):
    """All that a user may do to a BatchNorm layer; the inputs are sown as well."""

    @linen.compact
    def __call__(self, x, train):
        norm = linen.BatchNorm(use_running_average=not train, name="shared")
        for _ in range(2):
            self.sow("inputs", "shared_in", x)
            x = linen.relu(norm(x))
        x = linen.remat(Block)(name="saved")(x)
        step = lambda block, x, _: (block(x), None)
        axes = {"params": 0, "batch_stats": 0, "moments": 0, "inputs": 0}
        x, _ = linen.scan(step, axes, split_rngs={"params": True}, length=2)(Block(name="repeated"), x, None)
        turned = x.transpose(0, 3, 1, 2)
        self.sow("inputs", "first_in", turned)
        x = linen.BatchNorm(**RUNNING, axis=1, name="first")(turned)
        self.sow("inputs", "both_in", x)
        x = linen.BatchNorm(**RUNNING, axis=(1, -1), name="both")(x)
        features = linen.Dense(4)(x.mean((2, 3)))
        self.sow("inputs", "flat_in", features)
        features = linen.BatchNorm(**RUNNING, name="flat")(features)
        return linen.Dense(3)(features), features


def drawn(tree, seed=0):
    """Leaves of the same shapes, none of them trivial."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), tree)


def moments(x, axis=(-1,)):
    """Mean and variance of each image over all axes but those of features, float64 [N, ch]."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, range(-len(axis), 0))
    x = x.reshape(len(x), -1, int(np.prod(x.shape[x.ndim - len(axis) :])))
    return x.mean(1), x.var(1)


def close(layer, want):
    for ours, theirs in zip(layer, want):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def plain():
    model = nn.from_linen(Plain())
    shapes = jax.eval_shape(lambda key: model.init(key, SHAPE), KEY)
    return model, drawn({name: shapes[name] for name in ("params", "batch_stats")})


@pytest.mark.slow
def test_plain_linen_layers_give_the_moments_of_their_inputs(plain):
    model, variables = plain
    out = model.apply(variables, X)
    (logits, features), seen = Plain().apply(variables, X, train=False, mutable=["inputs"])
    np.testing.assert_array_equal(out.logits, logits)
    np.testing.assert_array_equal(out.features, features)
    seen = seen["inputs"]
    first, second = seen["shared_in"]
    wants = {"shared": moments(first), "shared#2": moments(second)}
    for name in ("post", "after"):
        wants[f"saved/{name}"] = moments(seen["saved"][f"{name}_in"][0])
        for i in range(2):
            wants[f"repeated/{name}[{i}]"] = moments(seen["repeated"][f"{name}_in"][0][i])
    wants |= {"first": moments(seen["first_in"][0], (1,)), "both": moments(seen["both_in"][0], (1, 3))}
    wants["flat"] = moments(seen["flat_in"][0])
    assert set(out.moments) == set(wants)
    for name, want in wants.items():
        close(out.moments[name], want)
    order = nn.moment_layers(model.apply, variables, SHAPE, complete=True)
    assert order[:4] == ["shared", "shared#2", "saved/post", "saved/after"] and order[-3:] == ["first", "both", "flat"]


@pytest.mark.slow
def test_moments_that_nobody_asks_for_cost_nothing(plain):
    model, variables = plain
    flops = lambda f: jax.jit(f).lower(variables, X).compile().cost_analysis()["flops"]
    without = flops(lambda v, x: Plain().apply(v, x, train=False)[0])
    assert flops(lambda v, x: model.apply(v, x).logits) == without
    assert flops(lambda v, x: model.apply(v, x).moments["flat"].var) < flops(model.apply)


class Odd(linen.Module):
    """A layer whose moments cannot be taken, after one whose can."""

    kind: str

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(**RUNNING, name="fine")(x)
        norm = lambda **options: linen.BatchNorm(**RUNNING, **options, name="odd")
        if self.kind == "rows":
            x = norm()(x.reshape(-1, 2)).reshape(x.shape)
        elif self.kind == "axis":
            x = norm(axis=(0, -1))(x)
        elif self.kind == "mask":
            x = norm()(x, mask=x > 0)
        else:
            step = lambda block, x, _: (block(x), None)
            x, _ = linen.scan(step, {"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2)(
                norm(), x, None
            )
        features = x.mean((1, 2))
        return features, features


@pytest.mark.parametrize(
    ("kind", "reason"), [("rows", "20 rows for 1 image"), ("axis", "axis"), ("mask", "mask"), ("scan", "moments': 0")]
)
def test_moments_that_cannot_be_taken_are_an_error_where_all_are_needed(kind, reason):
    model = nn.from_linen(Odd(kind))
    variables = jax.eval_shape(lambda key: Odd(kind).init(key, X[:1], train=False), KEY)
    text = message(lambda: nn.moment_layers(model.apply, variables, SHAPE, complete=True))
    assert "'odd'" in text and reason in text and "`imager.moment_weight` 0" in text
    # Without moments the model is as good as any other.
    assert nn.moment_layers(model.apply, variables, SHAPE) == ["fine"]


def test_a_model_that_returns_no_pair_is_refused():
    class Logits(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return x.mean((1, 2))

    text = message(lambda: nn.from_linen(Logits()).apply({"params": {}}, X))
    assert "(3, 2)" in text and "features [N, d]" in text
    model = nn.from_nnx(lambda rngs: nnx.Linear(2, 2, rngs=rngs))
    assert "(3, 4, 5, 2)" in message(lambda: model.apply(model.init(KEY, SHAPE), X))


# NNX


class Mine(nnx.BatchNorm):
    def __call__(self, x, **options):
        return super().__call__(x, **options)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Conv(2, 2, (1, 1), rngs=rngs), Mine(2, momentum=0.9, rngs=rngs)])
        self.norm = nnx.BatchNorm(2, momentum=0.8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        conv, mine = self.layers
        x = nnx.remat(lambda norm, x: nnx.relu(norm(x)))(self.norm, x)
        features = nnx.relu(mine(conv(x))).mean((1, 2))
        return self.head(self.drop(features)), features


NET = nn.from_nnx(Net)


@pytest.fixture(scope="module")
def variables():
    model = Net(nnx.Rngs(0))
    made = nn.nnx_variables(model)
    arrays = {name: drawn(made[name]) for name in ("params", "statistics")}
    # Keys of random numbers stay as they are.
    arrays["statistics"] |= {name: np.asarray(x) for name, x in made["statistics"].items() if "rngs" in name}
    return arrays


def inputs(variables, x, batch=False):
    """The inputs of both layers by NumPy, in float64, normalised by running or by batch statistics."""
    params = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}

    def norm(name, x):
        mean, var = (np.asarray(variables["statistics"][f"{name}/{part}"], np.float64) for part in ("mean", "var"))
        if batch:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-5) * params[f"{name}/scale"] + params[f"{name}/bias"]

    first = np.asarray(x, np.float64)
    second = np.maximum(norm("norm", first), 0) @ params["layers/0/kernel"][0, 0] + params["layers/0/bias"]
    features = np.maximum(norm("layers/1", second), 0).mean((1, 2))
    return first, second, features, features @ params["head/kernel"] + params["head/bias"]


def test_an_nnx_model_gives_logits_features_and_moments(variables):
    with jax.checking_leaks():
        out = NET.apply(variables, X)
    first, second, features, logits = inputs(variables, X)
    np.testing.assert_allclose(out.features, features, rtol=1e-4)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4)
    assert list(out.moments) == ["norm", "layers/1"]
    close(out.moments["norm"], moments(first))
    close(out.moments["layers/1"], moments(second))
    # The same from several threads at once, and from a finished module, which stays as it is.
    model = Net(nnx.Rngs(0))
    model.train()
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: nn.from_nnx(model).apply(variables, X), range(8)):
            jax.tree.map(np.testing.assert_array_equal, again, out)
    assert type(model.norm) is nnx.BatchNorm and not model.drop.deterministic and not hasattr(model.norm, "taken")
    assert "function of nnx.Rngs" in message(lambda: nn.from_nnx(model).init(KEY, SHAPE))


@pytest.mark.slow
def test_an_nnx_model_is_trained_by_the_statistics_of_the_batch(variables):
    settings = train.TrainSettings(optimizer="sgd", learning_rate=0.1, augment=Augment(crop="none", flip=False))
    trainer = train.trainer(NET, settings, 4, HardLabels().criterion(), Normalisation(np.zeros(2), np.ones(2)))
    start = trainer.init(KEY, SHAPE)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(start.variables) == shapes(jax.tree.map(jnp.array, variables))
    state = start._replace(variables=jax.tree.map(jnp.array, variables))
    state, value = trainer.step(state, KEY, X, np.eye(3, dtype=np.float32), np.ones(3, np.float32), None)
    after = state.variables["statistics"]
    first, second, *_ = inputs(variables, X, batch=True)
    for name, x, momentum in (("norm", first, 0.8), ("layers/1", second, 0.9)):
        for part, now in (("mean", x.mean((0, 1, 2))), ("var", x.var((0, 1, 2)))):
            want = momentum * variables["statistics"][f"{name}/{part}"] + (1 - momentum) * now
            np.testing.assert_allclose(after[f"{name}/{part}"], want, rtol=1e-4)
    assert after["drop/rngs/count"] == 1 + variables["statistics"]["drop/rngs/count"] and np.isfinite(value)
    assert not np.array_equal(state.variables["params"]["head/kernel"], variables["params"]["head/kernel"])


class Small(linen.Module):
    """A layer of pixels and one of features."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(**RUNNING, name="pixels")(x)
        features = linen.Dense(4, name="dense")(nn.convnet.average_pool_2x2(x).reshape(len(x), -1))
        self.sow("inputs", "features_in", features)
        features = linen.BatchNorm(**RUNNING, name="features")(features)
        return features, features


@pytest.mark.slow
def test_the_moment_term_of_wmdd_is_that_of_numpy_for_both_kinds_of_model(variables):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, N, *SHAPE)).astype(np.float32)
    weights = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]], np.float32)
    model = nn.from_linen(Small())
    of_small = drawn(jax.eval_shape(lambda: Small().init(KEY, X, train=False)))
    of_small = {name: of_small[name] for name in ("params", "batch_stats")}
    seen = [Small().apply(of_small, x, train=False, mutable=["inputs"])[1]["inputs"]["features_in"][0] for x in images]
    linen_layers = {"pixels": images, "features": seen}
    pairs = [inputs(variables, x)[:2] for x in images]
    nnx_layers = {"norm": [p[0] for p in pairs], "layers/1": [p[1] for p in pairs]}
    for apply, values, layers in ((model.apply, of_small, linen_layers), (NET.apply, variables, nnx_layers)):
        real = {name: (rng.normal(size=(2, np.shape(x)[-1])), rng.uniform(1, 2, (2, np.shape(x)[-1])))
                for name, x in layers.items()}  # fmt: skip
        features = jax.eval_shape(apply, values, X).features.shape[1]
        points = jnp.zeros((2, N, features))
        targets = {name: nn.Moments(*map(jnp.float32, pair)) for name, pair in real.items()}
        goal = Goal(jnp.arange(2), Measure(points, weights), points[:, 0], targets, jnp.float32(1))
        got = recover.terms(apply, values, jnp.asarray(images), goal, RecoverSettings())
        for c in range(2):
            want = []
            for name, x in layers.items():
                pixels = np.asarray(x[c], np.float64).reshape(N, -1, np.shape(x)[-1])
                w = (weights[c].astype(np.float64) / weights[c].sum() / pixels.shape[1])[:, None, None]
                mean = (w * pixels).sum((0, 1))
                var = (w * (pixels - mean) ** 2).sum((0, 1))
                theirs, norm = [part[c] for part in real[name]], np.linalg.norm
                want.append(norm(mean - theirs[0]) / norm(np.sqrt(theirs[1])) + norm(var - theirs[1]) / norm(theirs[1]))
            assert want[0] > 0.1
            np.testing.assert_allclose(got.moment[c], np.mean(want), rtol=1e-4)
