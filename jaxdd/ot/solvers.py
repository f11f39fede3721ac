"""The parts of OTT-JAX that are used here, imported when the first of them is needed.

Importing OTT-JAX takes as long as all other imports together, and most programs never call it.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Solvers(NamedTuple):
    """Classes and functions of OTT-JAX by their names there, and `products`."""

    Epsilon: Any
    FreeBarycenterProblem: Any
    FreeBarycenterState: Any
    Geometry: Any
    LinearProblem: Any
    Momentum: Any
    Sinkhorn: Any
    sinkhorn_divergence: Any
    products: Any  # its squared distance, whose barycenters of many atoms are one product of matrices and never NaN


@cache
def solvers() -> Solvers:
    """OTT-JAX. A function that is being compiled may be the first to call this: constants are then no part of it."""
    with jax.ensure_compile_time_eval():
        from ott.geometry.costs import SqEuclidean
        from ott.geometry.epsilon_scheduler import Epsilon
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.barycenter_problem import FreeBarycenterProblem
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.acceleration import Momentum
        from ott.solvers.linear.continuous_barycenter import FreeBarycenterState
        from ott.solvers.linear.sinkhorn import Sinkhorn
        from ott.tools.sinkhorn_divergence import sinkhorn_divergence

        @jax.tree_util.register_pytree_node_class
        class Products(SqEuclidean):
            def barycenter(self, weights: jax.Array, xs: jax.Array) -> tuple[jax.Array, None]:
                mass = weights.sum()
                return jnp.matmul(weights, xs, precision="highest") / jnp.where(mass > 0, mass, 1.0), None

        return Solvers(
            Epsilon, FreeBarycenterProblem, FreeBarycenterState, Geometry, LinearProblem, Momentum, Sinkhorn,
            sinkhorn_divergence, Products(),
        )  # fmt: skip
