"""The supervised trainer, for teachers on real images and for students on distilled ones.

`init` and `step` are pure functions, and the state is a pytree, so a checkpoint is a saved state. Batch k and its
augmentation depend only on the seed and k, so a run that is interrupted and resumed sees the same batches as one that
is not.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdd.data import augment as augmentation
from jaxdd.ground import parallel, stop
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.measure import Array
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import Bar, log, progress
from jaxdd.ground.promotion import standard_optimizer
from jaxdd.ground.registry import Registry
from jaxdd.ground.settings import EPOCHS, HORIZON, MIN_BATCHES, PART, SHARE, bounded
from jaxdd.ground.tracing import struct
from jaxdd.ground.watch import EVERY, Hook, Watch
from jaxdd.nn.classifier import Apply, Classifier, Variables
from jaxdd.stages.relabel.labelling import Criterion

_State = TypeVar("_State")


@dataclass(frozen=True)
class TrainSettings:
    """How a classifier is trained."""

    epochs: int = bounded(300, EPOCHS)
    batch_size: int = 100
    """Images per batch; fewer if there would be fewer than `min_batches`."""
    optimizer: str = "adamw"
    """One of `OPTIMIZERS`: "adamw", or "sgd" with Nesterov momentum 0.9 and weight decay added to the gradient."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = bounded(0.0, SHARE)
    """The share of the steps in which the rate rises linearly, before it falls along a cosine."""
    horizon: float = bounded(1.0, HORIZON)
    """Where the cosine ends, in lengths of the run: 1 falls to zero, 2 ends at half the rate (RDED, EDC, FADRM)."""
    average: float = bounded(0.0, PART)
    """The decay of a running mean of all variables, which is then the result (EDC uses 0.99); 0: the last ones."""
    min_batches: int = bounded(1, MIN_BATCHES)
    """Batches of an epoch, at least. On few images, smaller batches give more steps at the same cost."""
    augment: augmentation.Augment = field(default_factory=augmentation.Augment)

    def batch(self, images: int) -> int:
        """The number of images of a batch, if there are ``images`` images: min(B, max(1, images // min_batches))."""
        return min(self.batch_size, max(1, images // self.min_batches))

    def steps(self, images: int) -> int:
        """The number of steps in which each of ``images`` images is seen ``epochs`` times, up to a last partial batch.

        Raises:
          InputError: no epochs, or empty batches.
        """
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError(
                f"`train.epochs` {self.epochs} and `train.batch_size` {self.batch_size}: use 1 or more of both"
            )
        return -(-self.epochs * images // self.batch(images))


class TrainState(NamedTuple):
    """The complete state of a training run."""

    variables: Variables
    opt_state: optax.OptState
    step: jax.Array  # int32
    mean: Variables | None = None  # the running mean of the variables, if there is one

    @property
    def result(self) -> Variables:
        """The variables of the trained model."""
        return self.variables if self.mean is None else self.mean


class Trainer(NamedTuple):
    """``init(key, image_shape) -> TrainState`` and the jitted ``step``.

    step(state, key, images [N, H, W, C], targets [N, K], weights [N], context) -> (state, loss). The state is donated.
    ``prepare(context)`` is called once before the first step, and its result can replace the context of all steps.
    ``cycle``: if not None, step t uses the augmentation of step t mod cycle.
    """

    init: Callable[[jax.Array, tuple[int, int, int]], TrainState]
    step: Callable[..., tuple[TrainState, jax.Array]]
    prepare: Callable[[Any], Any] = lambda context: context
    cycle: int | None = None


OPTIMIZERS = Registry("optimizer")
"""Functions of a learning rate (an Optax schedule) and a weight decay; each returns an Optax transformation."""
OPTIMIZERS.register("adamw", lambda rate, decay: optax.adamw(rate, weight_decay=decay))
OPTIMIZERS.register(
    "sgd", lambda rate, decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, 0.9, nesterov=True))
)


def optimizer(settings: TrainSettings, steps: int) -> optax.GradientTransformation:
    """The named optimizer, with a rate that falls along a cosine over ``steps``, to zero if the horizon is 1.

    Raises:
      InputError: an unknown optimizer.
    """
    # A step at least is left for the cosine.
    warmup = min(round(settings.warmup * steps), steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        settings.learning_rate / 10 if warmup else settings.learning_rate,
        settings.learning_rate,
        warmup,
        warmup + round(settings.horizon * (steps - warmup)),
    )
    return standard_optimizer(OPTIMIZERS.find(settings.optimizer)(rate, settings.weight_decay))


def trainer(
    model: Classifier,
    settings: TrainSettings,
    steps: int,
    criterion: Criterion,
    norm: Normalisation,
    cycle: int | None = None,
) -> Trainer:
    """Build the trainer. Keep and reuse it, since every new trainer is compiled again.

    The loss is sum_j w_j l_j / N, where l_j is the criterion's loss of image j. If the weights have mean 1 over the
    dataset, the learning rate has the same effect as without weights.
    """
    tx = optimizer(settings, steps)
    augment = augmentation.pipeline(settings.augment)

    def init(key, image_shape):
        variables = model.init(key, image_shape)
        mean = jax.tree.map(jnp.copy, variables) if settings.average else None
        return TrainState(variables, tx.init(variables["params"]), jnp.zeros((), jnp.int32), mean)

    def step(state, key, images, targets, weights, context):
        drawn = state.step if cycle is None else state.step % cycle
        images, targets = augment(jax.random.fold_in(key, drawn), normalise(norm, images), targets)

        def loss(params):
            logits, variables = model.apply_train({**state.variables, "params": params}, images)
            return (weights * criterion(logits, images, targets, context)).mean(), variables

        (value, variables), grads = jax.value_and_grad(loss, has_aux=True)(state.variables["params"])
        updates, opt_state = tx.update(grads, state.opt_state, state.variables["params"])
        params = optax.apply_updates(state.variables["params"], updates)
        variables = {**variables, "params": params}
        mean = _averaged(state.mean, variables, state.step, settings.average) if settings.average else None
        return TrainState(variables, opt_state, state.step + 1, mean), value

    return Trainer(init, jax.jit(step, donate_argnums=0), cycle=cycle)


def _averaged(mean: Variables, new: Variables, step: jax.Array, decay: float) -> Variables:
    """The running mean after a step. The first steps count more, so that the initial variables are soon forgotten."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, value: (kept * old + (1 - kept) * value).astype(value.dtype), mean, new)


def work(
    title: str,
    trainer: Trainer,
    image_shape: tuple[int, int, int],
    form: tuple[int, int, int],
    shorter: str,
    local: Mesh | None = None,
) -> Work:
    """The work of `fit` on uint8 images.

    Args:
      image_shape: (H, W, ch).
      form: (images of a batch, classes, steps).
      shorter: what makes it shorter.
      local: the devices that divide a batch, see `spread`; default: `parallel.dividing`.
    """
    batch, classes, steps = form
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: trainer.init(key, image_shape), key)
    each = struct(batch, *image_shape, dtype=np.uint8), struct(batch, classes), struct(batch)
    program = Program(trainer.step, (*parallel.divided((state, key), each, local or parallel.dividing(batch)), None))
    return Work(title, "images", batch, steps, 1, 1, program, batch, shorter, trains=True, fused=False)


def spread(
    state: _State, batches: Callable[[int], Iterable[tuple]], batch_size: int
) -> tuple[_State, Callable[[int], Iterable[tuple]]]:
    """The state and the batches for `fit` on the devices that divide a batch, each of which gets a part of it.

    The step stays that of the whole batch, BatchNorm included: the compiler adds the sums over devices.
    """
    local = parallel.dividing(batch_size)
    if local.devices.size == 1:
        return state, batches
    put = lambda batch: parallel.put(batch, local, parallel.EACH)
    return parallel.put(state, local, parallel.SAME), lambda first: map(put, batches(first))


def fit(
    step: Callable[..., tuple[_State, jax.Array]],
    state: _State,
    key: jax.Array,
    batches: Iterable[tuple[Any, Any, Any]] | Callable[[int], Iterable[tuple[Any, Any, Any]]],
    steps: int,
    context: Any = None,
    watch: Watch | None = None,
) -> tuple[_State, np.ndarray]:
    """Run ``steps`` steps on (images, targets, weights) batches and return the state and the loss curve [steps].

    This is a Python loop on purpose: on CPU, XLA runs a convolution inside a scan tens of times slower.

    Args:
      batches: the batches, or a function from the number of batches already seen to the following ones.
      watch: looks at the state and the losses every `EVERY` steps and at the end; its stage is the title of the
        progress bar. Default: one that refuses what is not finite or has blown up. The run goes on from the last of its
        checkpoints, to the same result.

    Raises:
      DivergenceError: the run diverged, at most twice `EVERY` steps before.
    """
    curve: list[Array] = []
    watch = watch or Watch("train")
    like = lambda done: {"state": state, "losses": jax.ShapeDtypeStruct((done,), np.float32)}
    done, kept = watch.checkpoints.latest(like) or (0, None)
    if kept is not None:
        state, curve = jax.tree.map(jnp.asarray, kept["state"]), list(kept["losses"])
        log(f"{watch.stage}: goes on from step {done} of {steps}")
    stream = iter(batches(done) if callable(batches) else batches)
    with stop.deferred(), watch.checkpoints:
        for taken in progress(range(done + 1, steps + 1), Bar(watch.stage, watch.shorter, done=done)):
            state, loss = step(state, key, *next(stream), context)
            # At most one step is queued behind the running one, so that the bar tells the time that steps really take.
            jax.block_until_ready(curve[-1:])
            curve.append(loss)
            if watch.is_due(taken):
                watch.look(taken, state, curve)
            watch.keep(taken, state, curve, np.array)
        watch.end(steps, state, curve)
    return state, np.array(jax.device_get(curve), np.float32)


def not_dead(apply: Apply, norm: Normalisation, images: Array, classes: int, stage: str, remedy: str) -> Hook:
    """A hook that raises DivergenceError for a classifier that has stopped to look at its input.

    A rate that is too high can kill all units. The parameters are then finite and the loss is about log K, that of a
    constant answer, but the features of all images are equal. They are computed only where the losses are no better
    than that.

    Args:
      apply, norm: the model, and the normalisation of its images.
      images: some real images of several classes, uint8 [N, H, W, C].
      classes: K.
      stage, remedy: as of a `Watch`.
    """
    features = jax.jit(lambda variables, images: apply(variables, jnp.asarray(normalise(norm, images))).features)

    def hook(step: int, state: TrainState, losses: Sequence) -> None:
        # These were computed by the last look, so that reading them does not wait for the device.
        recent = losses[-2 * EVERY : -EVERY] or losses[-1:]
        if np.median(jax.device_get(recent)) < 0.9 * np.log(classes):
            return
        seen = np.asarray(features(state.variables, images), np.float32)
        if np.ptp(seen, 0).max() <= 1e-5 * np.abs(seen).max():
            raise DivergenceError(f"{stage} diverged at step {step}: the features of all images are equal; {remedy}")

    return hook


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels [n] as one-hot vectors, float32 [n, K]."""
    return np.eye(num_classes, dtype=np.float32)[labels]
