"""Estimates of the memory that a function needs, made from shapes before it runs; and a setting of the allocator."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jaxdd.ground import dry, parallel
from jaxdd.ground.programs import Program
from jaxdd.ground.tracing import equations_of


class Resources(NamedTuple):
    """The memory and the devices that a stage may use.

    Attributes:
      memory_bytes: bytes of host memory. The free memory of an accelerator is measured instead.
      devices: the devices; default: all devices of this process.
    """

    memory_bytes: int = 4 * 2**30
    devices: tuple[jax.Device, ...] | None = None

    @property
    def mesh(self) -> Mesh:
        """The devices in one row."""
        return parallel.mesh(self.devices or jax.local_devices())

    @property
    def bytes_per_device(self) -> int:
        """The bytes that each device may hold, see `budget`."""
        return budget(list(self.mesh.devices.flat), self.memory_bytes)


def values(function: Callable, *arguments) -> Iterator[tuple[str, int]]:
    """The name of the primitive and the bytes of its outputs, for every equation of ``function``'s jaxpr."""
    return _values(equations_of(function, *arguments))


def _values(jaxpr):
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        # Of the branches of a condition, which are mostly those of several platforms, the last is the general one.
        inner += equation.params["branches"][-1:] if equation.primitive.name == "cond" else ()
        for part in inner:
            yield from _values(getattr(part, "jaxpr", part))
        if not inner:
            yield equation.primitive.name, sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)


# Primitives whose results the backward pass needs.
KEPT = ("conv_general_dilated", "dot_general", "max", "add", "mul", "reduce_window_max")


def values_of(program: Program) -> Iterator[tuple[str, int]]:
    """`values` of a program, on one device."""
    return _values(program.function.trace(*program.arguments, **program.static).jaxpr.jaxpr)


def peak() -> int:
    """The most bytes of memory that this process has held; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def forward_bytes(function: Callable, *arguments) -> int:
    """An estimate of the peak memory of a pass without gradients: four times its largest array, in bytes."""
    return 4 * max(size for _, size in values(function, *arguments))


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """The bytes that a compiled program holds on a device while it runs: arguments, results and temporaries.

    Raises:
      RuntimeError: the backend reports no memory analysis.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("this backend reports no memory analysis of compiled programs")
    shared = analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + analysis.output_size_in_bytes - shared + analysis.temp_size_in_bytes


ENDLESS = 2**62
"""More bytes than there are."""


def needed_bytes(lowered: jax.stages.Lowered) -> int:
    """`compiled_bytes` of a program; `ENDLESS` if the compiler refuses it, as it needs more memory than there is.

    For a rough plan any program fits, as compiling takes longer than many a run.
    """
    if dry.is_rough():
        return 1
    try:
        return compiled_bytes(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return ENDLESS


def budget(local_devices: Sequence[jax.Device], host_bytes: int) -> int:
    """The bytes that each of these devices may use.

    That is nine tenths of an accelerator's free memory. Devices that share the host's memory get equal parts of
    ``host_bytes``, and so do those of a machine that is not there.
    """
    try:
        stats = local_devices[0].memory_stats()
    except jax.errors.JaxRuntimeError:  # of a machine that is not there
        stats = None
    if local_devices[0].platform == "cpu" or not stats or "bytes_limit" not in stats:
        return host_bytes // len(local_devices)
    return int(0.9 * (stats["bytes_limit"] - stats["bytes_in_use"]))


def keep_freed() -> bool:
    """Keep freed memory in this process, so that later buffers of the same size are reused.

    By default the C library returns each large buffer to the system when it is freed. The next buffer is then mapped
    again and zeroed page by page, which in a training step on CPU happens for every large activation. After this call
    the process keeps the peak of its memory, and up to 64 MiB more. Programs call this before anything else; the
    library never does.

    Returns:
      Whether the C library has these settings (glibc's mallopt) and accepted them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # From <malloc.h>: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX. A trim threshold of -1 is none:
    # beyond any other, all that is free is returned at once. There is one arena, as those of threads are too small.
    accepted = [mallopt(name, value) for name, value in ((-3, 2**30), (-1, -1), (-2, 2**26), (-8, 1))]
    return all(accepted)
