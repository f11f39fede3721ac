"""Stage 3a: atoms -> images, by optimising pixels (WMDD, Liu et al. 2025, equations 7 to 9; SRe2L, Yin et al. 2023).

For each class c, with images x_1 .. x_m, atoms z_j and weights w_j, the loss is

    L_c =   a  sqrt( (1/m) sum_j ||f(A x_j) - z_j||^2 / V )
          + b  (1/L) sum_l ( ||mean_l - mean*_l|| / ||sqrt(var*_l)||  +  ||var_l - var*_l|| / ||var*_l|| )
          + g  (1/m) sum_j CE(logits(A x_j), c)
          + e  || sum_j w_j f(A x_j) - E_c f || / sqrt(V).

f are the penultimate features of a fixed classifier, V the variance of the real features, A a random view (the same
draw for the images of a class, as they are optimised together), mean_l and var_l the w-weighted moments of the input
of BatchNorm layer l and starred ones those of the real images of the class, or of all classes ("global"). E_c f is the
mean of the features of the class's real images: the last term is the maximum mean discrepancy with a linear kernel on
features (DM, Zhao and Bilen 2023, section 3), which sees nothing of a class but its mean.

The paper's second term is the plain sum of norms, which grows with depth, width and the scale of the activations, so
that its coefficient has to be found again for every architecture. Each norm here is relative to the real data's own,
layers are averaged, and the first term is the root of the paper's, as in its authors' code: both are distances in
units of the real data's spread, from noise as from real images, and one coefficient serves all.

Classes are independent: every array has a leading class axis, the loss is a vector [C] that is never summed, and each
class draws from its own key. So chunks of classes, in any order and on any device, give the same images, and the
compiled step has no cross-device communication. Global moments tie the classes of a group, which stay on one device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.data import augment
from jaxdd.ground import losses
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.nn.batchnorm import Moments, pool
from jaxdd.nn.classifier import Apply, Variables, first_norm
from jaxdd.nn.convnet import average_pool_2x2


@dataclass(frozen=True)
class RecoverSettings:
    """The loss and its descent."""

    feature_weight: float = 1.0
    """a: of the distance between features and atoms."""
    moment_weight: float = 1.0
    """b: of the distance between BatchNorm moments."""
    cross_entropy_weight: float = 0.0
    """g: of the cross-entropy to the class."""
    mean_weight: float = 0.0
    """e: of the distance between mean features, the maximum mean discrepancy of DM."""
    scale: str = "relative"
    """Distances "relative" to the spread of the real data, averaged over layers, or "absolute" ones as in the papers:
    without V, and plain norms summed over layers, so that b has to be found again for every architecture."""
    first_layer_weight: float = 1.0
    """What the first BatchNorm layer counts in the second term; SRe2L uses 10."""
    moments: str = "class"
    """BatchNorm moments of the "class", or "global" ones: over the classes optimised together against all real
    images."""
    weighted_moments: bool = True
    """Weigh the images of a class by their atoms' weights in moments and mean features."""
    start: str = "real"
    """Begin from the "real" images nearest to the atoms, or from "noise": N(0, 1) in normalised space."""
    steps: int = 400
    """At most, with the schedule "plateau". The papers' 2,000 steps begin from noise, which needs many more."""
    learning_rate: float = 0.1
    schedule: str = "cosine"
    """"cosine" to zero over the steps, or "plateau": constant until a class's loss stops falling."""
    anneal: int = 100
    """Of "plateau": steps in which the rate falls to zero once the loss has stopped falling."""
    coarse: float = 0.0
    """Share of the steps, the first ones, that see the images at half their side."""
    min_scale: float = 0.8
    """Smallest share of the area that a view's crop keeps. 1 crops nothing; the papers use 0.08."""
    flip: bool = True
    """Mirror views, where the dataset allows it."""
    roll: float = 0.0
    """Largest shift of a view as a share of the side; the papers use 32 pixels of 224."""
    remat: str = "auto"
    """Recompute activations inside the network's blocks: "always", "never", or if memory is short."""

    @property
    def per_class(self) -> bool:
        """Whether each class is held to its own moments, and so optimised alone."""
        return self.moments == "class"

    @property
    def starts_from_images(self) -> bool:
        """Whether the pixels start from real images, where the summary has some."""
        return self.start == "real"

    @property
    def relative(self) -> bool:
        """Whether distances are in units of the real data's spread."""
        return self.scale == "relative"

    @property
    def stops_early(self) -> bool:
        """Whether a class may be done before its last step."""
        return self.schedule == "plateau"

    def check_settings(self) -> None:
        """Raise InputError for a setting that does not exist."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"unknown `imager.{name}` {getattr(self, name)!r}; use {' or '.join(choices)}")
        if not any(getattr(self, f"{term}_weight") for term in Terms._fields):
            raise InputError("all terms of the recover loss weigh 0; use `imager.feature_weight` 1")
        if self.steps < 1:
            raise InputError(f"`imager.steps` {self.steps} recovers nothing; use 1 or more")


_CHOICES = {
    "scale": ("relative", "absolute"),
    "moments": ("class", "global"),
    "start": ("real", "noise"),
    "schedule": ("cosine", "plateau"),
    "remat": ("auto", "always", "never"),
}


class Goal(NamedTuple):
    """What the images of each class in a chunk shall match; a pytree."""

    classes: jax.Array  # [C] int32: labels, and the identities that the random draws are folded with
    atoms: Measure  # points [C, m, d], weights [C, m]; a class of weight zero only fills a place
    means: jax.Array  # [C, d], the mean features of the class's real images
    moments: dict[str, Moments]  # layer -> [C, ch] ("class") or [ch] ("global")
    feature_variance: jax.Array  # scalar, V
    slices: jax.Array | None = None  # [C] int32, which part of a class's images these are: each part has its own draws


class Terms(NamedTuple):
    """The unweighted terms of the loss, [C] each."""

    feature: jax.Array
    moment: jax.Array
    cross_entropy: jax.Array
    mean: jax.Array


def noise(key: jax.Array, classes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal images [C, *shape], each class from its own key."""
    return jax.vmap(lambda c: jax.random.normal(jax.random.fold_in(key, c), shape))(classes)


def view(key: jax.Array, images: jax.Array, settings: RecoverSettings, coarse: bool = False) -> jax.Array:
    """One random view of the images [m, H, W, C] of a class: crop and resize, flip, roll, one draw for all.

    A coarse view has half the side: averages of two by two pixels.
    """
    k_box, k_flip, k_roll = jax.random.split(key, 3)
    if settings.min_scale < 1:
        images = augment.crop_resize(images, *augment.random_box(k_box, settings.min_scale))
    if coarse:
        images = average_pool_2x2(images)
    if settings.flip:
        images = jnp.where(jax.random.bernoulli(k_flip), images[:, :, ::-1], images)
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
    """The four terms of the loss at images [C, m, H, W, ch] as they are (no view).

    Global moments are pooled over ``group`` neighbouring classes (default: all), and each of them has their term.
    """
    c, m = images.shape[:2]
    out = apply(variables, images.reshape(c * m, *images.shape[2:]))
    out = jax.tree.map(lambda x: x.reshape(c, m, *x.shape[1:]), out)

    distance = jnp.square(out.features - goal.atoms.points).sum(-1)
    feature = _root(distance.mean(1) / goal.feature_variance if settings.relative else distance.mean(1))

    present = (goal.atoms.weights.sum(1) > 0).astype(jnp.float32)
    weights = goal.atoms.weights if settings.weighted_moments else present[:, None] * jnp.ones((1, m))
    group = 1 if settings.per_class else group or c
    grouped = jax.tree.map(lambda x: x.reshape(c // group, group * m, -1), out.moments)
    layers = {name: pool(layer, weights.reshape(c // group, -1)) for name, layer in grouped.items()}
    first = first_norm(apply, variables, images.shape[2:]) if settings.first_layer_weight != 1 else None
    apart = jnp.zeros(c // group)
    for name in layers:
        distance = _distance(layers[name], goal.moments[name], settings.relative)
        apart = apart + (settings.first_layer_weight * distance if name == first else distance)
    moment = present * jnp.repeat(apart, group) / (max(1, len(layers)) if settings.relative else 1)

    targets = jax.nn.one_hot(goal.classes, out.logits.shape[-1])[:, None]
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
    # The root's derivative is infinite at zero; equal moments or features shall have gradient zero instead.
    safe = jnp.where(square > 0, square, 1.0)
    return jnp.where(square > 0, jnp.sqrt(safe), 0.0)


def total(values: Terms, settings: RecoverSettings) -> jax.Array:
    """L_c, [C]. A term of weight zero is left out, so that nothing is computed for it."""
    weighted = (
        (settings.feature_weight, values.feature),
        (settings.moment_weight, values.moment),
        (settings.cross_entropy_weight, values.cross_entropy),
        (settings.mean_weight, values.mean),
    )
    return sum(weight * value for weight, value in weighted if weight)


def group_size(settings: RecoverSettings, count: int, m: int) -> tuple[int, int]:
    """The classes that are optimised together, and how many of the m images of each at a time.

    A class alone and all its images; but with global moments up to 100 classes, and about 100 images of them, as SRe2L
    takes them over batches of 100 images of different classes. Two classes of 50 images each would be driven to look
    like all classes on average.
    """
    if settings.per_class:
        return 1, m
    group = -(-count // -(-count // 100))
    most = max(1, 100 // group)
    return group, max(size for size in range(1, most + 1) if m % size == 0)
