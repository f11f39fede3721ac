"""Compile every hot program for GPUs that are not there, and say what it would take on them.

    pip install jax-cuda12-plugin jax-cuda12-pjrt   # of the version of jax; no driver and no CUDA toolkit is needed
    python -m benchmarks.gpu [--json FILE] [--cards t4 a100 h200] [--only WORDS]
    python -m benchmarks.gpu --quick

Given the properties of a card, XLA's CUDA plugin compiles for it on a machine without one. Nothing is run or tuned, so
convolutions and products are calls of cuDNN and cuBLAS whose algorithms are chosen later, on the card. A row says:
bytes of the card's memory, collectives, the calls by the dtype of their results, copies and transposes, operations, and
the time at the published peaks (roofline), which is a projection. A loop that ends when it has converged counts as one
round, and a + stands behind the time.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported, which would look for a card
# The sizes of Triton's tiles are tried on a card; without one the compiler refuses some products.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from benchmarks import harness, hlo  # noqa: E402
from benchmarks.hot_programs import Hot, refused, selected  # noqa: E402
from jaxdd.ground.errors import InputError  # noqa: E402
from jaxdd.ground.machines import CHIPS, Chip  # noqa: E402
from jaxdd.ground.memory import compiled_bytes  # noqa: E402
from jaxdd.ground.parallel import AXIS  # noqa: E402


class Card(NamedTuple):
    """What the compiler needs to know of a card, from NVIDIA's data sheets and programming guide."""

    capability: tuple[int, int]
    cores: int
    clock: float  # GHz
    cache: int  # bytes of L2
    shared: int  # bytes of shared memory of a core


CARDS = {
    "t4": Card((7, 5), 40, 1.59, 4 * 2**20, 65536),
    "l4": Card((8, 9), 58, 2.04, 48 * 2**20, 102400),
    "a100": Card((8, 0), 108, 1.41, 40 * 2**20, 167936),
    "h100": Card((9, 0), 132, 1.98, 50 * 2**20, 233472),
    "h200": Card((9, 0), 132, 1.98, 50 * 2**20, 233472),
}


def target(chip: Chip, card: Card) -> str:
    """A card as the text that XLA's option ``target_config`` takes."""
    major, minor = card.capability
    return f"""
        gpu_device_info {{
          name: "{chip.kind}" device_vendor: "NVIDIA Corporation" device_address_bits: 64
          platform_version: "Compute Capability {major}.{minor}"
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          core_count: {card.cores} clock_rate_ghz: {card.clock} l2_cache_size: {card.cache}
          device_memory_size: {chip.memory_bytes} memory_bandwidth: {int(chip.bandwidth)}
          fpus_per_core: {64 if card.capability < (8, 6) else 128} threads_per_warp: 32 threads_per_block_limit: 1024
          threads_per_core_limit: {1024 if card.capability < (8, 0) else 2048}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152 shared_memory_per_core: {card.shared}
          shared_memory_per_block_optin: {card.shared - 1024}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
          dnn_version: "9.10.0"
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{chip.kind}"
    """


def compiled(hot: Hot, chip: Chip) -> dict[str, Any]:
    """The row of a program on one card."""
    config = target(chip, CARDS[chip.name])
    devices = topologies.get_topology_desc(chip.name, "cuda", target_config=config, topology="1x1x1").devices
    built = hot.build(Mesh(np.array(devices), (AXIS,)), int(0.9 * chip.memory_bytes))
    program = built.program.lower().compile()
    module = hlo.parse(program.as_text())
    found, flops = hlo.figures(module), built.program.flops(1)
    return {
        "benchmark": "gpu", "program": hot.name, "card": chip.name, "units": built.units, "unit": hot.unit,
        "memory_bytes": compiled_bytes(program), "card_bytes": chip.memory_bytes, "collectives": found.collectives,
        "calls": calls(module), "flops": flops, "traffic_bytes": found.traffic, "copies": found.copies[0],
        "copied_bytes": found.copies[1], "unknown_loops": found.unknown_loops,
        "roofline_seconds": max(flops / chip.flops, found.traffic / chip.bandwidth), **harness.versions(),
    }  # fmt: skip


def calls(module: hlo.Module) -> dict[str, int]:
    """How often convolutions and products are called, by the dtype of the result."""
    counted: Counter[str] = Counter()
    for one, times, _ in hlo.scheduled(module):
        name = one.attribute("custom_call_target", r'"([^"]+)"') or ""
        if name.startswith(("__cudnn$conv", "__cublas")):
            counted[one.arrays[0].dtype] += times
    for _, _, one, times in hlo.products(module):
        counted[one.arrays[0].dtype] += times
    return dict(counted)


HEAD = (
    f"{'program':35} {'card':5} {'units':>6} {'GiB':>6} {'GFLOP':>8} {'calls bf16':>10} {'f32':>6} {'copies':>6} "
    f"{'roofline':>9} collectives"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"{row['program']:35} {row['card']:5} "
    if "note" in row:
        return head + row["note"][:120]
    found = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items()) or "none"
    return head + (
        f"{row['units']:6} {row['memory_bytes'] / 2**30:6.2f} {row['flops'] / 1e9:8.0f} "
        f"{row['calls'].get('bf16', 0):10} {row['calls'].get('f32', 0):6} {row['copies']:6} "
        f"{1e3 * row['roofline_seconds']:6.1f} ms{'+' * (row['unknown_loops'] > 0)} {found}"
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cards", nargs="+", default=["t4", "a100", "h200"], choices=list(CARDS))
    flags.add_argument("--only", nargs="+", default=[], help="programs with one of these words in their names")
    flags.add_argument("--quick", action="store_true", help="small programs for one card, in a minute")
    flags.add_argument("--json", type=Path, help="write the rows here; rows that are there already are kept")
    chosen = flags.parse_args()
    rows = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.is_file() else []
    done = {(row["program"], row["card"]) for row in rows}
    print("\n".join([HEAD, *map(line, rows)]))
    for name in chosen.cards[:1] if chosen.quick else chosen.cards:
        for hot in selected(chosen.only, chosen.quick):
            if (hot.name, name) in done:
                continue
            try:
                row = compiled(hot, CHIPS[name])
            except (InputError, jax.errors.JaxRuntimeError) as error:
                row = {"benchmark": "gpu", "program": hot.name, "card": name, "note": refused(error)}
                row |= harness.versions()
            rows.append(row)
            print(line(row), flush=True)
            harness.write(chosen.json, rows)
            jax.clear_caches()
    if rows:
        harness.stamp(rows[-1])


if __name__ == "__main__":
    harness.entry(main)
