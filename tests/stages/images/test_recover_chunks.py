"""Recovery of all classes: launches, schedules, memory; with a model small enough to compile in no time."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd import nn
from jaxdd.ground import memory, parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation, valid_range
from jaxdd.nn.classifier import Output
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover import chunks, descent, fitting, slices
from jaxdd.stages.images.recover import loss as recover
from jaxdd.stages.images.recover.chunks import Pictures, Task
from jaxdd.stages.images.recover.descent import recovery
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings

KEY, NORM, M, COUNT = jax.random.key(3), Normalisation(np.float32([0.5]), np.float32([0.25])), 2, 3
SHAPE = (8, 8, 1)
LOCAL = parallel.mesh(jax.local_devices()[:1])
SHORT = RecoverSettings(steps=6, learning_rate=0.05, flip=False)
VARIABLES = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def apply(variables, images):
    """Features of means over rows and columns, so that any size of image will do."""
    pooled = jnp.concatenate([images.mean((1, 2)), jnp.square(images).mean((1, 2))], -1)
    features = pooled @ variables
    return Output(features, features, {"image": nn.image_moments(images)})


def goal(count=COUNT):
    rng = np.random.default_rng(1)
    atoms = Measure(rng.normal(size=(count, M, 3)).astype(np.float32), np.full((count, M), 1 / M, np.float32))
    moments = {"image": nn.Moments(np.zeros((count, 1), np.float32), np.ones((count, 1), np.float32))}
    means = rng.normal(size=(count, 3)).astype(np.float32)
    return Goal(np.arange(count, dtype=np.int32), atoms, means, moments, np.float32(1))


def start(rows):
    return np.asarray(recover.noise(KEY, jnp.arange(COUNT), (M, 8, 8, 1)))[rows]


def run(settings, apply=apply, memory_bytes=2**30):
    """Images and terms of all classes in their order."""
    teacher, placement = Teacher(apply, VARIABLES, NORM), Placement(LOCAL, memory_bytes)
    parts = list(chunks.run(KEY, teacher, settings, goal(), start, SHAPE, placement))
    order = np.argsort(np.concatenate([part.places for part in parts]))
    return np.concatenate([part.images for part in parts])[order], [part.terms for part in parts]


@pytest.mark.slow
def test_steps_of_one_launch_are_those_of_many():
    solver = recovery(apply, KEY, NORM, SHORT)
    one, curve = solver.init(jnp.asarray(start(np.arange(COUNT)))), []
    for _ in range(4):
        one, values = solver.step(VARIABLES, one, goal())
        curve.append(values)
    many, values = solver.step(VARIABLES, solver.init(jnp.asarray(start(np.arange(COUNT)))), goal(), count=4)
    assert values.feature.shape == (4, COUNT)
    np.testing.assert_allclose(values.feature, np.concatenate([x.feature for x in curve]), rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), many, one)


@pytest.mark.parametrize(("most", "coarse"), [(1, 0.0), (4, 0.0), (4, 0.5), (20, 1.0)])
def test_launches_take_all_steps_the_coarse_ones_first(most, coarse):
    launches = fitting.launches_of(replace(SHORT, steps=10, coarse=coarse), most)
    assert sum(count for count, _ in launches) == 10 and max(count for count, _ in launches) <= most
    assert sum(count for count, small in launches if small) == round(10 * coarse)
    assert [small for _, small in launches] == sorted((small for _, small in launches), reverse=True)


@pytest.mark.slow
def test_many_steps_a_launch_give_the_images_of_single_ones(monkeypatch):
    images, _ = run(SHORT)
    monkeypatch.setattr(fitting, "plan", lambda *arguments: (4, 2))
    fused, terms = run(SHORT)
    np.testing.assert_allclose(fused, images, atol=1e-5)
    assert [part.feature.shape for part in terms] == [(6, 2), (6, 1)]


@pytest.mark.slow
def test_a_coarse_step_sees_averages_of_two_by_two_pixels():
    still = replace(SHORT, min_scale=1.0)
    images = jnp.asarray(start(np.arange(1)))[0]
    seen = recover.view(KEY, images, still, coarse=True)
    np.testing.assert_allclose(seen, np.asarray(images).reshape(M, 4, 2, 4, 2, 1).mean((2, 4)), rtol=1e-6)
    images, terms = run(replace(still, coarse=0.5))
    assert images.shape == (COUNT, M, 8, 8, 1) and terms[0].feature.shape[0] == 6
    # A step of Adam on averages moves the four pixels of a square alike.
    first, _ = run(replace(still, steps=1, coarse=1.0))
    low, high = valid_range(NORM)
    begun = start(np.arange(COUNT))
    inside = (np.abs(begun) < high - 0.1).reshape(COUNT, M, 4, 2, 4, 2, 1).all((3, 5))
    moved = (first - begun).reshape(COUNT, M, 4, 2, 4, 2, 1)
    spread = np.ptp(moved, axis=(3, 5))[inside]
    assert inside.any() and spread.max() < 1e-4 and np.abs(moved).max() > 0.01


def test_a_model_of_one_size_is_refused_coarse_steps():
    def rigid(variables, images):
        return Output(images.reshape(-1, 64) @ jnp.ones((64, 3)), images.reshape(-1, 64)[:, :3], {})

    assert "takes no images of 4 pixels" in message(lambda: run(replace(SHORT, coarse=0.5), rigid))
    assert "takes no images of 6 pixels" in message(lambda: run(replace(SHORT, sides=(1.0, 0.75)), rigid))


@pytest.mark.slow
def test_on_a_plateau_each_class_stops_when_its_own_loss_stands_still():
    settings = RecoverSettings(steps=2000, schedule="plateau", anneal=20, learning_rate=0.05, flip=False, min_scale=1.0)
    solver = recovery(apply, KEY, NORM, settings)

    def descend(classes):
        part = fitting.rows_of(goal(), np.array(classes), settings)
        state = solver.init(jnp.asarray(start(np.array(classes))))
        for _ in range(30):
            state, _ = solver.step(VARIABLES, state, part, count=20)
        return state

    together, alone = descend([0, 1, 2]), descend([1])
    assert int(alone.pace.turned[0]) == int(together.pace.turned[1])
    assert (np.asarray(together.pace.turned) >= 60).all() and (np.asarray(together.pace.turned) < 580).all()
    np.testing.assert_allclose(alone.images[0], together.images[1], atol=1e-3)
    # The rate is zero from then on.
    before, turned = np.array(together.images), np.array(together.pace.turned)
    after, _ = solver.step(VARIABLES, together, goal(), count=20)
    np.testing.assert_array_equal(np.asarray(after.images), before)

    _, terms = run(settings)
    steps = terms[0].feature.shape[0]
    assert max(turned) + 20 <= steps < 600
    first, last = (terms[0].feature[i] + terms[0].moment[i] for i in (0, -1))
    assert (last < first).all()


@pytest.mark.slow
def test_a_plateau_that_never_comes_ends_with_the_steps():
    settings = RecoverSettings(steps=50, schedule="plateau", anneal=20)
    pace = descent.Pace(jnp.ones(1), jnp.ones(1), jnp.full(1, 30, jnp.int32))
    rates = [float(descent._rate(pace, jnp.int32(step), settings)[0]) for step in range(51)]
    assert rates[0] == rates[30] == pytest.approx(0.1) and rates[50] == pytest.approx(0, abs=1e-9)
    assert (np.diff(rates[30:]) < 0).all()
    _, terms = run(settings)
    assert terms[0].feature.shape[0] == 50


def test_a_class_that_only_fills_a_place_changes_no_other_and_weighs_nothing():
    kinds = [replace(SHORT, weighted_moments=weighted) for weighted in (True, False)]
    terms = jax.jit(lambda images, goal: [recover.terms(apply, VARIABLES, images, goal, kind) for kind in kinds])
    filled = fitting.rows_of(goal(), np.array([2, 0, -1]), SHORT)
    for whole, values in zip(terms(start(np.arange(COUNT)), goal()), terms(start(np.array([2, 0, 0])), filled)):
        for ours, theirs in zip(values, whole):
            np.testing.assert_allclose(ours[:2], theirs[np.array([2, 0])], rtol=1e-5)
        assert values.moment[2] == values.mean[2] == 0


@pytest.mark.slow
def test_memory_decides_how_many_classes_go_together(monkeypatch):
    monkeypatch.setattr(parallel, "is_cpu", lambda local: False)
    whole, terms = run(SHORT)
    assert [part.feature.shape for part in terms] == [(6, 3)]
    solver = recovery(apply, KEY, NORM, SHORT, 1, LOCAL)
    state_at, goal_at = fitting.shardings(solver, SHORT, LOCAL)
    state = jax.device_put(solver.init(jnp.asarray(start(np.arange(2)))), state_at)
    part = jax.device_put(fitting.rows_of(goal(), np.arange(2), SHORT), goal_at)
    two = memory.compiled_bytes(
        solver.program(jnp.asarray(VARIABLES), state, part, count=6, coarse=False).lower().compile()
    )
    pieces, terms = run(SHORT, memory_bytes=two)
    assert [part.feature.shape for part in terms] == [(6, 2), (6, 1)]
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    # Coarse steps take less, but are followed by whole ones.
    _, terms = run(replace(SHORT, coarse=0.5), memory_bytes=two)
    assert [part.feature.shape for part in terms] == [(6, 2), (6, 1)]
    text = message(lambda: run(SHORT, memory_bytes=1000))
    assert "1 classes of 2 images [8, 8, 1]" in text and "a device may take 0" in text


@pytest.mark.slow
def test_blocks_are_computed_twice_where_memory_is_short_or_always(monkeypatch):
    made = []

    def counted(function):
        made.append(function)
        return jax.checkpoint(function)

    monkeypatch.setattr(fitting, "remat", counted)
    plain, _ = run(replace(SHORT, remat="never"))
    assert not made
    twice, _ = run(replace(SHORT, remat="always"))
    assert made
    np.testing.assert_allclose(twice, plain, atol=1e-5)


def test_pixels_moments_and_losses_are_float32_under_bfloat16():
    model = nn.get("convnet3", 3, 8, width=4, dtype="bfloat16")
    variables = jax.eval_shape(lambda key: model.init(key, (8, 8, 1)), KEY)
    solver = recovery(model.apply, KEY, NORM, SHORT)
    state = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((COUNT, M, 8, 8, 1), jnp.float32))
    out = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    real = {name: nn.Moments(*(jnp.zeros((COUNT, x.shape[-1])) for x in layer)) for name, layer in out.moments.items()}
    atoms = Measure(jnp.zeros((COUNT, M, 4)), jnp.ones((COUNT, M)))
    wanted = goal()._replace(atoms=atoms, means=jnp.zeros((COUNT, 4)), moments=real)
    lowered = solver.program(variables, state, wanted).lower()
    kinds = {str(x.dtype) for x in jax.tree.leaves(lowered.out_info)}
    assert kinds == {"float32", "int32"}
    assert "bf16" in lowered.as_text()


def test_the_budget_of_an_accelerator_is_what_is_free():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 200}

    assert memory.budget([Device(), Device()], 7) == 720
    assert memory.budget([jax.local_devices()[0]] * 2, 64) == 32


@pytest.mark.parametrize(
    ("count", "m", "expected"),
    # Ten classes of 50: five times ten of each, never fifty of two. A hundred classes one by one, a thousand in tens.
    [(10, 1, (10, 1)), (10, 10, (10, 10)), (10, 50, (10, 10)), (3, 32, (3, 32)), (3, 34, (3, 17)), (10, 13, (10, 1)),
     (100, 10, (100, 1)), (1000, 50, (100, 1)), (201, 2, (67, 1))],
)  # fmt: skip
def test_global_moments_are_over_about_a_hundred_images_of_many_classes(count, m, expected):
    assert recover.group_size(replace(SHORT, moments="global"), count, m) == expected
    assert recover.group_size(SHORT, count, m) == (1, m)


@pytest.mark.slow
@pytest.mark.parametrize("group", [COUNT, 2])  # the second group of two is not full
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_slices_are_what_each_would_be_alone(schedule, group):
    settings = replace(SHORT, moments="global", weighted_moments=False, schedule=schedule, anneal=2)
    whole = goal()._replace(moments={"image": nn.Moments(np.zeros(1, np.float32), np.ones(1, np.float32))})
    # A group at a time, as other numbers of them round otherwise.
    teacher, placement = Teacher(apply, VARIABLES, NORM), Placement(LOCAL, 2**30, group, total=group)
    alone = lambda key, *part: chunks.run(key, teacher, settings, *part, SHAPE, placement)
    together = lambda tasks, pictures: chunks.in_turn(KEY, tasks, settings, pictures, SHAPE, placement)
    result = list(slices.in_slices(together, settings, [Task(teacher, whole)], Pictures(start), group, 1))
    assert [done.places.tolist() for done in result] == ([[0, 1, 2]] if group == COUNT else [[0, 1], [2]])
    images = np.concatenate([done.images for done in result])
    moment = np.concatenate([done.terms.moment for done in result], 1)
    assert images.shape == (COUNT, M, 8, 8, 1)
    terms = []
    for k in range(M):
        part = whole._replace(atoms=jax.tree.map(lambda x, k=k: x[:, [k]], whole.atoms))
        singles = list(alone(jax.random.fold_in(KEY, k), part, lambda rows, k=k: start(rows)[:, [k]]))
        np.testing.assert_array_equal(images[:, [k]], np.concatenate([single.images for single in singles]))
        terms.append(np.concatenate([single.terms.moment for single in singles], 1))
    np.testing.assert_allclose(moment, (terms[0] + terms[1]) / 2, rtol=1e-6)
