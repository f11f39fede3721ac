"""Every recipe from real digits to distilled images."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import message

from jaxdd import methods
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import valid_range
from jaxdd.stages.context import Problem
from jaxdd.stages.images import Crops, Diffusion, Nearest, Recover, Vae
from jaxdd.stages.summarize import Barycenter, NoAtoms, Quantization

IPC = 2
KEY = jax.random.key(0)
PROBLEM = Problem("wmdd", 1, np.array([1, 1]), ("a", "b"))


def short(name):
    recipe = methods.RECIPES.find(name)
    if "steps" in set(vars(recipe.imager)):
        recipe = replace(recipe, imager=replace(recipe.imager, steps=3))
    return recipe


@pytest.fixture(scope="module")
def made(context, latent_context):
    """Each method's result, made at its first use."""
    done = {}

    def make(name, recipe=None):
        if name not in done:
            recipe = recipe or short(name)
            latent = recipe.summarizer.space == "latents"
            done[name] = methods.distill(KEY, recipe, IPC, latent_context if latent else context)
        return done[name]

    return make


@pytest.mark.parametrize("name", ["wmdd", "sre2l", "ddoq", "d4m", "rded", "medoid", "random", "herding", "kcenter"])
def test_every_recipe_makes_weighted_images_of_every_class(made, teacher, name):
    result, recipe = made(name), methods.RECIPES.find(name)
    assert result.images.shape == (10, IPC, 8, 8, 1) and result.images.dtype == np.float32
    dim = 32 if recipe.summarizer.space == "latents" else 8
    assert result.atoms.points.shape == (10, IPC, dim) and result.atoms.weights.shape == (10, IPC)
    assert (np.asarray(result.atoms.weights) >= 0).all()
    np.testing.assert_allclose(np.asarray(result.atoms.weights).sum(1), 1, rtol=1e-5)
    low, high = valid_range(teacher.norm)
    assert (result.images >= low - 1e-6).all() and (result.images <= high + 1e-6).all()
    recovers = isinstance(recipe.imager, Recover)
    assert set(result.curve) == ({"feature", "moment", "cross_entropy"} if recovers else set())
    assert all(term.shape == (3, 10) and np.isfinite(term).all() for term in result.curve.values())


def test_ddoq_without_weights_is_d4m(made):
    ddoq, d4m = made("ddoq"), made("d4m")
    np.testing.assert_array_equal(ddoq.images, d4m.images)
    np.testing.assert_allclose(d4m.atoms.weights, 1 / IPC, rtol=1e-6)
    assert np.abs(np.asarray(ddoq.atoms.weights) - 1 / IPC).max() > 0.05


@pytest.mark.parametrize("name", ["wmdd", "ddoq", "random", "rded", "herding"])
def test_a_class_is_the_same_bytes_whichever_others_are_made_here(made, context, latent_context, name):
    whole, recipe, subset = made(name), short(name), np.array([2, 3, 7])
    part = latent_context if recipe.summarizer.space == "latents" else context
    alone = methods.distill(KEY, recipe, IPC, part._replace(subset=subset))
    np.testing.assert_array_equal(alone.images, whole.images[subset])
    np.testing.assert_array_equal(alone.classes, subset)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (methods.Recipe(Barycenter(weights="learned"), Recover()), "`weights` 'learned'"),
        (methods.Recipe(Barycenter(space="pixels"), Nearest()), "pixels"),
        (methods.Recipe(NoAtoms(), Recover()), "`summarizer` none"),
        (methods.Recipe(Barycenter(), Crops()), "`summarizer` none"),
        (methods.Recipe(NoAtoms(), Crops(parts=3)), "`imager.parts` 3"),
        (methods.Recipe(NoAtoms(), Crops(pool=0)), "`imager.pool` 0"),
        (methods.Recipe(Barycenter(), Recover(feature_weight=0.0, moment_weight=0.0)), "weigh 0"),
        (methods.Recipe(Barycenter(), Vae()), "latents"),
        (methods.Recipe(Barycenter(), Diffusion()), "latents"),
        (methods.Recipe(Quantization(space="latents"), Recover()), "features"),
        (methods.Recipe(Quantization(space="latents"), Diffusion(strength=1.5)), "strength 1.5"),
    ],
)
def test_a_recipe_that_does_not_exist_is_refused_before_any_work(recipe, words):
    assert words in message(lambda: methods.check(recipe, PROBLEM))


@pytest.mark.parametrize(("typo", "near"), [("wmd", "wmdd"), ("sre2", "sre2l"), ("xyz", "medoid")])
def test_an_unknown_method_names_the_nearest(typo, near):
    with pytest.raises(InputError) as caught:
        methods.RECIPES.find(typo)
    assert repr(typo) in str(caught.value) and near in str(caught.value)
