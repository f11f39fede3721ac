"""Competitive learning vector quantization: optimal quantization of a stream that does not fit in memory.

    state = clvq.init(key, first_batch, m)
    for i, batch in enumerate(batches):
        state = clvq.step(jax.random.fold_in(key, i), state, batch)
    summary = clvq.summary(state)

`vmap` serves all classes at once: batches shared by the classes, points [N, d], with weights [C, N] that are zero
where the label is another.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.ground.measure import Measure, real_points
from jaxdd.ot.distance import cell_masses, distortion, squared_distances
from jaxdd.ot.seeding import seeds
from jaxdd.ot.summary import Summary, check_size


@dataclass(frozen=True)
class ClvqSettings:
    """Of `step` and `fit`.

    Attributes:
      forgetting: p; a sample of step s still counts (s/t)^p at step t, because atoms have moved since it was seen.
        0 is plain counting.
      patience: an atom that nothing came to while an average one had so many visits is moved elsewhere.
      batch_size: of `fit`, samples a step.
      epochs: of `fit`, how often a sample is drawn on average; at least this many batches.
    """

    forgetting: float = 2.0
    patience: float = 30.0
    batch_size: int = 256
    epochs: int = 10


class ClvqState(NamedTuple):
    """What has been learned of the stream so far; all of it is saved by saving these arrays.

    Attributes:
      points: the atoms z, [m, d].
      visits: the samples that came to each atom, old ones partly forgotten, [m].
      distortion: the mean squared distance to the nearest atom as it was when each sample came, weighted likewise.
      idle: samples since each atom was last visited, [m].
      steps: steps taken.
    """

    points: jax.Array
    visits: jax.Array
    distortion: jax.Array
    idle: jax.Array
    steps: jax.Array


# No stream of steps is as long.
_SEEDS = 2**31


def init(key: jax.Array, batch: Measure, m: int) -> ClvqState:
    """The state before any step: k-means++ seeds of a first batch (points [N, d], weights [N]) with N >= m points.

    The key may be the one that the steps fold their numbers into: the seeds draw from a stream of their own.

    Raises:
      InputError: fewer rows than atoms.
    """
    check_size(batch.points.shape[0], m)
    points, weights = real_points(batch), batch.weights
    shift = weights @ points / jnp.maximum(weights.sum(), 1e-30)
    # The seeds split their key, and in JAX the i-th of those keys is fold_in(key, i): the key of step i, too.
    start = seeds(jax.random.fold_in(key, _SEEDS), Measure(points - shift, weights), m) + shift
    zero = jnp.zeros((), points.dtype)
    return ClvqState(start, jnp.zeros(m, points.dtype), zero, jnp.zeros(m, points.dtype), jnp.zeros((), jnp.int32))


def step(
    key: jax.Array,
    state: ClvqState,
    batch: Measure,
    settings: ClvqSettings = ClvqSettings(),  # noqa: B008
) -> ClvqState:
    r"""One stochastic gradient step on the distortion, with the visit-count step size.

    With the batch's samples :math:`x_i` of weight :math:`a_i` and :math:`v_j` the visits of atom j including this
    batch's, :math:`z_j \leftarrow z_j + \frac{1}{v_j} \sum_{i \in j} a_i (x_i - z_j)`: the gradient of
    :math:`\frac12 E \min_j \|x - z_j\|^2` times a rate that falls like one over the visits (Pages 2015, section 3;
    MacQueen 1967; for batches, Sculley 2010). An atom that stays without visits is moved onto a sample drawn by
    weight times squared distance, as k-means++ would.

    Args:
      key: for the draw of new places.
      state: from `init` or `step`.
      batch: points [N, d], weights [N] in units of samples: ones, and zeros for padding.
      settings: of the step.
    """
    x, a = real_points(batch), batch.weights
    m = state.points.shape[0]
    distances = squared_distances(x, state.points)
    nearest = jnp.min(distances, axis=1)
    members = a[:, None] * (jnp.argmin(distances, axis=1)[:, None] == jnp.arange(m))
    counts, total = members.sum(axis=0), a.sum()
    steps = state.steps + (total > 0)
    keep = jnp.where(total > 0, state.steps / jnp.maximum(state.steps + settings.forgetting, 1.0), 1.0)
    visits = keep * state.visits + counts
    sums = jnp.matmul(members.T, x, precision="highest")
    points = state.points + (sums - counts[:, None] * state.points) / jnp.maximum(visits, 1e-30)[:, None]
    seen = keep * state.visits.sum() + total
    drift = (a @ nearest - total * state.distortion) / jnp.maximum(seen, 1e-30)

    idle = jnp.where(counts > 0, 0.0, state.idle + total)
    drawn = jax.random.categorical(key, jnp.log(a * nearest), shape=(m,))
    lost = (idle > settings.patience * m) & jnp.any(a * nearest > 0)
    points = jnp.where(lost[:, None], x[drawn], points)
    return ClvqState(points, jnp.where(lost, 0.0, visits), state.distortion + drift, jnp.where(lost, 0.0, idle), steps)


def summary(state: ClvqState) -> Summary:
    """The atoms with their shares of the visits, and the distortion estimated along the way as cost and bound."""
    weights = state.visits / jnp.maximum(state.visits.sum(), 1e-30)
    atoms = Measure(state.points, weights)
    return Summary(atoms, state.distortion[None], state.distortion, jnp.bool_(False))


def fit(key: jax.Array, mu: Measure, m: int, *, settings: ClvqSettings = ClvqSettings()) -> Summary:  # noqa: B008
    """`init` and `step` on batches drawn from a measure that is at hand, for comparison with `quantize`.

    Samples are drawn with replacement by their weights, so that zero-weight points change nothing. At the end the
    cell masses and the distortion are those of all of mu, exactly.

    Args:
      key: a PRNG key.
      mu: one measure, points [n, d], weights [n].
      m: the number of atoms.
      settings: how many batches of which size.

    Returns:
      A Summary; its one cost is the exact distortion.

    Raises:
      InputError: fewer than m points.
    """
    n = mu.points.shape[0]
    check_size(n, m)
    points, weights = real_points(mu), mu.weights
    size = settings.batch_size
    real = jnp.sum(weights > 0)
    rising = jnp.cumsum(weights)
    last = n - 1 - jnp.argmax(weights[::-1] > 0)  # rounding must not reach the padding

    def draw(key):
        # The middle of a stratum each: closer to a pass through the data than independent draws.
        where = (jnp.arange(size) + jax.random.uniform(key, (size,))) / size
        return points[jnp.searchsorted(rising, where * rising[-1], side="right").clip(0, last)]

    def unfinished(state):
        return state.steps * size < settings.epochs * jnp.maximum(real, size)

    def body(state):
        k_batch, k_step = jax.random.split(jax.random.fold_in(key, state.steps))
        return step(k_step, state, Measure(draw(k_batch), jnp.ones(size, points.dtype)), settings)

    state = init(key, Measure(points, weights), m)
    state = jax.lax.while_loop(unfinished, body, state)
    masses = cell_masses(mu, state.points)
    final = distortion(mu, state.points)
    return Summary(Measure(state.points, masses / masses.sum()), final[None], final, jnp.bool_(False))
