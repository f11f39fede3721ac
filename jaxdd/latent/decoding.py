"""Images from atoms by a latent diffusion model (D4M, Su et al. 2024; DDOQ, Tan and Slade 2025).

An atom z is a latent. Noise is added up to a share of the schedule, it is denoised conditionally on its class, and
decoded:

    x_j = decode( denoise_{t -> 0}( sqrt(a_t) z_j + sqrt(1 - a_t) e_j ; class ) ).

With strength 0 the latents are only decoded. The mean of several latents then decodes to a blurred image; the denoiser
moves it towards the images of the class.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd.ground import parallel
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.measure import Array
from jaxdd.ground.memory import Resources, forward_bytes
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Program
from jaxdd.ground.progress import Bar, progress
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent import diffusion
from jaxdd.latent.diffusion import Denoiser, Sampling, Schedule
from jaxdd.latent.vae import RANGE, Autoencoder
from jaxdd.nn.classifier import Apply, Output, Variables


class LatentModel(NamedTuple):
    """An autoencoder and an optional denoiser of its latents, with their variables."""

    autoencoder: Autoencoder
    vae_variables: Variables
    image_shape: tuple[int, int, int]  # of the autoencoder's images
    denoiser: Denoiser | None = None
    variables: Variables = None
    schedule: Schedule = Schedule()
    labels: np.ndarray | None = None  # the denoiser's class for each class of the data, [C]; default: equal


def encoder(model: LatentModel) -> Apply:
    """The autoencoder as an encoder of images, whose features are the flattened means of the latents, [N, h w c]."""

    def apply(variables, images):
        latents = model.autoencoder.encode(variables, images).mean
        return Output(jnp.zeros((len(images), 0), jnp.float32), latents.reshape(len(images), -1), {})

    return apply


class Pixels(NamedTuple):
    """The form of decoded images.

    Attributes:
      norm: the normalisation of the images.
      image_shape: (H, W, C). Images are resized, averaged over channels to grey, or repeated from grey to that shape.
    """

    norm: Normalisation
    image_shape: tuple[int, int, int]


BATCH = 64
"""The largest number of atoms that a device decodes at a time."""
SHORTER = "a lower `imager.steps`"

GROWN = 100.0
"""Denoising has diverged if a latent, in root mean square, is so many times as large as a prediction of no noise at all
would make it, which divides the noised atom by the square root of its share of signal."""


def decode(
    key: jax.Array,
    model: LatentModel,
    settings: Sampling,
    latents: Array,
    pixels: Pixels,
    classes: np.ndarray | None = None,
    resources: Resources = Resources(),  # noqa: B008
) -> np.ndarray:
    """Decode all atoms of all classes to images, in batches sharded over the devices.

    The noise of an atom depends only on the key, its class and its index in the class, so the batch size has no effect
    except on rounding.

    Args:
      key: a PRNG key, for the noise.
      model: the autoencoder and the denoiser.
      settings: of the diffusion.
      latents: the atoms, float32 [C, m, h w c], flattened as by `encoder`.
      pixels: the form of the images.
      classes: the classes of the rows of ``latents``, [C]; default: 0 to C - 1.
      resources: the devices and their memory. A device decodes up to 64 atoms at a time, or fewer if the autoencoder
        or the denoiser would need more than its memory.

    Returns:
      float32 [C, m, *pixels.image_shape], normalised by ``pixels.norm``, within the valid range.

    Raises:
      InputError: invalid settings, or noise without a denoiser.
      DivergenceError: denoised latents that are not finite, or larger than `GROWN` allows.
    """
    count, m = latents.shape[:2]
    diffusion.check(settings, model.schedule)
    if settings.strength > 0 and model.denoiser is None:
        raise InputError(f"strength {settings.strength} of noise, but no denoiser; give one, or strength 0")
    side = latent_shape(model)
    owner = np.repeat(np.arange(count) if classes is None else classes, m)
    keys = keys_of(key, owner, np.tile(np.arange(m), count))
    labels = owner if model.labels is None else np.asarray(model.labels)[owner]
    flat = np.asarray(latents, np.float32).reshape(-1, *side)

    denoiser = model.denoiser if settings.strength > 0 else None
    local = resources.mesh
    pictures = _pictures(model.autoencoder, denoiser, model.schedule, settings, pixels.image_shape, local)
    same = (model.vae_variables, model.variables if denoiser else None, Normalisation(*map(jnp.asarray, pixels.norm)))
    same = parallel.put(same, local, parallel.SAME)
    size, images = batch_size(model._replace(denoiser=denoiser), count, m, resources), []
    # Without noise there is a single step.
    bar = Bar("decode", SHORTER if settings.strength > 0 else "")
    for places in progress(parallel.chunks(len(flat), size), bar):
        rows = np.maximum(places, 0)
        made, lost = pictures(*same, *parallel.put((keys[rows], flat[rows], labels[rows]), local))
        if np.asarray(lost).any():
            raise diverged(owner[rows[np.argmax(lost)]], settings)
        images.append(np.asarray(made))
    return np.concatenate(images)[: len(flat)].reshape(count, m, *pixels.image_shape)


def batch_size(model: LatentModel, classes: int, m: int, resources: Resources) -> int:
    """How many of the m atoms of each class are decoded at a time, on all devices."""
    devices, side = resources.mesh.devices.size, latent_shape(model)
    needed = forward_bytes(model.autoencoder.decode, model.vae_variables, struct(1, *side))
    if model.denoiser is not None:
        # Attention in a UNet holds far more than the autoencoder.
        needed = max(needed, denoising_bytes(model))
    fits = resources.bytes_per_device // needed
    # On a CPU core about ten atoms, always of whole classes: the images are then the same bit for bit, whatever other
    # classes this process decodes.
    most = m * max(1, 10 // m) if parallel.is_cpu(resources.mesh) else -(-classes * m // devices)
    return max(1, min(BATCH, most, fits)) * devices


def denoising_bytes(model: LatentModel) -> int:
    """An estimate of the memory that denoising a latent takes, which guidance does twice."""
    assert model.denoiser is not None
    pair = struct(2, *model.denoiser.latent_shape), struct(2, dtype=np.int32), struct(2, dtype=np.int32)
    return forward_bytes(model.denoiser.apply, model.variables, *pair)


def program(
    model: LatentModel, settings: Sampling, image_shape: tuple[int, int, int], size: int, local: Mesh
) -> Program:
    """The program that decodes ``size`` atoms, which the devices divide, to images of a shape."""
    denoiser = model.denoiser if settings.strength > 0 else None
    norm = Normalisation(*[struct(image_shape[2])] * 2)
    same = (model.vae_variables, model.variables if denoiser else None, norm)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    each = keys, struct(size, *latent_shape(model)), struct(size, dtype=np.int32)
    at = lambda tree, spec: parallel.shapes(tree, NamedSharding(local, spec))
    function = _pictures(model.autoencoder, denoiser, model.schedule, settings, image_shape, local)
    return Program(function, (*at(same, parallel.SAME), *at(each, parallel.EACH)))


def keys_of(key: jax.Array, classes: np.ndarray, places: np.ndarray) -> jax.Array:
    """The keys of the atoms at these places of these classes, [N]."""
    return jax.vmap(lambda c, j: jax.random.fold_in(jax.random.fold_in(key, c), j))(classes, places)


def diverged(label: int, settings: Sampling) -> DivergenceError:
    return DivergenceError(
        f"denoise: class {label} diverged by step {round(settings.strength * settings.steps)}: its latents are not "
        "finite or far too large; use a lower `imager.guidance`"
    )


@lru_cache(maxsize=8)
def _pictures(
    autoencoder: Autoencoder, denoiser: Denoiser | None, schedule: Schedule, settings: Sampling, shape, local: Mesh
):
    """The function that decodes one batch of latents to images [N, ...], and whether each latent is lost, [N].

    It is compiled once for these settings.
    """

    def pictures(vae_variables, variables, norm, keys, start, labels):
        z = start
        if denoiser is not None:
            z = diffusion.sample(denoiser, variables, schedule, settings, keys, start, labels)
        return fitted(autoencoder.decode(vae_variables, z), norm, shape), has_diverged(start, z, schedule, settings)

    return jax.jit(parallel.sharded(pictures, local, (*[parallel.SAME] * 3, *[parallel.EACH] * 3)))


def has_diverged(start: jax.Array, z: jax.Array, schedule: Schedule, settings: Sampling) -> jax.Array:
    """Whether each of the latents z [N, h, w, c] that were denoised from ``start`` has diverged, see `GROWN`: [N]."""
    size = lambda z: jnp.sqrt(jnp.square(z).mean((1, 2, 3)))
    noise = np.sqrt(diffusion.steps_of(schedule, settings).signal.min(initial=1.0))
    # The comparison is false for a size that is no number.
    return ~(size(z) <= GROWN * jnp.maximum(1.0, size(start)) / noise)


def latent_shape(model: LatentModel) -> tuple[int, int, int]:
    """The shape (h, w, c) of the latents."""
    image = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    return shapes_of(model.autoencoder.encode, model.vae_variables, image).mean.shape[1:]


def fitted(images: jax.Array, norm: Normalisation, image_shape: tuple[int, int, int]) -> jax.Array:
    """Images [N, H, W, C] in [-1, 1] -> normalised images [N, *image_shape], clipped and resized with antialiasing."""
    pixels = jnp.clip(images * RANGE.std + RANGE.mean, 0.0, 1.0)
    if pixels.shape[1:3] != image_shape[:2]:
        shape = (len(pixels), *image_shape[:2], pixels.shape[3])
        pixels = jnp.clip(jax.image.resize(pixels, shape, "bilinear", antialias=True), 0.0, 1.0)
    if pixels.shape[3] != image_shape[2]:
        grey = pixels.mean(-1, keepdims=True)
        pixels = jnp.repeat(grey, image_shape[2], -1)
    return (pixels - norm.mean) / norm.std
