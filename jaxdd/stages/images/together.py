"""Denoising the latents of a class together: towards a measure by optimal transport, and far from each other."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd import ot
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources
from jaxdd.ground.programs import Program
from jaxdd.ground.progress import Bar, progress
from jaxdd.ground.settings import SHARE, Bounds, bounded
from jaxdd.ground.tracing import struct
from jaxdd.latent import decoding, diffusion
from jaxdd.latent.decoding import LatentModel
from jaxdd.latent.diffusion import Denoiser, Sampling, Schedule
from jaxdd.ot import SinkhornSettings


@dataclass(frozen=True)
class Together(Sampling):
    """How the images of a class know of each other while they are denoised."""

    transport: float = bounded(0.0, SHARE)
    """The share of the way that predicted latents are moved in each step towards the class's measure, along the plan of
    optimal transport; 0 is off."""
    targets: int = bounded(8, Bounds(0, 10**4))
    """Points of that measure for each atom: a finer quantization of the real latents of the class. 0: the atoms."""
    per_atom: int = bounded(1, Bounds(1, 10**4))
    """Images of each atom, of different noise. There are so many times fewer atoms than images."""
    candidates: int = bounded(1, Bounds(1, 1000))
    """How many times as many latents are denoised as there are images. Those far from each other are decoded."""

    @property
    def knows_others(self) -> bool:
        """Whether the latents of a class have to be denoised together."""
        return self.transport > 0 or self.candidates > 1

    @property
    def takes_steps(self) -> bool:
        """Whether there is any noise to remove."""
        return round(self.strength * self.steps) > 0

    def rounds(self, m: int) -> int:
        """How many times m images of a class are denoised; a single one has no others to differ from."""
        return self.candidates if m > 1 else 1


PLAN = SinkhornSettings(max_iterations=2000)
"""Of a plan in a step of a sampler. Where plans are nearly tied it may stop early: the next step has another."""


def transported(points: jax.Array, weights: jax.Array, target: Measure, share: float) -> jax.Array:
    r"""Points moved by a share s of the way to their barycentric projection on a measure.

    .. math:: x_j \leftarrow (1 - s) x_j + s \, T_j, \quad T_j = \frac{1}{w_j} \sum_i P_{ji} y_i

    with P the plan of optimal transport from :math:`\sum_j w_j \delta(x_j)` to the target, for the squared Euclidean
    distance. With the exact plan the moved points are nearer to the target in W2: the cost of the same plan is

    .. math:: \sum_{ji} P_{ji} \|x_j - y_i\|^2 - s (2 - s) \sum_j w_j \|x_j - T_j\|^2.

    The plan here is nearly optimal, see `PLAN` and `ot.transport`. Guidance by it needs no training: it is that of
    DMGD (arXiv 2605.03877) and of arXiv 2512.00308, for the predicted clean latents of a diffusion sampler.

    Args:
      points: x, float32 [m, d].
      weights: w, [m], of sum one. Points of weight zero do not move.
      target: y [n, d], and its weights [n], of sum one.
      share: s, in [0, 1].

    Returns:
      float32 [m, d].
    """
    plan = ot.transport(ot.squared_distances(points, target.points), weights, target.weights, PLAN).plan
    mass = plan.sum(1, keepdims=True)
    projection = jnp.matmul(plan, target.points, precision="highest") / jnp.where(mass > 0, mass, 1.0)
    return jnp.where(mass > 0, points + share * (projection - points), points)


def distinct(pool: jax.Array, per_atom: int = 1, sweeps: int = 20) -> jax.Array:
    """Choose, for each of m places, one of several candidates, so that the chosen ones are far from each other.

    At first the first candidate of each place is chosen. Then each place in turn takes the candidate that is farthest
    from what is chosen for the other places, by its least distance to them, if it is farther than its own. Of the pairs
    of chosen ones, those without this place stay, and the nearest with it gets no nearer. So the least distance between
    two chosen ones is never below that of the first candidates, up to rounding. At the end no single exchange brings a
    place farther from the others.

    Args:
      pool: the candidates, float [q, m, d]. Those of a place are ``pool[:, j]``, and also those of the other places of
        its atom: every ``per_atom`` consecutive places share an atom.
      per_atom: a divisor of m.
      sweeps: a limit of the turns of all places, of which few are needed.

    Returns:
      Indices into the candidates, all different, int32 [m]: candidate (i, j) has index i m + j.
    """
    q, m, d = pool.shape
    rows, places = jnp.arange(q * m, dtype=jnp.int32), jnp.arange(m, dtype=jnp.int32)
    atom = rows % m // per_atom
    flat = pool.reshape(-1, d)
    apart = ot.squared_distances(flat, flat)
    # Equal in both directions, and so that nobody is chosen twice.
    apart = jnp.where(rows[:, None] == rows, -1.0, (apart + apart.T) / 2)

    def turn(place, chosen):
        least = jnp.where(places == place, jnp.inf, apart[:, chosen]).min(1)
        least = jnp.where(atom == place // per_atom, least, -jnp.inf)
        best = jnp.argmax(least).astype(jnp.int32)
        return chosen.at[place].set(jnp.where(least[best] > least[chosen[place]], best, chosen[place]))

    def sweep(state):
        i, chosen, _ = state
        after = jax.lax.fori_loop(jnp.int32(0), jnp.int32(m), turn, chosen)
        return i + 1, after, jnp.any(after != chosen)

    start = (jnp.int32(0), places, jnp.bool_(True))
    return jax.lax.while_loop(lambda state: state[2] & (state[0] < sweeps), sweep, start)[1]


class Sizes(NamedTuple):
    """How much is denoised at a time.

    Attributes:
      classes: on all devices together.
      latents: at most so many of a device are in the denoiser at a time; guidance takes each twice.
    """

    classes: int
    latents: int


def sizes(model: LatentModel, settings: Together, classes: int, m: int, resources: Resources) -> Sizes:
    """How many of the classes, of m images each, are denoised at a time: at least one on each device."""
    devices, each = resources.mesh.devices.size, settings.rounds(m) * m
    fits = max(1, min(decoding.BATCH, resources.bytes_per_device // decoding.denoising_bytes(model)))
    # As `decoding.batch_size` does, of CPU cores about ten latents at a time.
    most = 10 // each if parallel.is_cpu(resources.mesh) else min(-(-classes // devices), fits // each)
    return Sizes(max(1, most) * devices, fits)


def denoised(
    key: jax.Array,
    model: LatentModel,
    settings: Together,
    atoms: Measure,
    target: Measure | None,
    labels: np.ndarray,
    resources: Resources,
) -> np.ndarray:
    """The latents of all images of some classes, denoised together within a class and apart from other classes.

    Args:
      key: the noise of image j of class c in round i comes from fold_in(fold_in(key, c), i m + j).
      model: of which the denoiser is used.
      settings: of the sampler, with strength above zero.
      atoms: points float32 [C, m, h w c], weights [C, m].
      target: points [C, n, h w c], weights [C, n]; None without transport.
      labels: the classes, [C].
      resources: the devices and their memory. Class by class, with so many latents at a time in the denoiser as fit.

    Returns:
      float32 [C, m, h w c].

    Raises:
      DivergenceError: latents that are not finite, or larger than `decoding.GROWN` allows.
    """
    count, m, d = atoms.points.shape
    rounds, local, denoiser = settings.rounds(m), resources.mesh, model.denoiser
    assert denoiser is not None
    size = sizes(model, settings, count, m, resources)
    function = _denoising(denoiser, model.schedule, settings, size.latents, local)
    owner = np.repeat(labels, rounds * m)
    keys = decoding.keys_of(key, owner, np.tile(np.arange(rounds * m), count)).reshape(count, rounds, m)
    latents = np.asarray(atoms.points, np.float32).reshape(count, m, *denoiser.latent_shape)
    names = labels if model.labels is None else np.asarray(model.labels)[labels]
    each = (latents, names.astype(np.int32), np.asarray(atoms.weights, np.float32), target)
    each = jax.tree.map(np.asarray, each)
    variables, made = parallel.put(model.variables, local, parallel.SAME), []
    for places in progress(parallel.chunks(count, size.classes), Bar("denoise", decoding.SHORTER)):
        rows = np.maximum(places, 0)
        some = jax.tree.map(lambda x, rows=rows: x[rows], each)
        out, lost = function(variables, *parallel.put((keys[rows], *some), local))
        if np.asarray(lost).any():
            raise decoding.diverged(labels[rows[np.argmax(lost)]], settings)
        made.append(np.asarray(out))
    return np.concatenate(made)[:count].reshape(count, m, d)


def program(model: LatentModel, settings: Together, shape: tuple[int, int], size: Sizes, local: Mesh) -> Program:
    """The program that denoises some classes, which the devices divide.

    Args:
      shape: (images, points of the target) of a class.
    """
    denoiser, (m, n), classes, rounds = model.denoiser, shape, size.classes, settings.rounds(shape[0])
    assert denoiser is not None
    side = denoiser.latent_shape
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (classes, rounds, m)))
    target = Measure(struct(classes, n, int(np.prod(side))), struct(classes, n)) if settings.transport > 0 else None
    each = keys, struct(classes, m, *side), struct(classes, dtype=np.int32), struct(classes, m), target
    at = lambda tree, spec: parallel.shapes(tree, NamedSharding(local, spec))
    function = _denoising(denoiser, model.schedule, settings, size.latents, local)
    return Program(function, (at(model.variables, parallel.SAME), *at(each, parallel.EACH)))


@lru_cache(maxsize=8)
def _denoising(denoiser: Denoiser, schedule: Schedule, settings: Together, most: int, local: Mesh):
    """The function that denoises some classes to latents [C, m, h w c], and whether each class is lost, [C].

    It is compiled once for these settings.
    """
    parts = denoiser._replace(apply=diffusion.sliced(denoiser.apply, 2 * most))
    moved = jax.vmap(jax.vmap(transported, (0, None, None, None)), (0, 0, 0, None))

    def denoise(variables, keys, latents, labels, weights, target):
        classes, rounds, m = keys.shape
        flat = lambda x: x.reshape(-1, *x.shape[3:])
        start = flat(jnp.broadcast_to(latents[:, None], (classes, rounds, *latents.shape[1:])))

        def move(clean):
            points = clean.reshape(classes, rounds, m, -1)
            return moved(points, weights, target, settings.transport).reshape(clean.shape)

        step = move if settings.transport > 0 else None
        sampled = diffusion.sampler(parts, schedule, settings, step)
        out = sampled(variables, flat(keys), start, jnp.repeat(labels, rounds * m))
        lost = decoding.has_diverged(start, out, schedule, settings).reshape(classes, -1).any(1)
        pool = out.reshape(classes, rounds, m, -1)
        if rounds == 1:
            return pool[:, 0], lost
        chosen = jax.vmap(lambda one: distinct(one, settings.per_atom))(pool)
        return jnp.take_along_axis(pool.reshape(classes, rounds * m, -1), chosen[..., None], 1), lost

    return jax.jit(parallel.sharded(denoise, local, (parallel.SAME, *[parallel.EACH] * 5)))
