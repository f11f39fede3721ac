"""Augmentations: pure in the key, and doing to pixels and targets what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdd.data import augment
from jaxdd.data.augment import Augment, pipeline

N, SIDE = 6, 8
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(N, SIDE, SIDE, 2)), jnp.float32)
TARGETS = jnp.eye(N)
KEYS = [jax.random.key(i) for i in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize(("crop", "mix"), [("resized", "cutmix"), ("pad", "mixup"), ("resized", "none")])
def test_a_pipeline_is_a_function_of_its_key_with_and_without_jit(crop, mix):
    run = pipeline(Augment(crop=crop, mix=mix))
    jitted = jax.jit(run)
    first, again, other = (jitted(key, IMAGES, TARGETS) for key in (KEYS[0], KEYS[0], KEYS[1]))
    plain = run(KEYS[0], IMAGES, TARGETS)
    for a, b, c in zip(first, again, plain):
        assert a.shape == c.shape and a.dtype == c.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_allclose(first[1].sum(1), 1, rtol=1e-6)
    if mix == "none":
        np.testing.assert_array_equal(first[1], TARGETS)


def test_no_augmentation_changes_nothing():
    images, targets = pipeline(Augment(crop="none", flip=False))(KEYS[0], IMAGES, TARGETS)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("wrong", [{"crop": "centre"}, {"mix": "cut"}])
def test_unknown_names_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        pipeline(Augment(**wrong))


@pytest.mark.parametrize("parts", [2, 4])
def test_shuffled_parts_are_those_of_the_image_each_at_a_place_of_its_own(parts):
    side = SIDE // parts
    cut = lambda x: np.asarray(x).reshape(N, parts, side, parts, side, 2).swapaxes(2, 3).reshape(N, parts**2, -1)
    before = cut(IMAGES)
    moved = False
    for key in KEYS[:4]:
        after = cut(augment.shuffled_parts(key, IMAGES, parts))
        found = (before[:, :, None] == after[:, None]).all(-1)
        assert (found.sum(1) == 1).all() and (found.sum(2) == 1).all()
        moved |= not np.array_equal(before, after)
        # Each image has an order of its own.
        assert len({found[i].tobytes() for i in range(N)}) > 1
    assert moved
    images, targets = pipeline(Augment(crop="none", flip=False, shuffle=parts))(KEYS[0], IMAGES, TARGETS)
    drawn = augment.draws(Augment(crop="none", flip=False, shuffle=parts), KEYS[0], IMAGES.shape)["order"]
    np.testing.assert_array_equal(cut(images), np.take_along_axis(before, np.asarray(drawn)[..., None], 1))
    np.testing.assert_array_equal(targets, TARGETS)


def test_parts_divide_the_sides_and_leave_the_other_draws_as_they_are():
    with pytest.raises(ValueError, match="does not divide"):
        augment.shuffled_parts(KEYS[0], IMAGES, 3)
    plain, shuffled = (augment.draws(Augment(shuffle=k), KEYS[0], IMAGES.shape) for k in (1, 2))
    assert set(shuffled) - set(plain) == {"order"}
    jax.tree.map(np.testing.assert_array_equal, plain, {name: shuffled[name] for name in plain})


# Boxes and crops


@pytest.mark.slow
@pytest.mark.parametrize("least", [0.08, 0.5, 1.0])
def test_boxes_lie_in_the_image_and_keep_the_share_asked_for(least):
    keys = jax.random.split(jax.random.key(3), 2000)
    origin, size = map(np.asarray, jax.vmap(lambda k: augment.random_box(k, least))(keys))
    assert (origin >= 0).all() and (size > 0).all() and (origin + size <= 1 + 1e-6).all()
    area, ratio, free = size.prod(1), size[:, 0] / size[:, 1], (size < 1).all(1)
    assert (area[free] >= least * (1 - 1e-5)).all()
    # A side that is cut to 1 was at most the root of 4/3 longer.
    assert (area >= least * np.sqrt(3 / 4) * (1 - 1e-5)).all()
    assert (ratio >= 0.75 * (1 - 1e-5)).all() and (ratio <= 4 / 3 * (1 + 1e-5)).all()
    if least < 0.5:
        assert area.min() < 1.3 * least and area.max() > 0.8


@pytest.mark.slow
def test_the_full_box_is_the_identity():
    out = augment.crop_resize(IMAGES, jnp.zeros(2), jnp.ones(2))
    np.testing.assert_allclose(out, IMAGES, rtol=1e-6, atol=1e-6)


def bilinear(image, origin, size):
    """Each output pixel's centre, carried into the box, read off the image between its four neighbours."""
    side = image.shape[0]
    out = np.zeros_like(image, dtype=np.float64)
    for i in range(side):
        for j in range(side):
            y, x = np.clip(np.array([(i + 0.5), (j + 0.5)]) * size + origin * side - 0.5, 0, side - 1)
            top, left = min(int(y), side - 2), min(int(x), side - 2)
            v, u = y - top, x - left
            square = image[top : top + 2, left : left + 2]
            out[i, j] = np.einsum("a,b,abc->c", [1 - v, v], [1 - u, u], square)
    return out


def test_crop_resize_reads_between_the_pixels_and_is_differentiable():
    crop = jax.jit(augment.crop_resize)
    rng = np.random.default_rng(5)
    for _ in range(5):
        size = rng.uniform(0.2, 1, 2).astype(np.float32)
        origin = (rng.uniform(size=2) * (1 - size)).astype(np.float32)
        np.testing.assert_allclose(
            crop(IMAGES[0], origin, size), bilinear(np.asarray(IMAGES[0]), origin, size), atol=2e-5
        )
        np.testing.assert_allclose(crop(IMAGES, origin, size)[0], crop(IMAGES[0], origin, size), atol=1e-6)
    check_grads(lambda x: crop(x, origin, size), (IMAGES[0],), 1, ["rev"], atol=1e-2, rtol=1e-2)


def test_pad_crop_cuts_from_the_padded_image_at_all_places():
    pad = 1
    padded = np.pad(IMAGES, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    cut = jax.jit(lambda key: augment.pad_crop(key, IMAGES, pad))
    seen = set()
    for key in KEYS:
        for image, whole in zip(np.asarray(cut(key)), padded):
            places = [
                (y, x)
                for y in range(2 * pad + 1)
                for x in range(2 * pad + 1)
                if np.array_equal(image, whole[y : y + SIDE, x : x + SIDE])
            ]
            assert len(places) == 1
            seen.update(places)
    assert len(seen) == (2 * pad + 1) ** 2


def test_flip_mirrors_about_half_and_twice_is_nothing():
    once = np.concatenate([augment.flip(key, IMAGES) for key in KEYS])
    twice = np.concatenate([augment.flip(key, augment.flip(key, IMAGES)) for key in KEYS])
    whole = np.concatenate([IMAGES] * len(KEYS))
    np.testing.assert_array_equal(twice, whole)
    mirrored = (once != whole).any((1, 2, 3))
    np.testing.assert_array_equal(once, np.where(mirrored[:, None, None, None], whole[:, :, ::-1], whole))
    assert 0.3 < mirrored.mean() < 0.7


def test_roll_moves_the_whole_batch_by_at_most_the_shift():
    seen = set()
    for key in KEYS:
        out = np.asarray(augment.roll(key, IMAGES, 2))
        shifts = [
            (y, x) for y in range(-2, 3) for x in range(-2, 3) if np.array_equal(out, np.roll(IMAGES, (y, x), (1, 2)))
        ]
        assert len(shifts) == 1
        seen.update(shifts)
    assert len(seen) > 8


# Mixing


@pytest.mark.slow
def test_cutmix_targets_are_the_areas_really_pasted():
    # Image i is filled with the number i, so its pixels say where they come from.
    marked = jnp.broadcast_to(jnp.arange(float(N))[:, None, None, None], (N, SIDE, 10, 1))
    run = jax.jit(lambda key: augment.cutmix(key, marked, TARGETS, 1.0))
    areas = set()
    for key in KEYS:
        images, targets = map(np.asarray, run(key))
        share = np.stack([(images[..., 0] == j).mean((1, 2)) for j in range(N)], 1)
        np.testing.assert_allclose(targets, share, atol=1e-6)
        changed = images[..., 0] != np.arange(N)[:, None, None]
        for mask in changed[changed.any((1, 2))]:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert mask.sum() == len(rows) * len(columns)
            assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
            areas.add(int(mask.sum()))
    assert len(areas) > 5


@pytest.mark.slow
def test_mixup_mixes_images_as_it_mixes_targets():
    run = jax.jit(lambda key: augment.mixup(key, IMAGES, TARGETS, 1.0))
    for key in KEYS:
        images, targets = map(np.asarray, run(key))
        assert (targets >= 0).all()
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        assert ((targets > 0).sum(1) <= 2).all()
        np.testing.assert_allclose(images, np.einsum("ij,jhwc->ihwc", targets, IMAGES), atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_crop_of_tpus_is_that_of_other_devices(mirrored):
    images = jax.random.normal(KEYS[0], (2, 3, 12, 10, 3), jnp.float32)
    for key in KEYS[1:5]:
        box = (*augment.random_box(key, 0.08), jnp.asarray(mirrored))
        one, other = augment._cropped_on_tpu(images, *box), augment._cropped(images, *box)
        np.testing.assert_allclose(one, other, atol=1e-4)
        # So is the one that this device takes, and mirroring comes last.
        np.testing.assert_allclose(augment.crop_resize(images, *box), other, atol=1e-6)
        plain = augment.crop_resize(images, *box[:2])
        np.testing.assert_allclose(plain[..., ::-1, :] if mirrored else plain, other, atol=1e-6)
