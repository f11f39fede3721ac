"""Stretches of the optimisation, real images mixed in between, teachers in turn, and where the pixels start."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from jaxdd import nn
from jaxdd.ground import parallel
from jaxdd.ground.measure import Groups, Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.stages.context import Classes, Context, Teacher
from jaxdd.stages.encode import Encoded
from jaxdd.stages.images import Crops, crops
from jaxdd.stages.images.recover import Goal, RecoverSettings, chunks, imager, starts
from jaxdd.stages.images.recover.chunks import Pictures, Task
from jaxdd.stages.images.recover.descent import recovery
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import noise
from jaxdd.stages.summarize.base import Summary

KEY, SHAPE, M = jax.random.key(4), (8, 8, 1), 2
NORM = Normalisation(np.float32([0.5]), np.float32([0.25]))
PLACEMENT = Placement(parallel.mesh(jax.local_devices()[:1]), 2**30)
SHORT = RecoverSettings(steps=6, moment_weight=0.0, min_scale=1.0, flip=False)
RNG = np.random.default_rng(0)


def apply(variables, images):
    """Features of images of any size: means of a few nonlinear functions of the pixels."""
    x = images[..., 0]
    features = jnp.stack([x.mean((1, 2)), jnp.square(x).mean((1, 2)), (x * jnp.roll(x, 1, 2)).mean((1, 2))], -1)
    return nn.Output(features @ variables["w"], features @ variables["w"], {})


TEACHERS = [Teacher(apply, {"w": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)}, NORM) for _ in range(2)]


def goal(seed=0, count=3):
    atoms = Measure(np.random.default_rng(seed).normal(size=(count, M, 3)).astype(np.float32),
                    np.full((count, M), 1 / M, np.float32))  # fmt: skip
    means = np.zeros((count, 3), np.float32)
    return Goal(np.arange(count, dtype=np.int32), atoms, means, {}, np.float32(1))


def begin(rows):
    return np.asarray(noise(KEY, jnp.arange(3), (M, *SHAPE)))[rows]


def images_of(settings, pictures=None, key=KEY, tasks=None):
    tasks = tasks or [Task(TEACHERS[0], goal())]
    parts = list(chunks.in_turn(key, tasks, settings, pictures or Pictures(begin), SHAPE, PLACEMENT))
    order = np.argsort(np.concatenate([part.places for part in parts]))
    assert all(len(part.terms.feature) == settings.steps for part in parts)
    return np.concatenate([part.images for part in parts])[order]


def test_stretches_follow_each_other_with_real_images_mixed_in_between():
    patch = lambda rows, images: begin(rows) + 1
    settings = replace(SHORT, sides=(1.0, 1.0), mixing=0.25)
    got = images_of(settings, Pictures(begin, patch))
    first = images_of(replace(SHORT, steps=3))
    between = np.float32(0.75) * first + np.float32(0.25) * (begin(np.arange(3)) + 1)
    want = images_of(replace(SHORT, steps=3), Pictures(lambda rows: between[rows]), jax.random.fold_in(KEY, 1))
    np.testing.assert_array_equal(got, want)
    assert np.abs(got - images_of(replace(settings, mixing=0.0))).max() > 0.1


def test_a_stretch_may_be_of_smaller_images():
    got = images_of(replace(SHORT, sides=(0.5, 1.0)))
    small = chunks.resized(begin(np.arange(3)), (4, 4, 1))
    parts = chunks.run(
        KEY, TEACHERS[0], replace(SHORT, steps=3), goal(), lambda rows: small[rows], (4, 4, 1), PLACEMENT
    )
    first = np.concatenate([part.images for part in parts])
    assert first.shape == (3, M, 4, 4, 1)
    large = chunks.resized(first, SHAPE)
    want = images_of(replace(SHORT, steps=3), Pictures(lambda rows: large[rows]), jax.random.fold_in(KEY, 1))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_all_steps_are_taken_whatever_the_number_of_stretches():
    settings = replace(SHORT, steps=11, sides=(1.0,) * 4)
    assert [settings.stretch(k).steps for k in range(4)] == [2, 3, 3, 3]
    images_of(settings)


def test_teachers_take_turns_a_step_each():
    tasks = [Task(teacher, goal(seed)) for seed, teacher in enumerate(TEACHERS)]
    got = images_of(SHORT, tasks=tasks)
    alone = [images_of(SHORT, tasks=[task]) for task in tasks]
    assert min(np.abs(got - other).max() for other in alone) > 0.05
    np.testing.assert_array_equal(images_of(SHORT, tasks=[tasks[0], tasks[0]]), alone[0])
    # By hand: the state of one solver goes to the other.
    solvers = [recovery(apply, KEY, NORM, SHORT, 1) for _ in tasks]
    state = solvers[0].init(jnp.asarray(begin(np.arange(3))))
    for t in range(SHORT.steps):
        state, _ = solvers[t % 2].step(tasks[t % 2].teacher.variables, state, tasks[t % 2].goal)
    np.testing.assert_allclose(got, state.images, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"sides": ()}, "0 stretches"), ({"sides": (1.0,) * 7}, "7 stretches"), ({"mixing": 0.5}, "no effect"),
     ({"sides": (0.5, 1.0), "coarse": 0.5}, "one of them"), ({"patches": "best"}, "'best'"), ({"start": "x"}, "'x'")],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(change, words):
    assert words in message(replace(SHORT, **change).check_settings)


# Real images


REAL = RNG.uniform(-2, 2, (12, *SHAPE)).astype(np.float32)
LABELS = np.repeat(np.arange(3, dtype=np.int32), 4)


def context(teacher=TEACHERS[0]):
    features = np.asarray(apply(teacher.variables, REAL).features)
    encoded = Encoded(features, LABELS, np.full(3, 4.0, np.float32), {}, np.float32(1))
    classes = Classes(encoded, lambda rows: REAL[rows], SHAPE, Groups.by_label(LABELS, 3))
    return Context(teacher, classes)


SUMMARY = Summary(goal().atoms, np.zeros((3, 0), np.float32), np.array([[0, 1], [4, 5], [8, 9]]))


def test_pixels_start_from_the_crops_that_rded_chooses():
    found = starts.pictures(KEY, replace(SHORT, start="crops"), context(), SUMMARY).start(np.array([2, 0]))
    condense = crops.condenser(jax.random.fold_in(KEY, 2), TEACHERS[0], Crops(), M, SHAPE)
    for label, images in zip([2, 0], found):
        np.testing.assert_array_equal(images, condense(label, np.arange(4 * label, 4 * label + 4), lambda r: REAL[r]))
    assert not imager.Recover(start="crops").starts_from_images


def test_the_patches_are_where_an_image_started_or_what_it_has_come_closest_to():
    mixing = replace(SHORT, sides=(1.0, 1.0), mixing=0.5)
    rows = np.array([1, 2])
    same = starts.pictures(KEY, mixing, context(), SUMMARY)
    np.testing.assert_array_equal(same.patch(rows, np.zeros((2, M, *SHAPE))), REAL[SUMMARY.rows[rows]])
    nearest = starts.pictures(KEY, replace(mixing, patches="nearest"), context(), SUMMARY)
    close_by = np.stack([REAL[[7, 6]], REAL[[10, 8]]]) + np.float32(1e-3)
    np.testing.assert_array_equal(nearest.patch(rows, close_by), np.stack([REAL[[7, 6]], REAL[[10, 8]]]))
    # Two images that are near the same real one get different ones.
    twice = nearest.patch(rows[:1], np.stack([REAL[[5, 5]]]))[0]
    assert np.abs(twice[0] - twice[1]).max() > 0.1
    assert starts.pictures(KEY, SHORT, context(), SUMMARY).patch is None


def test_another_teacher_sees_an_atom_as_the_mean_of_its_cell():
    ours, theirs = context(TEACHERS[0]), context(TEACHERS[1]).classes
    points = ours.classes.encoded.features[np.array([[0, 1], [4, 5], [8, 9]])]
    points[2] += [[0.0], [1e3]]  # an atom far from all images
    summary = SUMMARY._replace(atoms=Measure(points, SUMMARY.atoms.weights))
    seen = imager.seen_by(theirs, ours, summary).atoms
    for label in range(3):
        rows = np.arange(4 * label, 4 * label + 4)
        mine, other = ours.classes.encoded.features[rows], theirs.encoded.features[rows]
        distances = np.square(mine[:, None].astype(float) - points[label][None]).sum(-1)
        for j in range(M):
            cell = distances.argmin(1) == j
            want = other[cell].mean(0) if cell.any() else other[distances[:, j].argmin()]
            np.testing.assert_allclose(seen.points[label, j], want, rtol=1e-5)
    np.testing.assert_array_equal(seen.weights, summary.atoms.weights)
