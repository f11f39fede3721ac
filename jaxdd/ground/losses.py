"""Per-image losses of logits; every function returns [N], so that weights and means stay with the caller."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum_k t_k log softmax(logits)_k for target distributions [N, K]."""
    return -(targets * jax.nn.log_softmax(logits)).sum(-1)


def distillation(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL( softmax(teacher / T) || softmax(logits / T) ), which keeps its gradient's size as T grows.

    Hinton et al. 2015, section 2.1.
    """
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
