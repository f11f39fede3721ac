"""The tables of `benchmarks.scale`: how time and memory grow, why, and what ImageNet-1K would take."""

import math

from benchmarks import harness
from benchmarks.scale_stages import REPEATS, STEPS

# Hours for ImageNet-1K at IPC 10 as published: not measured here.
PUBLISHED = {"SRe2L, published, one RTX 4090": 6.0, "WMDD, published, one RTX 4090": 0.75}


def axes(rows: list[dict]) -> list[tuple[str, str, list[dict]]]:
    """(title, what grows, rows in which nothing else does), for all that have two rows or more."""
    tables = []
    for title, axis, fixed in (
        ("More classes", "classes", ("ipc", "devices")),
        ("More images a class", "ipc", ("classes", "devices")),
        ("More devices", "devices", ("classes", "ipc")),
    ):
        for place in dict.fromkeys(tuple(row[name] for name in fixed) for row in rows):
            some = [row for row in rows if tuple(row[name] for name in fixed) == place]
            if len(some) > 1:
                kept = ", ".join(f"{name} {value}" for name, value in zip(fixed, place))
                tables.append((f"{title} ({kept})", axis, sorted(some, key=lambda row: row[axis])))
    return tables


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
