"""Gaussians, whose diffusion is known in closed form, as denoisers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.latent import Denoiser, Schedule, diffusion

KEY = jax.random.key(0)
DIT = Schedule()
V = Schedule(prediction_type="v_prediction")
MANY, SHAPE, NULL = 4096, (2, 1, 2), 2
# Two classes and the null class, two channels.
MEAN = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.2]], np.float32)
STD = np.array([[0.3, 1.5], [0.8, 0.1], [1.0, 0.5]], np.float32)


def data(labels, seed=0):
    normal = np.random.default_rng(seed).normal(size=(len(labels), *SHAPE))
    return (MEAN[labels][:, None, None] + STD[labels][:, None, None] * normal).astype(np.float32)


def denoiser_of(apply):
    return Denoiser(lambda key: {}, apply, SHAPE, NULL)


def law(mean=MEAN, std=STD, variance=None, shift=0.0):
    """The variables of `gaussian`: a normal law a class, and what it puts in its variance channels, [T, classes, c]."""
    known = {"mean": jnp.asarray(mean), "std": jnp.asarray(std), "shift": jnp.float32(shift)}
    if variance is not None:
        known["variance"] = jnp.broadcast_to(jnp.asarray(variance, jnp.float32), (1000, *mean.shape))
    return known


@cache
def gaussian(schedule):
    """The best denoiser of N(mean, std^2) in each class; its prediction is then off by ``shift``."""
    curve = jnp.asarray(diffusion.signal(schedule), jnp.float32)

    def apply(variables, x, t, labels):
        a, m, s = (v[:, None, None] for v in (curve[t][:, None], variables["mean"][labels], variables["std"][labels]))
        away = (x - jnp.sqrt(a) * m) / (a * s**2 + 1 - a)
        e, clean = jnp.sqrt(1 - a) * away, m + jnp.sqrt(a) * s**2 * away
        out = e if schedule.prediction_type == "epsilon" else jnp.sqrt(a) * e - jnp.sqrt(1 - a) * clean
        out += variables["shift"]
        if "variance" not in variables:
            return out
        of_class = variables["variance"][t, labels][:, None, None]
        return jnp.concatenate([out, jnp.broadcast_to(of_class, out.shape)], -1)

    return denoiser_of(apply)
