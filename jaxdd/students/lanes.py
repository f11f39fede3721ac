"""Parallel runs of one trainer. A lane is one run: one dataset and one seed.

Lanes are independent. They are sharded over the devices with no cross-device communication. On an accelerator the lanes
of a device step together, several steps per launch; a CPU device trains one lane at a time. The result of a lane does
not depend on the other lanes, up to rounding.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdd.data import permutations
from jaxdd.ground import launching, parallel
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.launching import Curve
from jaxdd.ground.measure import Array
from jaxdd.ground.memory import ENDLESS, budget, needed_bytes
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import Bar
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.ground.watch import Watch, state_faults
from jaxdd.nn.classifier import Variables
from jaxdd.stages.relabel.stored import Labels
from jaxdd.students.train import Trainer

# The size of the parts in which stored labels are sent to the devices. Sending them step by step takes longer than a
# small training step.
_SENT_BYTES = 2**24


class Pool(NamedTuple):
    """The datasets from which lanes draw their batches, one array per dataset, with optional stored labels.

    On the devices each sequence of D arrays is a single array with a leading axis D, images have the form of
    `kept_shape`, and the labels are a dictionary of the fields of `Labels.read`, [D, steps, B, ...] each. A batch from
    the host has such axes, too, with D lanes and images [D, B, H, W, ch].
    """

    images: Sequence[np.ndarray] | Array  # [n, H, W, ch]
    targets: Sequence[np.ndarray] | Array  # [n, K]
    weights: Sequence[np.ndarray] | Array  # [n]
    labels: Sequence[Labels] | dict[str, Array] | None = None


class Trained(NamedTuple):
    """The results of some finished lanes, on the host."""

    lanes: np.ndarray  # [k], ascending
    variables: Variables  # [k, ...] every array
    losses: np.ndarray  # [k, steps] float32


class Lanes(NamedTuple):
    """The runs to do: lane s learns dataset ``which[s]`` of a pool with seed ``seeds[s]``."""

    which: Sequence[int]
    seeds: Sequence[int]
    batch_size: int
    steps: int
    names: Sequence[str] | None = None  # of the lanes in error messages; default: numbers and seeds


class Limits(NamedTuple):
    """Limits on devices, memory, and the work done at a time.

    Attributes:
      local: the devices of this process to use, in one row; default: all, but at most one per lane.
      title: the title of the progress bar and of error messages.
      remedy: what to do about a lane that diverges.
      shorter: what makes the training shorter.
      together: the largest number of lanes that a device trains at a time; default: 16, on CPU 1.
      launch: the largest number of steps per launch; default: 20, on CPU 1. Batches that come from the host are
        launched one by one.
      resident_bytes: the memory that the pool, the order of the batches and stored labels may take on each device.
      memory_bytes: the total memory that a training step may take on each device. Fewer lanes are trained at a time if
        the compiled program needs more. Default: most of the free memory of an accelerator; no limit on CPU.
      scratch: for checkpoints, from which an interrupted call goes on.
    """

    local: Mesh | None = None
    title: str = "students"
    remedy: str = "use a lower `train.learning_rate`"
    shorter: str = "a lower `train.epochs`"
    together: int | None = None
    launch: int | None = None
    resident_bytes: int = 4 * 2**30
    memory_bytes: int | None = None
    scratch: Scratch = Scratch()


def run(
    trainer: Trainer,
    pool: Pool,
    lanes: Lanes,
    context: Any = None,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Trained]:
    """Train all lanes, and yield chunks of them as they are finished.

    Let k = `jax.random.key` of a lane's seed. The lane starts from ``trainer.init(fold_in(k, 0))``, steps with
    fold_in(k, 1), and sees the batches of `data.permutations` of the seed. Images, targets, weights and the order of
    all batches are sent to the devices before the first step. If they take too much memory, batches come from the host
    instead.

    Args:
      context: the context of the trainer, the same for all lanes.

    Raises:
      DivergenceError: a lane of the present chunk diverged.
    """
    count = len(lanes.seeds)
    local = limits.local or parallel.mesh(jax.local_devices()[:count])
    context = parallel.put(context, local, parallel.SAME)
    feed = _Feed(trainer, pool, lanes, limits, local)
    size = _lanes_a_device(feed, context, limits)
    chunks = parallel.chunks(count, size * local.devices.size)
    for i, places in enumerate(chunks):
        title = limits.title if len(chunks) == 1 else f"{limits.title} {i + 1}/{len(chunks)}"
        state, batches, inputs = feed.begin(places, size)
        watch = _watch(lanes, places, limits)
        launch = _launcher(feed, feed.programs(size).launch, context, batches, inputs)
        losses = Curve(jax.ShapeDtypeStruct((len(places), 1), np.float32), 1)
        bar = Bar(title, "" if i else limits.shorter, len(chunks))
        state, curve = launching.run(launch, state, feed.launches, watch, losses, bar)
        real = partial(np.compress, places >= 0, axis=0)
        variables = jax.device_get(state.result)
        del state
        yield Trained(real(places), jax.tree.map(real, variables), real(curve))
        watch.checkpoints.clear()


def _launcher(feed: "_Feed", program: jax.stages.Wrapped, context: Any, batches: Iterator, inputs: Any):
    """The function (state, number of the launch) -> (state, losses [S, steps])."""
    numbered = enumerate(batches)

    def launch(state: Any, k: int) -> tuple[Any, jax.Array]:
        # After a checkpoint the first batches have been seen already.
        batch = next(batch for i, batch in numbered if i == k)
        return program(state, context, batch, *inputs, count=feed.launches[k])

    return launch


def _watch(lanes: Lanes, places: np.ndarray, limits: Limits) -> Watch:
    """The watch over the lanes ``places`` of a chunk, with its checkpoints."""
    every = lanes.names or [f"lane {s}, seed {seed}" for s, seed in enumerate(lanes.seeds)]
    names = [every[s] if s >= 0 else None for s in places]
    curve = lambda losses: np.concatenate(losses, 1).T
    watch = Watch(limits.title, names, curve, partial(state_faults, rows=True), limits.remedy)
    return watch.keeping(limits.scratch.checkpoints(f"{limits.title}: {names}"))


def _lanes_a_device(feed: "_Feed", context: Any, limits: Limits) -> int:
    """The number of lanes that a device trains at a time, given the memory of the compiled program."""
    local, count = feed.local, len(feed.lanes.seeds)
    cpu, devices = parallel.is_cpu(local), local.devices.size
    memory_bytes = limits.memory_bytes
    if memory_bytes is None and not cpu:
        memory_bytes = budget(list(local.devices.flat), limits.resident_bytes)

    def need(size: int) -> int:
        state, batches, inputs = feed.begin(np.arange(size * devices) % count, size)
        program = feed.programs(size).launch
        return needed_bytes(program.lower(state, context, next(batches), *inputs, count=feed.launches[0]))

    return _fitting(count, devices, limits.together or (1 if cpu else 16), memory_bytes, need)


def _fitting(count: int, devices: int, most: int, memory_bytes: int | None, need: Callable[[int], int]) -> int:
    """At most ``most`` of ``count`` lanes a device, whose program fits into the memory."""
    while True:
        # Make all chunks about equally large: a chunk with padding takes as long as a full one.
        size = -(-count // (devices * -(-count // (devices * most))))
        if size == 1 or memory_bytes is None or (needed := need(size)) <= memory_bytes:
            return size
        most = size // 2 if needed == ENDLESS else max(1, min(size - 1, size * memory_bytes // needed))


class _Feed:
    """Supplies the batches of the lanes of a chunk, from the memory of the devices or from the host."""

    def __init__(self, trainer: Trainer, pool: Pool, lanes: Lanes, limits: Limits, local: Mesh):
        self.trainer, self.pool, self.lanes, self.local = trainer, pool, lanes, local
        self.which = np.asarray(lanes.which, np.int32)
        self.seeds, self.stored = list(lanes.seeds), _stored(pool)
        shape: tuple[int, ...] = pool.images[0].shape
        self.images, self.image_shape = shape[0], shape[1:]
        # The number of different steps: they may repeat after a cycle, for example of stored labels.
        self.distinct = min(lanes.steps, trainer.cycle or lanes.steps)
        self.streams = self.seeds if self.stored is None else [self.stored[d].seed for d in self.which]
        size = sum(x.nbytes for part in pool[:3] for x in part) + len(self.seeds) * self.distinct * lanes.batch_size * 4
        self.resident = size <= limits.resident_bytes
        label_bytes = sum(labels.nbytes for labels in self.stored or ())
        self.labels_resident = self.stored is not None and self.resident and size + label_bytes <= limits.resident_bytes
        most = limits.launch or (1 if parallel.is_cpu(local) else 20)
        self.launches = parallel.launches(lanes.steps, most if self.resident else 1)
        if self.resident:
            order = partial(_order, self.images, lanes.batch_size, self.distinct)
            self.orders = {seed: order(seed) for seed in set(self.streams)}
            images = np.stack(list(pool.images)).reshape(len(pool.images), self.images, *kept_shape(self.image_shape))
            whole = Pool(images, np.stack(list(pool.targets)), np.stack(list(pool.weights)))
            self.whole = parallel.put(whole, local, parallel.SAME)
        if self.stored is not None and self.labels_resident:
            labels = _labels(self.stored, np.arange(self.distinct))
            self.whole = self.whole._replace(labels=parallel.put(labels, local, parallel.SAME))

    def programs(self, size: int) -> "Programs":
        """The compiled programs for ``size`` lanes per device."""
        spec = parallel.SAME if self.resident else parallel.EACH
        return programs(self.trainer, self.image_shape, self.local, size > 1, spec)

    def begin(self, places: np.ndarray, size: int) -> tuple[Any, Iterator, Any]:
        """The first state of a chunk, its batches launch by launch, and the inputs that all its launches share."""
        rows = np.maximum(places, 0)
        keys = lambda chosen, stage: [jax.random.fold_in(jax.random.key(chosen[row]), stage) for row in rows]
        start, key = jnp.stack(keys(self.seeds, 0)), jnp.stack(keys(self.streams, 1))
        state = self.programs(size).init(parallel.put(start, self.local))
        streams = [self.streams[row] for row in rows]
        if self.resident:
            order = np.stack([self.orders[stream] for stream in streams])
            return state, self._resident(), parallel.put((key, self.which[rows], order), self.local)
        # Each lane gets its batch as a small dataset whose rows are in the right order already.
        lane = np.arange(len(rows), dtype=np.int32) % size
        batch_size = self.lanes.batch_size
        every_row = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (len(rows), 1, batch_size))
        batches = ahead(self._batches(self.which[rows], streams), self.local)
        return state, batches, parallel.put((key, lane, every_row), self.local)

    def _resident(self) -> Iterator[Pool]:
        """The pool on the devices for each launch, with stored labels that are sent in parts if they do not fit."""
        stored = self.stored
        if stored is None or self.labels_resident:
            return repeat(self.whole)
        # A part holds the labels of several launches, and step t is at t mod (steps of a part).
        step_bytes = sum(labels.nbytes // labels.steps for labels in stored)
        launch, steps = self.launches[0], self.lanes.steps
        serve = min(len(self.launches), max(1, _SENT_BYTES // (launch * step_bytes)))
        parts = (first + np.arange(serve * launch) for first in range(0, steps, serve * launch))
        sent = ahead((_labels(stored, part % self.distinct) for part in parts), self.local, parallel.SAME)
        return (self.whole._replace(labels=part) for part in sent for _ in range(serve))

    def _batches(self, which: np.ndarray, streams: Sequence[int]) -> Iterator[Pool]:
        """The batch of each step for lanes of these streams: every array is [S, B, ...], labels are [S, 1, B, ...]."""
        pool, stored = self.pool, self.stored and [self.stored[d] for d in which]
        for k in np.arange(self.lanes.steps) % self.distinct:
            if k == 0:
                orders = zip(*(permutations(self.images, self.lanes.batch_size, seed) for seed in streams))
            chosen = list(zip(which, next(orders)))
            labels = _labels(stored, np.array([k])) if stored else None
            of = lambda arrays, chosen=chosen: np.stack([arrays[d][rows] for d, rows in chosen])
            yield Pool(of(pool.images), of(pool.targets), of(pool.weights), labels)


def ahead(items: Iterable, local: Mesh, spec: PartitionSpec = parallel.EACH, count: int = 2) -> Iterator:
    """Put the items on the devices; each item is being sent while the ``count`` items before it are in use."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(parallel.put(item, local, spec))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _order(n: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """The first batches of `permutations`, [steps, B] int32."""
    epochs = islice(permutations(n, n, seed), -(-steps * batch_size // n))
    return np.concatenate(list(epochs))[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def _stored(pool: Pool) -> Sequence[Labels] | None:
    """The stored labels of a pool on the host."""
    return None if isinstance(pool.labels, dict) else pool.labels


def _labels(stored: Sequence[Labels], steps: np.ndarray) -> dict[str, Array]:
    """The labels of these steps: every field is [D, steps, B, ...]."""
    return jax.tree.map(lambda *parts: np.stack(parts), *(labels.read(steps) for labels in stored))


class Programs(NamedTuple):
    """The compiled functions of a trainer for S lanes."""

    init: jax.stages.Wrapped  # keys [S] -> state [S]
    launch: jax.stages.Wrapped  # (state, context, pool, keys, which, order, count=) -> (state, losses [S, count])


def kept_shape(image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The form of an image of a pool on the devices: rows of 128 numbers, if they hold it without a rest.

    A TPU would keep images [n, H, W, 3] with n last, and copy all of them before it could choose some.
    """
    size = math.prod(image_shape)
    return image_shape if size % 128 else (size // 128, 128)


class Form(NamedTuple):
    """The form of a pool on the devices.

    Attributes:
      datasets: the number of datasets, D.
      images: images of each, n.
      image_shape: (H, W, ch).
      classes: K.
    """

    datasets: int
    images: int
    image_shape: tuple[int, int, int]
    classes: int


def program(trainer: Trainer, form: Form, lanes: Lanes, count: int, context: Any, local: Mesh) -> Program:
    """The launch of ``count`` steps of all lanes, which the devices divide, from a pool on the devices.

    Args:
      context: the prepared context of the trainer, arrays or shapes.
    """
    size, image_shape = len(lanes.seeds), form.image_shape
    compiled = programs(trainer, image_shape, local, size > local.devices.size, parallel.SAME)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    some = partial(struct, form.datasets, form.images)
    order = struct(size, lanes.steps, lanes.batch_size, dtype=np.int32)
    each = shapes_of(compiled.init, keys), keys, struct(size, dtype=np.int32), order
    same = context, Pool(some(*kept_shape(image_shape)), some(form.classes), some())
    state, *rest = parallel.shapes(each, NamedSharding(local, parallel.EACH))
    context, pool = parallel.shapes(same, NamedSharding(local, parallel.SAME))
    return Program(compiled.launch, (state, context, pool, *rest), {"count": count})


def work(trainer: Trainer, form: Form, lanes: Lanes, context: Any, limits: Limits) -> Work:
    """The work of `run` on a pool of that form, if the pool fits on the devices."""
    local = limits.local or parallel.mesh(jax.local_devices()[: len(lanes.seeds)])
    cpu, devices, count = parallel.is_cpu(local), local.devices.size, len(lanes.seeds)
    launch = parallel.launches(lanes.steps, limits.launch or (1 if cpu else 20))[0]
    some = lambda size: lanes._replace(seeds=[0] * (size * devices))
    need = lambda size: needed_bytes(program(trainer, form, some(size), launch, context, local).lower())
    memory_bytes = None if cpu else budget(list(local.devices.flat), limits.resident_bytes)
    size = _fitting(count, devices, limits.together or (1 if cpu else 16), memory_bytes, need)
    planned, chunks = program(trainer, form, some(size), launch, context, local), -(-count // (size * devices))
    batch = lanes.batch_size
    return Work(limits.title, "images", count * batch, lanes.steps, chunks, launch, planned, 16 * batch, limits.shorter,
                trains=True, least=batch)  # fmt: skip


@lru_cache(maxsize=8)
def programs(
    trainer: Trainer, image_shape: tuple[int, ...], local: Mesh, lockstep: bool, spec: PartitionSpec
) -> Programs:
    """The compiled functions, which all chunks of lanes share; ``spec`` is the partition spec of the pool."""

    def lanes(function):
        if lockstep:
            return jax.vmap(function)
        # A vmap over a single lane would still give grouped convolutions, which are slow.
        alone = lambda *inputs: function(*jax.tree.map(lambda x: x[0], inputs))
        return lambda *inputs: jax.tree.map(lambda x: x[None], alone(*inputs))

    def init(keys):
        return lanes(lambda key: trainer.init(key, image_shape))(keys)

    def launch(state, context, pool, keys, which, order, *, count):
        def lane(state, key, which, order):
            def step(state, _):
                rows = order[state.step % len(order)]
                images, targets, weights = (part[which, rows] for part in pool[:3])
                images = images.reshape(len(rows), *image_shape)
                labels = jax.tree.map(lambda x: x[which, state.step % x.shape[1]], pool.labels)
                return trainer.step(state, key, images, targets, weights, context if labels is None else labels)

            if count == 1:
                state, loss = step(state, None)
                return state, loss[None]
            return jax.lax.scan(step, state, length=count)

        return lanes(lane)(state, keys, which, order)

    def placed(*inputs, count):
        specs = (parallel.EACH, parallel.SAME, spec, *[parallel.EACH] * 3)
        return parallel.sharded(partial(launch, count=count), local, specs)(*inputs)

    return Programs(
        jax.jit(parallel.sharded(init, local)),
        jax.jit(placed, static_argnames="count", donate_argnums=0),
    )
