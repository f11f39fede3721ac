"""Losses of logits. Every function returns one value per image, [N]; the caller weights and averages them."""

import jax
import optax

cross_entropy = optax.losses.softmax_cross_entropy


def distillation(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL( softmax(teacher / T) || softmax(logits / T) ), [N], for logits [N, K] and teacher_logits [N, K].

    The factor T^2 keeps the scale of the gradient as T grows (Hinton et al. 2015, section 2.1).
    """
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)
