"""The class axis over devices: who owns what, and eight devices against one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st

from jaxdd.ground import parallel
from jaxdd.workspace import teachers


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 7))
def test_processes_own_all_classes_once_in_whole_groups_and_even_shares(count, processes, devices, together):
    names = [SimpleNamespace(process_index=p, id=100 * p + d) for p in range(processes) for d in range(devices)]
    whole = SimpleNamespace(devices=np.array(names))
    owned = []
    with pytest.MonkeyPatch.context() as patch:
        for p in range(processes):
            patch.setattr(jax, "process_index", lambda p=p: p)
            owned.append(parallel.local_classes(count, whole, together))
    np.testing.assert_array_equal(np.concatenate(owned), np.arange(count))
    groups = [set(rows // together) for rows in owned]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert max(map(len, groups)) - min(map(len, groups)) <= devices


@given(st.integers(1, 50), st.integers(1, 12))
def test_chunks_hold_every_place_once_and_have_one_shape(count, size):
    result = parallel.chunks(count, size)
    assert {len(places) for places in result} == {size}
    everything = np.concatenate(result)
    np.testing.assert_array_equal(everything[everything >= 0], np.arange(count))
    assert len(everything) - count < size
    taken = parallel.take({"x": np.arange(count) * 2}, everything)["x"]
    np.testing.assert_array_equal(taken, np.where(everything >= 0, everything, 0) * 2)


def test_a_mesh_keeps_the_devices_of_a_host_side_by_side():
    (device,) = set(parallel.mesh().devices.flat) & set(jax.local_devices()[:1])
    names = [(1, 5), (0, 3), (1, 2), (0, 1)]

    class Named:
        def __init__(self, process, number):
            self.process_index, self.id, self.platform = process, number, device.platform

    result = parallel.mesh([Named(*name) for name in names]).devices.flat
    assert [(x.process_index, x.id) for x in result] == [(0, 1), (0, 3), (1, 2), (1, 5)]


# On eight devices: every stage on all of them and on the first alone; the programs' text.
EIGHT = """
import tempfile
from pathlib import Path
import numpy as np, jax, jax.numpy as jnp
from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.stages import encode
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover import chunks, fitting, descent, loss, slices
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings
from jaxdd import planning
from jaxdd.data.augment import Augment
from jaxdd.ground.machines import machine
from jaxdd.stages.relabel import storing
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import train
from jaxdd.students.protocol import SOFT
from jaxdd.students.train import TrainSettings

assert jax.device_count() == 8
eight, one = parallel.mesh(), parallel.mesh(jax.devices()[:1])
model = nn.get("convnet3", 13, 8, width=4)
variables = model.init(jax.random.key(0), (8, 8, 1))
norm = Normalisation(np.array([0.5], np.float32), np.array([0.25], np.float32))
rng = np.random.default_rng(0)
M, STEPS = 2, 4
teacher = Teacher(model.apply, variables, norm)

def close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-4, atol=atol), a, b)

images = rng.integers(0, 256, (3, 21, 8, 8, 1), np.uint8)
labels = rng.integers(0, 13, (3, 21)).astype(np.int32)
valid = np.ones((3, 21), np.float32)
valid[2, 15:] = 0
pair = [encode.encode(model.apply, variables, norm, zip(images, labels, valid), 13, mesh=m) for m in (eight, one)]
assert pair[0].features.shape == (57, 4)
close(*pair, 1e-5)
encoded = pair[1]

def goal(count):
    atoms = Measure(rng.normal(size=(count, M, 4)).astype(np.float32), np.full((count, M), 1 / M, np.float32))
    moments = jax.tree.map(lambda x: x[:count] + 0.1, encoded.moments)
    means = rng.normal(size=(count, 4)).astype(np.float32)
    return Goal(np.arange(count, dtype=np.int32), atoms, means, moments, np.float32(1.0))

def recovered(local, settings, goal, count):
    group = 3 if settings.moments == "global" else 1
    start = lambda rows: loss.noise(jax.random.key(1), jnp.asarray(goal.classes[rows]), (M, 8, 8, 1))
    placement = Placement(local, 2**30, group)
    parts = list(chunks.run(jax.random.key(2), teacher, settings, goal, start, (8, 8, 1), placement))
    assert sorted(np.concatenate([part.places for part in parts])) == list(range(count))
    return {int(c): (part.images[k], *(term[:, k] for term in part.terms))
            for part in parts for k, c in enumerate(part.places)}

used, recovery = [], fitting.recovery
fitting.recovery = lambda *arguments: used.append(arguments[-1].devices.size) or recovery(*arguments)

settings = RecoverSettings(steps=STEPS, flip=False, mean_weight=1.0)
# Thirteen classes, and the first ten of them alone, which are the same.
found = goal(13)
first = fitting.rows_of(found, np.arange(10), settings)
alone = recovered(one, settings, found, 13)
close(recovered(eight, settings, found, 13), alone, 1e-5)
close(recovered(eight, settings, first, 10), {c: alone[c] for c in range(10)}, 1e-5)
# Global moments: groups of three classes, which stay whole, the last one filled up.
bound = RecoverSettings(steps=STEPS, flip=False, moments="global", weighted_moments=False, start="noise")
found = goal(13)._replace(moments=encode.global_moments(encoded))
close(*(recovered(local, bound, found, 13) for local in (eight, one)), 1e-5)
# The two images of each class apart: ten groups, all eight devices at work.
start = lambda rows: loss.noise(jax.random.key(1), jnp.asarray(rows), (M, 8, 8, 1))

def apart(local):
    placement = Placement(local, 2**30, 3)
    run = lambda *part: chunks.in_turn(jax.random.key(2), part[0], bound, part[1], (8, 8, 1), placement)
    tasks = [chunks.Task(teacher, found)]
    return [done.images for done in slices.in_slices(run, bound, tasks, chunks.Pictures(start), 3, 1)]

close(*(apart(local) for local in (eight, one)), 1e-5)
print("devices used:", used)

# A training of all on batches of which each has a part, and its plan.
whole = train.trainer(model, TrainSettings(2, 16, "sgd", 0.05, augment=Augment("pad", mix="cutmix")), 6,
                      HardLabels().criterion(), norm)
batch = rng.integers(0, 256, (6, 16, 8, 8, 1), np.uint8), np.eye(13, dtype=np.float32)[rng.integers(0, 13, (6, 16))]
stream = lambda first: zip(*(part[first:] for part in batch), np.ones((6, 16), np.float32)[first:])

def trained(local):
    parallel.dividing = lambda size: local
    state, batches = train.spread(whole.init(jax.random.key(5), (8, 8, 1)), stream, 16)
    state, losses = train.fit(whole.step, state, jax.random.key(6), batches, 6)
    far = planning.made([train.work("train", whole, (8, 8, 1), (16, 13, 6), "")], machine("v5e-4")).rows[0]
    assert state.step.sharding.device_set == set(local.devices.flat)
    return (state.variables, losses), far.flops, far.memory_bytes

a, b = trained(eight), trained(one)
close(a[0], b[0], 2e-4)
assert a[1] == b[1] and 0.5 < a[2] / b[2] <= 1, (a, b)

# Stored labels: 13 steps, which leave three devices out at the end; then one shard of five steps again.
pictures = rng.normal(size=(26, 8, 8, 1)).astype(np.float32)
names = tuple(map(str, range(13)))
data = DistilledDataset(pictures, np.repeat(np.arange(13), 2), np.ones(26, np.float32), names, norm, {})
form = storing.LabelSettings("float32", epochs=1)
folder = Path(tempfile.mkdtemp())

def labels(name):
    stored = storing.materialise(folder / name, data, SOFT.stream(26)._replace(batch_size=2), teacher, form, 3, 520)
    assert len(stored.shards) == 3 and stored.steps == 13
    return [np.concatenate([shard[field] for shard in stored.shards]) for field in stored.shards[0].dtype.names]

found = labels("eight")
(folder / "eight" / "00001.npy").unlink()
close(found, labels("eight"), 0)
parallel.mesh = lambda *_: one
close(found, labels("one"), 1e-4)

solver = descent.recovery(model.apply, jax.random.key(2), norm, settings, 1, eight)
state_at, goal_at = fitting.shardings(solver, settings, eight)
state = jax.device_put(solver.init(jnp.zeros((8, M, 8, 8, 1))), state_at)
part = jax.device_put(fitting.rows_of(goal(13), np.arange(8), settings), goal_at)
print(solver.program(variables, state, part, count=2).lower().compile().as_text())
"""


@pytest.mark.slow
def test_eight_devices_recover_what_one_does_without_communication():
    root = Path(__file__).parents[2]
    # Unoptimised code compiles faster, and runs on little data.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", EIGHT], env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    # Thirteen and ten classes alone; five groups, which leave three devices out; ten groups of slices.
    assert "devices used: [1, 8, 8, 5, 1, 8, 1]" in done.stdout
    assert done.stdout.count("HloModule") == 1 and "num_partitions=8" in done.stdout
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in done.stdout


# Devices by what they say of themselves


class Device(NamedTuple):
    """A device that is not there."""

    platform: str
    compute_capability: str
    device_kind: str = "a card"


@pytest.mark.parametrize(
    ("device", "expected"),
    [(Device("gpu", "7.5"), False), (Device("gpu", "7.0"), False), (Device("gpu", "8.0"), True),
     (Device("gpu", "12.0"), True), (Device("gpu", "gfx942"), True), (Device("tpu", ""), True)])  # fmt: skip
def test_networks_compute_in_bfloat16_where_the_device_has_it(device, expected, monkeypatch):
    assert parallel.has_bfloat16(device) == expected
    monkeypatch.setattr(jax, "devices", lambda *_: [device])
    assert teachers.dtype_of("auto") == ("bfloat16" if expected else None)
    assert teachers.dtype_of("float32") is None
    if not expected:
        assert "a card has no bfloat16" in message(lambda: teachers.dtype_of("bfloat16"))


def test_devices_of_this_machine_are_here():
    assert parallel.is_here(parallel.mesh())
    assert parallel.has_bfloat16(jax.devices()[0]) and teachers.dtype_of("auto") is None
