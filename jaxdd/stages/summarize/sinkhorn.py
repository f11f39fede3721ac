"""The Wasserstein barycenter of each class by OTT-JAX: Sinkhorn's plans and the free-support step."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.stages.context import Problem
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Solver


@SUMMARIZERS.register("sinkhorn")
@dataclass(frozen=True)
class Sinkhorn(ot.EntropicSettings, Solver):
    """`ot.entropic_barycenter` of each class: entropic plans under an annealed epsilon, uniform or learned weights.

    The scheme is that of Cuturi and Doucet 2014, as WMDD uses it.
    """

    prescribes_weights: ClassVar[bool] = True
    copies: ClassVar[int] = 3

    def check(self, problem: Problem) -> None:
        """See `Summarizer.check`."""
        super().check(problem)
        if self.init not in ot.INITS:
            raise InputError(f"unknown `summarizer.init` {self.init!r}; use {' or '.join(ot.INITS)}")

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """See `Solver.solve`."""
        return ot.entropic_barycenter(key, mu, m, weights="free" if weights is None else weights, settings=self)
