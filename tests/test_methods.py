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
from jaxdd.methods import RECIPES, Recipe
from jaxdd.nn import Output, image_moments
from jaxdd.stages import encode
from jaxdd.stages.context import Classes, Context, Problem, Teacher
from jaxdd.stages.images import Crops, Diffusion, Nearest, Recover, Vae
from jaxdd.stages.images.nearest import nearest_rows
from jaxdd.stages.images.recover.loss import Terms, total
from jaxdd.stages.summarize import Barycenter, Clvq, NoAtoms, Quantization, Random, Solver

IPC = 2
KEY = jax.random.key(0)
PROBLEM = Problem("wmdd", 1, np.array([1, 1]), ("a", "b"))
# Recipes of their own only in the terms of the recover loss.
LOSSES = ("ce-class", "wmdd-global", "ce-global", "mmd", "dm")
# The papers to the letter differ from the others in settings only.
LETTERS = [name for name in RECIPES if "-paper" in name]


def short(name, summarizer=None, imager=None):
    """A recipe of three steps, with another choice at a stage where one is given."""
    recipe = RECIPES.find(name)
    recipe = Recipe(summarizer or recipe.summarizer, imager or recipe.imager)
    if hasattr(recipe.imager, "steps"):
        # Each stretch has a step at least.
        recipe = replace(recipe, imager=replace(recipe.imager, steps=max(3, len(getattr(recipe.imager, "sides", ())))))
    return recipe


@pytest.fixture(scope="module")
def made(context, latent_context):
    """The result of a recipe, made at its first use."""
    results = {}

    def make(recipe):
        recipe = short(recipe) if isinstance(recipe, str) else recipe
        if recipe not in results:
            latent = recipe.summarizer.space == "latents"
            results[recipe] = methods.distill(KEY, recipe, IPC, latent_context if latent else context)
        return results[recipe]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in LOSSES])
def test_every_recipe_makes_weighted_images_of_every_class(made, teacher, name):
    result, recipe = made(name), RECIPES.find(name)
    assert result.images.shape == (10, IPC, 8, 8, 1) and result.images.dtype == np.float32
    dim = 32 if recipe.summarizer.space == "latents" else 8
    assert result.atoms.points.shape == (10, IPC, dim) and result.atoms.weights.shape == (10, IPC)
    assert (np.asarray(result.atoms.weights) >= 0).all()
    np.testing.assert_allclose(np.asarray(result.atoms.weights).sum(1), 1, rtol=1e-5)
    low, high = valid_range(teacher.norm)
    assert (result.images >= low - 1e-6).all() and (result.images <= high + 1e-6).all()
    recovers = isinstance(recipe.imager, Recover)
    assert set(result.curve) == ({"feature", "moment", "cross_entropy"} if recovers else set())
    steps = getattr(short(name).imager, "steps", 0)
    assert all(term.shape == (steps, 10) and np.isfinite(term).all() for term in result.curve.values())
    assert result.costs.shape[0] == 10 and np.isfinite(result.costs).all()
    assert (result.costs.shape[1] > 0) == isinstance(recipe.summarizer, Solver)


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
    return Context(Teacher(apply, table, norm), Classes.of(encoded, read, digits.image_shape), flip=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_recipes_of_other_terms_start_from_real_images_and_bring_them_down(linear, name):
    recipe = RECIPES.find(name)
    still = replace(recipe, imager=replace(recipe.imager, min_scale=1.0, steps=20))
    result = methods.distill(KEY, still, IPC, linear)
    # Where nobody asks for the distance between means, it is not reported.
    assert ("mean" in result.curve) == (name in ("mmd", "dm"))
    curve = Terms(**({"mean": np.zeros((20, 10))} | result.curve))
    assert all(term.shape == (20, 10) and np.isfinite(term).all() for term in curve)
    loss = np.asarray(total(curve, still.imager))
    assert loss[-1].mean() < (0.5 if name == "dm" else 0.95) * loss[0].mean()
    first = methods.distill(KEY, replace(recipe, imager=Nearest()), IPC, linear)
    assert np.abs(result.images - first.images).max() < 40 * recipe.imager.learning_rate
    random = methods.distill(KEY, RECIPES.find("random"), IPC, linear)
    assert np.array_equal(first.images, random.images) == (name in ("mmd", "dm"))


def test_moments_of_a_teacher_that_has_none_are_refused_before_anything_is_computed(linear):
    bare = lambda variables, images: linear.teacher.apply(variables, images)._replace(moments={})
    context = linear._replace(teacher=linear.teacher._replace(apply=bare))

    class Unasked(Random):
        def __call__(self, key, context, ipc):
            raise AssertionError("summarized")

    for imager in (Recover(), Recover(moments="global"), RECIPES.find("sre2l").imager):
        text = message(lambda: methods.distill(KEY, Recipe(Unasked(), imager), IPC, context))  # noqa: B023
        assert "`imager.moment_weight` 1.0" in text and "`imager.moment_weight` 0" in text
    result = methods.distill(KEY, Recipe(Random(), Recover(moment_weight=0.0, steps=2)), IPC, context)
    assert np.isfinite(result.images).all() and (result.curve["moment"] == 0).all()


def test_features_that_are_equal_for_all_images_are_refused(linear):
    flat = lambda variables, images: linear.teacher.apply(variables, images)._replace(
        features=np.ones((len(images), 8))
    )
    encoded = linear.classes.encoded
    constant = encoded._replace(features=np.ones_like(encoded.features), variance=1.0)
    context = linear._replace(teacher=linear.teacher._replace(apply=flat))
    context = context._replace(classes=linear.classes._replace(encoded=constant))
    text = message(lambda: methods.distill(KEY, Recipe(Random(), Recover()), IPC, context))
    assert "equal for all real images" in text and "`imager.feature_weight` 0" in text


def test_the_ablation_changes_nothing_but_the_terms():
    cells = {}
    for name in ("wmdd", "ce-class", "wmdd-global", "ce-global"):
        recipe = RECIPES.find(name)
        terms = recipe.imager
        cells[terms.feature_weight, terms.cross_entropy_weight, terms.moments] = name
        rest = replace(terms, feature_weight=1.0, cross_entropy_weight=0.0, moments="class")
        assert replace(recipe, imager=rest) == RECIPES.find("wmdd")
    assert set(cells) == {(*term, over) for term in ((1.0, 0.0), (0.0, 1.0)) for over in ("class", "global")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["medoid", "random", "herding", "kcenter"])
def test_real_images_are_different_ones_of_their_class(made, classes, name):
    everything = classes.images(np.arange(len(classes.encoded.labels))).reshape(-1, 64)
    places = []
    for c, pictures in enumerate(made(name).images.reshape(10, IPC, 64)):
        for picture in pictures:
            equal = np.flatnonzero((everything == picture).all(1))
            assert c in classes.encoded.labels[equal]
            places.append(equal[0])
    assert len(set(places)) == 10 * IPC
    if name != "medoid":
        atoms = np.asarray(made(name).atoms.points).reshape(-1, 8)
        np.testing.assert_array_equal(atoms, classes.encoded.features[places])


@pytest.mark.slow
@pytest.mark.parametrize("summarizer", [Barycenter(), Quantization(), Clvq(), Random()], ids=lambda s: type(s).__name__)
def test_the_nearest_images_are_the_best_assignment(context, summarizer):
    summary, encoded = summarizer(KEY, context, IPC), context.classes.encoded
    rows = nearest_rows(context, summary.atoms.points) if summary.rows is None else summary.rows
    assert rows.shape == (10, IPC)
    for c in range(10):
        assert (encoded.labels[rows[c]] == c).all() and len(set(rows[c])) == IPC
        points = encoded.features[encoded.labels == c].astype(np.float64)
        z = np.asarray(summary.atoms.points[c], np.float64)
        distances = np.square(z[:, None] - points).sum(-1)
        best = min(distances[0, i] + distances[1, j] for i, j in itertools.permutations(range(len(points)), 2))
        ours = np.square(z - encoded.features[rows[c]]).sum()
        assert ours == pytest.approx(best, rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_weights_free_or_uniform_are_as_asked(context):
    uniform = Barycenter(weights="uniform")(KEY, context, IPC)
    np.testing.assert_allclose(uniform.atoms.weights, 1 / IPC, rtol=1e-6)
    free = Quantization()(KEY, context, IPC)
    masses = np.asarray(free.atoms.weights)
    assert np.abs(masses - 1 / IPC).max() > 0.05
    # Free weights can only be nearer.
    assert free.costs[:, -1].mean() <= uniform.costs[:, -1].mean() * (1 + 1e-3)
    # A quantizer's atoms stay where they are, whatever becomes of their masses.
    for weights, power in (("sqrt", 0.5), ("uniform", 0.0)):
        other = Quantization(weights=weights)(KEY, context, IPC).atoms
        np.testing.assert_array_equal(other.points, free.atoms.points)
        np.testing.assert_allclose(other.weights, masses**power / (masses**power).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wmdd", "ddoq", "random", "rded", "herding"])
def test_a_class_is_the_same_bytes_whichever_others_are_made_here(made, context, latent_context, name):
    whole, recipe, subset = made(name), short(name), np.array([2, 3, 7])
    everything = latent_context if recipe.summarizer.space == "latents" else context
    encoded = everything.classes.encoded
    # As a process has it: features of its own classes, counts and moments of all.
    rows = np.flatnonzero(np.isin(encoded.labels, subset))
    part = encoded._replace(features=encoded.features[rows], labels=encoded.labels[rows])
    read = lambda chosen: everything.classes.images(rows[chosen])
    mine = Classes.of(part, read, everything.classes.image_shape)
    alone = methods.joined(methods.distill_parts(KEY, recipe, IPC, everything._replace(classes=mine, subset=subset)))
    of_subset = jax.tree.map(lambda x: np.asarray(x)[subset], whole._replace(curve={}))
    jax.tree.map(np.testing.assert_array_equal, alone._replace(curve={}), of_subset)
    for term in whole.curve:
        np.testing.assert_array_equal(alone.curve[term], whole.curve[term][:, subset])


@pytest.mark.slow
def test_parts_of_unequal_length_are_joined_at_their_last_loss(made):
    whole = made("wmdd")
    rows = lambda c, steps: methods.Result(
        whole.images[c], jax.tree.map(lambda x: x[c], whole.atoms), whole.costs[c],
        {name: term[:steps, c] for name, term in whole.curve.items()}, whole.classes[c],
    )  # fmt: skip
    joined = methods.joined([rows(slice(5, 10), 3), rows(slice(0, 5), 2)])
    np.testing.assert_array_equal(joined.images, whole.images)
    np.testing.assert_array_equal(joined.classes, np.arange(10))
    for name, term in whole.curve.items():
        np.testing.assert_array_equal(joined.curve[name][:, 5:], term[:, 5:])
        np.testing.assert_array_equal(joined.curve[name][:, :5], term[[0, 1, 1], :5])


def test_more_images_a_class_than_are_made_at_a_time(context):
    result = methods.distill(KEY, short("random"), 70, context)
    assert result.images.shape == (10, 70, 8, 8, 1)
    np.testing.assert_array_equal(result.classes, np.arange(10))


@pytest.mark.slow
def test_memory_that_holds_not_one_class_is_refused_in_one_line(context):
    little = context._replace(resources=context.resources._replace(memory_bytes=1))
    assert "1 classes of 2 images [8, 8, 1] take" in message(lambda: methods.distill(KEY, short("wmdd"), IPC, little))


@pytest.mark.slow
def test_starting_from_real_images_starts_at_the_medoids(made):
    # Three steps of Adam move a pixel by at most about three rates.
    wmdd = RECIPES.find("wmdd").imager
    assert wmdd.start == "real"
    assert np.abs(made("wmdd").images - made("medoid").images).max() < 6 * wmdd.learning_rate
    assert np.abs(made("sre2l").images - made("medoid").images).max() > 6 * wmdd.learning_rate


def test_bad_requests_are_refused_in_one_line():
    counts, names = np.array([3, 2]), ("cat", "dog")
    for name, recipe in RECIPES.items():
        methods.check(recipe, Problem(name, 2, counts, names))
        for ipc in (0, -3):
            assert f"`ipc` {ipc}" in message(lambda: methods.check(recipe, Problem(name, ipc, counts, names)))  # noqa: B023
    text = message(lambda: methods.check(RECIPES.find("medoid"), Problem("medoid", 3, counts, names)))
    assert "'dog' has 2 real images" in text and "3 per class that medoid needs" in text
    methods.check(RECIPES.find("sre2l"), Problem("sre2l", 3, counts, names))


@pytest.mark.slow
def test_ddoq_without_weights_is_d4m(made):
    ddoq, d4m = made("ddoq"), made("d4m")
    np.testing.assert_array_equal(ddoq.images, d4m.images)
    np.testing.assert_allclose(d4m.atoms.weights, 1 / IPC, rtol=1e-6)
    assert np.abs(np.asarray(ddoq.atoms.weights) - 1 / IPC).max() > 0.05


@pytest.mark.slow
def test_latents_are_decoded_as_asked(made, latent, teacher, latent_context):
    moved, plain, real = (made(short("ddoq", imager=imager)) for imager in (Diffusion(), Vae(), Nearest()))
    assert np.abs(moved.images - plain.images).max() > 1e-3
    z = np.asarray(plain.atoms.points).reshape(-1, 4, 4, 2)
    pixels = np.clip((np.asarray(latent.autoencoder.decode(latent.vae_variables, z)) + 1) / 2, 0, 1)
    ours = plain.images.reshape(-1, 8, 8, 1) * teacher.norm.std + teacher.norm.mean
    np.testing.assert_allclose(ours, pixels, atol=1e-4)
    summary = RECIPES.find("ddoq").summarizer(jax.random.split(KEY)[0], latent_context, IPC)
    nearest = nearest_rows(latent_context, summary.atoms.points)
    images = latent_context.classes.images(nearest.reshape(-1))
    np.testing.assert_array_equal(real.images.reshape(-1, 8, 8, 1), images)


@pytest.mark.slow
def test_stages_of_both_papers_mix(made):
    """Optimal quantization of features with recovered pixels, barycenters of latents with decoded ones."""
    quantized = made(short("wmdd", summarizer=Quantization(weights="sqrt")))
    assert quantized.images.shape == (10, IPC, 8, 8, 1) and quantized.curve["feature"].shape == (3, 10)
    assert quantized.atoms.points.shape == (10, IPC, 8)
    barycenter = made(short("ddoq", summarizer=Barycenter(space="latents", weights="uniform")))
    assert barycenter.images.shape == (10, IPC, 8, 8, 1) and not barycenter.curve
    np.testing.assert_allclose(barycenter.atoms.weights, 1 / IPC, rtol=1e-6)
    assert np.abs(np.asarray(barycenter.atoms.points) - np.asarray(made("d4m").atoms.points)).max() > 1e-2


def test_the_papers_to_the_letter_start_from_noise_without_weights_in_their_loss():
    for name in LETTERS:
        recipe = RECIPES.find(name)
        assert name.split("-paper")[0] in RECIPES
        if isinstance(recipe.imager, Recover):
            assert (recipe.imager.start, recipe.imager.scale, recipe.imager.weighted_moments) == (
                "noise", "absolute", False,
            )  # fmt: skip


@pytest.mark.slow
def test_mirroring_can_be_switched_off_for_a_whole_dataset_or_recipe(linear):
    """Views are mirrored where both the data and the recipe allow it."""
    settings = replace(RECIPES.find("dm").imager, min_scale=1.0, steps=2)
    images = {}
    for data_allow, recipe_allows in itertools.product((True, False), repeat=2):
        recipe = Recipe(Random(), replace(settings, flip=recipe_allows))
        images[data_allow, recipe_allows] = methods.distill(KEY, recipe, IPC, linear._replace(flip=data_allow)).images
    for pair in ((True, False), (False, True)):
        np.testing.assert_array_equal(images[pair], images[False, False])
    assert np.abs(images[True, True] - images[False, False]).max() > 1e-3


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(Barycenter(weights="learned"), Recover()), "`weights` 'learned'"),
        (Recipe(Barycenter(space="pixels"), Nearest()), "pixels"),
        (Recipe(NoAtoms(), Recover()), "`summarizer` none"),
        (Recipe(Barycenter(), Crops()), "`summarizer` none"),
        (Recipe(NoAtoms(), Crops(parts=3)), "`imager.parts` 3"),
        (Recipe(NoAtoms(), Crops(pool=0)), "`imager.pool` 0"),
        (Recipe(Barycenter(), Recover(feature_weight=0.0, moment_weight=0.0)), "weigh 0"),
        (Recipe(Barycenter(), Vae()), "latents"),
        (Recipe(Barycenter(), Diffusion()), "latents"),
        (Recipe(Quantization(space="latents"), Recover()), "features"),
        (Recipe(Quantization(space="latents"), Diffusion(strength=1.5)), "strength 1.5"),
    ],
)
def test_a_recipe_that_does_not_exist_is_refused_before_any_work(recipe, words):
    assert words in message(lambda: methods.check(recipe, PROBLEM))


@pytest.mark.parametrize(("typo", "near"), [("wmd", "wmdd"), ("sre2", "sre2l"), ("xyz", "medoid")])
def test_an_unknown_method_names_the_nearest(typo, near):
    with pytest.raises(InputError) as caught:
        RECIPES.find(typo)
    assert repr(typo) in str(caught.value) and near in str(caught.value)
