"""Compile every hot program for TPUs that are not there, and say what it would do on them.

    pip install ".[tpu]"
    python -m benchmarks.tpu [--json FILE] [--chips v5e v5p v6e] [--only WORDS] [--texts FOLDER]
    python -m benchmarks.tpu --quick

XLA's compiler for TPUs comes in the package libtpu and needs no TPU. For each program of `benchmarks.hot_programs` and
each chip a row says: bytes of its memory, collectives, operations and how many of them take one pass of bfloat16 on the
matrix unit, bytes moved, padding, copies, the time at the published peaks (roofline), and the time by the cycles that
the compiler expects. One program of each stage is also compiled for the chips of a host, and for those of the last host
of a slice of 256 chips. Nothing is run: all times are projections. A loop that ends when it has converged counts as one
round, and a + stands behind the time. Compilation takes minutes for a program.
"""

import argparse
import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before JAX is imported: there is no TPU, and its metadata server is not to be asked.
os.environ.update(
    JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-4",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)  # fmt: skip

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

# Cycles a second, from the published peaks: operations a second over those of a cycle on the matrix units.
CLOCKS = {"v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
# The topologies of one chip, of a host of four, and of a slice of 256 chips.
SLICES = {
    "v5e": ("1x1", "2x2", "16x16"),
    "v5p": ("1x1x1", "2x2x1", "4x8x8"),
    "v6e": ("1x1", "2x2", "16x16"),
}


def devices(chip: str, place: int) -> list[jax.Device]:
    """The chips of a topology of `SLICES`; of the largest only those of the last host."""
    shape = SLICES[chip][place]
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if place == 0 else {}
    all_chips = topologies.get_topology_desc(f"{chip}:{shape}", "tpu", **bounds).devices
    last = max(device.process_index for device in all_chips)
    return [device for device in all_chips if device.process_index == last]


def compiled(hot: Hot, chip: Chip, place: int, texts: Path | None) -> dict[str, Any]:
    """The row of a program."""
    local = Mesh(np.array(devices(chip.name, place)), (AXIS,))
    started = time.perf_counter()
    built = hot.build(local, int(0.9 * chip.memory_bytes))
    program = built.program.lower().compile()
    seconds, text = time.perf_counter() - started, program.as_text()
    slice_name = SLICES[chip.name][place]
    if texts:
        texts.mkdir(parents=True, exist_ok=True)
        words = re.sub(r"[^a-z0-9]+", "-", f"{hot.name} {chip.name} {slice_name}".lower())
        (texts / f"{words}.txt").write_text(text)
    module = hlo.parse(text)
    found = hlo.figures(module)
    roofline = max(found.passes / chip.flops, found.traffic / chip.bandwidth)
    return {
        "benchmark": "tpu", "program": hot.name, "chip": chip.name, "slice": slice_name, "chips": local.devices.size,
        "units": built.units, "unit": hot.unit, "memory_bytes": compiled_bytes(program),
        "chip_bytes": chip.memory_bytes, "collectives": found.collectives, "flops": found.flops,
        "share_bfloat16": found.share_bfloat16, "traffic_bytes": found.traffic, "padding": found.waste,
        "copies": found.copies[0], "copied_bytes": found.copies[1], "cycles": found.cycles,
        "roofline_seconds": roofline, "expected_seconds": found.cycles / CLOCKS[chip.name],
        "busy": found.passes / chip.flops / max(found.cycles / CLOCKS[chip.name], 1e-9),
        "unknown_loops": found.unknown_loops, "compile_seconds": seconds,
        "costly": hlo.costly(module, 6), **harness.versions(),
    }  # fmt: skip


def rows_of(hot: Hot, chip: Chip, quick: bool, texts: Path | None) -> list[dict[str, Any]]:
    """The rows of a program on a chip: for one chip, and for those of a host if it is compiled for `many`."""
    rows = []
    for place in (0, 1, 2) if hot.many else (0,):
        # In a process of its own, as the compiler may crash.
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            try:
                row = alone.submit(row_of, hot.name, quick, chip.name, place, texts).result()
            except BrokenProcessPool:
                row = noted(hot, chip, place, "the compiler crashed; its stack is on stderr")
        rows.append(row)
        print(line(row), flush=True)
    return rows


def row_of(name: str, quick: bool, chip: str, place: int, texts: Path | None) -> dict[str, Any]:
    """The row of the program of a name; if it does not fit or is refused, with a note in place of figures."""
    (hot,) = (hot for hot in selected([], quick) if hot.name == name)
    try:
        return compiled(hot, CHIPS[chip], place, texts)
    except (InputError, jax.errors.JaxRuntimeError) as error:
        return noted(hot, CHIPS[chip], place, refused(error))


def noted(hot: Hot, chip: Chip, place: int, note: str) -> dict[str, Any]:
    """The row of a program that was not compiled."""
    row = {"benchmark": "tpu", "program": hot.name, "chip": chip.name, "slice": SLICES[chip.name][place]}
    return row | {"note": note} | harness.versions()


HEAD = (
    f"{'program':35} {'chip':4} {'slice':6} {'units':>6} {'GiB':>6} {'GFLOP':>8} {'bf16':>5} {'GB':>7} {'pad':>5} "
    f"{'copies':>6} {'roofline':>9} {'expected':>9} {'busy':>5} collectives"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"{row['program']:35} {row['chip']:4} {row['slice']:6} "
    if "note" in row:
        return head + row["note"][:120]
    found = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items()) or "none"
    more = "+" if row["unknown_loops"] else " "
    return head + (
        f"{row['units']:6} {row['memory_bytes'] / 2**30:6.2f} {sum(row['flops'].values()) / 1e9:8.0f} "
        f"{100 * row['share_bfloat16']:4.0f}% {row['traffic_bytes'] / 1e9:7.2f} {100 * row['padding']:4.0f}% "
        f"{row['copies']:6} {1e3 * row['roofline_seconds']:6.1f} ms {1e3 * row['expected_seconds']:6.1f} ms{more} "
        f"{100 * row['busy']:4.0f}% {found}"
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--chips", nargs="+", default=list(SLICES), choices=list(SLICES))
    flags.add_argument("--only", nargs="+", default=[], help="programs with one of these words in their names")
    flags.add_argument("--quick", action="store_true", help="small programs for one kind of chip, in two minutes")
    flags.add_argument("--json", type=Path, help="write the rows here; rows that are there already are kept")
    flags.add_argument("--texts", type=Path, help="write the texts of the compiled programs into this folder")
    chosen = flags.parse_args()
    rows = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.is_file() else []
    done = {(row["program"], row["chip"]) for row in rows}
    print("\n".join([HEAD, *map(line, rows)]))
    for name in chosen.chips[:1] if chosen.quick else chosen.chips:
        for hot in selected(chosen.only, chosen.quick):
            if (hot.name, name) not in done:
                rows += rows_of(hot, CHIPS[name], chosen.quick, chosen.texts)
                harness.write(chosen.json, rows)
    if rows:
        harness.stamp(rows[-1])


if __name__ == "__main__":
    harness.entry(main)
