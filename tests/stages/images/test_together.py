"""Latents of a class that are denoised together: transport in closed form, and choices that lower no distance."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from latent_helpers import DIT, MEAN, SHAPE, STD, data, denoiser_of, gaussian, law

from jaxdd import methods, ot
from jaxdd.ground.errors import DivergenceError
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources
from jaxdd.latent import diffusion
from jaxdd.latent.decoding import LatentModel, keys_of
from jaxdd.methods import Recipe
from jaxdd.stages.images import Diffusion
from jaxdd.stages.images import diffusion as imager
from jaxdd.stages.images.together import Sizes, denoised, distinct, sizes, transported
from jaxdd.stages.summarize import Quantization

KEY, D = jax.random.key(5), 4
LABELS = np.array([0, 1])
FEW = Diffusion(steps=10, strength=0.8, guidance=1.0)
MODEL = LatentModel(None, None, (8, 8, 1), gaussian(DIT), law(), DIT)
moved = jax.jit(transported)


def measure(points, weights=None):
    weights = np.full(points.shape[:-1], 1 / points.shape[-2]) if weights is None else weights
    return Measure(np.float32(points), np.float32(weights))


@cache
def atoms():
    """Six atoms in each of two classes, with weights."""
    points = data(np.repeat(LABELS, 6)).reshape(2, 6, D)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, (2, 6))
    return measure(points, weights / weights.sum(1, keepdims=True))


def run(settings, labels=LABELS, held=None, target=None, **how):
    held = atoms() if held is None else held
    if target is None and settings.transport > 0:
        target = held
    model, resources = how.get("model", MODEL), how.get("resources", Resources())
    return denoised(KEY, model, settings, held, target, labels, resources)


# The plan


def test_on_a_line_the_projections_are_means_of_quantiles():
    rng = np.random.default_rng(1)
    x, y = np.array([0.5, -2.0, 1.0, -1.0, 3.0]), 3 * rng.normal(size=40)
    w = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
    # Each y carries 1/40; the j-th smallest x takes the next w_j of them.
    order, blocks = np.argsort(x), np.split(np.sort(y), np.cumsum(40 * w[np.argsort(x)]).round().astype(int)[:-1])
    expected = np.empty(5)
    expected[order] = [block.mean() for block in blocks]
    for share in (1.0, 0.25):
        got = moved(np.float32(x[:, None]), np.float32(w), measure(y[:, None]), share)
        np.testing.assert_allclose(got[:, 0], (1 - share) * x + share * expected, atol=0.03 * share)


def test_equal_weights_go_to_the_nearest_permutation():
    rng = np.random.default_rng(2)
    for _ in range(5):
        x, y = rng.normal(size=(2, 5, D))
        cost = np.square(x[:, None] - y).sum(-1)
        best = min(permutations(range(5)), key=lambda order: cost[np.arange(5), order].sum())
        got = moved(np.float32(x), np.full(5, 0.2, np.float32), measure(y), 1.0)
        # A plan of low entropy, with nearly tied permutations a little mixed.
        attained = np.square(x - np.asarray(got)).sum()
        assert attained < 1.02 * cost[np.arange(5), best].sum()


def test_the_moved_points_are_nearer_by_as_much_as_is_said():
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(5, D)).astype(np.float32), rng.dirichlet(np.ones(5)).astype(np.float32)
    target = measure(1 + 2 * rng.normal(size=(40, D)))
    before = ot.exact(Measure(x, w), target)
    way = np.asarray(moved(x, w, target, 1.0)) - x
    for share in (0.25, 1.0):
        after = ot.exact(Measure(np.asarray(moved(x, w, target, share)), w), target)
        assert after <= 1.02 * before - share * (2 - share) * (w * np.square(way).sum(1)).sum()


def test_points_without_weight_stay_and_targets_without_weight_pull_nobody():
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(5, D)).astype(np.float32), np.float32([0.5, 0.0, 0.25, 0.25, 0.0])
    y, mass = rng.normal(size=(40, D)), np.r_[np.full(20, 0.05), np.zeros(20)]
    got = moved(x, w, measure(y, mass), 0.5)
    np.testing.assert_array_equal(got[jnp.array([1, 4])], x[[1, 4]])
    y[20:] += 100
    np.testing.assert_allclose(moved(x, w, measure(y, mass), 0.5), got, atol=1e-3)


# The sampler


@pytest.mark.slow
def test_without_transport_it_is_the_sampler():
    got = run(FEW)
    keys = keys_of(KEY, np.repeat(LABELS, 6), np.tile(np.arange(6), 2))
    start = atoms().points.reshape(12, *SHAPE)
    plain = jax.jit(diffusion.sample, static_argnums=(0, 2, 3))
    expected = plain(gaussian(DIT), law(), DIT, FEW, keys, start, np.repeat(LABELS, 6))
    np.testing.assert_allclose(got, np.asarray(expected).reshape(2, 6, D), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_whole_way_to_the_atoms_ends_on_a_permutation_of_them():
    equal = measure(atoms().points)
    got = run(replace(FEW, transport=1.0), held=equal)
    for ours, theirs in zip(got, equal.points):
        apart = np.square(ours[:, None] - theirs).sum(-1)
        assert sorted(apart.argmin(1)) == list(range(6))
        assert ot.exact(measure(ours), measure(theirs)) < 0.02 * np.square(theirs - theirs.mean(0)).sum(1).mean()


@pytest.mark.slow
def test_a_part_of_the_way_brings_the_class_nearer_to_its_measure():
    finer = measure(data(np.repeat(LABELS, 40), 9).reshape(2, 40, D))
    cost = {}
    for share in (0.0, 0.2, 0.6):
        got = run(replace(FEW, transport=share), target=finer if share else None)
        pairs = [[Measure(*part) for part in ((x, w), (y, v))] for x, w, y, v in zip(got, atoms().weights, *finer)]
        cost[share] = np.array([ot.exact(*pair) for pair in pairs])
    assert np.all(cost[0.6] < cost[0.2]) and np.all(cost[0.2] < cost[0.0])


@pytest.mark.slow
def test_a_class_knows_of_itself_only():
    settings = replace(FEW, transport=0.5, candidates=2)
    both = run(settings)
    for place in (0, 1):
        part = jax.tree.map(lambda x, place=place: x[[place]], atoms())
        alone = run(settings, LABELS[[place]], part)
        np.testing.assert_allclose(alone, both[[place]], rtol=1e-4, atol=1e-4)
    # The denoiser's class of each may have another number.
    swapped = MODEL._replace(variables=law(MEAN[[1, 0, 2]], STD[[1, 0, 2]]), labels=np.array([1, 0]))
    np.testing.assert_allclose(run(settings, model=swapped), both, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_little_memory_changes_nothing():
    settings = replace(FEW, transport=0.5, guidance=2.0)
    little = Resources(1)
    assert sizes(MODEL, settings, 2, 6, little) == Sizes(1, 1)
    np.testing.assert_allclose(run(settings, resources=little), run(settings), rtol=1e-4, atol=1e-4)


FOUR = """
import numpy as np, jax
from latent_helpers import DIT, data, gaussian, law
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources
from jaxdd.latent.decoding import LatentModel
from jaxdd.stages.images import Diffusion, together

model = LatentModel(None, None, (8, 8, 1), gaussian(DIT), law(), DIT, np.array([0, 1, 1, 0, 1]))
settings = Diffusion(steps=5, strength=0.8, guidance=1.0, transport=0.5, per_atom=2, candidates=2)
points = np.repeat(data(np.repeat(model.labels, 2)).reshape(5, 2, 4), 2, 1)
atoms, key = Measure(points, np.full((5, 4), 0.25, np.float32)), jax.random.key(0)
four, one = (Resources(2**20, tuple(jax.devices()[:count])) for count in (4, 1))
run = lambda resources: together.denoised(key, model, settings, atoms, atoms, np.arange(5), resources)
np.testing.assert_allclose(run(four), run(one), rtol=1e-4, atol=1e-4)
size = together.sizes(model, settings, 5, 4, four)
assert size.classes == 4, size
print(together.program(model, settings, (4, 4), size, four.mesh).lower().compile().as_text())
"""


@pytest.mark.slow
def test_four_devices_denoise_what_one_does_without_communication():
    root = Path(__file__).parents[3]
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    path = os.pathsep.join([str(root), str(root / "tests")])
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", FOUR], env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "num_partitions=4" in done.stdout
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in done.stdout


def test_a_sliced_denoiser_is_the_same():
    x, t = data(np.arange(5) % 2), np.array([1, 10, 100, 500, 999])
    model, labels = gaussian(DIT), np.arange(5) % 2
    whole = model.apply(law(), x, t, labels)
    for most in (1, 2, 3, 5, 9):
        part = diffusion.sliced(model.apply, most)(law(), *map(jnp.asarray, (x, t, labels)))
        np.testing.assert_allclose(part, whole, rtol=1e-6, atol=1e-6)


def test_latents_that_blow_up_are_said_by_class():
    broken = denoiser_of(lambda variables, x, t, labels: jnp.where((labels == 1)[:, None, None, None], jnp.nan, x))
    with pytest.raises(DivergenceError, match="class 7 diverged"):
        run(FEW, np.array([3, 7]), model=MODEL._replace(denoiser=broken, variables={}, labels=np.arange(8) == 7))


# The choice


def least(points):
    return min((np.linalg.norm(a - b) for a, b in combinations(points, 2)), default=np.inf)


@pytest.mark.parametrize("per_atom", [1, 2, 3])
def test_the_chosen_are_never_nearer_to_each_other_than_the_first(per_atom):
    rng, choose, gains = np.random.default_rng(per_atom), jax.jit(distinct, static_argnums=1), []
    for _ in range(20):
        # Candidates of an atom lie about it.
        centres = np.repeat(2 * rng.normal(size=(6 // per_atom, D)), per_atom, 0)
        pool = (centres + rng.normal(size=(4, 6, D))).astype(np.float32)
        chosen = np.asarray(choose(pool, per_atom))
        flat = pool.reshape(-1, D)
        assert len(set(chosen)) == 6
        np.testing.assert_array_equal(chosen % 6 // per_atom, np.arange(6) // per_atom)
        first, after = least(pool[0]), least(flat[chosen])
        assert after >= first * (1 - 1e-6)
        gains.append(after / first)
        # At the end no exchange of a single one brings it further from the others.
        for place, mine in enumerate(chosen):
            others = flat[np.delete(chosen, place)]
            own = np.linalg.norm(flat[mine] - others, axis=1).min()
            for other in np.flatnonzero(np.arange(24) % 6 // per_atom == place // per_atom):
                assert np.linalg.norm(flat[other] - others, axis=1).min() <= own + 1e-4
    assert np.mean(gains) > 1.5


def test_equal_candidates_and_single_places_keep_the_first():
    np.testing.assert_array_equal(distinct(jnp.ones((3, 4, D)), 2), np.arange(4))
    np.testing.assert_array_equal(distinct(jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, D)))), [0])
    np.testing.assert_array_equal(distinct(jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, D)))), np.arange(4))


@pytest.mark.slow
def test_candidates_begin_with_the_images_that_there_are_without_them():
    atom = Measure(*(np.repeat(x[:, :2], 3, 1) for x in atoms()))
    plain, chosen = (run(replace(FEW, per_atom=3, candidates=q), held=atom) for q in (1, 4))
    assert all(least(ours) >= least(theirs) for ours, theirs in zip(chosen, plain))
    assert np.mean([least(ours) / least(theirs) for ours, theirs in zip(chosen, plain)]) > 1.5
    # A single image has no others to differ from.
    one = jax.tree.map(lambda x: x[:, :1], atoms())
    assert sizes(MODEL, replace(FEW, candidates=4), 2, 1, Resources()) == sizes(MODEL, FEW, 2, 1, Resources())
    np.testing.assert_array_equal(run(replace(FEW, candidates=4), held=one), run(FEW, held=one))


# The imager


LATENTS = Quantization(space="latents", weights="sqrt")
WHOLE = Diffusion(steps=4, guidance=2.0, transport=0.3, targets=3, per_atom=2, candidates=3)


@pytest.mark.slow
def test_several_images_of_an_atom(latent_context):
    made = methods.distill(KEY, Recipe(LATENTS, WHOLE), 4, latent_context)
    half = methods.distill(KEY, Recipe(LATENTS, replace(WHOLE, per_atom=1)), 2, latent_context)
    assert made.images.shape == (10, 4, 8, 8, 1) and made.atoms.points.shape == (10, 4, 32)
    np.testing.assert_array_equal(made.atoms.points, np.repeat(half.atoms.points, 2, 1))
    np.testing.assert_allclose(made.atoms.weights, np.repeat(half.atoms.weights, 2, 1) / 2)
    np.testing.assert_allclose(made.atoms.weights.sum(1), 1, rtol=1e-5)
    assert np.abs(made.images[:, ::2] - made.images[:, 1::2]).max((1, 2, 3, 4)).min() > 1e-3
    # Of other noise also where nothing else is asked for.
    plain = methods.distill(KEY, Recipe(LATENTS, replace(WHOLE, transport=0.0, candidates=1)), 4, latent_context)
    assert np.abs(plain.images[:, ::2] - plain.images[:, 1::2]).max((1, 2, 3, 4)).min() > 1e-3
    assert np.abs(plain.images - made.images).max() > 1e-3


@pytest.mark.slow
def test_a_class_does_not_depend_on_which_others_are_made(latent_context):
    recipe = Recipe(LATENTS, replace(WHOLE, targets=0))
    for one in (recipe, Recipe(LATENTS, WHOLE)):
        whole = methods.distill(KEY, one, 4, latent_context)
        part = methods.distill(KEY, one, 4, latent_context._replace(subset=np.array([2, 7])))
        np.testing.assert_array_equal(part.images, whole.images[[2, 7]])


@pytest.mark.slow
def test_the_plan_has_all_that_is_done(latent_context):
    works = WHOLE.works(latent_context, 4)
    assert [(work.title, work.units) for work in works] == [("targets", 10), ("denoise", 120), ("decode", 40)]
    assert [work.least for work in works] == [1, 12, 1]
    shapes = [jax.tree.leaves(work.program.lower().out_info) for work in works]
    assert shapes[0][0].shape[1:] == (6, 32) and shapes[1][0].shape[1:] == (4, 32)
    assert works[1].chunks * shapes[1][0].shape[0] >= 10
    assert [work.title for work in replace(WHOLE, targets=0).works(latent_context, 4)] == ["denoise", "decode"]
    assert [work.title for work in FEW.works(latent_context, 4)] == ["decode"]


def test_targets_are_as_many_for_every_subset(latent_context):
    few = int(latent_context.classes.encoded.counts.min())
    assert imager._target_size(latent_context, WHOLE, 4) == 6
    assert imager._target_size(latent_context, replace(WHOLE, targets=10**4), 4) == few
    assert imager._target_size(latent_context, replace(WHOLE, targets=0), 4) == 4


@pytest.mark.parametrize(
    "settings, ipc, words",
    [
        (replace(WHOLE, per_atom=3), 4, "no multiple of the 3 of each atom"),
        (replace(WHOLE, strength=0.0), 4, "`imager.strength` 0.0 adds no noise"),
        (replace(WHOLE, strength=0.05, transport=0.0, candidates=1), 4, "`imager.strength` 0.05 adds no noise"),
        (replace(WHOLE, transport=1.5), 4, "transport"),
        (replace(WHOLE, candidates=0), 4, "candidates"),
        (replace(WHOLE, per_atom=0), 4, "per_atom"),
    ],
)
def test_settings_that_do_not_go_together_are_said(latent_context, settings, ipc, words):
    problem = latent_context.problem("it", ipc)
    assert words in message(lambda: methods.check(Recipe(LATENTS, settings), problem))


def test_a_class_needs_one_real_image_for_each_atom_only(latent_context):
    problem = latent_context.problem("it", 10)._replace(counts=np.full(10, 5))
    methods.check(Recipe(LATENTS, WHOLE), problem)
    assert "fewer than the 10" in message(lambda: methods.check(Recipe(LATENTS, replace(WHOLE, per_atom=1)), problem))
