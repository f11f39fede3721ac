"""Programs of the stages with the shapes of their arguments, to be compiled, counted or timed without any data.

The devices may be those of a machine that is not there: JAX compiles for a topology of TPU chips ahead of time (see
`jax.experimental.topologies`), and `parallel.put` then returns shapes in place of arrays.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxdd.ground.tracing import flops_in


class Program(NamedTuple):
    """A jitted function and what it is called with.

    Attributes:
      function: made by `jax.jit`.
      arguments: pytrees of arrays, or of `jax.ShapeDtypeStruct` with shardings.
      static: its static keyword arguments.
    """

    function: Any
    arguments: tuple
    static: Mapping[str, Any] = {}

    def lower(self) -> jax.stages.Lowered:
        """The program, lowered for the devices of its arguments."""
        return self.function.lower(*self.arguments, **self.static)

    def flops(self, rounds: int | None = None) -> int:
        """The operations of one launch on one device, see `flops_in`."""
        return flops_in(self.function.trace(*self.arguments, **self.static).jaxpr.jaxpr, rounds)
