"""Accelerators that programs are planned for, with the figures that their makers publish."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxdd.ground.errors import InputError


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      name: as in the name of a machine, such as "v5e" in "v5e-8".
      kind: what JAX calls such a device.
      memory_bytes: of its own memory.
      flops: dense bfloat16 operations a second at the peak; float32 ones where it has no bfloat16.
      bandwidth: bytes a second to and from its memory at the peak.
      chips_a_host: of the largest single machine.
      has_bfloat16: whether it computes with bfloat16 numbers.
      in_slices: chips of each machine of several, if that is another number.
    """

    name: str
    kind: str
    memory_bytes: int
    flops: float
    bandwidth: float
    chips_a_host: int
    has_bfloat16: bool = True
    in_slices: int | None = None


_GIB = 2**30
# TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. GPU: NVIDIA's data sheets, dense tensor cores.
CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 32 * _GIB, 275e12, 1228e9, 4),
        Chip("v5e", "TPU v5 lite", 16 * _GIB, 197e12, 819e9, 8, in_slices=4),
        Chip("v5p", "TPU v5", 95 * _GIB, 459e12, 2765e9, 4),
        Chip("v6e", "TPU v6 lite", 32 * _GIB, 918e12, 1640e9, 8, in_slices=4),
        Chip("t4", "Tesla T4", 15 * _GIB, 8.1e12, 320e9, 1, False),
        Chip("l4", "NVIDIA L4", 22 * _GIB, 121e12, 300e9, 1),
        Chip("a100", "NVIDIA A100-SXM4-40GB", 40 * _GIB, 312e12, 1555e9, 8),
        Chip("h100", "NVIDIA H100 80GB HBM3", 80 * _GIB, 989e12, 3350e9, 8),
        Chip("h200", "NVIDIA H200", 140 * _GIB, 989e12, 4800e9, 8),
        Chip("rtx4090", "NVIDIA GeForce RTX 4090", 24 * _GIB, 165e12, 1008e9, 1),
    )
}


class Machine(NamedTuple):
    """Chips of one kind, on one or several hosts."""

    chip: Chip
    chips: int

    @property
    def name(self) -> str:
        """Such as "v5e-8"."""
        return f"{self.chip.name}-{self.chips}"

    @property
    def hosts(self) -> int:
        """How many hosts they are usually attached to."""
        return -(-self.chips // self.chips_a_host)

    @property
    def chips_a_host(self) -> int:
        """How many of them a host has."""
        most = self.chip.chips_a_host
        return min(self.chips, most if self.chips <= most else self.chip.in_slices or most)


def machine(name: str) -> Machine:
    """The machine of a name: a chip of `CHIPS`, and the number of them after a hyphen, by default 1.

    Raises:
      InputError: no such chip, or no such number.
    """
    found = re.fullmatch(r"([a-z0-9]+?)(?:-([1-9]\d{0,4}))?", name)
    if not found or found[1] not in CHIPS:
        raise InputError(f"unknown machine {name!r}; use one of {', '.join(CHIPS)} and a number of chips, as in v5e-8")
    return Machine(CHIPS[found[1]], int(found[2] or 1))
