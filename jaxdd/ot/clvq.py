"""Competitive learning vector quantization (CLVQ): optimal quantization of a stream of batches.

    state = clvq.init(key, first_batch, m)
    for i, batch in enumerate(batches):
        state = clvq.step(jax.random.fold_in(key, i), state, batch)
    summary = clvq.summary(state)

`vmap` serves all classes at once. The classes share the points [N, d] of a batch, and the weights [C, N] are zero where
the label differs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError
from jaxdd.ground.keys import as_key
from jaxdd.ground.measure import Measure, as_measure, check_points, check_shapes, real_points, standardise
from jaxdd.ground.settings import Bounds, bounded, check
from jaxdd.ot.distance import memberships, near_distances
from jaxdd.ot.quantization import settled
from jaxdd.ot.seeding import seeds
from jaxdd.ot.summary import Closing, Summary, check_size, slack


@dataclass(frozen=True)
class ClvqSettings:
    """Settings of `step` and `fit`.

    Attributes:
      forgetting: p. At step t a sample of step s has weight (s/t)^p, because the atoms have moved since. 0 weights all
        samples equally.
      patience: an atom is moved after this number times m samples without a visit.
      batch_size: samples per step of `fit`.
      epochs: the average number of times that `fit` draws each sample; also the least number of batches.
    """

    forgetting: float = 2.0
    patience: float = 30.0
    batch_size: int = bounded(256, Bounds(1, 10**6))
    epochs: int = bounded(10, Bounds(1, 10**5))


class ClvqState(NamedTuple):
    """The complete state of the algorithm, enough to resume it.

    Attributes:
      points: the atoms z, [m, d].
      visits: the weight of the samples nearest to each atom, with old samples partly forgotten, [m].
      distortion: the running mean of the squared distance of each sample to its nearest atom at that time, with the
        same weights, scalar.
      idle: the weight of all samples since the last visit of each atom, [m].
      steps: the number of steps taken, int32 scalar.
    """

    points: jax.Array
    visits: jax.Array
    distortion: jax.Array
    idle: jax.Array
    steps: jax.Array


# Larger than any number of steps.
_SEEDS = 2**31


def init(key: jax.Array, batch: Measure, m: int) -> ClvqState:
    """The state before the first step: k-means++ seeds of a first batch.

    The steps may fold their numbers into the same key, because the seeds use an independent stream.

    Args:
      key: a PRNG key or an integer seed.
      batch: points [N, d], weights [N], with N >= m.
      m: the number of atoms.

    Raises:
      InputError: fewer rows than atoms; see `ground.measure.check_shapes`; or, outside of `jit`, weights that are
        negative or not finite, and see `ground.measure.check_points`.
    """
    key = as_key(key)
    _check_batch(batch, np.shape(batch.points)[-1])
    check_size(batch.points.shape[0], m)
    points, weights = real_points(batch), batch.weights
    standard, shift, scale = standardise(Measure(points, weights / jnp.maximum(weights.sum(), 1e-30)))
    # The seeds split their key. In JAX the i-th of these keys is fold_in(key, i), which is also the key of step i.
    start = seeds(jax.random.fold_in(key, _SEEDS), standard, m) * scale + shift
    zero = jnp.zeros((), points.dtype)
    return ClvqState(start, jnp.zeros(m, points.dtype), zero, jnp.zeros(m, points.dtype), jnp.zeros((), jnp.int32))


def step(
    key: jax.Array,
    state: ClvqState,
    batch: Measure,
    settings: ClvqSettings = ClvqSettings(),  # noqa: B008
) -> ClvqState:
    r"""One stochastic gradient step on the distortion, with a step size of one over the visits.

    .. math:: z_j \leftarrow z_j + \frac{1}{v_j} \sum_{i \in j} a_i (x_i - z_j)

    The sum is over the samples :math:`x_i` of the batch, of weight :math:`a_i`, in the Voronoi cell of atom j, and
    :math:`v_j` are the visits of the atom including this batch. It is a step against the gradient of
    :math:`\frac12 E \min_j \|x - z_j\|^2` (Pages 2015, section 3; MacQueen 1967; for batches, Sculley 2010). An atom
    without visits for too long is moved to a sample, drawn by weight times squared distance as in k-means++.

    Args:
      key: a PRNG key, for the new positions of unvisited atoms.
      state: from `init` or `step`.
      batch: points [N, d], weights [N] in units of samples: ones, and zeros for padding.
      settings: forgetting and patience.

    Raises:
      InputError: another dimension than that of the atoms, or see `init`.
    """
    key = as_key(key)
    check(settings)
    _check_batch(batch, state.points.shape[1])
    x, a = real_points(batch), batch.weights
    m = state.points.shape[0]
    centre = jnp.mean(state.points, axis=0)
    cell = jnp.argmin(near_distances(x - centre, state.points - centre), axis=1)
    rest = x - jnp.asarray(state.points)[cell]
    nearest = jnp.sum(rest**2, axis=1)
    members = a[:, None] * memberships(cell, m, a.dtype)
    counts, total = members.sum(axis=0), a.sum()
    steps = state.steps + (total > 0).astype(jnp.int32)
    before = jnp.asarray(state.steps, x.dtype)
    keep = jnp.where(total > 0, before / jnp.maximum(before + settings.forgetting, 1.0), 1.0)
    visits = keep * state.visits + counts
    # Sums of differences lose no digits far from the origin.
    sums = jnp.matmul(members.T, rest, precision="highest")
    points = state.points + sums / jnp.maximum(visits, 1e-30)[:, None]
    seen = keep * state.visits.sum() + total
    drift = (jnp.sum(a * nearest) - total * state.distortion) / jnp.maximum(seen, 1e-30)

    idle = jnp.where(counts > 0, 0.0, state.idle + total)
    drawn = jax.random.categorical(key, jnp.log(a * nearest), shape=(m,))
    lost = (idle > settings.patience * m) & jnp.any(a * nearest > 0)
    points = jnp.where(lost[:, None], x[drawn], points)
    return ClvqState(points, jnp.where(lost, 0.0, visits), state.distortion + drift, jnp.where(lost, 0.0, idle), steps)


def _check_batch(batch: Measure, d: int) -> None:
    """Check points [N, d] and non-negative weights [N], the values outside of `jit` only."""
    check_shapes(batch)
    if batch.points.shape[1] != d:
        raise InputError(f"clvq: points in {batch.points.shape[1]} dimensions for atoms in {d}; give equal ones")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in batch):
        return
    weights = np.asarray(batch.weights)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("clvq: weights that are negative or not finite; give ones, and zeros for padding")
    rows = np.flatnonzero(weights)
    check_points(np.asarray(batch.points)[rows], "the batch", rows)


def summary(state: ClvqState) -> Summary:
    """The atoms, weighted by their shares of the visits.

    The cost is the running estimate of the distortion. An estimate bounds nothing, so the lower bound is zero.
    """
    weights = state.visits / jnp.maximum(state.visits.sum(), 1e-30)
    atoms = Measure(state.points, weights)
    return Summary(atoms, state.distortion[None], jnp.zeros_like(state.distortion), jnp.bool_(False))


def fit(key: jax.Array, mu: Measure, m: int, *, settings: ClvqSettings = ClvqSettings()) -> Summary:  # noqa: B008
    """Apply `init` and `step` to batches drawn from a measure in memory, for comparison with `quantize`.

    Samples are drawn with replacement by their weights, so zero-weight points change nothing. The resulting weights and
    distortion are computed exactly, from all of mu.

    Args:
      key: a PRNG key or an integer seed.
      mu: one measure, points [n, d], weights [n].
      m: the number of atoms.
      settings: the batches and the steps.

    Returns:
      A Summary with one cost, the exact distortion.

    Raises:
      InputError: fewer than m points, or see `ground.measure.check_measure`.
    """
    key = as_key(key)
    check(settings)
    mu = as_measure(mu)
    n = mu.points.shape[0]
    check_size(n, m)
    standard, shift, scale = standardise(mu)
    points, weights = standard
    size = settings.batch_size
    real = jnp.sum(weights > 0, dtype=jnp.int32)
    rising = jnp.cumsum(weights)
    last = n - 1 - jnp.argmax(weights[::-1] > 0).astype(jnp.int32)  # so that rounding reaches no padding

    def draw(key):
        # Stratified sampling, which is closer to a pass through the data than independent draws.
        where = (jnp.arange(size, dtype=points.dtype) + jax.random.uniform(key, (size,), points.dtype)) / size
        return points[jnp.searchsorted(rising, where * rising[-1], side="right").clip(0, last)]

    def unfinished(state):
        return state.steps * size < settings.epochs * jnp.maximum(real, size)

    def body(state):
        k_batch, k_step = jax.random.split(jax.random.fold_in(key, state.steps))
        return step(k_step, state, Measure(draw(k_batch), jnp.ones(size, points.dtype)), settings)

    state = init(key, Measure(points, weights), m)
    state = jax.lax.while_loop(unfinished, body, state)
    close = Closing.of(mu, state.points, shift, scale)
    atoms, final = settled(close.mu, close.points)
    return Summary(atoms, final[None], final - slack(final), jnp.bool_(False)).rescaled(shift, close.unit)
