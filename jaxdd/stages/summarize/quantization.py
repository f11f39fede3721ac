"""Optimal quantization: the atoms and cell masses nearest to the class in W2."""

from dataclasses import dataclass

import jax

from jaxdd import ot
from jaxdd.ground.measure import Measure
from jaxdd.stages.summarize.base import SUMMARIZERS
from jaxdd.stages.summarize.solver import Solver


@SUMMARIZERS.register("quantization")
@dataclass(frozen=True)
class Quantization(ot.KMeansSettings, Solver):
    """`ot.quantize` of each class: k-means, then exchanges of single points.

    The weights are the masses of the Voronoi cells.
    """

    def solve(self, key: jax.Array, mu: Measure, m: int, weights: jax.Array | None) -> ot.Summary:
        """See `Solver.solve`; ``weights`` is None."""
        return ot.quantize(key, mu, m, settings=self)
