"""The descent on the pixels: Adam under a schedule, one compiled step for all classes of a chunk."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxdd.ground import parallel
from jaxdd.ground.normalise import Normalisation, valid_range
from jaxdd.nn.classifier import Apply
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms, terms, total, view


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


class Recovery(NamedTuple):
    """``init(start) -> State`` and the jitted, donating ``step``.

    step(variables, state, goal, count=1, coarse=False) -> (State, Terms [count, C]) takes ``count`` steps in one
    program, on views of half the side if ``coarse``; ``lower`` of the same arguments or their shapes is that program.
    """

    init: Callable[[jax.Array], State]
    step: Callable[..., tuple[State, Terms]]
    lower: Callable[..., jax.stages.Lowered]


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
    moments = parallel.EACH if settings.per_class else parallel.SAME
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
    if settings.stops_early:
        share = jnp.clip((step - pace.turned) / max(1, settings.anneal), 0.0, 1.0)
    return settings.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share)) * jnp.ones_like(pace.recent)
