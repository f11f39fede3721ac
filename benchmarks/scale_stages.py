"""One run of `benchmarks.scale`: both stages of one problem, timed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxdd
from benchmarks import harness
from benchmarks.harness import Case
from benchmarks.recover import NORM
from jaxdd import nn
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources, compiled_bytes
from jaxdd.ground.normalise import normalise
from jaxdd.nn import Moments
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover import chunks, descent, fitting
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings

STEPS = 2000  # of a full recovery
REPEATS, PATIENCE = 3, 30.0  # timed runs of each stage, and seconds after which there is no further one
HOST_BYTES = 4 * 2**30  # what chunks may take where devices share the host's memory
MODES = 8  # of the mixture that a class's points come from


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

    @property
    def case(self) -> Case:
        """What the model sees."""
        return Case(self.model, self.image_size, self.classes, self.ipc)


def measured(run: Run) -> dict:
    """Both stages on the first ``run.devices`` devices."""
    devices = tuple(jax.local_devices()[: run.devices])
    compute = None if run.dtype == "float32" else run.dtype
    model = nn.get(run.model, run.classes, run.image_size, run.width, dtype=compute)
    variables = harness.drawn(lambda key: model.init(key, run.case.image_shape))
    image = jax.ShapeDtypeStruct((1, *run.case.image_shape), np.float32)
    out = jax.eval_shape(model.apply, variables, image)
    row = {"benchmark": "scale", **run._asdict(), "features": out.features.shape[1], "host_bytes_before": host_peak()}
    points, labels = mixture(run.classes, run.points, out.features.shape[1])
    seconds, first, atoms = summarized(points, labels, run.ipc, devices)
    row |= {"summarize_seconds": seconds, "summarize_first_seconds": first}
    row |= {"points_bytes": points.nbytes, "host_bytes_summarize": host_peak()}
    del points, labels
    goal = goal_of(atoms, {name: layer.mean.shape[1] for name, layer in out.moments.items()})
    row |= recovered(run, Teacher(model.apply, variables, NORM), goal, devices)
    stats = devices[0].memory_stats() or {}
    row |= {"host_bytes": host_peak(), "device_peak_bytes": stats.get("peak_bytes_in_use")}
    return row | harness.versions()


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


def summarized(points: np.ndarray, labels: np.ndarray, ipc: int, devices: tuple[jax.Device, ...]):
    """Seconds, those of the first call, and the atoms."""
    resources = Resources(2**30, devices)
    solve = lambda: jax.block_until_ready(jaxdd.summarize(points, labels, ipc, resources=resources))
    first, summary = _clocked(solve)
    seconds = []
    while not seconds or (len(seconds) < REPEATS and sum(seconds) < PATIENCE):
        seconds.append(_clocked(solve)[0])
    return float(np.median(seconds)), first, jax.tree.map(np.asarray, summary.atoms)


def recovered(run: Run, teacher: Teacher, goal: Goal, devices: tuple[jax.Device, ...]) -> dict:
    """The recover stage: time and bytes of a chunk, and all chunks' projected time."""
    resources, shape = Resources(HOST_BYTES, devices), run.case.image_shape
    placement = Placement(resources.mesh, resources.bytes_per_device).beside(run.classes)
    fused, _ = fitting.plan(teacher.apply, teacher.variables, (run.ipc, *shape), run.classes, placement)
    # A chunk that needs blocks to be computed twice would be another program than the one timed below.
    settings = RecoverSettings(steps=-(-run.steps // fused) * fused, remat="never")
    images = np.asarray(normalise(NORM, harness.pictures(run.case, run.ipc)), np.float32)
    sizes = []

    def start(rows):
        sizes.append(len(rows))
        return np.broadcast_to(images, (len(rows), *images.shape))

    parts = chunks.run(jax.random.key(0), teacher, settings, goal, start, shape, placement)
    first, _ = _clocked(lambda: next(parts))
    parts.close()
    places = parallel.chunks(run.classes, sizes[-1])
    begun = np.broadcast_to(images, (sizes[-1], *images.shape))
    part = fitting.rows_of(goal, places[0], settings)
    each, ends, sizes_in_bytes = chunk_seconds(teacher, settings, fused, placement, part, begun)
    step, end = float(np.median(each)), float(np.median(ends))
    total = len(places) * (end + STEPS * step)
    return {
        "chunk_classes": sizes[-1], "chunks": len(places), "timed_steps": settings.steps, "fused_steps": fused,
        "step_seconds": step, "step_seconds_each": each, "chunk_end_seconds": end,
        "recover_first_seconds": first, "projected_steps": STEPS, "recover_seconds_projected": total,
        "image_steps_per_second": run.classes * run.ipc * STEPS / total, **sizes_in_bytes,
    }  # fmt: skip


def chunk_seconds(
    teacher: Teacher, settings: RecoverSettings, fused: int, placement: Placement, goal: Goal, start: np.ndarray
) -> tuple[list[float], list[float], dict[str, int]]:
    """Seconds of a step and of a beginning with its end, one for each repeat of a chunk, and its bytes on a device."""
    local = placement.local
    # The same program at the same shapes, named by the same keywords, so that nothing is compiled again.
    solver = descent.recovery(teacher.apply, jax.random.key(0), NORM, settings, placement.group, local)
    variables = parallel.put(teacher.variables, local, parallel.SAME)
    state_at, goal_at = fitting.shardings(solver, settings, local)
    part = jax.device_put(goal, goal_at)
    init = jax.jit(solver.init, out_shardings=state_at)
    begin = lambda: jax.block_until_ready(init(parallel.put(start, local)))

    def advance(state):
        curve = []
        for _ in range(settings.steps // fused):
            state, terms = solver.step(variables, state, part, count=fused, coarse=False)
            curve.append(terms)
        return jax.block_until_ready((state, curve))

    state = begin()
    need = compiled_bytes(solver.program(variables, state, part, count=fused, coarse=False).lower().compile())
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    each, ends = [], []
    while len(each) < 1 + REPEATS:  # the first only warms
        before, state = _clocked(begin)
        seconds, (state, curve) = _clocked(lambda state=state: advance(state))
        after, _ = _clocked(lambda state=state, curve=curve: jax.device_get((state.images, curve)))
        each.append(seconds / settings.steps)
        ends.append(before + after)
        if len(each) > 1 and sum(each) * settings.steps > PATIENCE:
            break
    return each[1:], ends[1:], {"step_bytes": need, "state_bytes": held}


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
