"""What a function will take in memory, told from its shapes before anything runs; and how this process keeps memory."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jaxdd.ground import parallel


class Resources(NamedTuple):
    """What a stage may use of this process's machine.

    Attributes:
      memory_bytes: of the host's memory; an accelerator's own memory is measured.
      devices: default: all devices of this process.
    """

    memory_bytes: int = 4 * 2**30
    devices: tuple[jax.Device, ...] | None = None

    @property
    def mesh(self) -> Mesh:
        """The devices in one row."""
        return parallel.mesh(self.devices or jax.local_devices())

    @property
    def bytes_per_device(self) -> int:
        """What each device may hold, see `budget`."""
        return budget(list(self.mesh.devices.flat), self.memory_bytes)


def values(function: Callable, *arguments) -> Iterator[tuple[str, int]]:
    """Name of the primitive and bytes of every array that ``function`` makes along the way."""
    return _values(jax.make_jaxpr(function)(*arguments).jaxpr)


def _values(jaxpr):
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        for part in inner:
            yield from _values(getattr(part, "jaxpr", part))
        if not inner:
            yield equation.primitive.name, sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)


def forward_bytes(function: Callable, *arguments) -> int:
    """An estimate of the most that a pass without gradients holds at a time: four of its largest arrays."""
    return 4 * max(size for _, size in values(function, *arguments))


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled program holds on a device while it runs: arguments, results and all in between."""
    found = compiled.memory_analysis()
    shared = found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.output_size_in_bytes - shared + found.temp_size_in_bytes


def budget(local_devices: Sequence[jax.Device], host_bytes: int) -> int:
    """What each of these devices may be given: of an accelerator nine tenths of what is free, else its share.

    host_bytes: what they may take together where they share the host's memory.
    """
    stats = local_devices[0].memory_stats()
    if local_devices[0].platform == "cpu" or not stats or "bytes_limit" not in stats:
        return host_bytes // len(local_devices)
    return int(0.9 * (stats["bytes_limit"] - stats["bytes_in_use"]))


def keep_freed() -> bool:
    """Let this process keep what it frees, so that the next buffer of the kind need not come from the system.

    The C library gives large buffers back at once and has them again page by page, each zeroed; a training step on CPU
    does so with every large activation. Afterwards the process holds the most that it ever held at a time, and up to
    64 MiB more. A program calls this before anything else; a library does not.

    Returns:
      Whether the C library has such settings (glibc's mallopt), and took them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Of <malloc.h>: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, and one M_ARENA_MAX, as arenas of threads are small.
    taken = [mallopt(name, value) for name, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**26), (-8, 1))]
    return all(taken)
