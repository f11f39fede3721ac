"""The Wasserstein barycenter of each class, with free, uniform or prescribed weights."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxdd import ot
from jaxdd.ground.measure import Measure
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Solver


@SUMMARIZERS.register("barycenter")
@dataclass(frozen=True)
class Barycenter(ot.BarycenterSettings, Solver):
    """`ot.barycenter` of each class: alternates over plans, positions and, if they are free, weights."""

    prescribes_weights: ClassVar[bool] = True

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """See `Solver.solve`."""
        return ot.barycenter(key, mu, m, weights="free" if weights is None else weights, settings=self)
