"""EfficientNet-B0 (Tan and Le 2019, table 1): MobileNet's blocks, SiLU, squeeze-and-excitation (Hu et al. 2018)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdd.nn.mobilenet import MobileNet

# Expansion, kernel, channels, blocks, stride of the first block.
ROWS = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class SqueezeExcite(nn.Module):
    """x sigmoid(W2 silu(W1 mean(x))), with the mean over positions and ``width`` units between the two layers."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        y = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="squeeze")(x.mean((1, 2))))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype, name="excite")(y))[:, None, None]


EfficientNet = partial(MobileNet, rows=ROWS, activation=nn.silu, gate=SqueezeExcite)
"""`MobileNet` with these rows, SiLU and squeeze-and-excitation to a quarter of the input channels of each block."""
