"""Every recipe from real digits to distilled images."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import message

from jaxdd import methods
from jaxdd.errors import InputError
from jaxdd.normalise import valid_range

IPC = 2
KEY = jax.random.key(0)


def short(name):
    recipe = methods.recipe(name)
    return replace(recipe, recover=replace(recipe.recover, steps=3))


@pytest.fixture(scope="module")
def made(teacher, classes):
    """Each method's result, made at its first use; ``memory`` bounds a chunk."""
    done = {}

    def make(name, memory=2**32):
        if (name, memory) not in done:
            model, variables, norm, _ = teacher
            done[name, memory] = methods.distill(KEY, short(name), IPC, model.apply, variables, norm, classes, memory)
        return done[name, memory]

    return make


@pytest.mark.parametrize("name", methods.RECIPES)
def test_every_recipe_makes_weighted_images_of_every_class(made, teacher, name):
    result = made(name)
    assert result.images.shape == (10, IPC, 8, 8, 1) and result.images.dtype == np.float32
    assert result.atoms.points.shape == (10, IPC, 8) and result.atoms.weights.shape == (10, IPC)
    assert (np.asarray(result.atoms.weights) >= 0).all()
    np.testing.assert_allclose(np.asarray(result.atoms.weights).sum(1), 1, rtol=1e-5)
    low, high = valid_range(teacher.norm)
    assert (result.images >= low - 1e-6).all() and (result.images <= high + 1e-6).all()
    recipe = methods.recipe(name)
    assert set(result.curve) == ({"feature", "moment", "cross_entropy"} if recipe.images == "recover" else set())
    assert all(term.shape == (3, 10) and np.isfinite(term).all() for term in result.curve.values())
    assert result.costs.shape[0] == 10 and np.isfinite(result.costs).all()
    assert (result.costs.shape[1] > 0) == (recipe.atoms in methods.SOLVERS)


@pytest.mark.parametrize("name", ["medoid", "random"])
def test_real_images_are_different_ones_of_their_class(made, classes, name):
    everything = classes.images(np.arange(len(classes.encoded.labels))).reshape(-1, 64)
    places = []
    for c, pictures in enumerate(made(name).images.reshape(10, IPC, 64)):
        for picture in pictures:
            found = np.flatnonzero((everything == picture).all(1))
            assert c in classes.encoded.labels[found]
            places.append(found[0])
    assert len(set(places)) == 10 * IPC
    if name == "random":
        atoms = np.asarray(made(name).atoms.points).reshape(-1, 8)
        np.testing.assert_array_equal(atoms, classes.encoded.features[places])


@pytest.mark.parametrize("atoms", ["barycenter", "quantization", "clvq", "random"])
def test_the_nearest_images_are_the_best_assignment(classes, atoms):
    summary, costs, nearest = methods.choose(KEY, methods.Recipe(atoms=atoms), classes.encoded, IPC)
    assert nearest.shape == (10, IPC)
    for c in range(10):
        assert (classes.encoded.labels[nearest[c]] == c).all() and len(set(nearest[c])) == IPC
        own = classes.encoded.features[classes.encoded.labels == c].astype(np.float64)
        z = np.asarray(summary.points[c], np.float64)
        distances = np.square(z[:, None] - own).sum(-1)
        best = min(distances[0, i] + distances[1, j] for i, j in itertools.permutations(range(len(own)), 2))
        ours = np.square(z - classes.encoded.features[nearest[c]]).sum()
        assert ours == pytest.approx(best, rel=1e-3, abs=1e-3)


def test_weights_free_or_uniform_are_as_asked(classes):
    uniform = methods.choose(KEY, methods.Recipe(weights="uniform"), classes.encoded, IPC)
    np.testing.assert_allclose(uniform[0].weights, 1 / IPC, rtol=1e-6)
    free = methods.choose(KEY, methods.Recipe(atoms="quantization"), classes.encoded, IPC)
    assert np.abs(np.asarray(free[0].weights) - 1 / IPC).max() > 0.05
    # Free weights can only be nearer.
    assert free[1][:, -1].mean() <= uniform[1][:, -1].mean() * (1 + 1e-3)


def test_chunks_of_classes_make_the_same_images(made):
    whole, pieces = made("wmdd"), made("wmdd", memory=1)
    np.testing.assert_allclose(pieces.images, whole.images, rtol=1e-3, atol=1e-3)
    for name, term in whole.curve.items():
        assert pieces.curve[name].shape == term.shape
        np.testing.assert_allclose(pieces.curve[name], term, rtol=1e-3, atol=1e-3)


def test_starting_from_real_images_starts_at_the_medoids(made):
    # Three steps of Adam move a pixel by at most about three rates.
    rate = methods.recipe("wmdd").recover.learning_rate
    if methods.recipe("wmdd").recover.start == "real":
        assert np.abs(made("wmdd").images - made("medoid").images).max() < 6 * rate
    assert np.abs(made("sre2l").images - made("medoid").images).max() > 6 * rate


def test_bad_requests_are_refused_in_one_line():
    names, labels = ("cat", "dog"), np.array([0, 0, 0, 1, 1], np.int32)
    for name in methods.RECIPES:
        methods.check(name, 2, methods.recipe(name), labels, names)
        for ipc in (0, -3):
            with pytest.raises(InputError, match=f"ipc {ipc}"):
                methods.check(name, ipc, methods.recipe(name), labels, names)
    with pytest.raises(InputError, match="'dog' has 2 real images.*3.*medoid") as caught:
        methods.check("medoid", 3, methods.recipe("medoid"), labels, names)
    assert "\n" not in str(caught.value)
    methods.check("sre2l", 3, methods.recipe("sre2l"), labels, names)


@pytest.mark.parametrize("atoms", ["quantization", "clvq"])
def test_solvers_that_find_their_own_weights_hold_no_uniform_ones(classes, atoms):
    names, labels = ("cat", "dog"), np.array([0, 0, 1, 1], np.int32)
    asked = methods.Recipe(atoms=atoms, weights="uniform")
    text = message(lambda: methods.check("wmdd", 2, asked, labels, names))
    assert f"--atoms {atoms}" in text and "--weights free" in text
    assert atoms in message(lambda: methods.choose(KEY, asked, classes.encoded, IPC))
    methods.check("wmdd", 2, replace(asked, weights="free"), labels, names)
    methods.check("wmdd", 2, replace(asked, atoms="barycenter"), labels, names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"atoms": "mean"}, "--atoms 'mean'"),
        ({"weights": "learned"}, "--weights 'learned'"),
        ({"images": "noise"}, "--images 'noise'"),
        ({"atoms": "none"}, "--atoms none"),
    ],
)
def test_a_recipe_that_does_not_exist_is_refused_before_any_work(changes, words):
    asked = replace(methods.recipe("wmdd"), **changes)
    assert words in message(lambda: methods.check("wmdd", 1, asked, np.array([0, 1], np.int32), ("a", "b")))


@pytest.mark.parametrize(("typo", "near"), [("wmd", "wmdd"), ("sre2", "sre2l"), ("xyz", "medoid")])
def test_an_unknown_method_names_the_nearest(typo, near):
    with pytest.raises(InputError) as caught:
        methods.recipe(typo)
    assert repr(typo) in str(caught.value) and near in str(caught.value)


def test_unknown_atoms_are_refused(classes):
    with pytest.raises(InputError, match="'mean'"):
        methods.choose(KEY, methods.Recipe(atoms="mean"), classes.encoded, IPC)


def test_mirroring_can_be_switched_for_a_whole_recipe():
    for flip in (True, False):
        assert methods.with_flip(methods.recipe("wmdd"), flip).recover.flip is flip
