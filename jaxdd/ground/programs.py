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
        """The operations of one launch on all devices, see `flops_in`."""
        return flops_in(self.function.trace(*self.arguments, **self.static).jaxpr.jaxpr, rounds)


class Work(NamedTuple):
    """What a stage has to do, as far as it is known before anything is computed.

    Attributes:
      title: what the stage does, such as "recover".
      unit: what `units` counts: "images" or "classes".
      units: how many of them there are in all, or in a step of a training.
      steps: how many steps each of them takes.
      chunks: the parts in which they are done here, one after the other.
      launch: the steps of one launch.
      program: one launch of a full chunk, here.
      least, most: the fewest and the most units that one accelerator takes at a time. Accelerators share the units of
        a program that is not `fused`, and take all of them at a time.
      shorter: what makes the stage shorter, see `progress.Bar`.
      trains: whether the program takes gradients, and so holds all activations.
      fused: whether accelerators take several steps in a launch.
      busy: the share of an accelerator's peak that the program reaches, roughly; see docs/results/tpu.md.
      host_bytes: what the host holds of its result.
      reading_seconds: in which the host here reads the images of the stage, while the program runs.
      bar: how the titles of its progress bars begin, where that is not ``title``.
    """

    title: str
    unit: str
    units: int
    steps: int
    chunks: int
    launch: int
    program: Program
    most: int
    shorter: str
    trains: bool = False
    fused: bool = True
    busy: float = 0.2
    least: int = 1
    host_bytes: int = 0
    reading_seconds: float = 0.0
    bar: str = ""

    def titled(self, title: str) -> "Work":
        """The same work, which a plan calls by another title than its progress bars."""
        return self._replace(title=title, bar=self.bar or self.title)

    @property
    def launches(self) -> int:
        """Launches here."""
        return self.chunks * -(-self.steps // self.launch)
