"""The recover loss: atoms -> images by optimising pixels (WMDD, Liu et al. 2025, eq. 7 to 9; SRe2L, Yin et al. 2023).

For each class c with images x_1 .. x_m, atoms z_j and weights w_j the loss is

    L_c =   a  sqrt( (1/m) sum_j ||f(A x_j) - z_j||^2 / V )
          + b  (1/L) sum_l ( ||mean_l - mean*_l|| / ||sqrt(var*_l)||  +  ||var_l - var*_l|| / ||var*_l|| )
          + g  (1/m) sum_j CE(logits(A x_j), c)
          + e  || sum_j w_j f(A x_j) - E_c f || / sqrt(V).

Here f are the penultimate features of a fixed classifier, and V is the variance of the real features. A is a random
view; all images of a class share one draw, as they are optimised together. mean_l and var_l are the w-weighted moments
of the input of BatchNorm layer l. Starred moments are those of the real images of the class, or of all classes
("global"). E_c f is the mean feature of the real images of the class. The last term is the maximum mean discrepancy
with a linear kernel on features (DM, Zhao and Bilen 2023, section 3), which depends on a class only through its mean.

In the paper the second term is the plain sum of norms. It grows with depth, width and the scale of the activations, so
its coefficient must be tuned for every architecture. Here each norm is relative to that of the real data, and layers
are averaged. The first term is the square root of the paper's, as in the authors' code. Both terms are then distances
in units of the spread of the real data, whether the images start from noise or from real images, and one coefficient
works for all architectures.

Classes are independent: every array has a leading class axis, the loss is a vector [C] that is never summed, and each
class has its own random key. So the images do not depend on how classes are split into chunks or placed on devices, and
the compiled step has no cross-device communication. Global moments couple the classes of a group, which stays on one
device.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxdd.data import augment
from jaxdd.ground import losses
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Array, Measure
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import AREA, SHARE, Bounds, bounded
from jaxdd.nn.batchnorm import Moments, pool
from jaxdd.nn.classifier import Apply, Variables, moment_layers
from jaxdd.nn.convnet import average_pool_2x2

STARTS = Registry("`imager.start`", home="jaxdd.stages.images.recover.starts")
"""Where pixels start: functions of a key, these settings, a context and a summary that return a `chunks.Start`."""
PATCHES = Registry("`imager.patches`", home="jaxdd.stages.images.recover.starts")
"""What is mixed in: functions of a context and a `chunks.Start` that return what `chunks.Pictures.patch` is."""


@dataclass(frozen=True)
class RecoverSettings:
    """Settings of the loss and of its optimisation."""

    feature_weight: float = 1.0
    """a: the weight of the distance between features and atoms."""
    moment_weight: float = 1.0
    """b: the weight of the distance between BatchNorm moments; 0 for a teacher without BatchNorm."""
    cross_entropy_weight: float = 0.0
    """g: the weight of the cross-entropy with the class label."""
    mean_weight: float = 0.0
    """e: the weight of the distance between mean features, the maximum mean discrepancy of DM."""
    scale: str = "relative"
    """"relative": distances relative to the spread of the real data, averaged over layers. "absolute", as in the
    papers: without V, with plain norms summed over layers, so that b must be tuned for every architecture."""
    first_layer_weight: float = 1.0
    """The weight of the first BatchNorm layer in the second term; SRe2L uses 10."""
    moments: str = "class"
    """BatchNorm moments per "class", or "global": those of all classes optimised together, compared with those of all
    real images."""
    weighted_moments: bool = True
    """Weight the images of a class by the weights of their atoms in moments and mean features."""
    start: str = "real"
    """Start from the "real" images nearest to the atoms, from "crops" of real images as `rded` chooses them, or from
    "noise": N(0, 1) in normalised space."""
    parts: int | None = None
    """For the start "crops": crops per image, a square number; default: 1 for small images, otherwise 4."""
    sides: tuple[float, ...] = bounded((1.0,), Bounds(0.05, 1.0, longest=64))
    """The sides of the images in stretches of the optimisation, as shares of the whole side. Each stretch is a descent
    of its own on an equal part of the steps. FADRM (arXiv 2506.24125) takes 200 and 224 pixels in turn."""
    mixing: float = bounded(0.0, SHARE)
    """The share of a real image that is mixed into each image between two stretches; FADRM uses 0.5."""
    patches: str = "start"
    """Which: the one from which the image has "start"ed, or that with the "nearest" features (arXiv 2602.24144)."""
    steps: int = 400
    """Number of steps; with the schedule "plateau" at most as many. The papers take 2,000 steps from noise, which needs
    many more than real images."""
    learning_rate: float = 0.1
    schedule: str = "cosine"
    """"cosine": the rate falls to zero over all steps. "plateau": it is constant until the loss of a class stops
    falling."""
    anneal: int = 100
    """For "plateau": the number of steps in which the rate falls to zero once the loss has stopped falling."""
    coarse: float = bounded(0.0, SHARE)
    """The share of the steps, at the beginning, that use images of half the side."""
    min_scale: float = bounded(0.8, AREA)
    """Smallest area of a view's crop, as a share of the image. 1 crops nothing; the papers use 0.08."""
    flip: bool = True
    """Mirror views at random if the dataset allows it."""
    roll: float = bounded(0.0, SHARE)
    """Largest shift of a view as a share of the side; the papers use 32 pixels of 224."""
    remat: str = "auto"
    """Recompute the activations inside the network's blocks: "always", "never", or "auto", if memory is short."""

    @property
    def per_class(self) -> bool:
        """Whether each class has its own target moments and is therefore optimised independently."""
        return self.moments == "class"

    @property
    def starts_from_images(self) -> bool:
        """Whether the pixels start from the real images of the summary, if it has any."""
        return self.start == "real"

    @property
    def relative(self) -> bool:
        """Whether distances are in units of the spread of the real data."""
        return self.scale == "relative"

    @property
    def stops_early(self) -> bool:
        """Whether a class may finish before its last step."""
        return self.schedule == "plateau"

    def check_settings(self) -> None:
        """Raise InputError for unknown settings, or settings that optimise nothing."""
        STARTS.find(self.start)
        PATCHES.find(self.patches)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"unknown `imager.{name}` {getattr(self, name)!r}; use {' or '.join(choices)}")
        if not any(getattr(self, f"{term}_weight") for term in Terms._fields):
            raise InputError("all terms of the recover loss weigh 0; use, for example, `imager.feature_weight` 1")
        if self.steps < 1:
            raise InputError(f"`imager.steps` {self.steps} recovers nothing; use 1 or more")
        count = len(self.sides)
        if not 1 <= count <= self.steps:
            raise InputError(
                f"`imager.sides` of {count} stretches and `imager.steps` {self.steps} do not fit; give one or more "
                "sides, and at least a step for each"
            )
        if count > 1 and self.coarse:
            raise InputError("`imager.coarse` and several `imager.sides` say the same in two ways; use one of them")
        if self.mixing and count == 1:
            raise InputError(
                f"`imager.mixing` {self.mixing} has no effect on one stretch; give several `imager.sides`, such as "
                "1 1 1 1"
            )

    def shape(self, number: int, whole: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (H, W, ch) of the images of a stretch, where it is ``whole`` at the end."""
        height, width, channels = whole
        side = self.sides[number]
        return max(1, round(side * height)), max(1, round(side * width)), channels

    def check_shapes(self, whole: tuple[int, int, int], takes: Callable[[tuple[int, int, int]], bool]) -> None:
        """Raise InputError if some steps are on images smaller than ``whole`` (H, W, ch) that a model does not take."""
        height, width, channels = whole
        shapes = [self.shape(number, whole) for number in range(len(self.sides))]
        shapes += [(height // 2, width // 2, channels)] if self.coarse else []
        for shape in dict.fromkeys(shapes):
            if shape != whole and not takes(shape):
                raise InputError(
                    f"the model takes no images of {shape[0]} pixels instead of {height}; use `imager.coarse` 0 and "
                    "`imager.sides` of 1, or a resnet"
                )

    def stretch(self, number: int) -> "RecoverSettings":
        """The settings of one of the stretches, with its part of the steps."""
        count = len(self.sides)
        ends = [self.steps * k // count for k in (number, number + 1)]
        return replace(self, steps=ends[1] - ends[0])


_CHOICES = {
    "scale": ("relative", "absolute"),
    "moments": ("class", "global"),
    "schedule": ("cosine", "plateau"),
    "remat": ("auto", "always", "never"),
}


class Goal(NamedTuple):
    """What the images of each class in a chunk have to match; a pytree."""

    classes: Array  # [C] int32, labels; random keys are folded with them
    atoms: Measure  # points [C, m, d], weights [C, m]; a class whose weights are all zero is padding
    means: Array  # [C, d], mean features of the real images of the class
    moments: dict[str, Moments]  # layer -> [C, ch] ("class") or [ch] ("global")
    feature_variance: Array  # scalar, V
    slices: Array | None = None  # [C] int32, the slice of the class's images; each slice has its own random draws


class Terms(NamedTuple):
    """The unweighted terms of the loss, [C] each."""

    feature: Array
    moment: Array
    cross_entropy: Array
    mean: Array


def noise(key: jax.Array, classes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal images [C, *shape]; each class has its own random key."""
    return jax.vmap(lambda c: jax.random.normal(jax.random.fold_in(key, c), shape, jnp.float32))(classes)


def view(key: jax.Array, images: jax.Array, settings: RecoverSettings, coarse: bool = False) -> jax.Array:
    """A random view of the images [m, H, W, C] of a class: crop and resize, flip, roll, with one draw for all images.

    A coarse view has half the side; its pixels are averages of two by two pixels.
    """
    k_box, k_flip, k_roll = jax.random.split(key, 3)
    mirrored = jax.random.bernoulli(k_flip, jnp.float32(0.5)) if settings.flip else False
    # A crop can mirror on the way. Pooling leaves the last column out if their number is odd, so it comes before.
    with_crop = settings.min_scale < 1 and not coarse
    if settings.min_scale < 1:
        box = augment.random_box(k_box, settings.min_scale)
        images = augment.crop_resize(images, *box, with_crop and mirrored)
    if coarse:
        images = average_pool_2x2(images)
    if settings.flip and not with_crop:
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    shift = round(settings.roll * images.shape[1])
    return augment.roll(k_roll, images, shift) if shift else images


def terms(
    apply: Apply,
    variables: Variables,
    images: jax.Array,
    goal: Goal,
    settings: RecoverSettings,
    group: int | None = None,
) -> Terms:
    """The four terms of the loss at images [C, m, H, W, ch], without a random view.

    Global moments are pooled over ``group`` neighbouring classes (default: all); all classes of a group share the
    resulting moment term.
    """
    c, m = images.shape[:2]
    out = apply(variables, images.reshape(c * m, *images.shape[2:]))
    out = jax.tree.map(lambda x: x.reshape(c, m, *x.shape[1:]), out)

    distance = jnp.square(out.features - goal.atoms.points).sum(-1)
    feature = _root(distance.mean(1) / goal.feature_variance if settings.relative else distance.mean(1))

    present = (goal.atoms.weights.sum(1) > 0).astype(jnp.float32)
    weights = goal.atoms.weights if settings.weighted_moments else present[:, None] * jnp.ones((1, m), jnp.float32)
    group = 1 if settings.per_class else group or c
    grouped = jax.tree.map(lambda x: x.reshape(c // group, group * m, -1), out.moments)
    layers = {name: pool(layer, weights.reshape(c // group, -1)) for name, layer in grouped.items()}
    first = moment_layers(apply, variables, images.shape[2:])[:1] if settings.first_layer_weight != 1 else []
    apart = jnp.zeros(c // group, jnp.float32)
    for name in layers:
        distance = _distance(layers[name], goal.moments[name], settings.relative)
        apart = apart + (settings.first_layer_weight * distance if name in first else distance)
    moment = present * jnp.repeat(apart, group) / (max(1, len(layers)) if settings.relative else 1)

    targets = jax.nn.one_hot(goal.classes, out.logits.shape[-1], dtype=jnp.float32)[:, None]
    cross_entropy = losses.cross_entropy(out.logits, targets).mean(1)

    share = weights / jnp.where(present > 0, weights.sum(1), 1.0)[:, None]
    centre = jnp.einsum("cm,cmd->cd", share, out.features, precision="highest")
    mean = present * _norm(centre - goal.means)
    mean = mean / jnp.sqrt(goal.feature_variance) if settings.relative else mean
    return Terms(feature, moment, cross_entropy, mean)


def _distance(ours: Moments, real: Moments, relative: bool) -> jax.Array:
    if not relative:
        return _norm(ours.mean - real.mean) + _norm(ours.var - real.var)
    mean = _norm(ours.mean - real.mean) / (_norm(jnp.sqrt(real.var)) + 1e-8)
    return mean + _norm(ours.var - real.var) / (_norm(real.var) + 1e-8)


def _norm(x: jax.Array) -> jax.Array:
    return _root(jnp.square(x).sum(-1))


def _root(square: jax.Array) -> jax.Array:
    # The derivative of the root is infinite at zero. Return the gradient zero there, for equal moments or features.
    # A NaN stays one.
    safe = jnp.where(square == 0, 1.0, square)
    return jnp.where(square == 0, 0.0, jnp.sqrt(safe))


def total(values: Terms, settings: RecoverSettings) -> jax.Array:
    """The loss L_c, [C]. Terms of weight zero are left out, so that the compiler can drop them."""
    weighted = (
        (settings.feature_weight, values.feature),
        (settings.moment_weight, values.moment),
        (settings.cross_entropy_weight, values.cross_entropy),
        (settings.mean_weight, values.mean),
    )
    # `check_settings` makes sure that some weight is not zero, so this is never the 0 that `sum` starts from.
    return cast(jax.Array, sum(weight * value for weight, value in weighted if weight))


def group_size(settings: RecoverSettings, count: int, m: int) -> tuple[int, int]:
    """The number of classes that are optimised together, and how many of the m images of each at a time.

    With per-class moments this is one class with all its images. With global moments it is up to 100 classes with about
    100 images in total, since SRe2L takes moments over batches of 100 images of different classes. A batch of two
    classes with 50 images each would force these two to look like the average over all classes.
    """
    if settings.per_class:
        return 1, m
    group = -(-count // -(-count // 100))
    most = max(1, 100 // group)
    return group, max(size for size in range(1, most + 1) if m % size == 0)
