"""Losses of logits an image; every function returns [N], so that weights and means stay with the caller."""

import jax
import optax

cross_entropy = optax.losses.softmax_cross_entropy


def distillation(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL( softmax(teacher / T) || softmax(logits / T) ), which keeps its gradient's size as T grows.

    Hinton et al. 2015, section 2.1.
    """
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)
