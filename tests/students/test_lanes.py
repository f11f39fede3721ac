"""Students side by side are the students one by one, and so are their scores."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_helpers import LINEAR, SHAPE, UNIT, A, B, close, dataset, lane, linear_apply, linear_init

from jaxdd import nn
from jaxdd.data import permutations
from jaxdd.data.augment import Augment
from jaxdd.ground import memory, parallel
from jaxdd.ground.normalise import Normalisation
from jaxdd.nn.convnet import ConvNet
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import evaluation, lanes, protocol, train
from jaxdd.students.evaluation import Lane
from jaxdd.students.lanes import Limits
from jaxdd.students.train import TrainSettings

OPTIMISED = True

# Nine images in batches of four: batches join epochs, and nine steps are three launches of three.
SOFT = replace(protocol.SOFT, train=TrainSettings(4, 4, "sgd", 0.05, augment=Augment(crop="none")))
HARD = replace(SOFT, labels=HardLabels())
MIXED = replace(SOFT, train=replace(SOFT.train, augment=Augment(crop="none", mix="cutmix")))
STEPS = 9


# One block, because compiling takes most of the time here.
MODEL = nn.from_linen(ConvNet(3, depth=1, width=4))


@pytest.fixture(scope="module")
def linear():
    """(students, **limits) -> chunks of linear students with soft labels."""
    trainer = evaluation.student_trainer(LINEAR, SOFT, linear_apply, A)
    context = linear_init(jax.random.key(5), SHAPE)
    return lambda students, **limits: list(evaluation.side_by_side(trainer, SOFT, students, context, Limits(**limits)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits, sizes, steps",
    [
        ({"together": 3}, [3], [1] * 9),
        ({"together": 2}, [2, 1], [1] * 9),
        ({"together": 3, "launch": 20}, [3], [9]),
        ({"launch": 4}, [1, 1, 1], [3, 3, 3]),
        ({"together": 3, "launch": 9, "resident_bytes": 0}, [3], [1] * 9),
        ({"resident_bytes": 0}, [1, 1, 1], [1] * 9),
        ({"together": 3, "memory_bytes": 1}, [1, 1, 1], [1] * 9),
        ({"together": 3, "memory_bytes": 2**30}, [3], [1] * 9),
    ],
)
def test_chunks_launches_and_where_batches_come_from_change_nothing(linear, monkeypatch, limits, sizes, steps):
    students = [Lane(B, 2), Lane(A, 1), Lane(B, 1)]
    want = linear(students)
    assert [part.lanes.tolist() for part in want] == [[0], [1], [2]]
    streamed, launched = [], []
    batches, launches = lanes._Feed._batches, parallel.launches
    monkeypatch.setattr(lanes._Feed, "_batches", lambda *inputs: streamed.append(inputs) or batches(*inputs))
    monkeypatch.setattr(parallel, "launches", lambda *inputs: launched.append(launches(*inputs)) or launched[-1])
    parts = linear(students, **limits)
    assert [len(part.lanes) for part in parts] == sizes and launched == [steps]
    assert bool(streamed) == ("resident_bytes" in limits)
    for part in parts:
        assert {len(x) for x in jax.tree.leaves((part.variables, part.losses))} == {len(part.lanes)}
        for s, place in enumerate(part.lanes):
            close((lane(part.variables, s), part.losses[s]), (lane(want[place].variables, 0), want[place].losses[0]))


def test_the_devices_hold_one_copy_of_a_dataset(linear, monkeypatch):
    held, put = [], lanes.parallel.put
    keep = lambda tree, *places: held.append(tree) or put(tree, *places)
    monkeypatch.setattr(lanes.parallel, "put", keep)
    linear([Lane(A, 0), Lane(B, 0), Lane(A, 1)], together=3)
    (pool,) = [tree for tree in held if isinstance(tree, lanes.Pool)]
    np.testing.assert_array_equal(pool.images, np.stack([A.images, B.images]).reshape(pool.images.shape))
    assert pool.images.shape == (2, len(A.images), *lanes.kept_shape(A.images.shape[1:]))
    assert lanes.kept_shape((224, 224, 3)) == (1176, 128) and lanes.kept_shape((28, 28, 1)) == (28, 28, 1)


def test_weights_reach_the_loss():
    plain = replace(HARD, train=replace(HARD.train, augment=Augment(crop="none", flip=False)))
    trainer = evaluation.student_trainer(LINEAR, plain, linear_apply, A)
    images, weights = A.images.copy(), A.weights.copy()
    images[4], weights[4] = 9.0, 0.0
    without, other = replace(A, weights=weights), replace(A, weights=weights, images=images)
    students = [Lane(without, 0), Lane(other, 0)]
    run = partial(evaluation.train_students, trainer, students=students, context=None, limits=Limits(together=2))
    variables, losses = run(plain)
    np.testing.assert_array_equal(losses[0], losses[1])
    close(lane(variables, 0), lane(variables, 1), 0)
    _, blind = run(replace(plain, weights="uniform"))
    assert np.abs(blind[0] - blind[1]).max() > 0.1 and np.abs(blind[0] - losses[0]).max() > 1e-3


def test_datasets_that_do_not_fit_together_are_refused(linear):
    assert "[9, 4, 4, 1]" in message(lambda: linear([Lane(A, 0), Lane(dataset(0, 6), 0)]))
    fewer = replace(A, labels=A.labels % 2, class_names=("a", "b"))
    assert "3 classes" in message(lambda: linear([Lane(A, 0), Lane(fewer, 0)]))
    assert "no students" in message(lambda: linear([]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(0, 100), st.integers(1, 25))
def test_the_order_is_that_of_the_permutations_and_launches_cover_it(n, batch_size, steps, seed, most):
    want = np.stack(list(islice(permutations(n, batch_size, seed), steps)))
    np.testing.assert_array_equal(lanes._order(n, batch_size, steps, seed), want)
    launches = parallel.launches(steps, most)
    assert sum(launches) == steps and max(launches) <= most and len(set(launches)) <= 2
    if steps % most == 0:
        assert set(launches) == {most}


# Teachers


@pytest.fixture(scope="module")
def answers():
    """The variables of a teacher whose BatchNorm does something."""
    variables, rng = MODEL.init(jax.random.key(7), SHAPE), np.random.default_rng(7)
    move = lambda x: (x + rng.uniform(0.1, 0.5, x.shape)).astype(np.float32)
    return {"params": variables["params"], "batch_stats": jax.tree.map(move, variables["batch_stats"])}


def test_a_teacher_is_asked_without_its_batchnorm_and_answers_the_same(answers):
    trainer = evaluation.student_trainer(MODEL, SOFT, MODEL.apply, A)
    folded = trainer.prepare(answers)
    assert set(folded) == {"params"}
    close(MODEL.apply(folded, A.images).logits, MODEL.apply(answers, A.images).logits, 1e-4)
    # Hard labels never ask it.
    assert evaluation.student_trainer(MODEL, HARD, None, A).prepare(answers) is None


def test_what_is_alike_is_compiled_once():
    ask = partial(evaluation.student_trainer, LINEAR, SOFT, linear_apply)
    again = evaluation.student_trainer(LINEAR, replace(SOFT, weights="uniform"), linear_apply, B)
    assert ask(A) is again
    other = Normalisation(UNIT.mean + 1, UNIT.std)
    assert ask(A) is not ask(replace(A, norm=other))
    assert ask(A) is not evaluation.student_trainer(LINEAR, HARD, linear_apply, A)
    assert ask(A) is not evaluation.student_trainer(LINEAR, SOFT, lambda v, x: linear_apply(v, x), A)


def test_a_model_that_cannot_do_without_its_batchnorm_keeps_it():
    scaled = lambda v, x: linear_apply({"params": v["params"]}, x * v["batch_stats"]["norm1"]["bn"]["var"])
    variables = linear_init(jax.random.key(0), SHAPE) | {"batch_stats": {"norm1": {"bn": {"var": 2.0}}}}
    for apply in (scaled, linear_apply):
        trainer = evaluation.student_trainer(LINEAR, SOFT, apply, A)
        assert trainer.prepare(variables) is variables and not nn.foldable(apply, variables, SHAPE)
    assert not nn.foldable(linear_apply, ("no", "mapping"), SHAPE)
    score = evaluation.accuracy(scaled, jax.tree.map(jnp.asarray, variables), UNIT, [(A.images, A.labels, np.ones(9))])
    assert score == np.mean(scaled(variables, A.images).logits.argmax(1) == A.labels)


# Accuracies


@pytest.mark.slow
def test_accuracies_of_several_are_those_of_each_by_counting(answers):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (40, *SHAPE), np.uint8)
    norm = Normalisation(np.array([0.4], np.float32), np.array([0.2], np.float32))
    several = jax.tree.map(lambda x: np.stack([x + 0.3 * rng.normal(size=x.shape) ** 2 for _ in range(3)]), answers)
    inside = ((images / 255 - 0.4) / 0.2).astype(np.float32)
    guesses = [np.asarray(MODEL.apply(lane(several, s), inside).logits.argmax(1)) for s in range(3)]
    labels = np.where(np.arange(40) < 25, guesses[0], guesses[1]).astype(np.int32)
    valid = (rng.random(40) < 0.8).astype(np.float32)
    batches = [(images[i : i + 8], labels[i : i + 8], valid[i : i + 8]) for i in range(0, 40, 8)]
    scores = evaluation.accuracies(MODEL.apply, several, norm, iter(batches))
    np.testing.assert_allclose(scores, [(valid * (guess == labels)).sum() / valid.sum() for guess in guesses])
    assert len(set(scores)) > 1
    assert evaluation.accuracy(MODEL.apply, lane(several, 1), norm, batches) == scores[1]
    assert "no images" in message(lambda: evaluation.accuracies(MODEL.apply, several, norm, []))


# Several devices


def one_by_one(trainer, protocol, data, seed, context):
    """What a student is by the trainer's own loop over batches from the host."""
    targets, weights = train.one_hot(data.labels, 3), data.loss_weights(protocol.weights)
    key = jax.random.key(seed)
    order = permutations(len(data.labels), protocol.train.batch_size, seed)
    state = trainer.init(jax.random.fold_in(key, 0), SHAPE)
    batches = ((data.images[i], targets[i], weights[i]) for i in order)
    state, losses = train.fit(trainer.step, state, jax.random.fold_in(key, 1), batches, STEPS, context)
    return state.variables, losses


def on_two_devices(protocol):
    """Lanes are the runs alone, whether a device takes one at a time or several together."""
    teacher = MODEL.init(jax.random.key(7), SHAPE)
    trainer = evaluation.student_trainer(MODEL, protocol, MODEL.apply, A)
    students = [Lane(A, 0), Lane(A, 3), Lane(B, 0), Lane(B, 3), Lane(A, 1)]
    want = [one_by_one(trainer, protocol, student.dataset, student.seed, teacher) for student in students]
    for limits in (Limits(), Limits(together=2, launch=3)):
        # The fifth lane has no neighbour in either case, so that places are filled.
        variables, losses = evaluation.train_students(trainer, protocol, students, teacher, limits)
        assert losses.shape == (5, STEPS) and losses.dtype == np.float32
        for s in range(5):
            close((lane(variables, s), losses[s]), want[s], 1e-4)
    close(evaluation.train_student(trainer, protocol, A, 1, teacher), want[4], 1e-4)
    assert (np.abs(losses[:, None] - losses).max(2) + np.eye(5)).min() > 1e-2

    batches = [(A.images, A.labels, np.ones(9, np.float32))]
    scores = evaluation.accuracies(MODEL.apply, variables, UNIT, batches)
    assert [evaluation.accuracy(MODEL.apply, lane(variables, s), UNIT, batches) for s in range(5)] == scores.tolist()

    mesh = parallel.mesh()
    program = lanes.programs(trainer, SHAPE, mesh, True, parallel.SAME)
    pool = lanes.Pool(np.stack([A.images, B.images]), np.ones((2, 9, 3), np.float32), np.ones((2, 9), np.float32))
    shared = parallel.put((trainer.prepare(teacher), pool), mesh, parallel.SAME)
    order = np.zeros((4, STEPS, 4), np.int32)
    keys, *rest = parallel.put((jax.random.split(jax.random.key(0), 4), np.zeros(4, np.int32), order), mesh)
    compiled = program.launch.lower(program.init(keys), *shared, keys, *rest, count=3).compile()
    assert {s.num_devices for s in jax.tree.leaves(compiled.output_shardings)} == {2}
    print(compiled.as_text())


@pytest.mark.slow
def test_students_on_two_devices_are_those_one_by_one_and_the_devices_say_nothing_to_each_other():
    tests = Path(__file__).parents[1]
    # Unoptimised code compiles faster.
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    path = os.pathsep.join(map(str, (tests.parent, tests, tests / "students")))
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    code = "import test_lanes as t; t.on_two_devices(t.HARD); t.on_two_devices(t.MIXED)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=tests.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("HloModule") == 2 and done.stdout.count("num_partitions=2") == 2
    assert "convolution" in done.stdout and "while" in done.stdout
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in done.stdout


class Refused:
    """A program that a compiler for an accelerator refuses."""

    def compile(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required ...")


class Broken:
    def compile(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    ("memory_bytes", "size", "asked"), [(100, 2, [9, 4, 2]), (5, 1, [9, 4, 2]), (None, 9, []), (1000, 2, [9, 4, 2])]
)
def test_lanes_are_halved_until_the_compiler_takes_them(memory_bytes, size, asked):
    """Of 18 lanes, 16 at a time at the most; more than three are refused, and each of three takes ten bytes."""
    assert memory.needed_bytes(Refused()) == memory.ENDLESS
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.needed_bytes(Broken())
    tried = []
    need = lambda size: tried.append(size) or (memory.ENDLESS if size > 3 else 10 * size)
    assert lanes._fitting(18, 1, 16, memory_bytes, need) == size and tried == asked
