"""Stage 3a: atoms -> images, by optimising pixels (WMDD, Liu et al. 2025, equations 7 to 9; SRe2L, Yin et al. 2023).

For each class c, with images x_1 .. x_m, atoms z_j and weights w_j, the loss is

    L_c =   a  sqrt( (1/m) sum_j ||f(A x_j) - z_j||^2 / V )
          + b  (1/L) sum_l ( ||mean_l - mean*_l|| / ||sqrt(var*_l)||  +  ||var_l - var*_l|| / ||var*_l|| )
          + g  (1/m) sum_j CE(logits(A x_j), c).

f are the penultimate features of a fixed classifier, V the variance of the real features, A a random view (the same
draw for the images of a class, as they are optimised together), mean_l and var_l the w-weighted moments of the input
of BatchNorm layer l and starred ones those of the real images of the class, or of all classes ("global").

The paper's second term is the plain sum of norms, which grows with depth, width and the scale of the activations, so
that its coefficient has to be found again for every architecture. Each norm here is relative to the real data's own,
layers are averaged, and the first term is the root of the paper's, as in its authors' code: both are distances in
units of the real data's spread, from noise as from real images, and one coefficient serves all.

Classes never meet: every array has a leading class axis, the loss is a vector [C] that is never summed, and each
class draws from its own key. So chunks of classes, in any order and on any device, give the same images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdd import augment, losses
from jaxdd.measure import Measure
from jaxdd.memory import values
from jaxdd.nn.batchnorm import Moments, pool
from jaxdd.nn.classifier import Apply, Variables
from jaxdd.normalise import Normalisation, valid_range
from jaxdd.progress import progress


@dataclass(frozen=True)
class RecoverSettings:
    """The loss and its descent; the defaults are WMDD's."""

    feature_weight: float = 1.0
    moment_weight: float = 1.0
    cross_entropy_weight: float = 0.0
    moments: str = "class"  # or "global": over the classes optimised together against all real images
    weighted_moments: bool = True  # weigh the images of a class by their atoms' weights in the moments
    start: str = "real"  # the real images nearest to the atoms; or "noise": N(0, 1) in normalised space
    steps: int = 2000
    learning_rate: float = 0.1
    min_scale: float = 0.8  # smallest share of the area that a view's crop keeps; 1 crops nothing, the papers use 0.08
    flip: bool = True
    roll: float = 0.0  # largest shift of a view as a share of the side; the papers use 32 pixels of 224


class Goal(NamedTuple):
    """What the images of each class in a chunk shall match; a pytree."""

    classes: jax.Array  # [C] int32: labels, and the identities that the random draws are folded with
    atoms: Measure  # points [C, m, d], weights [C, m]
    moments: dict[str, Moments]  # layer -> [C, ch] ("class") or [ch] ("global")
    feature_variance: jax.Array  # scalar, V


class State(NamedTuple):
    """Everything a recovery needs to go on."""

    images: jax.Array  # [C, m, H, W, ch] float32, normalised space
    opt_state: optax.OptState
    step: jax.Array  # int32


class Terms(NamedTuple):
    """The unweighted terms of the loss, [C] each."""

    feature: jax.Array
    moment: jax.Array
    cross_entropy: jax.Array


class Recovery(NamedTuple):
    """``init(start) -> State`` and the jitted, donating ``step(variables, state, goal) -> (State, Terms)``."""

    init: Callable[[jax.Array], State]
    step: Callable[[Variables, State, Goal], tuple[State, Terms]]


def noise(key: jax.Array, classes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal images [C, *shape], each class from its own key."""
    return jax.vmap(lambda c: jax.random.normal(jax.random.fold_in(key, c), shape))(classes)


def view(key: jax.Array, images: jax.Array, settings: RecoverSettings) -> jax.Array:
    """One random view of the images [m, H, W, C] of a class: crop and resize, flip, roll, one draw for all."""
    k_box, k_flip, k_roll = jax.random.split(key, 3)
    if settings.min_scale < 1:
        images = augment.crop_resize(images, *augment.random_box(k_box, settings.min_scale))
    if settings.flip:
        images = jnp.where(jax.random.bernoulli(k_flip), images[:, :, ::-1], images)
    shift = round(settings.roll * images.shape[1])
    return augment.roll(k_roll, images, shift) if shift else images


def terms(apply: Apply, variables: Variables, images: jax.Array, goal: Goal, settings: RecoverSettings) -> Terms:
    """The three terms of the loss at images [C, m, H, W, ch] as they are (no view)."""
    c, m = images.shape[:2]
    out = apply(variables, images.reshape(c * m, *images.shape[2:]))
    out = jax.tree.map(lambda x: x.reshape(c, m, *x.shape[1:]), out)

    distance = jnp.square(out.features - goal.atoms.points).sum(-1)
    feature = _root(distance.mean(1) / goal.feature_variance)

    weights = goal.atoms.weights if settings.weighted_moments else jnp.ones((c, m))
    if settings.moments == "global":
        flat = jax.tree.map(lambda x: x.reshape(c * m, -1), out.moments)
        layers = {name: pool(layer, weights.reshape(-1)) for name, layer in flat.items()}
    else:
        layers = {name: pool(layer, weights) for name, layer in out.moments.items()}
    moment = jnp.zeros(c) + sum(_distance(layers[name], goal.moments[name]) for name in layers) / max(1, len(layers))

    targets = jax.nn.one_hot(goal.classes, out.logits.shape[-1])[:, None]
    cross_entropy = losses.cross_entropy(out.logits, targets).mean(1)
    return Terms(feature, moment, cross_entropy)


def _distance(ours: Moments, real: Moments) -> jax.Array:
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
    )
    return sum(weight * value for weight, value in weighted if weight)


def recovery(apply: Apply, key: jax.Array, norm: Normalisation, settings: RecoverSettings) -> Recovery:
    """Adam (betas 0.5, 0.9), cosine to zero, pixels clipped to the valid range after each step.

    Returns:
      init and step; keep them for all chunks of one shape, since a new one is compiled anew. The terms that a step
      returns are those before it, on its random view.
    """
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps), b1=0.5, b2=0.9)
    low, high = valid_range(norm)

    def init(start):
        return State(start, tx.init(start), jnp.zeros((), jnp.int32))

    def step(variables, state, goal):
        keys = jax.vmap(lambda c: jax.random.fold_in(jax.random.fold_in(key, c), state.step))(goal.classes)

        def loss(images):
            seen = jax.vmap(lambda k, x: view(k, x, settings))(keys, images)
            values = terms(apply, variables, seen, goal, settings)
            return total(values, settings), values

        per_class, pullback, values = jax.vjp(loss, state.images, has_aux=True)
        # A vector of ones instead of the gradient of a sum: no number crosses from class to class.
        (grads,) = pullback(jnp.ones_like(per_class))
        updates, opt_state = tx.update(grads, state.opt_state)
        images = jnp.clip(optax.apply_updates(state.images, updates), low, high)
        return State(images, opt_state, state.step + 1), values

    return Recovery(init, jax.jit(step, donate_argnums=1))


def run(
    apply: Apply,
    variables: Variables,
    key: jax.Array,
    norm: Normalisation,
    settings: RecoverSettings,
    goal: Goal,
    start: jax.Array,
    memory_bytes: int,
) -> tuple[np.ndarray, Terms]:
    """All steps for all classes, in chunks of classes that fit ``memory_bytes``.

    Returns:
      images [C, m, H, W, ch] and the terms along the steps, [steps, C] each.
    """
    solver = recovery(apply, key, norm, settings)
    m, *image_shape = start.shape[1:]
    cost = m * bytes_per_image(apply, variables, tuple(image_shape))
    chunks = _chunks(len(goal.classes), memory_bytes // cost)
    images, curves = [], []
    for i, chunk in enumerate(chunks):
        part = goal._replace(classes=goal.classes[chunk], atoms=jax.tree.map(lambda x, c=chunk: x[c], goal.atoms))
        if settings.moments == "class":
            part = part._replace(moments=jax.tree.map(lambda x, c=chunk: x[c], goal.moments))
        state, curve = solver.init(start[chunk]), []
        for _ in progress(range(settings.steps), f"recover {i + 1}/{len(chunks)}"):
            state, values = solver.step(variables, state, part)
            curve.append(values)
        images.append(np.asarray(state.images))
        curves.append(jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(curve)))
    return np.concatenate(images), jax.tree.map(lambda *parts: np.concatenate(parts, 1), *curves)


def _chunks(count: int, most: int) -> list[slice]:
    """``count`` classes in slices of at most ``most`` (at least one), as equal as can be."""
    number = -(-count // max(1, min(most, count)))
    size = -(-count // number)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def bytes_per_image(apply: Apply, variables: Variables, image_shape: tuple[int, int, int]) -> int:
    """An estimate of what one image costs while its gradient is taken: twice the values its forward pass makes.

    Twice, because the backward pass makes a cotangent where the forward pass made a value; in between the compiler
    shares buffers and fuses, so this errs on the large side.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return 2 * sum(size for kind, size in values(apply, variables, image) if kind in _KEPT)


# Primitives whose results the backward pass asks for.
_KEPT = ("conv_general_dilated", "dot_general", "max", "add", "mul", "custom_jvp_call", "reduce_window_max")
