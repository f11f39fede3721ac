"""Recovering images: the loss falls, classes never meet, and its terms are pure numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import data, nn
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation, normalise, valid_range
from jaxdd.nn import Moments
from jaxdd.nn.classifier import Output
from jaxdd.stages import encode
from jaxdd.stages.images.recover import fitting
from jaxdd.stages.images.recover import loss as recover
from jaxdd.stages.images.recover.descent import recovery
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings

KEY = jax.random.key(5)
M = 2
SETTINGS = RecoverSettings(steps=100, learning_rate=0.1, min_scale=0.5, flip=False, roll=1 / 7)


def chunk(goal, rows):
    """The goal of some of its classes."""
    moments = jax.tree.map(lambda x: x[rows], goal.moments)
    atoms = jax.tree.map(lambda x: x[rows], goal.atoms)
    return Goal(goal.classes[rows], atoms, goal.means[rows], moments, goal.feature_variance)


@pytest.fixture(scope="module")
def goal(classes):
    """Three classes, of two atoms each: the features of real images, unequally weighted."""
    members = np.stack([np.flatnonzero(classes.encoded.labels == c)[:M] for c in (1, 4, 7)])
    atoms = Measure(jnp.asarray(classes.encoded.features[members]), jnp.tile(jnp.array([0.3, 0.7]), (3, 1)))
    rows = np.array([1, 4, 7])
    moments = jax.tree.map(lambda x: x[rows], classes.encoded.moments)
    means = jnp.asarray(encode.class_means(classes.encoded, classes.groups, rows))
    return Goal(
        jnp.asarray(rows), atoms, means, moments, jnp.float32(encode.feature_variance(classes.encoded.features))
    )


@pytest.fixture(scope="module")
def run(teacher):
    """(settings, goal, start) -> final images, terms of [steps, C]; one solver for equal settings."""
    solvers = {}

    def go(settings, goal, start):
        if settings not in solvers:
            solvers[settings] = recovery(teacher.apply, KEY, teacher.norm, settings)
        solver, values = solvers[settings], []
        state = solver.init(jnp.array(start))
        for _ in range(settings.steps):
            state, now = solver.step(teacher.variables, state, goal)
            values.append(now)
        return np.asarray(state.images), jax.tree.map(lambda *rows: np.concatenate(rows), *values)

    return go


@pytest.fixture(scope="module")
def start(goal):
    return recover.noise(KEY, goal.classes, (M, 8, 8, 1))


@pytest.fixture(scope="module")
def together(run, goal, start):
    return run(SETTINGS, goal, start)


@pytest.mark.slow
def test_the_loss_falls_for_every_class_and_pixels_stay_valid(teacher, goal, start, together):
    images, values = together
    assert images.shape == start.shape and values.feature.shape == (SETTINGS.steps, 3)
    before, after = (
        recover.terms(teacher.apply, teacher.variables, x, goal, SETTINGS) for x in (start, jnp.asarray(images))
    )
    total = recover.total(before, SETTINGS)
    assert total.shape == (3,) and (recover.total(after, SETTINGS) < total).all()
    # The terms are distances; their squares halve.
    for first, last in zip(before[:2], after[:2]):
        assert jnp.square(last).sum() < 0.5 * jnp.square(first).sum()
    assert np.mean(values.feature[-10:]) < np.mean(values.feature[:10])
    low, high = valid_range(teacher.norm)
    assert (images >= low).all() and (images <= high).all()
    assert np.abs(start).max() > high.max() or (np.asarray(start) < low).any()


def test_the_same_seed_gives_the_same_bytes(run, goal, start, together):
    again = run(SETTINGS, goal, start)
    jax.tree.map(np.testing.assert_array_equal, together, again)


@pytest.mark.slow
def test_a_class_does_not_depend_on_its_company(run, goal, start, together):
    # A few steps only: rounding differs between batch sizes, and Adam's early steps magnify it.
    short = replace(SETTINGS, steps=4)
    images, values = run(short, goal, start)
    for c in range(3):
        alone, values_alone = run(short, chunk(goal, jnp.array([c])), start[c : c + 1])
        np.testing.assert_allclose(alone[0], images[c], rtol=1e-3, atol=1e-3)
        for a, b in zip(values_alone, values):
            np.testing.assert_allclose(a[:, 0], b[:, c], rtol=1e-3, atol=1e-4)
    turned, _ = run(short, chunk(goal, jnp.array([2, 0, 1])), start[jnp.array([2, 0, 1])])
    np.testing.assert_allclose(turned, images[[2, 0, 1]], rtol=1e-3, atol=1e-3)


def test_noise_belongs_to_its_class(start):
    np.testing.assert_array_equal(recover.noise(KEY, jnp.array([7, 1]), (M, 8, 8, 1)), start[jnp.array([2, 0])])
    many = recover.noise(KEY, jnp.arange(3), (5, 16, 16, 3))
    assert abs(float(many.mean())) < 0.03 and abs(float(many.std()) - 1) < 0.03


@pytest.mark.slow
def test_a_view_is_one_draw_for_all_images_of_a_class():
    images = jax.random.normal(KEY, (1, 8, 8, 1))
    seen = np.asarray(
        recover.view(jax.random.key(1), jnp.tile(images, (4, 1, 1, 1)), RecoverSettings(min_scale=0.08, roll=1 / 7))
    )
    assert seen.shape == (4, 8, 8, 1)
    np.testing.assert_allclose(seen, np.tile(seen[:1], (4, 1, 1, 1)), atol=1e-6)
    still = RecoverSettings(min_scale=1.0, flip=False, roll=0.0)
    other = recover.view(jax.random.key(2), images, RecoverSettings(min_scale=0.1))
    assert np.abs(recover.view(jax.random.key(2), images, still) - images).mean() < np.abs(other - images).mean()


# The terms, against a model simple enough to write them down


def looks(variables, images):
    """Logits and features are sums of pixels; the one norm sees the image itself."""
    flat = images.reshape(len(images), -1)
    return Output(flat @ variables, flat[:, :3], {"image": nn.image_moments(images)})


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["class", "global"])
@pytest.mark.parametrize("weighted", [True, False])
def test_terms_are_what_the_formula_says(moments, weighted):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, M, 4, 4, 2)).astype(np.float32)
    points, table = rng.normal(size=(2, M, 3)).astype(np.float32), rng.normal(size=(32, 5)).astype(np.float32)
    weights = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    shape = (2, 2) if moments == "class" else (2,)
    real = Moments(rng.normal(size=shape).astype(np.float32), rng.uniform(1, 2, shape).astype(np.float32))
    means = rng.normal(size=(2, 3)).astype(np.float32)
    goal = Goal(jnp.array([3, 0]), Measure(points, weights), means, {"image": real}, jnp.float32(2.5))
    got = recover.terms(looks, table, images, goal, RecoverSettings(moments=moments, weighted_moments=weighted))

    wide = images.astype(np.float64)
    flat = wide.reshape(2, M, 32)
    square = ((flat[..., :3] - points) ** 2).sum(-1).mean(1)
    np.testing.assert_allclose(got.feature, np.sqrt(square / 2.5), rtol=1e-5)
    logits = flat @ table
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(got.cross_entropy, [-log_p[0, :, 3].mean(), -log_p[1, :, 0].mean()], rtol=1e-5)
    w = weights if weighted else np.ones((2, M))
    centres = (w[..., None] * flat[..., :3]).sum(1) / w.sum(1, keepdims=True)
    np.testing.assert_allclose(got.mean, np.linalg.norm(centres - means, axis=1) / np.sqrt(2.5), rtol=1e-5)
    for c in range(2):
        rows = slice(c, c + 1) if moments == "class" else slice(None)
        p = (w[rows] / w[rows].sum())[..., None, None, None] / 16
        mean = (p * wide[rows]).sum((0, 1, 2, 3))
        var = (p * (wide[rows] - mean) ** 2).sum((0, 1, 2, 3))
        theirs = Moments(*(x[c] if moments == "class" else x for x in real))
        norm = np.linalg.norm
        want = norm(mean - theirs.mean) / norm(np.sqrt(theirs.var)) + norm(var - theirs.var) / norm(theirs.var)
        np.testing.assert_allclose(got.moment[c], want, rtol=1e-4)


@pytest.mark.slow
def test_a_goal_already_met_has_loss_and_gradient_zero():
    images = jax.random.normal(KEY, (2, M, 4, 4, 2))
    out = looks(jnp.zeros((32, 5)), images.reshape(2 * M, 4, 4, 2))
    points = out.features.reshape(2, M, 3)
    weights = jnp.full((2, M), 1 / M)
    layers = {k: nn.pool(Moments(*(x.reshape(2, M, -1) for x in layer)), weights) for k, layer in out.moments.items()}
    # No image has the mean features, all together do.
    goal = Goal(jnp.arange(2), Measure(points, weights), points.mean(1), layers, jnp.float32(1))
    settings = RecoverSettings(mean_weight=1.0)

    def loss(x):
        return recover.total(recover.terms(looks, jnp.zeros((32, 5)), x, goal, settings), settings).sum()

    value, grad = jax.value_and_grad(loss)(images)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)
    # And a constant channel, whose real variance is zero, leaves it finite.
    flat = goal._replace(moments={"image": Moments(jnp.zeros((2, 2)), jnp.zeros((2, 2)))})
    values = recover.terms(looks, jnp.zeros((32, 5)), jnp.zeros_like(images), flat, settings)
    assert all(np.isfinite(x).all() for x in values)


@pytest.mark.slow
def test_the_gradient_of_the_mean_term_is_one_direction_for_all_images_of_a_class():
    """With c the weighted mean of f and u = (c - E f) / ||c - E f||, the gradient by f_j is w_j u / sqrt(V)."""
    rng = np.random.default_rng(1)
    images, means = rng.normal(size=(2, M, 4, 4, 2)), rng.normal(size=(2, 3))
    weights = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    real = Moments(jnp.zeros((2, 2)), jnp.ones((2, 2)))
    goal = Goal(jnp.arange(2), Measure(jnp.zeros((2, M, 3)), weights), means, {"image": real}, jnp.float32(2.5))
    settings = RecoverSettings(feature_weight=0.0, moment_weight=0.0, mean_weight=3.0)
    table = jnp.zeros((32, 5))
    loss = lambda x: recover.total(recover.terms(looks, table, x, goal, settings), settings).sum()
    result = np.asarray(jax.grad(loss)(jnp.asarray(images, jnp.float32))).reshape(2, M, 32)
    apart = (weights[..., None] * images.reshape(2, M, 32)[..., :3]).sum(1) - means
    unit = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    np.testing.assert_allclose(result[..., :3], 3 * weights[..., None] * unit[:, None] / np.sqrt(2.5), rtol=1e-4)
    np.testing.assert_array_equal(result[..., 3:], 0)


def test_means_are_those_of_each_class(classes):
    features, labels = classes.encoded.features, classes.encoded.labels
    result = encode.class_means(classes.encoded, classes.groups, np.array([7, 2]))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [features[labels == c].mean(0) for c in (7, 2)], rtol=1e-4)


def test_a_term_of_weight_zero_is_left_out():
    lost = jnp.full(2, jnp.nan)
    for k, name in enumerate(["feature_weight", "moment_weight", "cross_entropy_weight", "mean_weight"]):
        settings = RecoverSettings(**{"feature_weight": 0.0, "moment_weight": 0.0, name: 2.0})
        values = recover.Terms(*(jnp.ones(2) if i == k else lost for i in range(4)))
        np.testing.assert_array_equal(recover.total(values, settings), 2)


@pytest.mark.slow
def test_global_moments_bind_the_classes_of_a_chunk(run, goal, start, classes):
    settings = replace(SETTINGS, moments="global", weighted_moments=False, feature_weight=0.0, cross_entropy_weight=1.0)
    images, values = run(settings, goal._replace(moments=encode.global_moments(classes.encoded)), start)
    np.testing.assert_array_equal(values.moment, np.tile(values.moment[:, :1], (1, 3)))
    for term in (values.moment, values.cross_entropy):
        assert term[-10:].mean() < 0.8 * term[:10].mean()
    assert np.isfinite(images).all()


def test_the_estimate_of_memory_grows_with_the_image_and_holds_the_activations(teacher):
    small, large = (
        fitting.bytes_per_image(model.apply, jax.eval_shape(lambda k: model.init(k, shape), KEY), shape)  # noqa: B023
        for model, shape in (
            (nn.get("resnet18", 10, 32, width=8), (32, 32, 3)),
            (nn.get("resnet18", 10, 64, width=8), (64, 64, 3)),
        )
    )
    assert 3.5 * small < large < 4.5 * small
    # One convolution of the first group makes 32 x 32 x 8 floats; there are five of that size.
    assert small > 5 * 32 * 32 * 8 * 4


# One coefficient for all architectures


def settled(model, images):
    """The jitted model and random variables whose running statistics are the moments each norm sees."""
    shapes = jax.eval_shape(lambda key: model.init(key, images.shape[1:]), KEY)
    rng = np.random.default_rng(0)

    def draw(path, x):
        if "'kernel'" in str(path[-1]):
            return rng.normal(scale=np.sqrt(2 / np.prod(x.shape[:-1])), size=x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    apply, variables = jax.jit(model.apply), jax.tree.map_with_path(draw, shapes)
    layers = apply(variables, images).moments
    # Each pass settles at least one more layer; what lies before it is settled already.
    for _ in layers:
        for name, layer in apply(variables, images).moments.items():
            place = variables["batch_stats"]
            for part in (*name.split("/"), "bn"):
                place = place[part]
            place["mean"], place["var"] = nn.pool(layer, jnp.ones(len(images)))
    return apply, variables


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet3", "resnet18", "resnet50"])
def test_feature_and_moment_terms_are_of_one_size_in_every_architecture(name):
    source = data.load("digits", image_size=32, channels=3)
    norm = Normalisation(*data.statistics(source))
    rows = np.concatenate([np.flatnonzero(source.labels["train"] == c)[:20] for c in (0, 1)])
    images, labels = normalise(norm, source.read("train", rows)), jnp.asarray(source.labels["train"][rows])
    apply, variables = settled(nn.get(name, 10, 32, width=8), images)

    state = encode.init(apply, variables, source.image_shape, 2)
    state, features = encode.step(apply, variables, state, images, labels, jnp.ones(len(rows)))
    variance = jnp.float32(encode.feature_variance(np.asarray(features)))
    features = np.asarray(features).reshape(2, 20, -1)
    atoms = features.mean(1, keepdims=True)
    nearest = np.square(features - atoms).sum(-1).argmin(1)
    # Twenty copies of an image are as good as one, and the shape is the one that is compiled already.
    uniform = Measure(jnp.tile(atoms, (1, 20, 1)), jnp.full((2, 20), 1 / 20))
    goal = Goal(jnp.arange(2), uniform, atoms[:, 0], state.moments, variance)
    medoid = jnp.repeat(images.reshape(2, 20, 32, 32, 3)[jnp.arange(2), nearest][:, None], 20, 1)

    def sizes(start):
        """Both terms, over eight random views of both classes."""
        settings, total = RecoverSettings(min_scale=0.5), np.zeros(2)
        for views in jax.random.split(KEY, (8, 2)):
            seen = jnp.stack([recover.view(key, x, settings) for key, x in zip(views, start)])
            values = recover.terms(apply, variables, seen, goal, settings)
            total += [values.feature.mean() / 8, values.moment.mean() / 8]
        return total

    for start in (medoid, recover.noise(KEY, goal.classes, (20, 32, 32, 3))):
        feature, moment = sizes(start)
        assert 0.1 < moment / feature < 10
