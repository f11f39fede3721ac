"""The plan of a run as a table: what each stage does here, or on a machine that is not there."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from jaxdd.ground import memory
from jaxdd.ground.machines import Machine
from jaxdd.ground.programs import Program, Work
from jaxdd.ground.progress import duration, hint, log
from jaxdd.planning.clock import timed

ROUNDS = 50
"""Rounds that are taken for a loop that ends when it has converged."""
# Seconds to start a launch, and to compile a program for an accelerator.
_LAUNCH, _COMPILE = 2e-4, 60.0
_FUSED = 20
# Primitives whose results an accelerator keeps for the backward pass.
_KEPT = ("conv_general_dilated", "dot_general", "max", "reduce_window_max")


class Row(NamedTuple):
    """What a stage will take.

    Attributes:
      work: the stage.
      chunks: the parts that are done one after the other.
      launches: launches of programs.
      memory_bytes: of a device.
      flops: operations of all devices.
      seconds: in all. Here the host reads images with the same cores; elsewhere it reads them meanwhile.
      decides: what most of the time is spent on.
    """

    work: Work
    chunks: int
    launches: int
    memory_bytes: int
    flops: int
    seconds: float
    decides: str


class Plan(NamedTuple):
    """The plan of a run.

    Attributes:
      rows: of the stages.
      machine: the machine that it is for; None: this one.
      host_bytes: the memory that this process has taken for the data and for trying the programs, and what the stages
        keep there.
      opening_seconds: of what comes before the first stage: looking at the data, and loading models.
    """

    rows: tuple[Row, ...]
    machine: Machine | None
    host_bytes: int
    opening_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all stages, and of what comes before them."""
        return self.opening_seconds + sum(row.seconds for row in self.rows)


def made(works: Iterable[Work], machine: Machine | None = None, opening_seconds: float = 0.0) -> Plan:
    """The plan of some stages.

    Here each program is compiled and launched a few times, and the time of all launches follows. For another machine
    the time is that of the operations at the share of the peak that each stage is expected to reach, or that in which
    this host reads the images.
    """
    known: dict = {}
    rows = tuple(_on(work, machine, known) if machine else _here(work, known) for work in works)
    return Plan(rows, machine, memory.peak() + sum(row.work.host_bytes for row in rows), opening_seconds)


def _key(program: Program) -> tuple:
    """What distinguishes a program from others that are compiled."""
    leaves, form = jax.tree.flatten(program.arguments)
    return program.function, str(form), tuple((x.shape, x.dtype) for x in leaves), *sorted(program.static.items())


def _here(work: Work, known: dict) -> Row:
    """The row of a stage on this machine. ``known`` has the timings of the programs that were tried."""
    program = work.program
    key = _key(program)
    compiles = key not in known
    if compiles:
        log(f"trying: {work.title}")
        known[key] = timed(program)
    timing = known[key]
    running, compiling = work.launches * timing.launch_seconds, timing.compile_seconds if compiles else 0.0
    flops = program.flops(ROUNDS) * work.launches
    parts = {"computation": running, "compilation": compiling, "reading images": work.reading_seconds}
    seconds, decides = sum(parts.values()), max(parts, key=lambda name: parts[name])
    return Row(work, work.chunks, work.launches, timing.memory_bytes, flops, seconds, decides)


def _on(work: Work, machine: Machine, known: dict) -> Row:
    """The row of a stage on another machine. ``known`` has the programs of the stages before."""
    program, chip, room = work.program, machine.chip, 0.9 * machine.chip.memory_bytes
    chips, together = _shares(work, machine)
    compiling = 0.0 if _key(program) in known else _COMPILE
    known[_key(program)] = True
    flops = program.flops(ROUNDS) * work.launches
    while (needed := _memory(work, together)) > room and together > work.least and work.fused:
        together = max(work.least, -(-together // 2))
    chunks = max(1, -(-work.units // (together * chips)))
    launches = chunks * -(-work.steps // (_FUSED if work.fused else 1))
    computing = flops / (chips * chip.flops * work.busy)
    running = computing + launches * _LAUNCH
    parts = {"computation": computing, "compilation": compiling, "launches": launches * _LAUNCH}
    parts |= {"reading images": work.reading_seconds}
    decides = max(parts, key=lambda name: parts[name])
    if needed > room:
        decides = "does not fit"
    seconds = compiling + max(running, work.reading_seconds)
    return Row(work, chunks, launches, needed, flops, seconds, decides)


def _shares(work: Work, machine: Machine) -> tuple[int, int]:
    """How many chips share the units of a stage, and how many units each of them takes at a time, at the most."""
    if not work.fused:  # the chips of one host that divide a batch
        most = min(machine.chips_a_host, work.units)
        chips = next(count for count in range(most, 0, -1) if work.units % count == 0)
        return chips, work.units // chips
    chips = max(1, min(machine.chips, work.units // work.least))
    return chips, max(work.least, min(-(-work.units // chips), work.most))


def _devices(program: Program) -> int:
    """The number of devices of a program."""
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(program.arguments)]
    return max((len(one.device_set) for one in shardings if one is not None), default=1)


def _memory(work: Work, units: float) -> int:
    """Bytes of a chip that takes so many units at a time, estimated from the values of the program here."""
    # The compiler fuses all other operations, or computes their results again. Against the programs of
    # docs/results/tpu.md and accelerators.md this is right within a factor of 2.5, and mostly too much.
    values = [size for kind, size in memory.values_of(work.program) if kind in _KEPT]
    held = sum(math.prod(_part(x)) * x.dtype.itemsize for x in jax.tree.leaves(work.program.arguments))
    passing = sum(values) if work.trains else 3 * max(values, default=0)
    # The values of a fused program are those of one device.
    devices = _devices(work.program) if work.fused else 1
    return int(held + passing * units / max(1, work.units // work.chunks // devices))


def _part(x: Any) -> tuple[int, ...]:
    """The shape of what a device holds of an array."""
    sharding = getattr(x, "sharding", None)
    return x.shape if sharding is None else sharding.shard_shape(x.shape)


def text(plan: Plan) -> str:
    """The table, the sum, and what makes the longest stages shorter."""
    where = plan.machine.name if plan.machine else f"this machine ({jax.devices()[0].device_kind})"
    heads = ("stage", "units", "steps", "chunks", "launches", "memory", "FLOP", "time", "decided by")
    lines = [heads, *(_cells(row) for row in plan.rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    aligned = lambda line: "  ".join(
        cell.ljust(width) if k in (0, 8) else cell.rjust(width) for k, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    table = [aligned(lines[0]), "  ".join("-" * width for width in widths), *map(aligned, lines[1:])]
    total = f"in all about {duration(plan.seconds)} on {where}"
    if plan.machine is None:
        total += f", {plan.host_bytes / 2**30:.1f} GiB of memory"
    else:
        shares = sorted({round(100 * row.work.busy) for row in plan.rows})
        percent = f"{shares[0]} %" if len(shares) == 1 else f"{shares[0]} to {shares[-1]} %"
        total += f", at {percent} of the peak of {plan.machine.chip.flops / 1e12:.0f} TFLOP/s a chip"
    if plan.opening_seconds > 1:
        total += f"; {duration(plan.opening_seconds)} of it to start and to open the data, as now"
    # Less work does not compile faster, and what takes little time need not be shorter.
    cut = [row for row in plan.rows if row.decides != "compilation" and row.seconds > 0.05 * plan.seconds]
    longest = sorted(cut, key=lambda row: -row.seconds)[:3]
    hints = [f"{row.work.title}: {hint(row.work.shorter)}" for row in longest if hint(row.work.shorter)]
    return "\n".join([*table, "", total, *dict.fromkeys(hints)])


def _cells(row: Row) -> tuple[str, ...]:
    work = row.work
    return (work.title, f"{work.units:,} {work.unit}", f"{work.steps:,}", f"{row.chunks:,}", f"{row.launches:,}",
            f"{row.memory_bytes / 2**20:,.0f} MiB", f"{row.flops:.2g}", duration(row.seconds), row.decides)  # fmt: skip
