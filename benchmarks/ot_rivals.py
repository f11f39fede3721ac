"""Other people's solvers of the summary problem, each as a function of one class's points: (atoms, weights)."""

import functools
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
from ott.problems.linear.barycenter_problem import FreeBarycenterProblem
from ott.solvers.linear.continuous_barycenter import FreeWassersteinBarycenter
from ott.solvers.linear.sinkhorn import Sinkhorn
from ott.tools.k_means import k_means
from sklearn.cluster import KMeans, MiniBatchKMeans

try:
    pot = import_module("ot")  # POT
except ImportError:  # no dependency: its rows are left out
    pot = None

ROUNDS = 10
WEIGHT_STEPS = 100
DAMPING = 0.2


def scikit_k_means(x: np.ndarray, m: int, starts: int) -> tuple[np.ndarray, np.ndarray]:
    fitted = KMeans(m, n_init=starts, random_state=0).fit(x)
    return fitted.cluster_centers_, np.bincount(fitted.labels_, minlength=m) / len(x)


def scikit_mini_batch(x: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    fitted = MiniBatchKMeans(m, n_init=3, batch_size=256, random_state=0).fit(x)
    return fitted.cluster_centers_, np.bincount(fitted.labels_, minlength=m) / len(x)


@functools.partial(jax.jit, static_argnames=("m", "starts"))
def _ott_k_means(x: jax.Array, m: int, starts: int):
    fitted = k_means(x, m, n_init=starts, rng=jax.random.key(0))
    return fitted.centroids, jnp.mean(jax.nn.one_hot(fitted.assignment.astype(int), m), axis=0)


def ott_k_means(x: np.ndarray, m: int, starts: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.asarray(jax.block_until_ready(leaf)) for leaf in _ott_k_means(jnp.asarray(x), m, starts))


@functools.partial(jax.jit, static_argnames="m")
def _ott_barycenter(x: jax.Array, m: int):
    spread = jnp.mean(jnp.sum((x - x.mean(0)) ** 2, axis=1))
    problem = FreeBarycenterProblem(x[None], jnp.full((1, len(x)), 1 / len(x)), epsilon=1e-2 * spread)
    solver = FreeWassersteinBarycenter(linear_solver=Sinkhorn(max_iterations=2000), max_iterations=ROUNDS)
    return solver(problem, bar_size=m, rng=jax.random.key(0)).x


def ott_barycenter(x: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """From samples, ten rounds, epsilon a hundredth of the variance."""
    return np.asarray(jax.block_until_ready(_ott_barycenter(jnp.asarray(x), m))), np.full(m, 1 / m)


def pot_barycenter(x: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """POT's solver with exact plans, ten rounds, from N(0, I)."""
    start = np.random.default_rng(0).normal(size=(m, x.shape[1]))
    atoms = pot.lp.free_support_barycenter(
        [x.astype(np.float64)], [np.full(len(x), 1 / len(x))], start, numItermax=ROUNDS
    )
    return atoms, np.full(m, 1 / m)


def wmdd_route(x: np.ndarray, m: int, learn: bool) -> tuple[np.ndarray, np.ndarray]:
    """The route of WMDD's authors through POT: from N(0, I), ten rounds, each moving the atoms 0.2 of the way.

    Where the weights are learned, a round begins with a hundred steps of accelerated mirror descent along the exact
    dual potentials (Cuturi and Doucet 2014, algorithm 1).
    """
    x = x.astype(np.float64)
    z = np.random.default_rng(0).normal(size=(m, x.shape[1]))
    a, w = np.full(len(x), 1 / len(x)), np.full(m, 1 / m)
    for _ in range(ROUNDS):
        cost = pot.dist(x, z)
        if learn:
            rate = 1 / cost.mean()
            slow, fast = w, w
            for t in range(1, WEIGHT_STEPS + 1):
                beta = (t + 1) / 2
                between = (1 - 1 / beta) * slow + fast / beta
                _, log = pot.emd(a, between, cost, log=True)
                g = log["v"] - log["v"] @ between
                fast = fast * np.exp(-np.clip(rate * beta * g, -30, 30))
                fast = fast / fast.sum()
                slow = (1 - 1 / beta) * slow + fast / beta
            w = slow / slow.sum()
        plan = pot.emd(a, w, cost)
        z = z + DAMPING * (plan.T @ x / np.maximum(w, 1e-12)[:, None] - z)
    return z, w
