"""Competitive learning vector quantization (CLVQ): optimal quantization by stochastic gradients."""

from dataclasses import dataclass

import jax

from jaxdd import ot
from jaxdd.ground.measure import Measure
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Solver


@SUMMARIZERS.register("clvq")
@dataclass(frozen=True)
class Clvq(ot.ClvqSettings, Solver):
    """`ot.clvq.fit` of each class: steps on batches of its points; the step size of an atom is one over its visits.

    The weights are the masses of the Voronoi cells.
    """

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """See `Solver.solve`; ``weights`` is None."""
        return ot.clvq.fit(key, mu, m, settings=self)
