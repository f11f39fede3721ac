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
      weight_rate: step t of the mirror descent takes weight_rate / sqrt(t), over the total variance of mu.
      tolerance: converged means that the last round lowered the best cost by less than this part of it, and
        that its plan met the threshold of Sinkhorn.
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
    r"""The free-support barycenter: argmin of :math:`W_2^2(\mu, \sum_j w_j \delta(z_j))` over z, or z and w.

    From the centroids of k-means, each round takes a nearly optimal plan T and moves every atom by the Newton
    step to its barycentric projection, :math:`z_j \leftarrow \frac{1}{w_j} \sum_i T_{ij} x_i` (Cuturi and
    Doucet 2014, algorithm 2). Learned weights start at the cell masses and, before that, take steps of mirror
    descent along the dual potential g of the atoms, a subgradient of W2^2 in w:
    :math:`w_j \leftarrow w_j e^{-\eta g_j} / Z` (their algorithm 1 under the entropy). The best round is kept
    and the start counts as one, so learned weights are never worse than k-means with cell masses, which is
    the optimum over both z and w wherever Lloyd has found it.

    The costs are those of couplings with the exact marginals, so upper bounds of W2^2 (see `transport`); the
    first cost of learned weights is exact. `vmap` over keys [C] and classes [C, n, d] works, in the memory of
    `quantize` and a few [C, n, m].

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
    start = quantize(key, standard, m, settings=settings.k_means).atoms
    if weights == "uniform":
        # An atom without a cell lies on another, and a blurred plan would move the two as one for ever.
        noise = jax.random.normal(jax.random.fold_in(key, 1), start.points.shape)
        points = start.points + jnp.where(start.weights[:, None] > 0, 0.0, 0.3 * noise / noise.shape[1] ** 0.5)
        start = Measure(points, jnp.full_like(start.weights, 1.0 / m))
        atoms, costs, converged = _alternate(standard, start, 0, settings)
    else:
        first = distortion(standard, start.points)  # exact, where a plan would add its gap
        atoms, costs, converged = _alternate(standard, start, settings.weight_steps, settings, first)
    return Summary(Measure(atoms.points * scale + shift, atoms.weights), costs * scale**2, converged)


def _alternate(
    mu: Measure,
    start: Measure,
    weight_steps: int,
    settings: BarycenterSettings,
    first: jax.Array | None = None,
) -> Summary:
    """The rounds of `barycenter` on standardised mu; `first` is the cost of the start where that is known."""
    x, a = mu

    def plan_for(atoms):
        cost = squared_distances(x, atoms.points)
        found = transport(cost, a, atoms.weights, settings.sinkhorn)
        return found, jnp.sum(found.plan * cost)

    def weight_step(atoms, step):
        g = plan_for(atoms)[0].potential
        g = g - atoms.weights @ g
        rate = settings.weight_rate / jnp.sqrt(step)
        return atoms._replace(weights=jax.nn.softmax(jnp.log(atoms.weights) - rate * g)), None

    def step(atoms, index):
        if weight_steps:
            atoms, _ = jax.lax.scan(weight_step, atoms, index * weight_steps + 1.0 + jnp.arange(weight_steps))
        found, before = plan_for(atoms)
        mass = found.plan.sum(axis=0)[:, None]
        projection = jnp.matmul(found.plan.T, x, precision="highest") / jnp.where(mass > 0, mass, 1.0)
        atoms = atoms._replace(points=jnp.where(mass > 0, projection, atoms.points))
        after = jnp.sum(found.plan * squared_distances(x, atoms.points))
        return atoms, (atoms, before, after, found.converged)

    _, (found, before, after, solved) = jax.lax.scan(step, start, jnp.arange(settings.rounds))
    costs = jnp.append(before[0] if first is None else first, after)
    best = jnp.argmin(costs)
    atoms = jax.tree.map(lambda s, f: jnp.concatenate([s[None], f])[best], start, found)
    settled = costs[:-1].min() - costs[-1] <= settings.tolerance * costs.min()
    return Summary(atoms, costs, settled & solved[-1])
