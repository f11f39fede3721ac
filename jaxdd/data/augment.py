"""Augmentation on the device: each function is pure in a key, so replaying the key replays the picture.

Images are [N, H, W, C] float. A draw is made for each image unless the function says that it is made for the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdd.ground.registry import Registry


@dataclass(frozen=True)
class Augment:
    """Which augmentations, in the order of the fields."""

    crop: str = "resized"  # "resized" (random-resized-crop), "pad" (pad and crop) or "none"
    min_scale: float = 0.08  # smallest share of the area that a random-resized-crop keeps
    pad: float = 0.125  # padding of pad-and-crop as a share of the side
    flip: bool = True
    mix: str = "none"  # "cutmix", "mixup" or "none"
    alpha: float = 1.0  # Beta(alpha, alpha) of the mixing coefficient


def random_box(key: jax.Array, min_scale: float, max_ratio: float = 4 / 3) -> tuple[jax.Array, jax.Array]:
    """A random box as shares of the side: origin [2] and size [2], (y, x).

    The area is uniform on [min_scale, 1], the logarithm of the aspect ratio uniform up to ``max_ratio``, sides are
    clipped to the image (Szegedy et al. 2015).
    """
    k_area, k_ratio, k_origin = jax.random.split(key, 3)
    area = jax.random.uniform(k_area, minval=min_scale, maxval=1.0)
    root = jnp.exp(0.5 * jnp.log(max_ratio) * jax.random.uniform(k_ratio, minval=-1.0, maxval=1.0))
    size = jnp.minimum(jnp.sqrt(area) * jnp.stack([1.0 / root, root]), 1.0)
    return jax.random.uniform(k_origin, (2,)) * (1.0 - size), size


def crop_resize(image: jax.Array, origin: jax.Array, size: jax.Array) -> jax.Array:
    """The box (shares of the side) of [..., H, W, C], resized bilinearly to H x W; differentiable in the image."""
    h, w = image.shape[-3:-1]
    scale = 1.0 / size
    shift = -origin * jnp.array([h, w]) * scale
    axes = (image.ndim - 3, image.ndim - 2)
    return jax.image.scale_and_translate(image, image.shape, axes, scale, shift, "linear", antialias=False)


def random_resized_crop(key: jax.Array, images: jax.Array, min_scale: float = 0.08) -> jax.Array:
    """A random box of each image, resized to the full side."""

    def one(k, image):
        return crop_resize(image, *random_box(k, min_scale))

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def pad_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Each image padded with zeros by ``pad`` pixels on all sides and cropped back at a random place."""
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1)

    def one(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(one)(padded, corners)


def roll(key: jax.Array, images: jax.Array, max_shift: int) -> jax.Array:
    """The whole batch rolled round both axes by one draw of up to ``max_shift`` pixels either way."""
    shift = jax.random.randint(key, (2,), -max_shift, max_shift + 1)
    return jnp.roll(images, shift, (-3, -2))


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """x <- t x + (1 - t) x[pi], the same for the targets; t ~ Beta(alpha, alpha) and pi drawn for the batch."""
    k_t, k_pi = jax.random.split(key)
    t = jax.random.beta(k_t, alpha, alpha)
    pi = jax.random.permutation(k_pi, images.shape[0])
    return t * images + (1 - t) * images[pi], t * targets + (1 - t) * targets[pi]


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """One box, of area share 1 - Beta(alpha, alpha), pasted from x[pi]; targets mixed by the area really pasted.

    Box and pi are drawn for the batch (Yun et al. 2019).
    """
    k_t, k_centre, k_pi = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(k_t, alpha, alpha))
    centre = jax.random.uniform(k_centre, (2,))
    h, w = images.shape[1:3]

    def covered(n, c):
        low, high = jnp.round(n * jnp.clip(jnp.stack([c - side / 2, c + side / 2]), 0, 1))
        i = jnp.arange(n)
        return (i >= low) & (i < high)

    inside = covered(h, centre[0])[:, None] & covered(w, centre[1])[None, :]
    pi = jax.random.permutation(k_pi, images.shape[0])
    t = 1.0 - inside.mean()
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
    """(key, images [N, H, W, C], targets [N, K]) -> the same, augmented; the composition that ``settings`` names.

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
