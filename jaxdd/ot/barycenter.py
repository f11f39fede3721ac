"""The Wasserstein barycenter of one measure on m atoms, with uniform or learned weights."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from jaxdd.errors import InputError
from jaxdd.measure import Measure, standardise
from jaxdd.ot.distance import SinkhornSettings, distortion, squared_distances, transport
from jaxdd.ot.quantization import KMeansSettings, Summary, quantize


@dataclass(frozen=True)
class BarycenterSettings:
    """Alternating minimisation over plans, positions and weights.

    Attributes:
      rounds: position steps, each with its own plan.
      weight_steps: steps on the weights before each position step, where weights are learned.
      weight_rate: the first step of the mirror descent, in units of one over the total variance; step t of the whole
        run takes weight_rate / sqrt(t).
      tolerance: converged means that the last round lowered the cost by less than this part of it.
      k_means: how the start is found.
      sinkhorn: how each plan is found.
    """

    rounds: int = 10
    weight_steps: int = 1
    weight_rate: float = 0.1
    tolerance: float = 1e-3
    k_means: KMeansSettings = field(default_factory=KMeansSettings)
    sinkhorn: SinkhornSettings = field(default_factory=SinkhornSettings)


def barycenter(
    key: jax.Array,
    mu: Measure,
    m: int,
    *,
    weights: Literal["learned", "uniform"] = "learned",
    settings: BarycenterSettings = BarycenterSettings(),  # noqa: B008
) -> Summary:
    r"""The free-support barycenter, :math:`\min W_2^2(\mu, \sum_j w_j \delta(z_j))` over z, and over w where learned.

    From the centroids of k-means, each round takes a nearly optimal plan T for the atoms at hand and moves every atom
    to its barycentric projection, :math:`z_j \leftarrow \frac{1}{w_j} \sum_i T_{ij} x_i`, the Newton step (Cuturi and
    Doucet 2014, algorithm 2). Learned weights start at the cell masses and first take mirror-descent steps along the
    dual potential g of the atoms, a subgradient of W2^2 in w: :math:`w_j \leftarrow w_j e^{-\eta g_j} / Z` (their
    algorithm 1 with the entropy as proximal function). The best round is kept and the start counts as one, so learned
    weights are never worse than k-means with cell masses, which is the optimum wherever Lloyd has found it.

    The costs are those of couplings with the exact marginals, upper bounds of W2^2 (see `transport`); learned starts
    are exact. `vmap` over keys [C] and classes [C, n, d] works; memory is that of `quantize` plus a few [C, n, m].

    Args:
      key: a PRNG key, for k-means++.
      mu: one measure, points x [n, d], weights [n]; zero-weight points change nothing.
      m: the number of atoms.
      weights: "uniform" holds w = 1/m (balanced k-means), "learned" descends on w too.
      settings: of the alternation.

    Returns:
      A Summary; costs has rounds + 1 entries, the start first.

    Raises:
      InputError: an unknown kind of weights, or fewer than m points (see `check` for padded classes).
    """
    if weights not in ("learned", "uniform"):
        raise InputError(f"barycenter: weights={weights!r}; choose 'learned' or 'uniform'")
    standard, shift, scale = standardise(mu)
    x, a = standard
    start = quantize(key, standard, m, settings=settings.k_means).atoms
    if weights == "uniform":
        start = start._replace(weights=jnp.full_like(start.weights, 1.0 / m))

    def plan_for(atoms):
        return transport(squared_distances(x, atoms.points), a, atoms.weights, settings.sinkhorn)

    def weight_step(atoms, step):
        g = plan_for(atoms).potential
        g = g - atoms.weights @ g
        rate = settings.weight_rate / jnp.sqrt(step)
        return atoms._replace(weights=jax.nn.softmax(jnp.log(atoms.weights) - rate * g)), None

    def round_(atoms, index):
        if weights == "learned" and settings.weight_steps:
            steps = index * settings.weight_steps + 1.0 + jnp.arange(settings.weight_steps)
            atoms, _ = jax.lax.scan(weight_step, atoms, steps)
        plan, _, solved = plan_for(atoms)
        mass = plan.sum(axis=0)[:, None]
        projection = jnp.matmul(plan.T, x, precision="highest") / jnp.where(mass > 0, mass, 1.0)
        moved = Measure(jnp.where(mass > 0, projection, atoms.points), atoms.weights)
        costs = [jnp.sum(plan * squared_distances(x, z)) for z in (atoms.points, moved.points)]
        return moved, (moved, *costs, solved)

    _, (found, before, after, solved) = jax.lax.scan(round_, start, jnp.arange(settings.rounds))
    first = before[0] if weights == "uniform" else distortion(standard, start.points)
    costs = jnp.append(first, after)
    best = jnp.argmin(costs)
    atoms = jax.tree.map(lambda s, f: jnp.concatenate([s[None], f])[best], start, found)
    settled = costs[:-1].min() - costs[-1] <= settings.tolerance * costs.min()
    return Summary(
        Measure(atoms.points * scale + shift, atoms.weights), costs * scale**2, settled & jnp.all(solved)
    )
