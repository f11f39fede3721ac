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

Classes never meet: every array has a leading class axis, the loss is a vector [C] that is never summed, and each
class draws from its own key. So chunks of classes, in any order and on any device, give the same images, and the
compiled step holds no communication. Global moments bind the classes of a group, which a device holds whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxdd.data import augment
from jaxdd.ground import losses, parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation, valid_range
from jaxdd.nn.batchnorm import Moments, pool
from jaxdd.nn.classifier import Apply, Variables
from jaxdd.nn.convnet import average_pool_2x2


@dataclass(frozen=True)
class RecoverSettings:
    """The loss and its descent; the defaults are WMDD's but where a comment says otherwise."""

    feature_weight: float = 1.0
    moment_weight: float = 1.0
    cross_entropy_weight: float = 0.0
    mean_weight: float = 0.0  # of the distance between the mean features, the maximum mean discrepancy of DM
    moments: str = "class"  # or "global": over the classes optimised together against all real images
    weighted_moments: bool = True  # weigh the images of a class by their atoms' weights in moments and mean features
    start: str = "real"  # the real images nearest to the atoms; or "noise": N(0, 1) in normalised space
    steps: int = 400  # at most, with "plateau"; the papers' 2,000 begin from noise, which needs many more than images
    learning_rate: float = 0.1
    schedule: str = "cosine"  # to zero over the steps; or "plateau": constant until a class's loss stands still
    anneal: int = 100  # steps in which the rate falls to zero once the loss stands still
    coarse: float = 0.0  # share of the steps, the first ones, that see the images at half their side
    min_scale: float = 0.8  # smallest share of the area that a view's crop keeps; 1 crops nothing, the papers use 0.08
    flip: bool = True
    roll: float = 0.0  # largest shift of a view as a share of the side; the papers use 32 pixels of 224
    remat: str = "auto"  # forget activations inside the network's blocks: "always", "never", or if memory is short


class Goal(NamedTuple):
    """What the images of each class in a chunk shall match; a pytree."""

    classes: jax.Array  # [C] int32: labels, and the identities that the random draws are folded with
    atoms: Measure  # points [C, m, d], weights [C, m]; a class of weight zero only fills a place
    means: jax.Array  # [C, d], the mean features of the class's real images
    moments: dict[str, Moments]  # layer -> [C, ch] ("class") or [ch] ("global")
    feature_variance: jax.Array  # scalar, V
    slices: jax.Array | None = None  # [C] int32, which part of a class's images these are: each part has its own draws


class Pace(NamedTuple):
    """How the loss of each class has fared, [C] each: what the schedule "plateau" goes by."""

    recent: jax.Array  # running mean over some 20 steps
    before: jax.Array  # over some 60
    turned: jax.Array  # int32, the step at which the rate began to fall; the last one until then


class State(NamedTuple):
    """Everything a recovery needs to go on."""

    images: jax.Array  # [C, m, H, W, ch] float32, normalised space
    opt_state: optax.OptState
    pace: Pace
    step: jax.Array  # int32


class Terms(NamedTuple):
    """The unweighted terms of the loss, [C] each."""

    feature: jax.Array
    moment: jax.Array
    cross_entropy: jax.Array
    mean: jax.Array


class Recovery(NamedTuple):
    """``init(start) -> State`` and the jitted, donating ``step``.

    step(variables, state, goal, count=1, coarse=False) -> (State, Terms [count, C]) takes ``count`` steps in one
    program, on views of half the side if ``coarse``; ``lower`` of the same arguments or their shapes is that program.
    """

    init: Callable[[jax.Array], State]
    step: Callable[..., tuple[State, Terms]]
    lower: Callable[..., jax.stages.Lowered]


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
    feature = _root(distance.mean(1) / goal.feature_variance)

    present = (goal.atoms.weights.sum(1) > 0).astype(jnp.float32)
    weights = goal.atoms.weights if settings.weighted_moments else present[:, None] * jnp.ones((1, m))
    group = 1 if settings.moments == "class" else group or c
    grouped = jax.tree.map(lambda x: x.reshape(c // group, group * m, -1), out.moments)
    layers = {name: pool(layer, weights.reshape(c // group, -1)) for name, layer in grouped.items()}
    apart = jnp.zeros(c // group) + sum(_distance(layers[name], goal.moments[name]) for name in layers)
    moment = present * jnp.repeat(apart, group) / max(1, len(layers))

    targets = jax.nn.one_hot(goal.classes, out.logits.shape[-1])[:, None]
    cross_entropy = losses.cross_entropy(out.logits, targets).mean(1)

    share = weights / jnp.where(present > 0, weights.sum(1), 1.0)[:, None]
    centre = jnp.einsum("cm,cmd->cd", share, out.features, precision="highest")
    mean = present * _norm(centre - goal.means) / jnp.sqrt(goal.feature_variance)
    return Terms(feature, moment, cross_entropy, mean)


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
        (settings.mean_weight, values.mean),
    )
    return sum(weight * value for weight, value in weighted if weight)


def group_size(settings: RecoverSettings, count: int, m: int) -> tuple[int, int]:
    """The classes that are optimised together, and how many of the m images of each at a time.

    A class alone and all its images; but with global moments up to 100 classes, and about 100 images of them, as SRe2L
    takes them over batches of 100 images of different classes. Two classes of 50 images each would be driven to look
    like all classes on average.
    """
    if settings.moments == "class":
        return 1, m
    group = -(-count // -(-count // 100))
    most = max(1, 100 // group)
    return group, max(size for size in range(1, most + 1) if m % size == 0)


def recovery(
    apply: Apply,
    key: jax.Array,
    norm: Normalisation,
    settings: RecoverSettings,
    group: int | None = None,
    local: Mesh | None = None,
) -> Recovery:
    """Adam (betas 0.5, 0.9), its rate by the schedule, pixels clipped to the valid range after each step.

    Pixels, moments and losses are float32 whatever ``apply`` computes in.

    Args:
      group: classes that share global moments, a divisor of C; default: all of C.
      local: devices to shard the class axis over, which divide it, ``group`` undivided; default: wherever C lies.

    Returns:
      init, step and lower; equal arguments but for key and norm share their compilation. The terms that a step
      returns are those before it, on its random view.
    """
    fixed = (key, *(jnp.asarray(bound) for bound in valid_range(norm)))
    if local:
        fixed = parallel.put(fixed, local, parallel.SAME)
    program = _program(apply, settings, group, local)

    def init(start):
        classes = len(start)
        unknown = lambda: jnp.full(classes, jnp.inf, jnp.float32)
        pace = Pace(unknown(), unknown(), jnp.full(classes, settings.steps, jnp.int32))
        return State(start, _ADAM.init(start), pace, jnp.zeros((), jnp.int32))

    return Recovery(init, partial(program, fixed), partial(program.lower, fixed))


_ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)


@lru_cache(maxsize=16)
def _program(apply: Apply, settings: RecoverSettings, group: int | None, local: Mesh | None):
    """The jitted step, with the key and the bounds of the pixels before its other arguments."""

    def one(fixed, variables, state, goal, coarse):
        key, low, high = fixed

        def draws(c, part):
            base = key if part is None else jax.random.fold_in(key, part)
            return jax.random.fold_in(jax.random.fold_in(base, c), state.step)

        keys = jax.vmap(draws)(goal.classes, goal.slices)

        def loss(images):
            seen = jax.vmap(lambda k, x: view(k, x, settings, coarse))(keys, images)
            values = terms(apply, variables, seen, goal, settings, group)
            return total(values, settings), values

        per_class, pullback, values = jax.vjp(loss, state.images, has_aux=True)
        # A vector of ones instead of the gradient of a sum: no number crosses from class to class.
        (grads,) = pullback(jnp.ones_like(per_class))
        updates, opt_state = _ADAM.update(grads, state.opt_state)
        pace = _paced(state.pace, per_class, state.step, settings)
        rate = _rate(pace, state.step, settings)[:, None, None, None, None]
        images = jnp.clip(state.images - rate * updates, low, high)
        return State(images, opt_state, pace, state.step + 1), values

    def step(fixed, variables, state, goal, count=1, coarse=False):
        if count == 1:
            state, values = one(fixed, variables, state, goal, coarse)
            return state, jax.tree.map(lambda x: x[None], values)
        return jax.lax.scan(lambda state, _: one(fixed, variables, state, goal, coarse), state, length=count)

    def placed(fixed, variables, state, goal, **static):
        states, goals = state_specs(state), goal_specs(settings)
        specs, out = (parallel.SAME, parallel.SAME, states, goals), (states, PartitionSpec(None, parallel.AXIS))
        return parallel.sharded(partial(step, **static), local, specs, out)(fixed, variables, state, goal)

    return jax.jit(placed if local else step, static_argnames=("count", "coarse"), donate_argnums=2)


def state_specs(state: State) -> State:
    """Where the parts of a state lie on the mesh: arrays by their class, counters everywhere."""
    return jax.tree.map(lambda x: parallel.EACH if x.ndim else parallel.SAME, state)


def goal_specs(settings: RecoverSettings) -> Goal:
    """Where the parts of a goal lie."""
    moments = parallel.EACH if settings.moments == "class" else parallel.SAME
    return Goal(parallel.EACH, parallel.EACH, parallel.EACH, moments, parallel.SAME, parallel.EACH)


def _paced(pace: Pace, loss: jax.Array, step: jax.Array, settings: RecoverSettings) -> Pace:
    blend = lambda mean, share: jnp.where(jnp.isinf(mean), loss, (1 - share) * mean + share * loss)
    recent, before = blend(pace.recent, 1 / 20), blend(pace.before, 1 / 60)
    # Random views scatter the loss by some percent: both means are old enough, and one per cent is little.
    still = (step >= 60) & (recent > 0.99 * before)
    last = settings.steps - settings.anneal
    turned = jnp.where((pace.turned == settings.steps) & (still | (step >= last)), step, pace.turned)
    return Pace(recent, before, turned)


def _rate(pace: Pace, step: jax.Array, settings: RecoverSettings) -> jax.Array:
    """The learning rate of each class, [C]."""
    share = step / settings.steps
    if settings.schedule == "plateau":
        share = jnp.clip((step - pace.turned) / max(1, settings.anneal), 0.0, 1.0)
    return settings.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share)) * jnp.ones_like(pace.recent)
