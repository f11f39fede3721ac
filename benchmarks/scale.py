"""What do more classes, more images a class and more devices cost, in time and in memory?

    python -m benchmarks.scale [--json FILE] [--classes C ... --ipc M ... --devices D ...]
    python -m benchmarks.scale [--model NAME --image-size N --width W --points N --steps S --dtype float32|bfloat16]
    python -m benchmarks.scale --project 5e-5
    python -m benchmarks.scale --quick

All numbers of classes with all IPC on one device; the middle ones of both on all numbers of devices. Each run

1. summarizes: free weights, points of a mixture, as many features as the model has (`jaxdd.summarize`): the median of
   three calls after one that compiles, of fewer where a call takes long;
2. recovers from these atoms, the model's weights drawn at random: `chunks.run` chooses a chunk of classes and compiles
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
from pathlib import Path

import jax

from benchmarks import harness
from benchmarks.scale_report import project, show
from benchmarks.scale_stages import Run, measured
from jaxdd import nn
from jaxdd.ground.errors import InputError


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
    changes = {name: getattr(flags, name) for name in Run._fields[:6] if name != "dtype"}
    first = first._replace(**{name: value for name, value in changes.items() if value is not None})

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
