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


def run(
    trainer: Trainer,
    pool: Pool,
    which: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
    steps: int,
    context: Any = None,
    local: Mesh | None = None,
    title: str = "train",
    together: int | None = None,
    launch: int | None = None,
    resident_bytes: int = 4 * 2**30,
    memory_bytes: int | None = None,
) -> Iterator[Trained]:
    """Lane s trains on dataset ``which[s]`` of the pool with seed ``seeds[s]``; chunks of lanes as they are finished.

    With k = `jax.random.key` of the seed a lane starts from ``trainer.init(fold_in(k, 0))``, steps with fold_in(k, 1),
    and sees the batches of `data.permutations` of the seed. Images, targets, weights and the order of all batches are
    on the devices before the first step, unless they take too much memory: then batches come from the host.

    Args:
      context: the trainer's, the same for all lanes.
      local: this process's devices, in one row; default: all, but no more than there are lanes.
      together: lanes that a device trains at a time, at most; default: 16, on CPU one.
      launch: steps a launch, at most; default: 20, on CPU one. Batches from the host are launched one by one.
      resident_bytes: what the pool, the order of the batches and stored labels may take on each device.
      memory_bytes: what a device may hold in all while it steps: fewer lanes are trained at a time where the compiled
        program takes more. Default: most of what is free on an accelerator, on CPU no limit.
    """
    seeds, which = list(seeds), np.asarray(which, np.int32)
    local = local or parallel.mesh(jax.local_devices()[: len(seeds)])
    cpu, devices = parallel.is_cpu(local), local.devices.size
    if memory_bytes is None and not cpu:
        memory_bytes = budget(list(local.devices.flat), resident_bytes)
    n, *image_shape = pool.images[0].shape
    stored, distinct = pool.labels, steps if pool.labels is None else min(steps, trainer.cycle)
    streams = seeds if stored is None else [stored[d].seed for d in which]
    orders = {seed: _order(n, batch_size, distinct, seed) for seed in streams}
    size = sum(x.nbytes for part in pool[:3] for x in part) + len(seeds) * distinct * batch_size * 4
    resident = size <= resident_bytes
    at_hand = stored is not None and resident and size + sum(labels.nbytes for labels in stored) <= resident_bytes
    launches = parallel.launches(steps, (launch or (1 if cpu else 20)) if resident else 1)
    spec = parallel.SAME if resident else parallel.EACH
    program = lambda each: programs(trainer, tuple(image_shape), local, each > 1, spec)
    context = parallel.put(context, local, parallel.SAME)
    whole = parallel.put(Pool(*map(np.stack, pool[:3])), local, parallel.SAME) if resident else None
    if at_hand:
        whole = whole._replace(labels=parallel.put(_labels(stored, np.arange(distinct)), local, parallel.SAME))

    def begin(places, each):
        """A chunk's first state, what it draws its batches from, launch by launch, and what all launches are given."""
        rows = np.maximum(places, 0)
        keys = lambda chosen, stage: [jax.random.fold_in(jax.random.key(chosen[row]), stage) for row in rows]
        start, key = jnp.stack(keys(seeds, 0)), jnp.stack(keys(streams, 1))
        state = program(each).init(parallel.put(start, local))
        order = np.stack([orders[streams[row]] for row in rows])
        if resident:
            drawn = repeat(whole)
            if stored is not None and not at_hand:
                # Step t is at t mod L of L labels, which serve a number of launches.
                step_bytes = sum(labels.nbytes // labels.steps for labels in stored)
                serve = min(len(launches), max(1, _SENT_BYTES // (launches[0] * step_bytes)))
                parts = (first + np.arange(serve * launches[0]) for first in range(0, steps, serve * launches[0]))
                parts = ahead((_labels(stored, part % distinct) for part in parts), local, parallel.SAME)
                drawn = (whole._replace(labels=part) for part in parts for _ in range(serve))
            return state, drawn, parallel.put((key, which[rows], order), local)
        # A batch is a small dataset of its lane's own, in the order in which it comes.
        own = np.arange(len(rows), dtype=np.int32) % each
        there = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (len(rows), 1, batch_size))
        return state, ahead(_batches(pool, which[rows], order, steps), local), parallel.put((key, own, there), local)

    limit = together or (1 if cpu else 16)
    while True:
        # As equal as can be, since a chunk that is not full takes as long as one that is.
        each = -(-len(seeds) // (devices * -(-len(seeds) // (devices * limit))))
        if each == 1 or memory_bytes is None:
            break
        state, drawn, given = begin(np.arange(each * devices) % len(seeds), each)
        lowered = program(each).launch.lower(state, context, next(drawn), *given, count=launches[0])
        need = compiled_bytes(lowered.compile())
        if need <= memory_bytes:
            break
        limit = max(1, min(each - 1, each * memory_bytes // need))

    chunks = parallel.chunks(len(seeds), each * devices)
    for i, places in enumerate(chunks):
        state, drawn, given = begin(places, each)
        curve = []
        for count in progress(launches, title if len(chunks) == 1 else f"{title} {i + 1}/{len(chunks)}"):
            state, losses = program(each).launch(state, context, next(drawn), *given, count=count)
            # One launch waits behind the one that runs, no more: batches would pile up, and the bar would run ahead.
            jax.block_until_ready(curve[-1:])
            curve.append(losses)
        real = partial(np.compress, places >= 0, axis=0)
        variables, curve = jax.device_get((state.variables, curve))
        del state
        yield Trained(real(places), jax.tree.map(real, variables), real(np.concatenate(curve, 1)))


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
