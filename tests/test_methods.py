"""Every recipe from real digits to distilled images."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import message

from jaxdd import data, methods
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation, normalise, valid_range
from jaxdd.latent import Sampling
from jaxdd.nn import Output, image_moments
from jaxdd.stages import encode
from jaxdd.stages.images.crops import CropSettings
from jaxdd.stages.images.recover import descent as recover
from jaxdd.stages.images.recover.descent import RecoverSettings

IPC = 2
# Recipes of their own only in the terms of the recover loss.
LOSSES = ("ce-class", "wmdd-global", "ce-global", "mmd", "dm")
KEY = jax.random.key(0)


def short(name):
    recipe = methods.recipe(name)
    few = {"recover": replace(recipe.recover, steps=3), "diffusion": replace(recipe.diffusion, steps=3)}
    return replace(recipe, **few)


@pytest.fixture(scope="module")
def made(teacher, classes, latent, latent_classes):
    """Each method's result, made at its first use; ``memory`` bounds a chunk, ``changes`` the recipe."""
    done = {}

    def make(name, memory=2**32, **changes):
        asked = (name, memory, *changes.items())
        if asked not in done:
            model, variables, norm, _ = teacher
            recipe = replace(short(name), **changes)
            real = latent_classes if recipe.space == "latents" else classes
            done[asked] = methods.distill(KEY, recipe, IPC, model.apply, variables, norm, real, memory, latent)
        return done[asked]

    return make


@pytest.mark.parametrize("name", [name for name in methods.RECIPES if name not in LOSSES])
def test_every_recipe_makes_weighted_images_of_every_class(made, teacher, name):
    result = made(name)
    assert result.images.shape == (10, IPC, 8, 8, 1) and result.images.dtype == np.float32
    dim = 32 if methods.recipe(name).space == "latents" else 8
    assert result.atoms.points.shape == (10, IPC, dim) and result.atoms.weights.shape == (10, IPC)
    assert (np.asarray(result.atoms.weights) >= 0).all()
    np.testing.assert_allclose(np.asarray(result.atoms.weights).sum(1), 1, rtol=1e-5)
    low, high = valid_range(teacher.norm)
    assert (result.images >= low - 1e-6).all() and (result.images <= high + 1e-6).all()
    recipe = methods.recipe(name)
    assert set(result.curve) == (
        {"feature", "moment", "cross_entropy", "mean"} if recipe.images == "recover" else set()
    )
    assert all(term.shape == (3, 10) and np.isfinite(term).all() for term in result.curve.values())
    assert result.costs.shape[0] == 10 and np.isfinite(result.costs).all()
    assert (result.costs.shape[1] > 0) == (recipe.atoms in methods.SOLVERS)


@pytest.fixture(scope="module")
def linear(digits):
    """A model that compiles in no time, and all train digits as it sees them."""
    norm = Normalisation(np.float32([0.3]), np.float32([0.4]))
    table = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32) / 8

    def apply(variables, images):
        logits = images.reshape(len(images), -1) @ variables
        return Output(logits, logits[:, :8], {"image": image_moments(images)})

    encoded = encode.encode(apply, table, norm, data.batches(digits, "train", 479), 10)
    read = lambda rows: np.asarray(normalise(norm, digits.read("train", rows)))
    return apply, table, norm, methods.Classes(encoded, read, digits.image_shape)


@pytest.mark.parametrize("name", LOSSES)
def test_recipes_of_other_terms_start_from_real_images_and_bring_them_down(linear, name):
    recipe = methods.with_flip(methods.recipe(name), False)
    still = replace(recipe, recover=replace(recipe.recover, min_scale=1.0, steps=20))
    result = methods.distill(KEY, still, IPC, *linear)
    curve = recover.Terms(**result.curve)
    assert all(term.shape == (20, 10) and np.isfinite(term).all() for term in curve)
    total = np.asarray(recover.total(curve, still.recover))
    assert total[-1].mean() < (0.5 if name == "dm" else 0.95) * total[0].mean()
    first = methods.distill(KEY, replace(recipe, images="real"), IPC, *linear)
    assert np.abs(result.images - first.images).max() < 40 * recipe.recover.learning_rate
    random = methods.distill(KEY, methods.recipe("random"), IPC, *linear)
    assert np.array_equal(first.images, random.images) == (name in ("mmd", "dm"))


def test_the_ablation_changes_nothing_but_the_terms():
    cells = {}
    for name in ("wmdd", "ce-class", "wmdd-global", "ce-global"):
        recipe = methods.recipe(name)
        terms = recipe.recover
        cells[terms.feature_weight, terms.cross_entropy_weight, terms.moments] = name
        rest = replace(terms, feature_weight=1.0, cross_entropy_weight=0.0, moments="class")
        assert replace(recipe, recover=rest) == methods.recipe("wmdd")
    assert set(cells) == {(*term, over) for term in ((1.0, 0.0), (0.0, 1.0)) for over in ("class", "global")}


@pytest.mark.parametrize("name", ["medoid", "random", "herding", "kcenter"])
def test_real_images_are_different_ones_of_their_class(made, classes, name):
    everything = classes.images(np.arange(len(classes.encoded.labels))).reshape(-1, 64)
    places = []
    for c, pictures in enumerate(made(name).images.reshape(10, IPC, 64)):
        for picture in pictures:
            found = np.flatnonzero((everything == picture).all(1))
            assert c in classes.encoded.labels[found]
            places.append(found[0])
    assert len(set(places)) == 10 * IPC
    if name != "medoid":
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
    masses = np.asarray(free[0].weights)
    assert np.abs(masses - 1 / IPC).max() > 0.05
    # Free weights can only be nearer.
    assert free[1][:, -1].mean() <= uniform[1][:, -1].mean() * (1 + 1e-3)
    # A quantizer's atoms stay where they are, whatever becomes of their masses.
    for weights, power in (("sqrt", 0.5), ("uniform", 0.0)):
        other = methods.choose(KEY, methods.Recipe(atoms="quantization", weights=weights), classes.encoded, IPC)[0]
        np.testing.assert_array_equal(other.points, free[0].points)
        np.testing.assert_allclose(other.weights, masses**power / (masses**power).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("name", ["wmdd", "ddoq", "random", "rded", "herding"])
def test_a_class_is_the_same_bytes_whichever_others_are_made_here(made, teacher, classes, latent, latent_classes, name):
    whole, recipe = made(name), short(name)
    model, variables, norm, _ = teacher
    real = latent_classes if recipe.space == "latents" else classes
    own = np.array([2, 3, 7])
    # As a process has it: features of its own classes, counts and moments of all.
    rows = np.flatnonzero(np.isin(real.encoded.labels, own))
    part = real.encoded._replace(features=real.encoded.features[rows], labels=real.encoded.labels[rows])
    mine = real._replace(encoded=part, images=lambda chosen: real.images(rows[chosen]))
    parts = methods.distill_parts(KEY, recipe, IPC, model.apply, variables, norm, mine, 2**32, latent, own)
    alone = methods.joined(parts)
    of_own = jax.tree.map(lambda x: np.asarray(x)[own], whole._replace(curve={}))
    jax.tree.map(np.testing.assert_array_equal, alone._replace(curve={}), of_own)
    for term in whole.curve:
        np.testing.assert_array_equal(alone.curve[term], whole.curve[term][:, own])


def test_parts_of_unequal_length_are_joined_at_their_last_loss(made):
    whole = made("wmdd")
    rows = lambda c, steps: methods.Result(
        whole.images[c], jax.tree.map(lambda x: x[c], whole.atoms), whole.costs[c],
        {name: term[:steps, c] for name, term in whole.curve.items()}, whole.classes[c],
    )  # fmt: skip
    found = methods.joined([rows(slice(5, 10), 3), rows(slice(0, 5), 2)])
    np.testing.assert_array_equal(found.images, whole.images)
    np.testing.assert_array_equal(found.classes, np.arange(10))
    for name, term in whole.curve.items():
        np.testing.assert_array_equal(found.curve[name][:, 5:], term[:, 5:])
        np.testing.assert_array_equal(found.curve[name][:, :5], term[[0, 1, 1], :5])


def test_more_images_a_class_than_are_made_at_a_time(teacher, classes):
    model, variables, norm, _ = teacher
    result = methods.distill(KEY, short("random"), 70, model.apply, variables, norm, classes)
    assert result.images.shape == (10, 70, 8, 8, 1)
    np.testing.assert_array_equal(result.classes, np.arange(10))


def test_memory_that_holds_not_one_class_is_refused_in_one_line(made):
    assert "1 classes of 2 images [8, 8, 1] take" in message(lambda: made("wmdd", memory=1))


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


def test_ddoq_without_weights_is_d4m(made):
    ddoq, d4m = made("ddoq"), made("d4m")
    np.testing.assert_array_equal(ddoq.images, d4m.images)
    np.testing.assert_allclose(d4m.atoms.weights, 1 / IPC, rtol=1e-6)
    assert np.abs(np.asarray(ddoq.atoms.weights) - 1 / IPC).max() > 0.05


def test_latents_are_decoded_as_asked(made, latent, teacher, latent_classes):
    moved, plain, real = (made("ddoq", images=images) for images in ("diffusion", "vae", "real"))
    assert np.abs(moved.images - plain.images).max() > 1e-3
    z = np.asarray(plain.atoms.points).reshape(-1, 4, 4, 2)
    pixels = np.clip((np.asarray(latent.autoencoder.decode(latent.vae_variables, z)) + 1) / 2, 0, 1)
    ours = plain.images.reshape(-1, 8, 8, 1) * teacher.norm.std + teacher.norm.mean
    np.testing.assert_allclose(ours, pixels, atol=1e-4)
    asked = replace(short("ddoq"), images="real")
    nearest = methods.choose(jax.random.split(KEY)[0], asked, latent_classes.encoded, IPC)[2]
    np.testing.assert_array_equal(real.images.reshape(-1, 8, 8, 1), latent_classes.images(nearest.reshape(-1)))


def test_stages_of_both_papers_mix(made):
    """Optimal quantization of features with recovered pixels, barycenters of latents with decoded ones."""
    quantized = made("wmdd", atoms="quantization", weights="sqrt")
    assert quantized.images.shape == (10, IPC, 8, 8, 1) and quantized.curve["feature"].shape == (3, 10)
    assert quantized.atoms.points.shape == (10, IPC, 8)
    barycenter = made("ddoq", atoms="barycenter", weights="uniform")
    assert barycenter.images.shape == (10, IPC, 8, 8, 1) and not barycenter.curve
    np.testing.assert_allclose(barycenter.atoms.weights, 1 / IPC, rtol=1e-6)
    assert np.abs(np.asarray(barycenter.atoms.points) - np.asarray(made("d4m").atoms.points)).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"atoms": "mean"}, "--atoms 'mean'"),
        ({"weights": "learned"}, "--weights 'learned'"),
        ({"images": "noise"}, "--images 'noise'"),
        ({"space": "pixels"}, "--space 'pixels'"),
        ({"atoms": "none"}, "--atoms none"),
        ({"images": "crops"}, "--atoms none --space features"),
        ({"images": "crops", "atoms": "none", "space": "latents"}, "--atoms none --space features"),
        ({"crops": CropSettings(parts=3)}, "--crops.parts 3"),
        ({"crops": CropSettings(pool=0)}, "--crops.pool 0"),
        ({"crops": CropSettings(min_scale=0.0)}, "--crops.min-scale 0.0"),
        ({"recover": RecoverSettings(feature_weight=0.0, moment_weight=0.0)}, "weigh 0"),
        ({"images": "vae"}, "--space latents"),
        ({"images": "diffusion"}, "--space latents"),
        ({"space": "latents"}, "--space features"),
        ({"diffusion": Sampling(sampler="euler")}, "'euler'"),
        ({"diffusion": Sampling(strength=1.5)}, "strength 1.5"),
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
