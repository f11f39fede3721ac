"""Say what this machine has, and whether it computes rightly: the first thing to show when something does not work.

    jaxdd doctor

Prints versions, devices, extras and disk, and trains a tiny network for a step on each device. Ends with status 1 if
something is wrong.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np

import jaxdd
from jaxdd import commands
from jaxdd.ground import parallel
from jaxdd.ground.errors import one_line
from jaxdd.ground.memory import budget
from jaxdd.ground.programs import Work

EXTRAS = {"tfds": "tensorflow_datasets", "hub": "datasets", "pretrained": "tokenizers", "tensorboard": "tensorboardX"}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class DoctorConfig:
    """It has no settings."""


def facts() -> Iterator[tuple[str, str]]:
    """What is there, by its name."""
    yield "jaxdd", jaxdd.__version__
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    yield "versions", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "memory", f"{host / 2**30:.1f} GiB, {os.cpu_count()} cores"
    yield "disk", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free in {os.getcwd()}"
    yield (
        "compiled programs",
        os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or ("not kept; with JAX_COMPILATION_CACHE_DIR=FOLDER a second start is faster"),
    )
    for extra, module in EXTRAS.items():
        yield f"extra {extra}", "installed" if find_spec(module) else f'missing; pip install "jaxdd[{extra}]"'


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


def plan(config: DoctorConfig) -> list[Work]:
    return []  # it takes seconds


def main(config: DoctorConfig) -> None:
    for name, text in facts():
        print(f"{name:18} {text}")
    faults = 0
    for device in jax.local_devices():
        wrong = fault(device)
        faults += wrong is not None
        print(f"{f'device {device.id}':18} {described(device)}: {wrong or 'computes rightly'}")
    if not os.access(".", os.W_OK):
        faults += 1
        print(f"{'folder':18} {os.getcwd()} is not writable; run jaxdd elsewhere, or give --out")
    print("nothing is wrong" if not faults else f"{faults} fault{'s'[: faults > 1]}")
    if faults:
        sys.exit(1)


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: DoctorConfig(), arguments, plan=plan)
