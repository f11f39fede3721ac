"""Where the pixels start, and the real images that are mixed in between the stretches of the optimisation."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.measure import Array
from jaxdd.stages.context import Context
from jaxdd.stages.encode import featuring
from jaxdd.stages.images import crops
from jaxdd.stages.images.base import real_images
from jaxdd.stages.images.nearest import assignment
from jaxdd.stages.images.recover.chunks import Pictures, Start
from jaxdd.stages.images.recover.loss import PATCHES, STARTS, RecoverSettings, noise
from jaxdd.stages.summarize.base import Summary


def pictures(key: jax.Array, settings: RecoverSettings, context: Context, summary: Summary) -> Pictures:
    """The images from which those of a summary start, and what is mixed into them."""
    begin = STARTS.find(settings.start)(key, settings, context, summary)
    patch = PATCHES.find(settings.patches)(context, begin)
    return Pictures(begin, patch if settings.mixing else None)


def _from_noise(key: jax.Array, settings: RecoverSettings, context: Context, summary: Summary) -> Start:
    shape = summary.atoms.weights.shape[1], *context.classes.image_shape
    draw = partial(noise, jax.random.fold_in(key, 0), shape=shape)
    return lambda places: draw(jnp.asarray(context.labels[places]))


def _from_images(key: jax.Array, settings: RecoverSettings, context: Context, summary: Summary) -> Start:
    """The real images of the summary; noise if it has none."""
    rows = summary.rows
    if rows is None:
        return _from_noise(key, settings, context, summary)
    return lambda places: real_images(context, rows[places])


def _from_crops(key: jax.Array, settings: RecoverSettings, context: Context, summary: Summary) -> Start:
    """The crops of `Crops`; those of the last chunk are kept, as they may be mixed in again."""
    classes, ipc = context.classes, summary.atoms.weights.shape[1]
    chosen = crops.Crops(parts=settings.parts)
    shape, resources = classes.image_shape, context.resources
    condense = crops.condenser(jax.random.fold_in(key, 2), context.teacher, chosen, ipc, shape, resources)

    @lru_cache(maxsize=1)
    def cut(labels: tuple[int, ...]) -> np.ndarray:
        return np.stack([condense(label, classes.groups.rows(label), classes.images) for label in labels])

    return lambda places: cut(tuple(int(label) for label in context.labels[places]))


for _name, _begin in {"real": _from_images, "crops": _from_crops, "noise": _from_noise}.items():
    STARTS.register(_name, _begin)
PATCHES.register("start", lambda context, begin: lambda places, images: begin(places))
PATCHES.register("nearest", lambda context, begin: partial(_nearest, context))


def _nearest(context: Context, places: np.ndarray, images: Array) -> np.ndarray:
    """The real images of the same class whose features are nearest to those of images [k, m, H, W, ch], all different
    within a class."""
    count, ipc = images.shape[:2]
    features = np.stack([featuring(context.teacher.apply)(context.teacher.variables, some) for some in images])
    rows = [
        context.classes.groups.rows(label)[assignment(context.points(label), seen)]
        for label, seen in zip(context.labels[places], features)
    ]
    return real_images(context, np.stack(rows).reshape(count, ipc))
