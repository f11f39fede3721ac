"""Sharding of the class axis over all devices of all hosts.

One mesh holds every device of every host. Device k of D is assigned the k-th of D equal runs of classes. A process
computes the classes of its local devices, sharded over them, with a copy of the model on each. There is no cross-device
communication, so every process runs its programs on the local part of the mesh: no host waits for another, and a
process that was interrupted can be resumed by itself.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdd.ground.tracing import shapes_of

AXIS = "class"
EACH, SAME = PartitionSpec(AXIS), PartitionSpec()


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of the devices (default: all devices of all hosts), grouped by host."""
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,))


def dividing(size: int) -> Mesh:
    """The most of the devices of this process that divide ``size``; of CPUs one, as it uses all cores by itself."""
    devices = jax.local_devices()
    most = 1 if devices[0].platform == "cpu" else len(devices)
    return mesh(devices[: next(count for count in range(most, 0, -1) if size % count == 0)])


def local_classes(count: int, whole: Mesh, together: int = 1) -> np.ndarray:
    """The classes of 0 .. count - 1 that this process computes, ascending, [k].

    Consecutive groups of ``together`` classes stay on one device. The devices get as equal numbers of groups as
    possible; with fewer groups than devices, some get none.
    """
    groups = -(-count // together)
    devices = whole.devices.flat
    mine = [k for k, device in enumerate(devices) if device.process_index == jax.process_index()]
    if not mine:
        return np.arange(0)
    first, last = mine[0] * groups // len(devices), (mine[-1] + 1) * groups // len(devices)
    return np.arange(first * together, min(last * together, count))


def chunks(count: int, size: int) -> list[np.ndarray]:
    """The indices 0 .. count - 1 in consecutive chunks [size]; the last chunk is padded with -1."""
    places = np.arange(-(-count // size) * size)
    return list(np.where(places < count, places, -1).reshape(-1, size))


def launches(steps: int, most: int) -> list[int]:
    """The number of steps of each launch of a compiled loop, at most ``most``, ``steps`` in total.

    Every distinct number is compiled, so all are equal if a number in (most / 2, most] divides ``steps``.
    """
    most = min(most, steps)
    size = next((size for size in range(most, most // 2, -1) if steps % size == 0), most)
    return [size] * (steps // size) + [steps % size] * (steps % size > 0) if steps else []


def take(tree: Any, places: np.ndarray) -> Any:
    """The rows ``places`` of every array of a pytree; -1 takes row 0, whose result the caller drops."""
    return jax.tree.map(lambda x: x[np.maximum(places, 0)], tree)


def put(tree: Any, local: Mesh, spec: PartitionSpec = EACH) -> Any:
    """The arrays on the local devices, sharded over their leading axis, or replicated with ``SAME``.

    On the devices of a machine that is not there, only the shapes of the arrays, with the same shardings.
    """
    sharding = NamedSharding(local, spec)
    return jax.device_put(tree, sharding) if is_here(local) else shapes(tree, sharding)


def shapes(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes of a pytree of arrays or shapes, with a sharding."""
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(struct, shapes_of(_same, tree))


def divided(same: tuple, each: tuple, local: Mesh) -> tuple:
    """The shapes of arguments on these devices: those of ``same`` on all of them, those of ``each`` in parts."""
    at = lambda tree, spec: shapes(tree, NamedSharding(local, spec))
    return *at(same, SAME), *at(each, EACH)


def _same(tree: Any) -> Any:
    return tree


@lru_cache(maxsize=64)
def is_here(local: Mesh) -> bool:
    """Whether the devices belong to this machine, and not to a topology for which programs are only compiled."""
    device = local.devices.flat[0]
    try:
        return device in jax.devices(device.platform)
    except RuntimeError:  # there is no such platform
        return False


def sharded(function: Callable, local: Mesh, in_specs: Any = EACH, out_specs: Any = EACH) -> Callable:
    """The function applied to the rows of each device separately, for use under `jax.jit`.

    This guarantees that there is no cross-device communication. Without it `jax.jit` would synchronise the loops of all
    devices, with an all-reduce in each iteration.
    """
    return jax.shard_map(function, mesh=local, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def has_bfloat16(device: jax.Device) -> bool:
    """Whether a device computes with bfloat16 numbers: all but NVIDIA's cards of before 2020, such as a T4.

    For those XLA converts the operands of most operations to float32, and refuses to compile attention.
    """
    found = re.fullmatch(r"(\d+)\.\d+", str(getattr(device, "compute_capability", "")))
    return found is None or int(found[1]) >= 8


def is_cpu(local: Mesh) -> bool:
    """Whether the devices are CPU cores, on which programs are arranged differently.

    There a convolution inside of a compiled loop is many times slower, batching several problems saves no time, and
    arrays larger than the cache cost more than additional launches.
    """
    return local.devices.flat[0].platform == "cpu"
