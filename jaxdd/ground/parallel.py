"""The class axis over all devices of all hosts.

One mesh holds every device of every host; device k of D owns the k-th of D equal runs of classes. A process works on
the classes of its own devices, sharded over them, with the model on each. Programs of this kind hold no communication,
so a process runs them on its own part of the mesh: no host waits for another, and one that starts again goes on alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "class"
EACH, SAME = PartitionSpec(AXIS), PartitionSpec()


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices (default: all, of all hosts) in one row, those of a host side by side."""
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,))


def local_classes(count: int, whole: Mesh, together: int = 1) -> np.ndarray:
    """The classes of this process among ``count``, ascending; runs of ``together`` classes are never parted.

    The runs are as equal as can be: with fewer classes than devices some devices own none.
    """
    groups = -(-count // together)
    devices = whole.devices.flat
    mine = [k for k, device in enumerate(devices) if device.process_index == jax.process_index()]
    if not mine:
        return np.arange(0)
    first, last = mine[0] * groups // len(devices), (mine[-1] + 1) * groups // len(devices)
    return np.arange(first * together, min(last * together, count))


def chunks(count: int, size: int) -> list[np.ndarray]:
    """The places 0 .. count - 1 in runs of ``size``, which all have one shape: the last is filled up with -1."""
    places = np.arange(-(-count // size) * size)
    return list(np.where(places < count, places, -1).reshape(-1, size))


def launches(steps: int, most: int) -> list[int]:
    """The steps of every launch; all alike if a number near ``most`` divides them, as each number is compiled."""
    most = min(most, steps)
    size = next((size for size in range(most, most // 2, -1) if steps % size == 0), most)
    return [size] * (steps // size) + [steps % size] * (steps % size > 0) if steps else []


def take(tree: Any, places: np.ndarray) -> Any:
    """Rows of every array; where a place is -1, row 0, whose result is to be dropped."""
    return jax.tree.map(lambda x: x[np.maximum(places, 0)], tree)


def put(tree: Any, local: Mesh, spec: PartitionSpec = EACH) -> Any:
    """The arrays on the devices of this process, sharded over their leading axis, or with ``SAME`` whole on each."""
    return jax.device_put(tree, NamedSharding(local, spec))


def sharded(function: Callable, local: Mesh, in_specs: Any = EACH, out_specs: Any = EACH) -> Callable:
    """The function on each device's rows, for `jax.jit`: nothing crosses between devices.

    Left to itself, `jax.jit` would end the loops of all devices together, which takes an all-reduce each time round.
    """
    return jax.shard_map(function, mesh=local, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def is_cpu(local: Mesh) -> bool:
    """Whether these devices are cores, which differ from accelerators in three ways.

    A convolution in a compiled loop runs many times slower there, several at a time give no speed, and arrays that
    leave the cache cost more than starting a program again.
    """
    return local.devices.flat[0].platform == "cpu"
