"""Runs of one trainer side by side: a lane is one dataset and one seed.

Lanes never meet. They are sharded over the devices without communication, and within an accelerator they take their
steps together, several steps a launch; a core takes one lane at a time. A lane's numbers are those of a run alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxdd.data import permutations
from jaxdd.ground import parallel
from jaxdd.ground.memory import budget, compiled_bytes
from jaxdd.ground.progress import progress
from jaxdd.nn.classifier import Variables
from jaxdd.stages.relabel.stored import Labels
from jaxdd.students.train import Trainer

# Of stored labels, at a time: sending them step by step takes longer than a small step.
_SENT_BYTES = 2**24


class Pool(NamedTuple):
    """The datasets that lanes draw their batches from, one array each a dataset, and maybe their stored labels."""

    images: Sequence[np.ndarray]  # [n, H, W, ch]
    targets: Sequence[np.ndarray]  # [n, K]
    weights: Sequence[np.ndarray]  # [n]
    labels: Sequence[Labels] | None = None


class Trained(NamedTuple):
    """Some lanes, finished; on the host."""

    lanes: np.ndarray  # [k], ascending
    variables: Variables  # [k, ...] every array
    losses: np.ndarray  # [k, steps] float32


class Lanes(NamedTuple):
    """What is trained: lane s learns dataset ``which[s]`` of a pool with seed ``seeds[s]``."""

    which: Sequence[int]
    seeds: Sequence[int]
    batch_size: int
    steps: int


class Limits(NamedTuple):
    """How much is done at a time.

    Attributes:
      local: this process's devices, in one row; default: all, but no more than there are lanes.
      title: of the progress bar.
      together: lanes that a device trains at a time, at most; default: 16, on CPU one.
      launch: steps a launch, at most; default: 20, on CPU one. Batches from the host are launched one by one.
      resident_bytes: what the pool, the order of the batches and stored labels may take on each device.
      memory_bytes: what a device may hold in all while it steps: fewer lanes are trained at a time where the compiled
        program takes more. Default: most of what is free on an accelerator, on CPU no limit.
    """

    local: Mesh | None = None
    title: str = "students"
    together: int | None = None
    launch: int | None = None
    resident_bytes: int = 4 * 2**30
    memory_bytes: int | None = None


def run(
    trainer: Trainer,
    pool: Pool,
    lanes: Lanes,
    context: Any = None,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Trained]:
    """Train all lanes; chunks of them as they are finished.

    With k = `jax.random.key` of its seed a lane starts from ``trainer.init(fold_in(k, 0))``, steps with fold_in(k, 1),
    and sees the batches of `data.permutations` of the seed. Images, targets, weights and the order of all batches are
    on the devices before the first step, unless they take too much memory: then batches come from the host.

    Args:
      context: the trainer's, the same for all lanes.
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
        curve = []
        for steps in progress(feed.launches, title):
            state, losses = feed.programs(size).launch(state, context, next(batches), *inputs, count=steps)
            # One launch waits behind the one that runs, no more: batches would pile up, and the bar would run ahead.
            jax.block_until_ready(curve[-1:])
            curve.append(losses)
        real = partial(np.compress, places >= 0, axis=0)
        variables, curve = jax.device_get((state.variables, curve))
        del state
        yield Trained(real(places), jax.tree.map(real, variables), real(np.concatenate(curve, 1)))


def _lanes_a_device(feed: "_Feed", context: Any, limits: Limits) -> int:
    """How many lanes a device trains at a time, as the memory of the compiled program allows."""
    local, count = feed.local, len(feed.lanes.seeds)
    cpu, devices = parallel.is_cpu(local), local.devices.size
    memory_bytes = limits.memory_bytes
    if memory_bytes is None and not cpu:
        memory_bytes = budget(list(local.devices.flat), limits.resident_bytes)
    most = limits.together or (1 if cpu else 16)
    while True:
        # As equal as can be, since a chunk that is not full takes as long as one that is.
        size = -(-count // (devices * -(-count // (devices * most))))
        if size == 1 or memory_bytes is None:
            return size
        state, batches, inputs = feed.begin(np.arange(size * devices) % count, size)
        lowered = feed.programs(size).launch.lower(state, context, next(batches), *inputs, count=feed.launches[0])
        need = compiled_bytes(lowered.compile())
        if need <= memory_bytes:
            return size
        most = max(1, min(size - 1, size * memory_bytes // need))


class _Feed:
    """Where the lanes of a chunk draw their batches from: memory of the devices, or the host."""

    def __init__(self, trainer: Trainer, pool: Pool, lanes: Lanes, limits: Limits, local: Mesh):
        self.trainer, self.pool, self.lanes, self.local = trainer, pool, lanes, local
        self.which = np.asarray(lanes.which, np.int32)
        self.seeds, self.stored = list(lanes.seeds), pool.labels
        self.images, *self.image_shape = pool.images[0].shape
        # Steps with labels of their own: stored ones are seen again from the first.
        self.distinct = lanes.steps if self.stored is None else min(lanes.steps, trainer.cycle)
        self.streams = self.seeds if self.stored is None else [self.stored[d].seed for d in self.which]
        order = partial(_order, self.images, lanes.batch_size, self.distinct)
        self.orders = {seed: order(seed) for seed in self.streams}
        size = sum(x.nbytes for part in pool[:3] for x in part) + len(self.seeds) * self.distinct * lanes.batch_size * 4
        self.resident = size <= limits.resident_bytes
        label_bytes = sum(labels.nbytes for labels in self.stored or ())
        self.labels_resident = self.stored is not None and self.resident and size + label_bytes <= limits.resident_bytes
        most = limits.launch or (1 if parallel.is_cpu(local) else 20)
        self.launches = parallel.launches(lanes.steps, most if self.resident else 1)
        if self.resident:
            self.whole = parallel.put(Pool(*map(np.stack, pool[:3])), local, parallel.SAME)
        if self.labels_resident:
            labels = _labels(self.stored, np.arange(self.distinct))
            self.whole = self.whole._replace(labels=parallel.put(labels, local, parallel.SAME))

    def programs(self, size: int) -> "Programs":
        """The compiled programs for so many lanes a device."""
        spec = parallel.SAME if self.resident else parallel.EACH
        return programs(self.trainer, tuple(self.image_shape), self.local, size > 1, spec)

    def begin(self, places: np.ndarray, size: int) -> tuple[Any, Iterator, Any]:
        """A chunk's first state, its batches launch by launch, and what all its launches are given."""
        rows = np.maximum(places, 0)
        keys = lambda chosen, stage: [jax.random.fold_in(jax.random.key(chosen[row]), stage) for row in rows]
        start, key = jnp.stack(keys(self.seeds, 0)), jnp.stack(keys(self.streams, 1))
        state = self.programs(size).init(parallel.put(start, self.local))
        order = np.stack([self.orders[self.streams[row]] for row in rows])
        if self.resident:
            return state, self._resident(), parallel.put((key, self.which[rows], order), self.local)
        # A batch is a small dataset of its lane's own, in the order in which it comes.
        lane = np.arange(len(rows), dtype=np.int32) % size
        batch_size = self.lanes.batch_size
        there = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (len(rows), 1, batch_size))
        batches = ahead(_batches(self.pool, self.which[rows], order, self.lanes.steps), self.local)
        return state, batches, parallel.put((key, lane, there), self.local)

    def _resident(self) -> Iterator[Pool]:
        """The pool on the devices, with the stored labels of each launch if they are not there as well."""
        if self.stored is None or self.labels_resident:
            return repeat(self.whole)
        # Step t is at t mod L of L labels, which serve a number of launches.
        step_bytes = sum(labels.nbytes // labels.steps for labels in self.stored)
        launch, steps = self.launches[0], self.lanes.steps
        serve = min(len(self.launches), max(1, _SENT_BYTES // (launch * step_bytes)))
        parts = (first + np.arange(serve * launch) for first in range(0, steps, serve * launch))
        parts = ahead((_labels(self.stored, part % self.distinct) for part in parts), self.local, parallel.SAME)
        return (self.whole._replace(labels=part) for part in parts for _ in range(serve))


def ahead(items: Iterable, local: Mesh, spec: PartitionSpec = parallel.EACH, count: int = 2) -> Iterator:
    """The items on the devices, each on its way there while the ``count`` before it are used."""
    waiting = deque()
    for item in items:
        waiting.append(parallel.put(item, local, spec))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _order(n: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """The first batches of `permutations`, [steps, B] int32."""
    epochs = islice(permutations(n, n, seed), -(-steps * batch_size // n))
    return np.concatenate(list(epochs))[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def _batches(pool: Pool, which: np.ndarray, order: np.ndarray, steps: int) -> Iterator[Pool]:
    """Batch after batch, [S, B, ...] every array, and labels [S, 1, B, ...]."""
    for k in np.arange(steps) % order.shape[1]:
        batch = (np.stack([part[d][rows] for d, rows in zip(which, order[:, k])]) for part in pool[:3])
        yield Pool(*batch, pool.labels and _labels([pool.labels[d] for d in which], [k]))


def _labels(stored: Sequence[Labels], steps: Sequence[int]) -> dict[str, np.ndarray]:
    """The labels of these steps, [D, steps, B, ...] every field."""
    return jax.tree.map(lambda *parts: np.stack(parts), *(labels.read(steps) for labels in stored))


class Programs(NamedTuple):
    init: Callable  # keys [S] -> state [S]
    launch: Callable  # (state, context, pool, keys, which, order, count=) -> (state, losses [S, count])


@lru_cache(maxsize=8)
def programs(
    trainer: Trainer, image_shape: tuple[int, ...], local: Mesh, lockstep: bool, spec: PartitionSpec
) -> Programs:
    """Compiled once for all chunks of lanes; ``spec``: where the pool lies."""

    def lanes(function):
        if lockstep:
            return jax.vmap(function)
        # A vmap over one lane would still make grouped convolutions, which are slow.
        alone = lambda *inputs: function(*jax.tree.map(lambda x: x[0], inputs))
        return lambda *inputs: jax.tree.map(lambda x: x[None], alone(*inputs))

    def init(keys):
        return lanes(lambda key: trainer.init(key, image_shape))(keys)

    def launch(state, context, pool, keys, which, order, *, count):
        def lane(state, key, which, order):
            def step(state, _):
                rows = order[state.step % len(order)]
                batch = (part[which, rows] for part in pool[:3])
                told = jax.tree.map(lambda x: x[which, state.step % x.shape[1]], pool.labels)
                return trainer.step(state, key, *batch, context if told is None else told)

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
