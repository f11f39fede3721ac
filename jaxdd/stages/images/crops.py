"""Real images -> images by cropping alone (RDED, Sun et al. 2024, section 4).

For each class c, draw a pool of real images x_i, and K random boxes on each of them. The teacher scores each crop
A_k x_i by its cross-entropy,

    score(i, k) = CE(logits(A_k x_i), c),

where a low score means a realistic crop. Keep the best crop of each image, and of these the m N best. Image j is a grid
of N crops, those of ranks j, m + j, 2 m + j ..., so the best crops are spread evenly over the m images.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd import nn
from jaxdd.data import augment
from jaxdd.ground import losses, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import Resources, forward_bytes
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import progress
from jaxdd.ground.settings import Bounds, bounded
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.nn.classifier import Apply
from jaxdd.stages.context import Context, Problem, Teacher
from jaxdd.stages.images.base import IMAGERS, Imager, Images, class_chunks
from jaxdd.stages.summarize.base import Summarizer, Summary


@IMAGERS.register("crops")
@dataclass(frozen=True)
class Crops(Imager):
    """Grids of the most realistic crops; the defaults are RDED's."""

    pool: int = bounded(300, Bounds(0, 10**5))
    """Real images per class to choose from; more if the distilled images need more crops."""
    crops: int = bounded(5, Bounds(0, 100))
    """Random boxes per real image."""
    parts: int | None = None
    """Crops per distilled image, a square number; default: 1 for small images, otherwise 4."""
    small: int = 64
    """Largest side in pixels at which an image is a single crop."""
    min_scale: float = 0.08
    """Smallest area of a box, as a share of the image."""

    spaces: ClassVar[tuple[str, ...]] = ("features",)
    is_real: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        """See `Imager.needs`."""
        return frozenset()

    def check_settings(self) -> None:
        """Raise InputError for settings that are out of range."""
        for name in ("pool", "crops"):
            if getattr(self, name) < 1:
                raise InputError(f"`imager.{name}` {getattr(self, name)} leaves nothing to choose from; use 1 or more")
        if self.parts is not None and (self.parts < 1 or math.isqrt(self.parts) ** 2 != self.parts):
            raise InputError(f"`imager.parts` {self.parts} is not a square number; use 1, 4, 9 ...")
        if not 0 < self.min_scale <= 1:
            raise InputError(f"`imager.min_scale` {self.min_scale} is no share of an image; use one in (0, 1]")

    def check(self, problem: Problem, summarizer: Summarizer) -> None:
        """See `Imager.check`."""
        self.check_settings()
        if summarizer.has_atoms:
            raise InputError("`imager` crops uses no atoms, the teacher chooses the crops; use `summarizer` none")
        super().check(problem, summarizer)

    def work(self, context: Context, ipc: int) -> Work:
        """See `Imager.work`."""
        return work(context, self, ipc)

    def __call__(self, key: jax.Array, context: Context, summary: Summary) -> Iterator[Images]:
        """Crop the images of each class; class c draws its random numbers from ``fold_in(fold_in(key, 0), c)``."""
        classes, ipc = context.classes, summary.atoms.weights.shape[1]
        condense = condenser(
            jax.random.fold_in(key, 0), context.teacher, self, ipc, classes.image_shape, context.resources
        )
        for places in class_chunks(context, ipc):
            labels = context.labels[places]
            images = [condense(int(label), classes.groups.rows(label), classes.images) for label in labels]
            yield Images(places, np.stack(images))


def condenser(
    key: jax.Array,
    teacher: Teacher,
    settings: Crops,
    ipc: int,
    image_shape: tuple[int, int, int],
    resources: Resources = Resources(),  # noqa: B008
) -> Callable[[int, np.ndarray, Callable[[np.ndarray], np.ndarray]], np.ndarray]:
    """Make a function ``condense(c, rows, read)`` that turns the real images of class c into distilled ones.

    As in the authors' code, a crop is first shrunk to its final size. To score it, the teacher sees it in the middle of
    an image that is zero elsewhere. If a class has fewer images than the m N crops needed, the best crop of each image
    is taken, then the second best of each, and so on; the number of boxes per image grows as needed.

    Args:
      key: folded with the class for all draws, so the images of a class do not depend on the other classes.
      ipc: images per class, m.
      resources: the devices that share the scoring, and the memory that bounds its batch size.

    Returns:
      ``condense``. Its arguments are the class c, its rows [n], and ``read``, which maps rows [k] to float32
      [k, H, W, ch] in normalised space. It returns float32 [m, H, W, ch], and raises InputError if a class has no rows.

    Raises:
      InputError: settings out of range, or more parts per side than pixels.
    """
    parts, shape = _parts(settings, image_shape)
    wanted = ipc * parts
    most = max(settings.pool, wanted)
    scores = _scores(teacher, image_shape, shape, most, resources)

    def condense(c, rows, read):
        if not len(rows):
            raise InputError(f"class {c} has no real images to crop; add some")
        k_pool, k_boxes = jax.random.split(jax.random.fold_in(key, c))
        if len(rows) > most:
            rows = rows[np.asarray(jax.random.choice(k_pool, len(rows), (most,), replace=False))]
        boxes_each = int(_boxes_each(settings, wanted, len(rows)))
        boxes = [np.asarray(part)[: len(rows)] for part in _boxes(k_boxes, most, boxes_each, settings.min_scale)]
        values = scores(c, lambda places: read(rows[places]), boxes)
        image, crop = np.divmod(ranked(values)[:wanted], boxes_each)
        # Image j consists of the crops of ranks j, m + j, 2 m + j ...
        image, crop = (places.reshape(parts, ipc).T for places in (image, crop))
        real = read(rows[image.ravel()]).reshape(ipc, parts, *image_shape)
        return np.asarray(_collage(shape)(real, *(part[image, crop] for part in boxes)))

    return condense


def work(context: Context, settings: Crops, ipc: int) -> Work:
    """The work of scoring the crops of all classes."""
    image_shape, resources = context.classes.image_shape, context.resources
    parts, shape = _parts(settings, image_shape)
    wanted, local = ipc * parts, resources.mesh
    counts = np.minimum(context.classes.encoded.counts[context.labels].astype(int), max(settings.pool, wanted))
    # Classes of few images have more boxes on each; most classes are not among these.
    boxes = int(np.median(_boxes_each(settings, wanted, counts)))
    teacher = context.teacher
    if nn.foldable(teacher.apply, teacher.variables, image_shape):
        teacher = teacher._replace(variables=shapes_of(nn.fold, teacher.variables))
    size = _batch_size(_crop_bytes(teacher, image_shape), boxes, max(settings.pool, wanted), resources)
    batch = struct(size, *image_shape), *[struct(size, boxes, 2)] * 2
    at = lambda tree, spec: parallel.shapes(tree, NamedSharding(local, spec))
    variables, label = at((teacher.variables, struct(dtype=np.int32)), parallel.SAME)
    program = Program(_scorer(teacher.apply, shape, local), (variables, *at(batch, parallel.EACH), label))
    batches = int((-(-counts // size)).sum())
    return Work("score crops", "images", int(counts.sum()), 1, batches, 1,
                program, int(counts.max()), "a lower `imager.pool`")  # fmt: skip


def _parts(settings: Crops, image_shape: tuple[int, int, int]) -> tuple[int, tuple[int, int]]:
    """The crops of a distilled image, and their height and width."""
    settings.check_settings()
    parts = settings.parts or (1 if max(image_shape[:2]) <= settings.small else 4)
    grid = math.isqrt(parts)
    if grid > min(image_shape[:2]):
        raise InputError(f"`imager.parts` {parts} do not fit into images {list(image_shape)}; use fewer")
    return parts, (image_shape[0] // grid, image_shape[1] // grid)


def _boxes_each(settings: Crops, wanted: int, images: Any) -> Any:
    """The boxes on each of so many real images, of which ``wanted`` crops are chosen."""
    return np.maximum(settings.crops, -(-wanted // images))


def _crop_bytes(teacher: Teacher, image_shape: tuple[int, int, int]) -> int:
    """The memory in which a crop is scored."""
    logits = lambda variables, image: teacher.apply(variables, image).logits
    return forward_bytes(logits, teacher.variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def _batch_size(bytes_each: int, boxes_each: int, most: int, resources: Resources) -> int:
    """The images whose crops, of so many bytes each, are scored at a time, on all devices."""
    local, devices = resources.mesh, resources.mesh.devices.size
    fits = 20 if parallel.is_cpu(local) else resources.bytes_per_device // bytes_each
    return max(1, min(fits // boxes_each, -(-most // devices))) * devices


def _scores(
    teacher: Teacher, image_shape: tuple[int, int, int], shape: tuple[int, int], most: int, resources: Resources
) -> Callable:
    """A function of a class, its images and their boxes [n, K, 2] -> the scores of all crops, [n, K]; low is good."""
    local = resources.mesh
    variables = nn.folded(teacher.apply, teacher.variables, image_shape)
    replicated = parallel.put(variables, local, parallel.SAME)
    score = _scorer(teacher.apply, shape, local)
    bytes_each = _crop_bytes(teacher._replace(variables=variables), image_shape)

    def scores(c, images, boxes):
        size = _batch_size(bytes_each, boxes[0].shape[1], most, resources)
        parts = []
        for places in progress(parallel.chunks(len(boxes[0]), size), f"score crops of class {c}"):
            rows = np.maximum(places, 0)
            batch = parallel.put((images(rows), *(part[rows] for part in boxes)), local)
            parts.append(np.asarray(score(replicated, *batch, np.int32(c)))[places >= 0])
        return np.concatenate(parts)

    return scores


def ranked(scores: np.ndarray) -> np.ndarray:
    """Flat indices of scores [n, K]: the best of each row, sorted from low to high, then the second best, and so on."""
    rounds = scores.argsort(1, kind="stable").argsort(1)
    return np.lexsort((scores.ravel(), rounds.ravel()))


def cut(image: jax.Array, origin: jax.Array, size: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Cut the box (in shares of the side) out of [H, W, ch] and resize it to ``shape``: bilinear, with antialiasing."""
    sides, wanted = jnp.array(image.shape[:2], jnp.float32), jnp.array(shape, jnp.float32)
    scale, shift = wanted / (size * sides), -origin * wanted / size
    return jax.image.scale_and_translate(image, (*shape, image.shape[2]), (0, 1), scale, shift, "linear")


def stitch(parts: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
    """Parts [m, N, h, w, ch] -> images [m, *image_shape]: row by row from the top left; N is a square number."""
    m, grid = len(parts), math.isqrt(parts.shape[1])
    # If the sides do not divide evenly, the parts differ by one pixel.
    heights, widths = (np.diff(np.arange(grid + 1) * side // grid) for side in image_shape[:2])
    fitted = lambda i, j: jax.image.resize(
        parts[:, i * grid + j], (m, heights[i], widths[j], image_shape[2]), "linear", antialias=True
    )
    return jnp.concatenate([jnp.concatenate([fitted(i, j) for j in range(grid)], 2) for i in range(grid)], 1)


@partial(jax.jit, static_argnums=(1, 2))
def _boxes(key: jax.Array, count: int, each: int, min_scale: float) -> tuple[jax.Array, jax.Array]:
    """Origins and sizes of boxes, [count, each, 2]; those of an image do not depend on the other images."""
    draw = lambda place: augment.random_box(jax.random.fold_in(key, place), min_scale, 1.0)
    drawn = jax.vmap(draw)(jnp.arange(count * each, dtype=jnp.int32))
    return jax.tree.map(lambda x: x.reshape(count, each, 2), drawn)


def _cuts(images: jax.Array, origins: jax.Array, sizes: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """`cut` over two leading axes of images, origins and sizes."""
    return jax.vmap(jax.vmap(partial(cut, shape=shape)))(images, origins, sizes)


@lru_cache(maxsize=8)
def _collage(shape: tuple[int, int]):
    """Images [m, N, H, W, ch] and a box on each, [m, N, 2] -> images [m, H, W, ch] that consist of the N crops."""
    return jax.jit(lambda images, origins, sizes: stitch(_cuts(images, origins, sizes, shape), images.shape[2:]))


@lru_cache(maxsize=8)
def _scorer(apply: Apply, shape: tuple[int, int], local: Mesh):
    """Images [B, H, W, ch], their boxes [B, K, 2] and a class -> cross-entropy of each crop for the class, [B, K]."""

    def score(variables, images, origins, sizes, label):
        every = jnp.broadcast_to(images[:, None], (*origins.shape[:2], *images.shape[1:]))
        crops = _cuts(every, origins, sizes, shape).reshape(-1, *shape, images.shape[-1])
        logits = apply(variables, centred(crops, images.shape[1:3])).logits
        target = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
        return losses.cross_entropy(logits, target).reshape(origins.shape[:2])

    return jax.jit(parallel.sharded(score, local, (parallel.SAME, *[parallel.EACH] * 3, parallel.SAME)))


def centred(images: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Place images [N, h, w, ch] in the middle of zero images of ``shape``."""
    before = [(side - small) // 2 for side, small in zip(shape, images.shape[1:3])]
    after = [side - small - low for side, small, low in zip(shape, images.shape[1:3], before)]
    return jnp.pad(images, ((0, 0), *zip(before, after), (0, 0)))
