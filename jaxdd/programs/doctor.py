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

import jaxdd
from jaxdd import commands
from jaxdd.ground import extras
from jaxdd.ground.health import described, fault
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
        yield f"extra {extra}", "installed" if find_spec(module) else f"missing; {extras.install(extra)}"


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
