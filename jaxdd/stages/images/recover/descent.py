"""Gradient descent on the pixels: Adam with a schedule, one compiled step for all classes of a chunk."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxdd.ground import parallel
from jaxdd.ground.normalise import Normalisation, valid_range
from jaxdd.ground.programs import Program
from jaxdd.ground.promotion import standard_optimizer
from jaxdd.nn.classifier import Apply
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms, terms, total, view


class Pace(NamedTuple):
    """The progress of each class's loss, [C] each, which the schedule "plateau" needs."""

    recent: jax.Array  # running mean of the loss over about 20 steps
    before: jax.Array  # running mean over about 60 steps
    turned: jax.Array  # int32, the step at which the rate began to fall; until then the total number of steps


class State(NamedTuple):
    """The complete state of a recovery."""

    images: jax.Array  # [C, m, H, W, ch] float32, normalised space
    opt_state: optax.OptState
    pace: Pace
    step: jax.Array  # int32


class Recovery(NamedTuple):
    """``init(start) -> State`` and the jitted ``step``, which donates its state.

    step(variables, state, goal, count=1, coarse=False) -> (State, Terms [count, C]) takes ``count`` steps in one
    program. With ``coarse`` the views have half the side. ``program`` takes the same arguments, or their shapes, and
    returns the `Program`.
    """

    init: Callable[[jax.Array], State]
    step: Callable[..., tuple[State, Terms]]
    program: Callable[..., Program]


def recovery(
    apply: Apply,
    key: jax.Array,
    norm: Normalisation,
    settings: RecoverSettings,
    group: int | None = None,
    local: Mesh | None = None,
) -> Recovery:
    """Adam (betas 0.5, 0.9) with the scheduled rate; pixels are clipped to the valid range after each step.

    Pixels, moments and losses are float32, whatever dtype ``apply`` computes in.

    Args:
      group: the number of classes that share global moments, a divisor of C; default: C.
      local: the devices over which to shard the class axis. Their number divides C, and a group stays on one device.
        Default: no sharding.

    Returns:
      init, step and program. Calls that differ only in key and norm share one compilation. A step returns the terms
      before its update, on its random view.
    """
    low, high = valid_range(norm)
    fixed = (key, jnp.asarray(low), jnp.asarray(high))
    if local:
        fixed = parallel.put(fixed, local, parallel.SAME)
    step = _step(apply, settings, group, local)
    program = lambda *arguments, **static: Program(step, (fixed, *arguments), static)
    return Recovery(_init(settings.steps), partial(step, fixed), program)


@lru_cache(maxsize=16)
def _init(steps: int) -> Callable[[jax.Array], State]:
    """The function from initial images to the state; one for all calls, so that it is compiled once."""

    def init(start):
        classes = len(start)
        unknown = lambda: jnp.full(classes, jnp.inf, jnp.float32)
        pace = Pace(unknown(), unknown(), jnp.full(classes, steps, jnp.int32))
        return State(start, _ADAM.init(start), pace, jnp.zeros((), jnp.int32))

    return init


_ADAM = standard_optimizer(optax.scale_by_adam(b1=0.5, b2=0.9))


@lru_cache(maxsize=16)
def _step(apply: Apply, settings: RecoverSettings, group: int | None, local: Mesh | None):
    """The jitted step; its first argument is (key, smallest pixel, largest pixel)."""

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
        # Pull back a vector of ones instead of differentiating a sum, so that classes stay independent.
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
    """The partition specs of a state: arrays are sharded by class, counters are replicated."""
    return jax.tree.map(lambda x: parallel.EACH if x.ndim else parallel.SAME, state)


def goal_specs(settings: RecoverSettings) -> Goal:
    """The partition specs of a goal, in the place of its arrays; a spec serves all arrays below it."""
    each: Any = parallel.EACH
    same: Any = parallel.SAME
    return Goal(each, each, each, each if settings.per_class else same, same, each)


def _paced(pace: Pace, loss: jax.Array, step: jax.Array, settings: RecoverSettings) -> Pace:
    """The pace after a step, and whether the rate begins to fall there."""
    blend = lambda mean, share: jnp.where(jnp.isinf(mean), loss, (1 - share) * mean + share * loss)
    recent, before = blend(pace.recent, 1 / 20), blend(pace.before, 1 / 60)
    # Random views scatter the loss by some per cent. From step 60 on both means cover their full window, and a
    # difference below one per cent counts as no progress.
    still = (step >= 60) & (recent > 0.99 * before)
    last = settings.steps - settings.anneal
    turned = jnp.where((pace.turned == settings.steps) & (still | (step >= last)), step, pace.turned)
    return Pace(recent, before, turned)


def _rate(pace: Pace, step: jax.Array, settings: RecoverSettings) -> jax.Array:
    """The learning rate of each class, [C]."""
    share = step.astype(jnp.float32) / settings.steps
    if settings.stops_early:
        share = jnp.clip((step - pace.turned).astype(jnp.float32) / max(1, settings.anneal), 0.0, 1.0)
    return settings.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share)) * jnp.ones_like(pace.recent)
