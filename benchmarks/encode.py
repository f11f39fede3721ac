"""Stage 1 beside PyTorch: how many images are encoded a second, and does memory grow with their number?

    python -m benchmarks.encode [--json FILE] [--trace FOLDER] [--model NAME --image-size N --classes C --ipc M]
    python -m benchmarks.encode --quick
    python -m benchmarks.encode --dataset FOLDER [--image-size 64] [--images 2000 all] [--teacher FOLDER] [--json FILE]

The first two: uint8 batches that lie in memory, C x M images each (on CPU 25, as the experiments have it), through
`jaxdd.encode` and through PyTorch (`torch_rivals`), from the same weights: features of every image to the host, mean
and total variance of every BatchNorm input of every class. Before, features and moments of both sides are compared in
float32, and more than 0.1 % apart end the run. A turn is a whole pass, what is done once at its end included, so its
length (--steps) matters a little.

With --dataset: images of a folder (train/<class>/*, val/<class>/*) are read, decoded, resized and encoded by ours, each
count in a process of its own, whose peak resident memory is printed. What grows with the count are the features.
"""

import argparse
import functools
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Mode, Side, Work
from benchmarks.recover import NORM
from jaxdd import data
from jaxdd.data.image import evenly_spaced
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import normalise
from jaxdd.stages import encode
from jaxdd.workspace.real_data import pass_size
from jaxdd.workspace.teachers import load_teacher

CPU = [Case("resnet18", 32, 5, 5), Case("convnet3", 32, 5, 5)]
GPU = [Case("resnet18", 224, 10, 25)]
QUICK = [Case("convnet3", 16, 10, 10)]
COUNTED = "convolutions and matrix products of the classifier, forward"
_WARM = 2  # batches of a stream that its rate leaves out, as they compile


def problem(case: Case) -> tuple[dict, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Variables, and four batches (images uint8, labels, valid)."""
    model, rng = harness.classifier(case), np.random.default_rng(2)
    variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    labels = lambda: rng.permutation(np.arange(case.batch, dtype=np.int32) % case.classes)
    valid = np.ones(case.batch, np.float32)
    return variables, [(harness.pictures(case, case.batch, seed), labels(), valid) for seed in range(4)]


def ours(case: Case, compute: str, variables: dict, batches: list) -> Side:
    apply = harness.classifier(case, compute).apply
    variables = jax.tree.map(jnp.asarray, variables)
    state = encode.init(apply, variables, case.image_shape, case.classes)
    step = jax.jit(lambda v, state, x, labels, valid: encode.step(apply, v, state, normalise(NORM, x), labels, valid))
    planned = harness.plan(step, variables, state, *batches[0])

    def advance(steps):
        # Features come back as NumPy arrays, so all work is done.
        encode.encode(apply, variables, NORM, itertools.islice(itertools.cycle(batches), steps), case.classes)

    return Side("ours", harness.turns(advance), planned)


def theirs(torch_rivals, case: Case, compute: str, variables: dict, batches: list, name: str, compile: bool) -> Side:
    rival = torch_rivals.Encoder(case, variables, NORM, Mode(compute, compile))
    pairs = [(images, labels) for images, labels, _ in batches]

    def advance(steps):
        rival.encode(itertools.islice(itertools.cycle(pairs), steps))
        torch_rivals.wait()

    return Side(name, harness.turns(advance))


def check(torch_rivals, case: Case, variables: dict, batches: list) -> None:
    """Both sides compute the same."""
    few = [tuple(part[: 4 * case.classes] for part in batch) for batch in batches[:2]]
    with torch_rivals.full_precision():
        mine = encode.encode(harness.classifier(case).apply, variables, NORM, few, case.classes)
        pairs = [(images, labels) for images, labels, _ in few]
        features, moments = torch_rivals.Encoder(case, variables, NORM, Mode("float32")).encode(pairs)
    harness.check_close("features", mine.features, features)
    seen = np.asarray(mine.counts) > 0
    for name, layer in mine.moments.items():
        for what, a, b in zip(("mean", "variance"), layer, moments[name]):
            harness.check_close(f"{what} of {name}", np.asarray(a)[seen], b.cpu().numpy()[seen])


def side_by_side(flags: argparse.Namespace) -> None:
    chosen = harness.cases(flags, CPU, GPU, QUICK)
    compute, torch_rivals = harness.dtype(flags), harness.rivals(flags)
    rows = []
    for case in chosen:
        variables, batches = problem(case)
        mine = functools.partial(ours, case, compute, variables, batches)
        rival = functools.partial(theirs, torch_rivals, case, compute, variables, batches)
        same = functools.partial(check, torch_rivals, case, variables, batches)
        others = harness.variants(torch_rivals, rival)
        timings = harness.measure(mine, others, flags, same, torch_rivals and torch_rivals.memory)
        peak = harness.matmul_peak(flags.quick)
        image = jax.ShapeDtypeStruct((case.batch, *case.image_shape), jnp.float32)
        counted = harness.flops(harness.classifier(case).apply, variables, image)
        rows += harness.rows(Work("encode", case, compute, counted, case.batch), timings, peak)
        harness.write(flags.json, rows)
        jax.clear_caches()
    harness.show(rows, COUNTED)


def stream(flags: argparse.Namespace) -> None:
    """Each count of images in a process of its own."""
    rows = []
    print(f"{'images':>8} {'images/s':>9} {'seconds':>8} {'first batch':>11} {'peak RSS MiB':>12} {'features MiB':>12}")
    for count in flags.images:
        command = [sys.executable, "-m", "benchmarks.encode", "--dataset", str(flags.dataset), "--images", str(count)]
        for name in ("image_size", "teacher", "model", "dtype"):
            if getattr(flags, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(flags, name))]
        done = subprocess.run([*command, "--child"], capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr, end="")
            raise SystemExit(done.returncode)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(f"{row['images']:8} {row['images_per_second']:9.1f} {row['seconds']:8.1f} {row['first_seconds']:11.2f} "
              f"{row['peak_rss_bytes'] / 2**20:12.1f} {row['features_bytes'] / 2**20:12.1f}", flush=True)  # fmt: skip
        harness.write(flags.json, rows)
    last = rows[-1]
    print(f"\n{last['model']} at {last['image_size']} px, batches of {last['batch']}, {last['dtype']}. "
          "images/s: reading and decoding included, without the first two batches.")  # fmt: skip
    harness.stamp(last)


def child(flags: argparse.Namespace) -> dict:
    """Encode the images, in this process, and say what it took."""
    compute = harness.dtype(flags)
    if flags.teacher:
        compute, teacher = "float32", load_teacher(flags.teacher)
        name, apply, variables, norm = teacher.info["model"], teacher.apply, teacher.variables, teacher.norm
        source = data.load(str(flags.dataset), flags.image_size or teacher.info["image_shape"][0], 3)
        fits = teacher.info["image_shape"] == list(source.image_shape)
        if not fits or len(teacher.info["class_names"]) != len(source.class_names):
            raise InputError(
                f"teacher {flags.teacher} knows {len(teacher.info['class_names'])} classes of images "
                f"{teacher.info['image_shape']}, {flags.dataset} has {len(source.class_names)} of "
                f"{list(source.image_shape)}; leave out --teacher or --image-size"
            )
    else:
        source = data.load(str(flags.dataset), flags.image_size or 64, 3)
        case = Case(flags.model or "convnet5", source.image_shape[0], len(source.class_names), 1)
        model = harness.classifier(case, compute)
        name, apply, norm = case.model, model.apply, NORM
        variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    total = sum(map(len, source.labels.values()))
    chosen = evenly_spaced(total, total if flags.images == ["all"] else int(flags.images[0]))
    border, stamps = len(source.labels["train"]), []

    def batches():
        for split, rows in (("train", chosen[chosen < border]), ("test", chosen[chosen >= border] - border)):
            for batch in data.batches(source, split, pass_size(), rows):
                stamps.append(time.perf_counter())
                yield batch

    encoded = encode.encode(apply, variables, norm, batches(), len(source.class_names))
    ended, left = time.perf_counter(), len(chosen) - _WARM * pass_size()
    return {
        "benchmark": "encode stream", "side": "ours", "model": name, "image_size": source.image_shape[0],
        "classes": len(source.class_names), "batch": pass_size(), "dtype": compute, "images": len(encoded.features),
        "images_per_second": left / (ended - stamps[_WARM]) if left > 0 else len(chosen) / (ended - stamps[0]),
        "seconds": ended - stamps[0], "first_seconds": stamps[min(1, len(stamps) - 1)] - stamps[0],
        "peak_rss_bytes": peak_rss(), "features_bytes": encoded.features.nbytes, **harness.versions(),
    }  # fmt: skip


def peak_rss() -> int:
    """The most memory that this process ever had resident, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux lets a new program inherit the ru_maxrss of the one that started it; this figure it does not.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    flags = harness.parser(__doc__)
    flags.add_argument("--dataset", type=Path, help="stream a folder of images")
    flags.add_argument("--images", nargs="+", default=["2000", "all"], help="how many of them, evenly spaced")
    flags.add_argument("--teacher", type=Path, help="stream through this teacher of jaxdd train, in float32")
    flags.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = flags.parse_args()
    if flags.dataset is None:
        return side_by_side(flags)
    for count in flags.images:
        if count != "all" and (not count.isdecimal() or int(count) < 1):
            raise InputError(f"--images {count}: give a number of images, or all")
    if flags.child:
        return print(json.dumps(child(flags)))
    return stream(flags)


if __name__ == "__main__":
    harness.entry(main)
