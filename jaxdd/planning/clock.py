"""The time and memory of a program on this machine: it is compiled and launched a few times, on made-up numbers.

Also the time of reading images, from a few that are read.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.data import Source
from jaxdd.data.image import evenly_spaced
from jaxdd.ground.memory import compiled_bytes
from jaxdd.ground.programs import Program

_LAUNCHES = 3
_PATIENCE = 10.0
_READ = 64


class Timing(NamedTuple):
    """What was measured of a program.

    Attributes:
      compile_seconds: tracing and compilation.
      launch_seconds: of one launch, the median of a few after the first.
      memory_bytes: what it holds on one device.
    """

    compile_seconds: float
    launch_seconds: float
    memory_bytes: int


def timed(program: Program) -> Timing:
    """Compile and launch a program. One whose first launch takes more than ten seconds is launched once."""
    started = time.perf_counter()
    compiled = program.lower().compile()
    compile_seconds, seconds = time.perf_counter() - started, []
    for _ in range(1 + _LAUNCHES):
        arguments = jax.block_until_ready(drawn(program.arguments))
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - begun)
        if sum(seconds) > _PATIENCE:
            break
    return Timing(compile_seconds, float(np.median(seconds[1:] or seconds)), compiled_bytes(compiled))


def reading_seconds(source: Source, split: str, count: int) -> float:
    """The time in which ``count`` images of a split are read, from that of 64 of them."""
    rows = evenly_spaced(len(source.labels[split]), 1 + _READ)
    source.read(split, rows[:1])  # a split that is kept in memory is decoded at its first read
    begun = time.perf_counter()
    source.read(split, rows[-_READ:])
    return (time.perf_counter() - begun) / min(_READ, len(rows)) * count


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Arrays in the place of shapes: numbers that neither overflow in a deep network nor are all equal.

    Arrays that are given stay as they are.
    """
    rng = np.random.default_rng(seed)

    def draw(x):
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            values = jax.random.split(jax.random.key(seed), x.shape) if x.shape else jax.random.key(seed)
        elif not jnp.issubdtype(x.dtype, jnp.floating):
            values = np.zeros(x.shape, x.dtype)
        elif len(x.shape) < 2:
            values = (0.5 + rng.random(x.shape, np.float32)).astype(x.dtype)
        else:
            scale = math.sqrt(2 / math.prod(x.shape[:-1]))
            values = (rng.standard_normal(x.shape, np.float32) * np.float32(scale)).astype(x.dtype)
        return values if x.sharding is None else jax.device_put(values, x.sharding)

    return jax.tree.map(draw, shapes)
