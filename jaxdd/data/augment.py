"""Augmentation on the device. Each function is deterministic in its PRNG key, so that views can be reproduced.

Images are float [N, H, W, C]. Random numbers are drawn per image, unless a docstring says per batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import AREA, SHARE, Bounds, bounded


@dataclass(frozen=True)
class Augment:
    """The augmentations, applied in the order of the fields: crop, flip, mix."""

    crop: str = "resized"  # "resized" (random-resized-crop), "pad" (pad and crop) or "none"
    min_scale: float = bounded(0.08, AREA)  # least area of a random-resized-crop, as a share of the image
    pad: float = bounded(0.125, SHARE)  # padding of pad-and-crop, as a share of the side
    flip: bool = True
    mix: str = "none"  # "cutmix", "mixup" or "none"
    alpha: float = bounded(1.0, Bounds(1e-6, 1e6))  # the mixing coefficient is drawn from Beta(alpha, alpha)


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

    def one(k, image):
        return crop_resize(image, *random_box(k, min_scale))

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image [N, H, W, C] mirrored left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def pad_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Each image [N, H, W, C] padded with ``pad`` zeros on all sides, and cropped to H x W at a random position."""
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1, jnp.int32)

    def one(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, jnp.int32(0)), images.shape[1:])

    return jax.vmap(one)(padded, corners)


def roll(key: jax.Array, images: jax.Array, max_shift: int) -> jax.Array:
    """The images [..., H, W, C] rolled along both axes by up to ``max_shift`` pixels; the shift is drawn per batch."""
    shift = jax.random.randint(key, (2,), -max_shift, max_shift + 1, jnp.int32)
    return jnp.roll(images, shift, (-3, -2))


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """x <- t x + (1 - t) x[pi], with t ~ Beta(alpha, alpha), for images [N, H, W, C] and targets [N, K].

    t and the permutation pi are drawn per batch (Zhang et al. 2018).
    """
    k_t, k_pi = jax.random.split(key)
    t = jax.random.beta(k_t, alpha, alpha, dtype=jnp.float32)
    pi = jax.random.permutation(k_pi, images.shape[0])
    return t * images + (1 - t) * images[pi], t * targets + (1 - t) * targets[pi]


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Paste one box of x[pi] into images x [N, H, W, C], and mix the targets [N, K] by the area pasted.

    The area of the box is 1 - t with t ~ Beta(alpha, alpha). Its centre is uniform, and it is clipped to the image.
    The box and the permutation pi are drawn per batch (Yun et al. 2019).
    """
    k_t, k_centre, k_pi = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(k_t, alpha, alpha, dtype=jnp.float32))
    centre = jax.random.uniform(k_centre, (2,), jnp.float32)
    h, w = images.shape[1:3]

    def covered(n, c):
        low, high = jnp.round(n * jnp.clip(jnp.stack([c - side / 2, c + side / 2]), 0, 1))
        i = jnp.arange(n, dtype=jnp.float32)
        return (i >= low) & (i < high)

    inside = covered(h, centre[0])[:, None] & covered(w, centre[1])[None, :]
    pi = jax.random.permutation(k_pi, images.shape[0])
    t = 1.0 - inside.mean(dtype=jnp.float32)
    return jnp.where(inside[..., None], images[pi], images), t * targets + (1 - t) * targets[pi]


CROPS = Registry("crop")
"""Functions (key, images, settings) -> images."""
CROPS.register("resized", lambda key, images, settings: random_resized_crop(key, images, settings.min_scale))
CROPS.register(
    "pad", lambda key, images, settings: pad_crop(key, images, max(1, round(settings.pad * images.shape[1])))
)
CROPS.register("none", lambda key, images, settings: images)

MIXES = Registry("mix")
"""Functions (key, images, targets, alpha) -> (images, targets)."""
MIXES.register("cutmix", cutmix)
MIXES.register("mixup", mixup)
MIXES.register("none", lambda key, images, targets, alpha: (images, targets))


def pipeline(settings: Augment) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The composition of the augmentations that ``settings`` names.

    Returns:
      A function (key, images [N, H, W, C], targets [N, K]) -> (images, targets) of the same shapes.

    Raises:
      InputError: an unknown crop or mix.
    """
    crop, mix = CROPS.find(settings.crop), MIXES.find(settings.mix)

    def augment(key, images, targets):
        k_crop, k_flip, k_mix = jax.random.split(key, 3)
        images = crop(k_crop, images, settings)
        if settings.flip:
            images = flip(k_flip, images)
        return mix(k_mix, images, targets, settings.alpha)

    return augment
