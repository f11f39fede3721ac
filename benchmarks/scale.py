"""What do more classes, more images a class and more devices cost, in time and in memory?

    python -m benchmarks.scale [--json FILE] [--classes C ... --ipc M ... --devices D ...]
    python -m benchmarks.scale [--model NAME --image-size N --width W --points N --steps S --dtype float32|bfloat16]
    python -m benchmarks.scale --project 5e-5
    python -m benchmarks.scale --quick

All numbers of classes with all IPC on one device; the middle ones of both on all numbers of devices. Each run

1. summarizes: free weights, points of a mixture, as many features as the model has (`jaxdd.summarize`): the median of
   three calls after one that compiles, of fewer where a call takes long;
2. recovers from these atoms, the model's weights drawn at random: `chunked.run` chooses a chunk of classes and compiles
   its program, and three such chunks are then timed over a few steps. The seconds for 2,000 steps are a projection,
   the number of chunks x (a chunk's beginning and end + 2,000 steps), since all chunks have one program and one shape.

On CPU ConvNet-3 of width 32 with 16 pixels (128 features) and 100 points a class; every run is a process of its own,
so that its memory is its own, with as many devices as it asks for forced out of the same cores: those rows tell memory
and overhead, not speed-up. On accelerators ResNet-18 with 224 pixels, 1,300 points and the real devices, in this
process. At last the recover stage of ImageNet-1K beside what others published; `--project` prints that alone, from
given seconds for one step of one image.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

import jaxdd
from benchmarks import harness
from benchmarks.harness import Case
from benchmarks.recover import NORM
from jaxdd import nn
from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import budget, compiled_bytes
from jaxdd.ground.normalise import normalise
from jaxdd.nn import Moments
from jaxdd.nn.classifier import Apply, Variables
from jaxdd.stages.images.recover import chunks as chunked
from jaxdd.stages.images.recover import descent as recover
from jaxdd.stages.images.recover.descent import Goal, RecoverSettings

STEPS = 2000  # of a full recovery
REPEATS, PATIENCE = 3, 30.0  # timed runs of each stage, and seconds after which there is no further one
HOST_BYTES = 4 * 2**30  # what chunks may take where devices share the host's memory
MODES = 8  # of the mixture that a class's points come from
# Hours for ImageNet-1K at IPC 10 as published: not measured here.
PUBLISHED = {"SRe2L, published, one RTX 4090": 6.0, "WMDD, published, one RTX 4090": 0.75}


class Run(NamedTuple):
    """One row's problem."""

    model: str
    image_size: int
    width: int | None  # None: the model's own
    dtype: str
    points: int  # of each class
    steps: int  # timed
    classes: int
    ipc: int
    devices: int


def measured(run: Run) -> dict:
    """Both stages on the first ``run.devices`` devices."""
    devices = jax.local_devices()[: run.devices]
    compute = None if run.dtype == "float32" else run.dtype
    model = nn.get(run.model, run.classes, run.image_size, run.width, dtype=compute)
    case = Case(run.model, run.image_size, run.classes, run.ipc)
    variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    image = jax.ShapeDtypeStruct((1, *case.image_shape), np.float32)
    out = jax.eval_shape(model.apply, variables, image)
    found = {"benchmark": "scale", **run._asdict(), "features": out.features.shape[1], "host_bytes_before": host_peak()}
    points, labels = mixture(run.classes, run.points, out.features.shape[1])
    seconds, first, atoms = summarized(points, labels, run.ipc, devices)
    found |= {"summarize_seconds": seconds, "summarize_first_seconds": first}
    found |= {"points_bytes": points.nbytes, "host_bytes_summarize": host_peak()}
    del points, labels
    goal = goal_of(atoms, {name: layer.mean.shape[1] for name, layer in out.moments.items()})
    found |= recovered(run, case, model.apply, variables, goal, devices)
    stats = devices[0].memory_stats() or {}
    found |= {"host_bytes": host_peak(), "device_peak_bytes": stats.get("peak_bytes_in_use")}
    return found | harness.versions()


def mixture(classes: int, count: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [classes x count, d] and labels: those of a class from several N(c, I), each c from N(0, 4 I)."""
    rng = np.random.default_rng(0)
    means = 2 * rng.standard_normal((classes, MODES, d), np.float32)
    points = rng.standard_normal((classes, count, d), np.float32)
    for k in range(MODES):
        points[:, k::MODES] += means[:, k, None]
    return points.reshape(-1, d), np.repeat(np.arange(classes, dtype=np.int32), count)


def goal_of(atoms: Measure, widths: dict[str, int]) -> Goal:
    """A goal of these atoms, with moments drawn at random."""
    rng, classes = np.random.default_rng(1), len(atoms.weights)
    normal = lambda n: 0.1 * rng.standard_normal((classes, n), np.float32)
    layers = {name: Moments(normal(n), 0.5 + rng.random((classes, n), np.float32)) for name, n in widths.items()}
    variance = np.float32(atoms.points.shape[2])
    return Goal(np.arange(classes, dtype=np.int32), atoms, np.asarray(atoms.points).mean(1), layers, variance)


def summarized(points: np.ndarray, labels: np.ndarray, ipc: int, devices: Sequence[jax.Device]):
    """Seconds, those of the first call, and the atoms."""
    solve = lambda: jax.block_until_ready(jaxdd.summarize(points, labels, ipc, devices=devices))
    first, summary = _clocked(solve)
    seconds = []
    while not seconds or (len(seconds) < REPEATS and sum(seconds) < PATIENCE):
        seconds.append(_clocked(solve)[0])
    return float(np.median(seconds)), first, jax.tree.map(np.asarray, summary.atoms)


def recovered(
    run: Run, case: Case, apply: Apply, variables: Variables, goal: Goal, devices: Sequence[jax.Device]
) -> dict:
    """The recover stage: time and bytes of a chunk, and all chunks' projected time."""
    local = parallel.mesh(devices)
    fused, _ = chunked.plan(apply, variables, (run.ipc, *case.image_shape), 1, run.classes, run.classes, local)
    steps = -(-run.steps // fused) * fused
    # A chunk that needs blocks to be computed twice would be another program than the one timed below.
    settings = RecoverSettings(steps=steps, remat="never")
    images = np.asarray(normalise(NORM, harness.pictures(case, run.ipc)), np.float32)
    asked = []

    def start(rows):
        asked.append(len(rows))
        return np.broadcast_to(images, (len(rows), *images.shape))

    key, memory_bytes = jax.random.key(0), budget(devices, HOST_BYTES)
    chunks = chunked.run(apply, variables, key, NORM, settings, goal, start, memory_bytes, 1, local)
    first, _ = _clocked(lambda: next(chunks))
    chunks.close()

    # The same program at the same shapes, named by the same keywords, so that nothing is compiled again.
    solver = recover.recovery(apply, key, NORM, settings, 1, local)
    same = parallel.put(variables, local, parallel.SAME)
    places = parallel.chunks(run.classes, asked[-1])
    wanted = zip(chunked.rows_of(goal, places[0], settings), recover.goal_specs(settings))
    part = Goal(*(parallel.put(rows, local, spec) for rows, spec in wanted))
    begun = start(places[0])
    specs = recover.state_specs(jax.eval_shape(solver.init, jax.ShapeDtypeStruct(begun.shape, np.float32)))
    init = jax.jit(solver.init, out_shardings=jax.tree.map(lambda spec: NamedSharding(local, spec), specs))
    begin = lambda: jax.block_until_ready(init(parallel.put(begun, local)))

    def advance(state):
        curve = []
        for _ in range(steps // fused):
            state, terms = solver.step(same, state, part, count=fused, coarse=False)
            curve.append(terms)
        return jax.block_until_ready((state, curve))

    state = begin()
    need = compiled_bytes(solver.lower(same, state, part, count=fused, coarse=False).compile())
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    each, ends = [], []
    while len(each) < 1 + REPEATS:  # the first only warms
        before, state = _clocked(begin)
        seconds, (state, curve) = _clocked(lambda state=state: advance(state))
        after, _ = _clocked(lambda state=state, curve=curve: jax.device_get((state.images, curve)))
        each.append(seconds / steps)
        ends.append(before + after)
        if len(each) > 1 and sum(each) * steps > PATIENCE:
            break
    step, end = float(np.median(each[1:])), float(np.median(ends[1:]))
    total = len(places) * (end + STEPS * step)
    return {
        "chunk_classes": asked[-1], "chunks": len(places), "timed_steps": steps, "fused_steps": fused,
        "step_seconds": step, "step_seconds_each": each[1:], "chunk_end_seconds": end,
        "recover_first_seconds": first, "projected_steps": STEPS, "recover_seconds_projected": total,
        "image_steps_per_second": run.classes * run.ipc * STEPS / total,
        "step_bytes": need, "state_bytes": held,
    }  # fmt: skip


def _clocked(call: Callable):
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def host_peak() -> int | None:
    """The most bytes of host memory that this process has held; None where the system does not say."""
    # Not getrusage's: that one begins with what the process had that started this one.
    table = Path("/proc/self/status")
    lines = table.read_text().splitlines() if table.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def forked(run: Run) -> dict:
    """`measured` in a process with as many CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={run.devices}".strip()
    command = [sys.executable, "-m", "benchmarks.scale", "--run", json.dumps(run._asdict())]
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=env, cwd=root, stdout=subprocess.PIPE, text=True)
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode == 2:
        raise InputError(last.removeprefix("error: "))
    if done.returncode:
        what = f"{run.classes} classes, IPC {run.ipc}, {run.devices} devices"
        raise SystemExit(f"error: {what} ended with status {done.returncode} (-9: out of memory); try smaller ones")
    return json.loads(last)


def axes(rows: list[dict]) -> list[tuple[str, str, list[dict]]]:
    """(title, what grows, rows in which nothing else does), for all that have two rows or more."""
    found = []
    for title, axis, fixed in (
        ("More classes", "classes", ("ipc", "devices")),
        ("More images a class", "ipc", ("classes", "devices")),
        ("More devices", "devices", ("classes", "ipc")),
    ):
        for place in dict.fromkeys(tuple(row[name] for name in fixed) for row in rows):
            some = [row for row in rows if tuple(row[name] for name in fixed) == place]
            if len(some) > 1:
                kept = ", ".join(f"{name} {value}" for name, value in zip(fixed, place))
                found.append((f"{title} ({kept})", axis, sorted(some, key=lambda row: row[axis])))
    return found


# Heading, what is shown, the unit, decimals, whether growth is shown too.
COLUMNS = (
    ("summarize s", "summarize_seconds", 1, 3, True),
    ("chunk", "chunk_classes", 1, 0, False),
    ("chunks", "chunks", 1, 0, False),
    ("ms/step", "step_seconds", 1e-3, 2, True),
    ("2,000 steps s", "recover_seconds_projected", 1, 1, True),
    ("images*steps/s", "image_steps_per_second", 1, 0, False),
    ("step MiB/dev", "step_bytes", 2**20, 2, True),
    ("state MiB/dev", "state_bytes", 2**20, 2, True),
    ("host MiB", "host_bytes", 2**20, 0, True),
)


def show(rows: list[dict], on_cpu: bool) -> None:
    first = rows[0]
    width = f" of width {first['width']}" if first["width"] else ""
    print(f"\n{first['model']}{width}, {first['image_size']} px, {first['dtype']}, {first['points']} points a class of "
          f"{first['features']} features; x: growth against the row before")  # fmt: skip
    if on_cpu and max(row["devices"] for row in rows) > 1:
        print("forced host devices share the same cores: their rows tell memory a device and overhead, NOT speed-up")
    for title, axis, some in axes(rows) or [("", "classes", rows)]:
        heads = (f"  {name:>{max(7, len(name))}}" + grows * f"{'x':>6}" for name, *_, grows in COLUMNS)
        print(f"\n{title}\n{axis:>8} {'x':>5}" + "".join(heads))
        for before, row in zip([None, *some], some):
            line = f"{row[axis]:8} {_growth(before, row, axis):>5}"
            for head, name, unit, decimals, grows in COLUMNS:
                value = "-" if row[name] is None else f"{row[name] / unit:,.{decimals}f}"
                line += f"  {value:>{max(7, len(head))}}" + grows * f"{_growth(before, row, name):>6}"
            print(line)
        if len(some) > 1:
            powers = (f"{head} ~ {axis}^{_power(some, axis, name)}" for head, name, *_, grows in COLUMNS if grows)
            print("  first to last: " + ", ".join(powers))
    print(WHY + (WHY_CPU if on_cpu else WHY_ACCELERATOR))
    harness.stamp(first)


WHY = f"""
Why. No class depends on another: both stages cost what their classes cost one by one, and twice the classes on twice
the (real) devices should take the same time.
- summarize: IPC 1 is the mean. Above, an iteration of k-means is mostly a product of n points with m atoms: time grows
  with m as far as that product is what costs.
- recover: all chunks have one shape and run one program, so time is their number x that of one: `2,000 steps s` is
  that product, projected from {REPEATS} timed chunks; ms/step is one chunk's, on all devices. The last chunk is filled
  up with classes of weight zero that cost as much as others; images*steps/s counts real images only.
- step MiB: what XLA plans for a launch on a device: the images and Adam's two moments (together: state MiB), the
  activations of a chunk, and the model, of which the last layer alone grows with the classes.
- host MiB: the most that the process ever held: JAX and its compiler, the points (classes x points x features x 4
  bytes, and those of two chunks once more), and on CPU what the devices hold."""
WHY_CPU = """
- A core takes ten to twenty images at a time (whole classes, at least one), as larger activations leave the cache: step
  MiB hardly grows with the classes, and with IPC only where one class has more. A chunk has as many for each device,
  so few classes on many devices leave places that are filled up for nothing."""
WHY_ACCELERATOR = """
- An accelerator takes as many classes at a time as there are and fit: step MiB grows with the images until a chunk
  holds no more, and from there the number of chunks grows. host MiB includes the runs before: all share a process."""


def _growth(before: dict | None, row: dict, name: str) -> str:
    if not before or not before[name] or row[name] is None:
        return "-"
    ratio = row[name] / before[name]
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}"


def _power(rows: list[dict], axis: str, name: str) -> str:
    first, last = rows[0], rows[-1]
    if not first[name] or not last[name]:
        return "-"
    return f"{math.log(last[name] / first[name]) / math.log(last[axis] / first[axis]):.2f}"


def project(source: str, seconds: float) -> None:
    """The recover stage of ImageNet-1K from the seconds that one step of one image takes."""
    print(f"\nImageNet-1K, recover only: 1,000 classes x IPC x {STEPS:,} steps x seconds an image and step")
    print(f"{'':60} {'s/image/step':>12} {'IPC 10':>10} {'IPC 50':>10}")
    hours = [1000 * ipc * STEPS * seconds / 3600 for ipc in (10, 50)]
    print(f"{source:60} {seconds:12.3g} " + " ".join(f"{_hours(value):>10}" for value in hours))
    for name, value in PUBLISHED.items():
        print(f"{name:60} {'-':>12} {_hours(value):>10} {'-':>10}")
    print("published: SRe2L 6 h, WMDD by its 0.013 s an iteration of 100 images. Both are\n"
          "ResNet-18 at 224 px, and only figures of that model and size can be compared with them.")  # fmt: skip


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--classes", type=int, nargs="+", help="default: 10 100 1000")
    flags.add_argument("--ipc", type=int, nargs="+", help="images of each class; default: 1 10 50")
    flags.add_argument("--devices", type=int, nargs="+", help="default: 1 2 4 8, of accelerators as many as there are")
    flags.add_argument("--model", help="convnet3|4|5|6 or resnet18|34|50|101")
    flags.add_argument("--image-size", type=int)
    flags.add_argument("--width", type=int, help="channels of the model's first block")
    flags.add_argument("--points", type=int, help="of each class")
    flags.add_argument("--steps", type=int, help="steps that are timed of a chunk")
    flags.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                       help="auto: float32 on CPU, else bfloat16")  # fmt: skip
    flags.add_argument("--project", type=float, metavar="SECONDS_PER_IMAGE_STEP", help="only the projection, from this")
    flags.add_argument("--quick", action="store_true", help="a few small runs, within a minute on two cores")
    flags.add_argument("--json", type=Path, help="write the rows here")
    flags.add_argument("--run", help=argparse.SUPPRESS)
    return flags


def runs(flags: argparse.Namespace, on_cpu: bool) -> list[Run]:
    """The grid on the fewest devices, then its middle on more; with ``--quick`` the middle's row and column only."""
    here = len(jax.local_devices())
    known = [1, 2, 4, 8] if on_cpu else sorted({k for k in (1, 2, 4, 8) if k < here} | {here})
    classes = flags.classes or ([10, 20] if flags.quick else [10, 100, 1000])
    ipc = flags.ipc or ([1, 2] if flags.quick else [1, 10, 50])
    devices = flags.devices or (known[:2] if flags.quick else known)
    classes, ipc, devices = (sorted(set(values)) for values in (classes, ipc, devices))
    first = Run("convnet3", 16, 32, harness.dtype(flags), 100, 100, 0, 0, 0)
    if not on_cpu:
        first = first._replace(model="resnet18", image_size=224, width=None, points=1300, steps=200)
    if flags.quick:
        first = Run("convnet3", 16, 32, first.dtype, 50, 100, 0, 0, 0)
    if flags.model and flags.model != first.model:
        first = first._replace(width=None)
    given = {name: getattr(flags, name) for name in Run._fields[:6] if name != "dtype"}
    first = first._replace(**{name: value for name, value in given.items() if value is not None})

    numbers = {"classes": classes[0], "ipc": ipc[0], "devices": devices[0], "points": first.points,
               "steps": first.steps, "image-size": first.image_size}  # fmt: skip
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"--{name} {value}: give 1 or more")
    if first.points < ipc[-1]:
        raise InputError(f"--points {first.points} a class cannot give --ipc {ipc[-1]} atoms; give as many or more")
    if not on_cpu and devices[-1] > here:
        raise InputError(f"--devices {devices[-1]}, but there are {here} here; give at most that many")
    nn.get(first.model, classes[-1], first.image_size, first.width)

    middle = classes[len(classes) // 2], ipc[len(ipc) // 2]
    grid = [(c, m) for m in ipc for c in classes if not flags.quick or c == middle[0] or m == middle[1]]
    chosen = [(c, m, devices[0]) for c, m in grid] + [(*middle, k) for k in devices[1:]]
    return [first._replace(classes=c, ipc=m, devices=k) for c, m, k in chosen]


def main() -> None:
    flags = parser().parse_args()
    if flags.run:
        print(json.dumps(measured(Run(**json.loads(flags.run)))))
        return
    if flags.project is not None:
        if not 0 < flags.project < math.inf:
            raise InputError(f"--project {flags.project}: give the seconds that one step of one image takes")
        project("given", flags.project)
        return
    on_cpu = jax.default_backend() == "cpu"
    rows = []
    for run in runs(flags, on_cpu):
        row = forked(run) if on_cpu else measured(run)
        rows.append(row)
        harness.write(flags.json, rows)
        jax.clear_caches()
        times = f"summarize {row['summarize_seconds']:.3f} s, 2,000 steps {row['recover_seconds_projected']:.1f} s"
        print(f"{run.classes} classes, IPC {run.ipc}, devices {run.devices}: {times}", flush=True)
    show(rows, on_cpu)
    best = max(rows, key=lambda row: row["image_steps_per_second"])
    alike = (best["model"], best["image_size"]) == ("resnet18", 224)
    of = f"measured: {best['model']}, {best['image_size']} px, devices {best['devices']}"
    project(of + ("" if alike else " (NOT comparable)"), 1 / best["image_steps_per_second"])


if __name__ == "__main__":
    harness.entry(main)
