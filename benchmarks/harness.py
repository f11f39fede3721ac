"""What the side-by-side benchmarks share: the clock, the counts of floating-point operations and bytes, rows and table.

All sides of a case run in one process on one device, on the same arrays. After a warm-up they take turns, one repeat
each, so that a machine that slows down slows all of them; a ratio is the median of those of the pairs.
"""

import argparse
import contextlib
import datetime
import functools
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import nn
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import compiled_bytes, keep_freed
from jaxdd.ground.tracing import flops_in

_CPU_SECONDS, _GPU_SECONDS = 2.0, 1.0  # what a repeat of the slowest side shall last


class Case(NamedTuple):
    """What is run: ``classes`` x ``ipc`` square images at a time."""

    model: str
    image_size: int
    classes: int
    ipc: int

    @property
    def batch(self) -> int:
        return self.classes * self.ipc

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3


class Work(NamedTuple):
    """What a step of every side does."""

    benchmark: str
    case: Case
    compute: str  # dtype
    flops: int  # what all sides are said to compute
    images: int  # how many of them


class Mode(NamedTuple):
    """How a rival computes."""

    dtype: str
    compiled: bool = False


class Side(NamedTuple):
    """One implementation: ``run(steps)`` takes so many steps, waits for them and returns the seconds."""

    name: str
    run: Callable[[int], float]
    plan: int | None = None  # bytes that XLA plans for one launch: arguments, results and what lies between
    note: str = ""


class Timing(NamedTuple):
    """What was measured of one side; no seconds if it failed."""

    side: Side
    seconds: list[float]  # a step, one for each repeat
    peak: int | None  # most bytes of device memory held at a time
    first: float | None  # seconds until the first step was done, compilation included


def parser(doc: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks take."""
    flags = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", help="convnet3|4|5|6 or resnet18|34|50|101")
    flags.add_argument("--image-size", type=int)
    flags.add_argument("--classes", type=int)
    flags.add_argument("--ipc", type=int, help="images of each class")
    flags.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                       help="auto: float32 on CPU, else bfloat16")  # fmt: skip
    flags.add_argument("--repeats", type=int, default=5, help="timed turns of each side")
    flags.add_argument("--steps", type=int, help="steps a turn; default: what takes a second or two")
    flags.add_argument("--ours", action="store_true", help="leave the rivals out")
    flags.add_argument("--quick", action="store_true", help="a small case, within a minute on two cores")
    flags.add_argument("--json", type=Path, help="write the rows here")
    flags.add_argument("--trace", type=Path, help="write a jax.profiler trace of three of our steps here")
    return flags


def cases(flags: argparse.Namespace, on_cpu: list[Case], on_gpu: list[Case], quick: list[Case]) -> list[Case]:
    """The cases to run: those of the device, with what the flags say in the place of their own."""
    # Before the device is first touched: else JAX takes three quarters of a GPU's memory, and the rival has none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    known = quick if flags.quick else on_cpu if jax.default_backend() == "cpu" else on_gpu
    changes = {name: getattr(flags, name) for name in Case._fields if getattr(flags, name, None) is not None}
    for name, value in changes.items():
        if name != "model" and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if flags.repeats < 1 or (flags.steps or 1) < 1:
        raise InputError(f"--repeats {flags.repeats} --steps {flags.steps}: give 1 or more of both")
    chosen = [case for case in known if case.model == flags.model] or known[: 1 if "model" in changes else None]
    return list(dict.fromkeys(case._replace(**changes) for case in chosen))


def dtype(flags: argparse.Namespace) -> str:
    if flags.dtype == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return flags.dtype


def classifier(case: Case, compute: str = "float32") -> nn.Classifier:
    more = {} if compute == "float32" else {"dtype": compute}
    return nn.get(case.model, case.classes, case.image_size, **more)


def drawn(init: Callable, seed: int = 0) -> Any:
    """Variables of the shapes of ``init(key)``, drawn on the host: nothing is compiled, no statistic is trivial."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, normal = path[-1].key, rng.standard_normal(leaf.shape, np.float32)
        if name == "var":
            return (0.5 + rng.random(leaf.shape)).astype(np.float32)
        if name == "scale":
            return 1 + 0.1 * normal
        return normal * (0.1 if leaf.ndim < 2 else np.float32(math.sqrt(2 / np.prod(leaf.shape[:-1]))))

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


def pictures(case: Case, count: int, seed: int = 0) -> np.ndarray:
    """uint8 images [count, H, W, 3]: smooth, as photographs are."""
    coarse = np.random.default_rng(seed).random((count, 1 + case.image_size // 8, 1 + case.image_size // 8, 3))
    fine = coarse.repeat(8, 1).repeat(8, 2)[:, : case.image_size, : case.image_size]
    return (255 * fine).astype(np.uint8)


def rivals(flags: argparse.Namespace, name: str = "torch_rivals") -> ModuleType | None:
    """The module of the rivals where its packages are installed and use the device that JAX uses."""
    if flags.ours:
        return None
    # Threads that spin while they wait take the cores from JAX's, and from each other's runtime under torch.compile.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: the rivals' rows are left out (pip install {error.name})")
        return None
    if jax.default_backend() not in ("cpu", "gpu") or (jax.default_backend() == "gpu" and not module.has_gpu()):
        print(f"torch cannot use JAX's {jax.default_backend()}: the rivals' rows are left out")
        return None
    return module


def variants(module: ModuleType | None, make: Callable[..., Side]) -> list[Callable[[], Side]]:
    """Eager and compiled PyTorch, where there is any."""
    names = {"torch eager": False, "torch compiled": True} if module else {}
    return [functools.partial(make, name=name, compile=compile) for name, compile in names.items()]


def turns(advance: Callable[[int], object]) -> Callable[[int], float]:
    """`Side.run` of a function that takes so many steps and waits for them."""

    def run(steps):
        started = time.perf_counter()
        advance(steps)
        return time.perf_counter() - started

    return run


def plan(jitted: Callable, *arguments: Any) -> int:
    """`Side.plan` of a jitted function at these arguments; a donated one counts once."""
    return compiled_bytes(jitted.lower(*arguments).compile())


def check_close(what: str, ours: Any, theirs: Any, tolerance: float = 1e-3) -> None:
    """End the run unless the two sides compute the same: ||a - b|| <= tolerance ||a||."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise SystemExit(f"error: {what} of the rival has shape {theirs.shape}, ours {ours.shape}: nothing is compared")
    apart = np.linalg.norm(ours - theirs) / max(np.linalg.norm(ours), 1e-12)
    if not apart <= tolerance:
        raise SystemExit(f"error: {what} of the rival is {apart:.2g} away from ours: nothing is compared")


def measure(
    ours: Callable[[], Side],
    others: list[Callable[[], Side]],
    flags: argparse.Namespace,
    check: Callable[[], None],
    memory: Callable[[], Any] | None,
) -> list[Timing]:
    """Make and warm the sides one by one, then let them take turns.

    Args:
      ours, others: make a side; ``others`` may fail, which is then said in their row.
      check: ends the run where the sides differ. Called after our side is warm, so as not to count in its memory.
      memory: the rivals' context manager that yields a function for the bytes allocated above what was before it.
    """
    timings = [_warm(ours, _peak_bytes)]
    if others:
        check()
    for make in others:
        with memory() as held:
            try:
                timings.append(_warm(make, held))
            except Exception as error:  # a compiler of the rival's gave up: that is a finding, and is in the row
                reason = " ".join(str(error).split())[:100]
                note = f"failed: {type(error).__name__}: {reason}"
                timings.append(Timing(Side(make.keywords["name"], None, note=note), [], None, None))
    alive = [timing for timing in timings if timing.first is not None]
    steps = flags.steps
    if steps is None:
        slowest = max(timing.side.run(1) for timing in alive)
        wanted = _CPU_SECONDS if jax.default_backend() == "cpu" else _GPU_SECONDS
        steps = int(np.clip(wanted / (4 if flags.quick else 1) / slowest, 1, 200))
    alternate(alive, flags.repeats, steps)
    if flags.trace:
        with jax.profiler.trace(str(flags.trace)):
            timings[0].side.run(3)
    return timings


def _warm(make: Callable[[], Side], peak: Callable[[], int | None]) -> Timing:
    started = time.perf_counter()
    side = make()
    side.run(1)
    first = time.perf_counter() - started
    side.run(1)
    return Timing(side, [], peak(), first)


def alternate(timings: list[Timing], repeats: int, steps: int) -> None:
    """Fill in the seconds a step: one turn of each side, then again in the other order."""
    for i in range(repeats):
        for timing in timings if i % 2 == 0 else timings[::-1]:
            timing.seconds.append(timing.side.run(steps) / steps)


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return stats and stats.get("peak_bytes_in_use")


def flops(function: Callable, *arguments: Any) -> int:
    """`flops_in` of a function at these arguments."""
    return flops_in(jax.make_jaxpr(function)(*arguments).jaxpr)


def matmul_peak(quick: bool = False) -> dict:
    """The fastest square matrix product within a second: bfloat16 on an accelerator, float32 on CPU."""
    cpu = jax.default_backend() == "cpu"
    n = (1024 if quick else 2048) if cpu else 8192
    kind, launches = ("float32", 1) if cpu else ("bfloat16", 10)
    a = jax.random.normal(jax.random.key(0), (n, n)).astype(kind)
    square = jax.jit(lambda a: jnp.matmul(a, a))
    run = turns(lambda count: jax.block_until_ready([square(a) for _ in range(count)]))
    run(launches)
    seconds, started = [], time.perf_counter()
    while len(seconds) < 10 or time.perf_counter() - started < 1:
        seconds.append(run(launches) / launches)
    return {"n": n, "dtype": kind, "flops": 2 * n**3 / min(seconds)}


def rows(work: Work, timings: list[Timing], peak: dict, **more) -> list[dict]:
    """One row a side."""
    mine, case = timings[0].seconds, work.case
    lines = []
    for timing in timings:
        seconds = float(np.median(timing.seconds)) if timing.seconds else None
        pairs = np.array(timing.seconds) / mine if timing.seconds else None
        rate = seconds and work.flops / seconds
        lines.append({
            "benchmark": work.benchmark, "side": timing.side.name, **case._asdict(), "batch": case.batch,
            "dtype": work.compute, "images_steps_per_second": seconds and work.images / seconds,
            "seconds_per_step": seconds, "seconds": timing.seconds, "first_seconds": timing.first,
            "ours_times_as_fast": None if pairs is None else float(np.median(pairs)),
            "ours_times_as_fast_range": None if pairs is None else [float(pairs.min()), float(pairs.max())],
            "peak_bytes": timing.peak, "planned_bytes": timing.side.plan,
            "flops_per_step": work.flops, "flops_per_second": rate, "share_of_matmul": rate and rate / peak["flops"],
            "matmul": peak, "note": timing.side.note, **more, **versions(),
        })  # fmt: skip
    return lines


def versions() -> dict:
    """Where and with what the numbers were made."""
    about = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "processor": _processor()}
    for package in ("jax", "flax", "optax", "torch", "diffusers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            about[package] = metadata.version(package)
    return {"versions": about, "date": datetime.date.today().isoformat()}


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def show(lines: list[dict], counted: str) -> None:
    """The table."""
    if not lines:
        return
    print(f"{'model':10} {'px':>4} {'batch':>5} {'dtype':8} {'side':14} {'s/step':>9} {'images*steps/s':>14} "
          f"{'ours faster':>18} {'peak GiB':>8} {'plan GiB':>8} {'TFLOP/s':>8} {'of matmul':>9}")  # fmt: skip
    for row in lines:
        line = f"{row['model']:10} {row['image_size']:4} {row['batch']:5} {row['dtype']:8} {row['side']:14} "
        if row["seconds_per_step"] is None:
            print(line + row["note"])
            continue
        sizes = row["peak_bytes"], row["planned_bytes"]
        peak, planned = (f"{size / 2**30:8.3f}" if size else f"{'-':>8}" for size in sizes)
        low, high = row["ours_times_as_fast_range"]
        print(f"{line}{row['seconds_per_step']:9.4f} {row['images_steps_per_second']:14.1f} "
              f"{row['ours_times_as_fast']:5.2f} ({low:.2f}-{high:.2f}) {peak} {planned} "
              f"{row['flops_per_second'] / 1e12:8.3f} {100 * row['share_of_matmul']:7.1f} % {row['note']}")  # fmt: skip
    matmul = dict.fromkeys(f"{row['matmul']['flops'] / 1e12:.3g}" for row in lines)
    print(f"\nours faster: the rival's seconds over ours, median of the pairs (least-most). FLOP: {counted}, the same "
          f"for all sides.\npeak: {_memory_note()}; plan: XLA's for one launch of ours.\nmatmul: "
          f"{lines[-1]['matmul']['n']} squared in {lines[-1]['matmul']['dtype']}, after each case {', '.join(matmul)} "
          "TFLOP/s.")  # fmt: skip
    stamp(lines[-1])


def stamp(row: dict) -> None:
    """Device, versions and date in a line."""
    print(", ".join(f"{key} {value}" for key, value in row["versions"].items()) + f", {row['date']}")


def _memory_note() -> str:
    if jax.default_backend() == "cpu":
        return "not known on CPU"
    return "ours the process's (memory_stats, autotuning included), torch's max_memory_allocated above what was before"


def write(path: Path | None, lines: list[dict]) -> None:
    """The rows as JSON, one a line."""
    if path:
        path.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in lines) + "\n]\n")


def entry(main: Callable[[], None]) -> None:
    """Run a benchmark; bad input ends it with one line and status 2."""
    keep_freed()
    try:
        main()
    except InputError as error:
        # The package names its parameters in backticks; here they are flags.
        flag = lambda match: "--" + match.group(1).replace("_", "-")
        print(f"error: {re.sub('`([a-z_]+)`', flag, str(error))}")
        raise SystemExit(2) from error
