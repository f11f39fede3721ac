"""BatchNorm, the moments of the input of such a layer, and operations on them.

At every BatchNorm layer the recover stage compares the mean and the *total* variance of the input, over all images and
positions of a class. By the law of total variance both follow from the spatial mean and variance of each image:

    mean = sum_j w_j mean_j,        var = sum_j w_j (var_j + (mean_j - mean)^2),

A model therefore outputs [N, ch] instead of [N, H, W, ch]. Grouping (per class, global, weighted by atoms) is linear
algebra outside of the model, and the result does not depend on the sizes of batches. No differences of large squares
are taken, so float32 is sufficient.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.nn.convolution import convolution

EPSILON = 1e-5


class Moments(NamedTuple):
    """Mean and biased variance of the input of a layer, float32 [..., ch] each. A pytree."""

    mean: jax.Array
    var: jax.Array


@jax.custom_vjp
def image_moments(x: jax.Array) -> Moments:
    """Spatial mean and variance of each image: x float [N, H, W, ch] -> Moments of float32 [N, ch].

    Any number of spatial axes will do; without one, x is the mean, and the variance is zero.

    The gradient, for cotangents g of the mean and h of the variance, is

        x_bar = (g + 2 h (x - mean)) / (H W),

    because deviations sum to zero, and so the dependence of the variance on the mean cancels. Only x and the mean are
    saved for the backward pass, so no float32 copy of a bfloat16 activation is kept. Reverse mode only.

    Two passes keep all digits of the variance. On TPUs bfloat16 activations take one, whose sums come out of the
    convolution: E x^2 - (E x)^2 in float32 is off by 1e-6 (E x)^2, as is the variance by the rounding of x itself.
    """
    if x.dtype == jnp.bfloat16:
        return jax.lax.platform_dependent(x, tpu=_one_pass, default=_two_passes)
    return _two_passes(x)


def _two_passes(x: jax.Array) -> Moments:
    wide, axes = x.astype(jnp.float32), _spatial(x)
    mean = wide.mean(axes)
    return Moments(mean, jnp.square(wide - jnp.expand_dims(mean, axes)).mean(axes))


def _one_pass(x: jax.Array) -> Moments:
    wide, axes = x.astype(jnp.float32), _spatial(x)
    mean = wide.mean(axes)
    return Moments(mean, jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0.0))


def _spatial(x) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _image_moments_fwd(x):
    moments = image_moments(x)
    return moments, (x, moments.mean)


def _image_moments_bwd(residuals, bar):
    x, mean = residuals
    g, h, mean = (jnp.expand_dims(v, _spatial(x)) for v in (bar.mean, bar.var, mean))
    size = math.prod(x.shape[1:-1])
    return (((g + 2 * h * (x.astype(jnp.float32) - mean)) / size).astype(x.dtype),)


image_moments.defvjp(_image_moments_fwd, _image_moments_bwd)


def pool(moments: Moments, weights: jax.Array | np.ndarray) -> Moments:
    """Total moments of a weighted group of images, by the law of total variance.

    Args:
      moments: [..., m, ch], one row per image, or per group that was pooled before.
      weights: [..., m], non-negative, normalised here. If all are zero, so is the result.

    Returns:
      Moments of [..., ch].
    """
    total = weights.sum(-1, keepdims=True)
    w = (weights / jnp.where(total > 0, total, 1.0))[..., None]
    mean = (w * moments.mean).sum(-2)
    spread = jnp.square(moments.mean - mean[..., None, :])
    return Moments(mean, (w * (moments.var + spread)).sum(-2))


def pool_by_label(moments: Moments, weights: jax.Array, labels: jax.Array, num_classes: int) -> Moments:
    """`pool` of each class in a mixed batch: moments [N, ch], weights [N] and labels [N] -> Moments of [C, ch].

    The moments of a class without images are zero.
    """
    total = jax.ops.segment_sum(weights, labels, num_classes)
    w = (weights / jnp.where(total > 0, total, 1.0)[labels])[:, None]
    mean = jax.ops.segment_sum(w * moments.mean, labels, num_classes)
    spread = jnp.square(moments.mean - mean[labels])
    return Moments(mean, jax.ops.segment_sum(w * (moments.var + spread), labels, num_classes))


def merge(a: Moments, a_weight: jax.Array, b: Moments, b_weight: jax.Array) -> Moments:
    """Moments [..., ch] of the union of two groups of total weights [...]; a group of weight zero changes nothing."""
    both = jax.tree.map(lambda x, y: jnp.stack([x, y], -2), a, b)
    return pool(both, jnp.stack([a_weight, b_weight], -1))


class BatchNorm(nn.Module):
    """Batch normalisation over N, H, W with the momentum and epsilon of the networks here.

    Running averages are updated by mean <- 0.9 mean + 0.1 batch mean; epsilon is 1e-5.
    """

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, dtype=self.dtype, name="bn")
        return norm(x)


@dataclass(frozen=True)
class ConvNorm:
    """A convolution and the BatchNorm of its output; to be called inside of a compact scope.

    Attributes:
      train: whether BatchNorm normalises by the statistics of the batch and updates the running ones.
      dtype: that of the computation; None is that of the input and the parameters.
      folded: the convolution has a bias, and there is no BatchNorm.
    """

    train: bool
    dtype: jnp.dtype | None
    folded: bool

    def __call__(self, x: jax.Array, name: str, width: int, kernel: int, stride: int = 1, **options: Any) -> jax.Array:
        """x [N, H, W, ch] -> [N, H', W', width], by the layer ``name`` and the same with norm in place of conv.

        ``options`` are those of `nn.Conv`.
        """
        # Explicit padding on both sides, as published weights expect; "SAME" pads a strided convolution on one only.
        padding = ((kernel // 2, kernel // 2),) * 2
        defaults: dict[str, Any] = {
            "kernel_init": nn.initializers.he_normal(),
            "use_bias": self.folded,
            "conv_general_dilated": convolution,
        }
        conv = nn.Conv(width, (kernel, kernel), (stride, stride), padding=padding, dtype=self.dtype, name=name,
                       **defaults | options)  # fmt: skip
        x = conv(x)
        return x if self.folded else BatchNorm(dtype=self.dtype, name=name.replace("conv", "norm"))(x, self.train)
