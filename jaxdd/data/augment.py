"""Augmentation on the device. Each function is deterministic in its PRNG key, so that views can be reproduced.

Images are float [N, H, W, C]. Random numbers are drawn per image, unless a docstring says per batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import AREA, SHARE, Bounds, bounded

Shape = tuple[int, ...]
Draws = dict[str, jax.Array]


@dataclass(frozen=True)
class Augment:
    """The augmentations, in the order in which they are applied: shuffle, crop, flip, mix."""

    crop: str = "resized"  # "resized" (random-resized-crop), "pad" (pad and crop) or "none"
    min_scale: float = bounded(0.08, AREA)  # least area of a random-resized-crop, as a share of the image
    pad: float = bounded(0.125, SHARE)  # padding of pad-and-crop, as a share of the side
    flip: bool = True
    mix: str = "none"  # "cutmix", "mixup" or "none"
    alpha: float = bounded(1.0, Bounds(1e-6, 1e6))  # the mixing coefficient is drawn from Beta(alpha, alpha)
    shuffle: int = bounded(1, Bounds(1, 64))  # parts of a side, all of which change places (RDED uses 2); 1: none


def random_box(key: jax.Array, min_scale: float, max_ratio: float = 4 / 3) -> tuple[jax.Array, jax.Array]:
    """A random box in units of the sides of the image: origin [2] and size [2], in the order (y, x).

    The area is uniform on [min_scale, 1]. The logarithm of the aspect ratio is uniform on [-log(max_ratio),
    log(max_ratio)]. The sides are clipped to the image (Szegedy et al. 2015).
    """
    k_area, k_ratio, k_origin = jax.random.split(key, 3)
    area = jax.random.uniform(k_area, (), jnp.float32, min_scale, 1.0)
    root = jnp.exp(0.5 * jnp.log(max_ratio) * jax.random.uniform(k_ratio, (), jnp.float32, -1.0, 1.0))
    size = jnp.minimum(jnp.sqrt(area) * jnp.stack([1.0 / root, root]), 1.0)
    return jax.random.uniform(k_origin, (2,), jnp.float32) * (1.0 - size), size


def crop_resize(image: jax.Array, origin: jax.Array, size: jax.Array, mirrored: jax.Array | bool = False) -> jax.Array:
    """A box of images [..., H, W, C], resized bilinearly to H x W; differentiable in the images.

    origin, size: of the box, [2] each, in units of the sides, see `random_box`.
    mirrored: whether to mirror the result left to right.
    """
    given = image, origin, size, jnp.asarray(mirrored)
    return jax.lax.platform_dependent(*given, tpu=_cropped_on_tpu, default=_cropped)


def _cropped(image: jax.Array, origin: jax.Array, size: jax.Array, mirrored: jax.Array) -> jax.Array:
    h, w = image.shape[-3:-1]
    scale = 1.0 / size
    shift = -origin * jnp.array([h, w], jnp.float32) * scale
    axes = (image.ndim - 3, image.ndim - 2)
    image = jax.image.scale_and_translate(image, image.shape, axes, scale, shift, "linear", antialias=False)
    return jnp.where(mirrored, image[..., ::-1, :], image)


def _cropped_on_tpu(image: jax.Array, origin: jax.Array, size: jax.Array, mirrored: jax.Array) -> jax.Array:
    """The same for TPUs: columns before rows, which needs no copies in other layouts, and in half as many products.

    There float32 products are made of bfloat16 ones, six for all digits. Three give 16 bits, twice those of a pixel.
    """
    rows, columns = (_interpolation(side, *box) for side, *box in zip(image.shape[-3:-1], origin, size))
    columns = jnp.where(mirrored, columns[::-1], columns)
    wide = jnp.einsum("...hwc,xw->...hxc", image, columns, precision="high")
    return jnp.einsum("...hxc,yh->...yxc", wide, rows, precision="high")


def _interpolation(side: int, origin: jax.Array, size: jax.Array) -> jax.Array:
    """The weights of bilinear interpolation along one axis, [pixels of the crop, pixels of the image]."""
    pixels = jnp.arange(side, dtype=jnp.float32)
    # Beyond the centres of the outermost pixels, the image continues as it is there.
    at = jnp.clip(side * origin + (pixels + 0.5) * size - 0.5, 0.0, side - 1.0)
    return jnp.maximum(0.0, 1.0 - abs(at[:, None] - pixels))


def random_resized_crop(key: jax.Array, images: jax.Array, min_scale: float = 0.08) -> jax.Array:
    """A random box of each image [N, H, W, C], resized to H x W."""
    return _crop_boxes(images, _draw_boxes(key, images.shape, Augment(min_scale=min_scale)))


def _draw_boxes(key: jax.Array, shape: Shape, settings: Augment) -> Draws:
    draw = partial(random_box, min_scale=settings.min_scale)
    origins, sizes = jax.vmap(draw)(jax.random.split(key, shape[0]))
    return {"box_origin": origins, "box_size": sizes}


def _crop_boxes(images: jax.Array, drawn: Draws) -> jax.Array:
    return jax.vmap(crop_resize)(images, drawn["box_origin"], drawn["box_size"])


def shuffled_parts(key: jax.Array, images: jax.Array, parts: int) -> jax.Array:
    """Each image [N, H, W, C] cut into ``parts`` x ``parts`` rectangles, which change places at random (RDED).

    Raises:
      InputError: ``parts`` do not divide the sides.
    """
    return _rearrange(images, _draw_order(key, images.shape, parts), parts)


def _draw_order(key: jax.Array, shape: Shape, parts: int) -> jax.Array:
    return jax.vmap(lambda k: jax.random.permutation(k, parts**2))(jax.random.split(key, shape[0]))


def _rearrange(images: jax.Array, order: jax.Array, parts: int) -> jax.Array:
    n, h, w, c = images.shape
    if h % parts or w % parts:
        raise InputError(f"`shuffle` {parts} does not divide images of {h} x {w} pixels; use a divisor")
    high, wide = h // parts, w // parts
    cut = images.reshape(n, parts, high, parts, wide, c).swapaxes(2, 3).reshape(n, parts**2, high, wide, c)
    moved = jnp.take_along_axis(cut, order[:, :, None, None, None], 1)
    return moved.reshape(n, parts, parts, high, wide, c).swapaxes(2, 3).reshape(images.shape)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image [N, H, W, C] mirrored left to right with probability one half."""
    return _flip(images, _draw_flips(key, len(images)))


def _draw_flips(key: jax.Array, count: int) -> jax.Array:
    return jax.random.bernoulli(key, jnp.float32(0.5), (count, 1, 1, 1))[:, 0, 0, 0]


def _flip(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def pad_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Each image [N, H, W, C] padded with ``pad`` zeros on all sides, and cropped to H x W at a random position."""
    return _crop_shifted(images, {"shift": _draw_shifts(key, len(images), pad)}, pad)


def _draw_shifts(key: jax.Array, count: int, pad: int) -> jax.Array:
    return jax.random.randint(key, (count, 2), 0, 2 * pad + 1, jnp.int32) - pad


def _crop_shifted(images: jax.Array, drawn: Draws, pad: int) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(image, shift):
        return jax.lax.dynamic_slice(image, (*(shift + pad), jnp.int32(0)), images.shape[1:])

    return jax.vmap(one)(padded, drawn["shift"])


def roll(key: jax.Array, images: jax.Array, max_shift: int) -> jax.Array:
    """The images [..., H, W, C] rolled along both axes by up to ``max_shift`` pixels; the shift is drawn per batch."""
    shift = jax.random.randint(key, (2,), -max_shift, max_shift + 1, jnp.int32)
    return jnp.roll(images, shift, (-3, -2))


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """x <- t x + (1 - t) x[pi], with t ~ Beta(alpha, alpha), for images [N, H, W, C] and targets [N, K].

    t and the permutation pi are drawn per batch (Zhang et al. 2018).
    """
    return _blend(images, targets, _draw_blend(key, images.shape, Augment(alpha=alpha)))


def _draw_blend(key: jax.Array, shape: Shape, settings: Augment) -> Draws:
    k_t, k_pi = jax.random.split(key)
    t = jax.random.beta(k_t, settings.alpha, settings.alpha, dtype=jnp.float32)
    return {"partner": jax.random.permutation(k_pi, shape[0]), "share": t}


def _blend(images: jax.Array, targets: jax.Array, drawn: Draws) -> tuple[jax.Array, jax.Array]:
    pi, t = drawn["partner"], drawn["share"]
    return t * images + (1 - t) * images[pi], t * targets + (1 - t) * targets[pi]


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Paste one box of x[pi] into images x [N, H, W, C], and mix the targets [N, K] by the area pasted.

    The area of the box is 1 - t with t ~ Beta(alpha, alpha). Its centre is uniform, and it is clipped to the image.
    The box and the permutation pi are drawn per batch (Yun et al. 2019).
    """
    return _paste(images, targets, _draw_paste(key, images.shape, Augment(alpha=alpha)))


def _draw_paste(key: jax.Array, shape: Shape, settings: Augment) -> Draws:
    k_t, k_centre, k_pi = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(k_t, settings.alpha, settings.alpha, dtype=jnp.float32))
    centre = jax.random.uniform(k_centre, (2,), jnp.float32)
    h, w = shape[1:3]
    ends = jnp.clip(jnp.stack([centre - side / 2, centre + side / 2]), 0, 1)
    (top, left), (bottom, right) = jnp.round(jnp.array([h, w], jnp.float32) * ends).astype(jnp.int32)
    share = 1.0 - ((bottom - top) * (right - left)).astype(jnp.float32) / (h * w)
    return {"partner": jax.random.permutation(k_pi, shape[0]), "share": share,
            "paste": jnp.stack([top, bottom, left, right])}  # fmt: skip


def _paste(images: jax.Array, targets: jax.Array, drawn: Draws) -> tuple[jax.Array, jax.Array]:
    (top, bottom, left, right), pi, t = drawn["paste"], drawn["partner"], drawn["share"]
    rows, columns = (jnp.arange(side, dtype=jnp.int32) for side in images.shape[1:3])
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None, :]
    return jnp.where(inside[..., None], images[pi], images), t * targets + (1 - t) * targets[pi]


def _pad_pixels(shape: Shape, settings: Augment) -> int:
    return max(1, round(settings.pad * shape[1]))


class Crop(NamedTuple):
    """A way to crop: what is drawn for a batch, and what is done with it.

    Attributes:
      draw: (key, shape of the images (N, H, W, C), settings) -> arrays by name, [N, ...] each.
      apply: (images [N, H, W, C], these arrays, settings) -> images of the same shape.
    """

    draw: Callable[[jax.Array, Shape, Augment], Draws]
    apply: Callable[[jax.Array, Draws, Augment], jax.Array]


class Mix(NamedTuple):
    """A way to mix the images of a batch.

    Attributes:
      draw: (key, shape of the images (N, H, W, C), settings) -> arrays by name.
      apply: (images [N, H, W, C], targets [N, K], these arrays) -> images and targets of the same shapes.
    """

    draw: Callable[[jax.Array, Shape, Augment], Draws]
    apply: Callable[[jax.Array, jax.Array, Draws], tuple[jax.Array, jax.Array]]


CROPS = Registry("crop", Crop)
CROPS.register("resized", Crop(_draw_boxes, lambda images, drawn, settings: _crop_boxes(images, drawn)))
CROPS.register(
    "pad",
    Crop(
        lambda key, shape, settings: {"shift": _draw_shifts(key, shape[0], _pad_pixels(shape, settings))},
        lambda images, drawn, settings: _crop_shifted(images, drawn, _pad_pixels(images.shape, settings)),
    ),
)
CROPS.register("none", Crop(lambda key, shape, settings: {}, lambda images, drawn, settings: images))

MIXES = Registry("mix", Mix)
MIXES.register("cutmix", Mix(_draw_paste, _paste))
MIXES.register("mixup", Mix(_draw_blend, _blend))
MIXES.register("none", Mix(lambda key, shape, settings: {}, lambda images, targets, drawn: (images, targets)))


def draws(settings: Augment, key: jax.Array, shape: Shape) -> Draws:
    """All that `pipeline` draws for a batch of images of ``shape`` (N, H, W, C), as arrays.

    Only what the settings need is there:

    - ``order``: int32 [N, p^2], the part of the image, row by row, that comes to each place.
    - ``box_origin``, ``box_size``: float32 [N, 2] each, the boxes that are cropped, (y, x) in units of the sides.
    - ``shift``: int32 [N, 2], (y, x) in pixels; pixel p of a padded crop is pixel p + shift of the image, or zero.
    - ``flip``: bool [N], whether the crop is mirrored left to right.
    - ``partner``: int32 [N], the place in the batch of the image that is mixed in.
    - ``share``: float32 [], the share of the image itself.
    - ``paste``: int32 [4], top, bottom, left and right of the box that CutMix takes from the partner.

    Raises:
      InputError: an unknown crop or mix.
    """
    k_crop, k_flip, k_mix = jax.random.split(key, 3)
    drawn = CROPS.find(settings.crop).draw(k_crop, shape, settings)
    flips = {"flip": _draw_flips(k_flip, shape[0])} if settings.flip else {}
    if settings.shuffle > 1:
        drawn = {"order": _draw_order(jax.random.fold_in(key, 3), shape, settings.shuffle), **drawn}
    return {**drawn, **flips, **MIXES.find(settings.mix).draw(k_mix, shape, settings)}


def pipeline(settings: Augment) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The composition of the augmentations that ``settings`` names, with what `draws` draws.

    Returns:
      A function (key, images [N, H, W, C], targets [N, K]) -> (images, targets) of the same shapes.

    Raises:
      InputError: an unknown crop or mix.
    """
    crop, mix = CROPS.find(settings.crop), MIXES.find(settings.mix)

    def augment(key, images, targets):
        drawn = draws(settings, key, images.shape)
        if settings.shuffle > 1:
            images = _rearrange(images, drawn["order"], settings.shuffle)
        images = crop.apply(images, drawn, settings)
        if settings.flip:
            images = _flip(images, drawn["flip"])
        return mix.apply(images, targets, drawn)

    return augment
