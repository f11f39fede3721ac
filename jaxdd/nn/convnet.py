"""The ConvNets of the dataset-distillation literature (Gidaris and Komodakis 2018; Zhao et al. 2021, section 4.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdd.nn.batchnorm import ConvNorm


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 average pooling, then one linear layer.

    The features are the flattened output of the last block: for depth 3, width 128 and 32x32 images 4*4*128 = 2,048.
    """

    num_classes: int
    depth: int = 3
    width: int = 128
    dtype: jnp.dtype | None = None
    folded: bool = False  # evaluation mode only, with variables of `jaxdd.nn.fold`

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        conv_norm = ConvNorm(train, self.dtype, self.folded)
        for i in range(self.depth):
            x = conv_norm(x, f"conv{i + 1}", self.width, 3, kernel_init=nn.initializers.lecun_normal(), use_bias=True)
            x = checkpoint_name(average_pool_2x2(nn.relu(x)), "block")
        features = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(features), features


def average_pool_2x2(x: jax.Array) -> jax.Array:
    """Mean of each 2x2 window: [N, H, W, C] -> [N, H // 2, W // 2, C]."""
    return jax.lax.platform_dependent(x, tpu=_pooled_by_windows, default=_pooled_by_reshape)


def _pooled_by_windows(x: jax.Array) -> jax.Array:
    # On TPUs the six axes of a reshape would each be padded to tiles.
    return nn.avg_pool(x, (2, 2), (2, 2))


def _pooled_by_reshape(x: jax.Array) -> jax.Array:
    # XLA's reduce_window is slow on CPU, and its gradient even slower.
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
