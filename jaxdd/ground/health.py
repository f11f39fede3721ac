"""Whether a device computes rightly."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground import parallel
from jaxdd.ground.errors import one_line
from jaxdd.ground.memory import budget


def described(device: jax.Device) -> str:
    """Its kind, its free memory, and the dtype in which networks compute on it by default."""
    if device.platform == "cpu":
        return "cpu, float32"
    dtype = "bfloat16" if parallel.has_bfloat16(device) else "float32"
    return f"{device.device_kind}, {dtype}, {budget([device], 0) / 2**30:.1f} GiB to use"


def fault(device: jax.Device) -> str | None:
    """What is wrong with a device: a step of a small network is computed on it, and in float64 by NumPy."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 6, 6, 3)), rng.normal(size=(3, 3, 3, 4))

    def loss(x, w):
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                         precision="highest")  # fmt: skip
        return jnp.square(jnp.maximum(y, 0)).mean()

    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # [8, 4, 4, 3, 3, 3]
    y = np.maximum(np.einsum("nyxcij,ijco->nyxo", windows, w), 0)
    expected = 2 * np.einsum("nyxcij,nyxo->ijco", windows, y) / y.size
    try:
        given = jax.device_put((np.float32(x), np.float32(w)), device)
        found = np.asarray(jax.jit(jax.grad(loss, 1))(*given))
    except Exception as error:  # whatever a driver raises
        return f"cannot compute: {one_line(str(error), 200)}"
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    return None if off < 1e-3 else f"computes wrongly: a gradient is off by {100 * off:.2g} %"
