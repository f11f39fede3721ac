"""Crops of real images: boxes, scores, ranks and grids, against a model simple enough to write them down."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st

from jaxdd.data import augment
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation
from jaxdd.nn import Output
from jaxdd.stages.context import Teacher
from jaxdd.stages.images import crops
from jaxdd.stages.images.crops import Crops, condenser

KEY, SHAPE, M, LABEL = jax.random.key(4), (8, 8, 1), 2, 1
TABLE = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(12, *SHAPE)).astype(np.float32)
SETTINGS = Crops(pool=12, crops=4, parts=4, min_scale=0.2)
ROWS = np.arange(12)


def apply(variables, images):
    flat = images.reshape(len(images), -1)
    return Output(flat @ variables, flat, {})


TEACHER = Teacher(apply, TABLE, Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32)))


def read(rows):
    return IMAGES[rows]


def condensed(settings, rows=ROWS, c=LABEL, m=M, **more):
    return condenser(KEY, TEACHER, settings, m, SHAPE, **more)(c, rows, read)


@jax.jit
def crop(image, i, k):
    """Of the i-th image of the class, the k-th."""
    k_boxes = jax.random.split(jax.random.fold_in(KEY, LABEL))[1]
    box = augment.random_box(jax.random.fold_in(k_boxes, 4 * i + k), SETTINGS.min_scale, 1.0)
    return crops.cut(image, *box, (4, 4))


@pytest.fixture(scope="module")
def by_hand():
    """All crops of the first eight images, [8, 4, 4, 4, 1], and their scores."""
    parts, scores = np.zeros((8, 4, 4, 4, 1)), np.zeros((8, 4))
    for i in range(8):
        for k in range(4):
            parts[i, k] = crop(IMAGES[i], i, k)
            seen = np.zeros(SHAPE)
            seen[2:6, 2:6] = parts[i, k]
            logits = seen.reshape(-1) @ TABLE.astype(np.float64)
            scores[i, k] = np.log(np.exp(logits).sum()) - logits[LABEL]
    return parts, scores


def grid(parts):
    return np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)], 0)


@pytest.fixture(scope="module")
def made():
    """Eight images, one crop of each wanted."""
    return condensed(SETTINGS, ROWS[:8])


def test_the_best_crop_of_each_image_and_of_these_the_best(made, by_hand):
    parts, scores = by_hand
    order = np.argsort(scores.min(1))
    best = parts[np.arange(8), scores.argmin(1)][order]
    assert made.shape == (M, *SHAPE) and made.dtype == np.float32
    # Both images have one of the two best crops, one of the next two, and so on.
    for j in range(M):
        np.testing.assert_allclose(made[j], grid(best[j::M]), atol=1e-5)


@pytest.mark.parametrize(("images", "boxes"), [(3, 4), (2, 1)])
def test_too_few_images_give_second_crops_from_as_many_boxes_as_that_takes(by_hand, images, boxes):
    """Eight crops of three images or two, all from four boxes each."""
    parts, scores = (values[:images] for values in by_hand)
    ranks, taken = scores.argsort(1), []
    for k in range(4):
        place = sorted(range(images), key=lambda i: scores[i, ranks[i, k]])
        taken += [parts[i, ranks[i, k]] for i in place]
    result = condensed(replace(SETTINGS, crops=boxes), ROWS[:images])
    for j in range(M):
        np.testing.assert_allclose(result[j], grid(taken[:8][j::M]), atol=1e-5)


def test_memory_decides_nothing_but_the_batch(made, monkeypatch):
    monkeypatch.setattr(crops.parallel, "is_cpu", lambda local: False)
    np.testing.assert_allclose(condensed(SETTINGS, ROWS[:8], resources=Resources(1)), made, atol=1e-5)


@pytest.mark.slow
def test_a_pool_is_drawn_for_the_class_and_small_images_are_not_parted():
    """Whole images, m of a pool of m: the pool itself."""
    whole = Crops(pool=3, crops=1, min_scale=1.0)
    pools = []
    for c in (0, 1, 0):
        result = condensed(whole, ROWS, c, m=3)
        places = [int(np.square(IMAGES - picture).sum((1, 2, 3)).argmin()) for picture in result]
        np.testing.assert_allclose(result, IMAGES[places], atol=1e-5)
        assert len(set(places)) == 3
        pools.append(places)
    assert pools[0] == pools[2] and set(pools[0]) != set(pools[1])


def test_a_box_on_the_pixels_is_those_pixels():
    cut = jax.jit(lambda image, *box: crops.cut(image, *box, (4, 4)))
    result = cut(IMAGES[0], np.array([0.25, 0.5]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(result, IMAGES[0][2:6, 4:8], atol=1e-6)


def test_parts_lie_in_rows_from_the_top_left_whatever_the_side():
    values = np.arange(8.0).reshape(2, 4, 1, 1, 1)
    for side, middle in ((8, 4), (7, 3)):
        small = np.broadcast_to(values, (2, 4, side // 2, side // 2, 1))
        result = np.asarray(jax.jit(lambda parts, side=side: crops.stitch(parts, (side, side, 1)))(small))
        corners = result[:, :middle, :middle], result[:, :middle, middle:], result[:, middle:, :middle]
        for k, corner in enumerate([*corners, result[:, middle:, middle:]]):
            np.testing.assert_allclose(corner, np.broadcast_to(values[:, k], corner.shape), rtol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_ranks_go_round_by_round(seed, n, each):
    scores = np.random.default_rng(seed).normal(size=(n, each))
    result = scores.reshape(-1)[crops.ranked(scores)].reshape(each, n)
    np.testing.assert_array_equal(result, np.sort(np.sort(scores, 1).T, 1))
    assert sorted(crops.ranked(scores)) == list(range(n * each))


def test_bad_requests_are_refused_in_one_line():
    assert "`imager.crops` 0" in message(lambda: condensed(replace(SETTINGS, crops=0)))
    assert "`imager.parts` 100 do not fit into images [8, 8, 1]" in message(
        lambda: condensed(replace(SETTINGS, parts=100))
    )
    assert "class 1 has no real images" in message(lambda: condensed(SETTINGS, ROWS[:0]))
