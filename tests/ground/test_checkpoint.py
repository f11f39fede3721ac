"""Checkpoints of long computations: the last one is kept, and what goes on from it ends with the same bytes."""

import re
from dataclasses import replace

import divergence_helpers as small
import jax
import numpy as np
import pytest
from helpers import diverged, message

from jaxdd.ground import checkpoint
from jaxdd.ground.checkpoint import Checkpoints, Scratch
from jaxdd.ground.watch import Watch
from jaxdd.students import train

TREE = {"a": np.arange(3, dtype=np.float32), "n": np.int32(7)}
LIKE = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), TREE)


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_an_array_of_another_shape_is_named(tmp_path):
    tree = {"w.x": {"k": np.ones((2, 3))}, "t": (np.ones(2), np.ones(3))}
    checkpoint.save(tmp_path / "x", tree)
    equal(checkpoint.load(tmp_path / "x", tree), jax.tree.map(jax.numpy.asarray, tree))
    for other, words in (
        (tree | {"t": (np.ones(2), np.ones(4))}, "t.1 has shape [3] instead of [4]"),
        (tree | {"w.x": {"k": np.ones((3, 2))}}, "w.x.k has shape [2, 3] instead of [3, 2]"),
        ({"t": tree["t"]}, "does not fit the model: "),
    ):
        line = message(lambda other=other: checkpoint.load(tmp_path / "x", other))
        assert line.startswith(f"the checkpoint at {tmp_path / 'x'} does not fit the model: ") and words in line


def test_the_last_checkpoint_is_kept_until_the_end(tmp_path):
    kept = Checkpoints(tmp_path / "parts", "x")
    assert kept.latest(lambda step: LIKE) is None and not kept.is_due()
    # The arrays may change as soon as `save` returns.
    tree = jax.tree.map(np.array, TREE)
    for step in (3, 10):
        kept.save(step, tree)
        tree["a"] += 1
    kept.flush()
    assert len(list((tmp_path / "parts").iterdir())) == 1
    seen = []
    step, read = Checkpoints(tmp_path / "parts", "x").latest(lambda step: seen.append(step) or LIKE)
    assert step == 10 and seen == [10]
    equal(read, TREE | {"a": TREE["a"] + 1})
    # Another computation in the same folder.
    other = Checkpoints(tmp_path / "parts", "y", seconds=0)
    assert other.latest(lambda step: LIKE) is None and other.is_due()
    other.save(5, TREE, wait=True)
    kept.clear()
    assert kept.latest(lambda step: LIKE) is None and other.latest(lambda step: LIKE)[0] == 5
    other.clear()
    assert list((tmp_path / "parts").iterdir()) == []


def test_what_cannot_be_read_is_begun_anew(tmp_path):
    swapped = {"a": jax.ShapeDtypeStruct((), np.int32), "n": jax.ShapeDtypeStruct((3,), np.float32)}
    for like in (LIKE, LIKE | {"b": LIKE["a"]}, swapped):
        kept = Checkpoints(tmp_path, "x")
        kept.save(3, TREE, wait=True)
        if like is LIKE:
            (next(tmp_path.iterdir()) / "_METADATA").write_bytes(b"")
        assert Checkpoints(tmp_path, "x").latest(lambda step, like=like: like) is None
        assert list(tmp_path.iterdir()) == []
    # Orbax would read this one.
    other = checkpoint._packed(TREE) | {"digest": np.zeros(32, np.uint8)}
    checkpoint.save(tmp_path / f"{kept.name}-4", other)
    assert kept.latest(lambda step: LIKE) is None


def test_trees_are_kept_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(), (0,), (3,), (2, 3), (1, 2, 3)]
    dtypes = [np.int8, np.int32, jax.numpy.bfloat16, np.float16, np.float32, bool, np.uint32]
    tree = {str(dtype): [rng.normal(size=shape).astype(dtype) for shape in shapes] for dtype in dtypes}
    kept = Checkpoints(tmp_path, "x")
    kept.save(1, (tree, None, {}), wait=True)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), (tree, None, {}))
    equal(kept.latest(lambda step: like)[1], (tree, None, {}))


def test_without_a_folder_nothing_is_kept():
    kept = Scratch().checkpoints("x")
    kept.seconds = -1.0
    kept.save(3, TREE, wait=True)
    assert not kept.is_due() and kept.latest(lambda step: LIKE) is None
    kept.clear()


def test_the_parts_of_a_work_have_names_of_their_own(tmp_path):
    names = {Scratch(tmp_path, who).checkpoints(part).name for who in ("a", "b") for part in ("1", "2")}
    assert len(names) == 4 and Scratch(tmp_path, "a").checkpoints("1").folder == tmp_path


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_next_one(tmp_path, monkeypatch):
    def full(path, tree):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    kept = Checkpoints(tmp_path, "x")
    kept.save(3, TREE)
    with pytest.raises(OSError, match="No space left"):
        kept.save(4, TREE)
    kept.flush()


@pytest.fixture
def due(monkeypatch):
    """(steps, end) -> checkpoints are due at these calls of `is_due`, of which there is one a step; the last raises."""
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, tree, wait: save(self, step, tree, wait=True))

    def set_to(steps=(), end=None):
        calls = []

        def is_due(self):
            calls.append(1)
            if len(calls) == end:
                raise KeyboardInterrupt
            return self.folder is not None and len(calls) in steps

        monkeypatch.setattr(Checkpoints, "is_due", is_due)

    return set_to


def fitted(folder=None, optimizer="adamw", rate=0.01):
    """A linear classifier that sees another batch at each step."""
    trainer = small.trainer_of(optimizer, rate)
    batch = lambda step: (small.X * np.float32(1 + 0.01 * step), small.Y, small.ONES)
    batches = lambda done: (batch(step) for step in range(done + 1, small.STEPS + 1))
    watch = Watch("train").keeping(Checkpoints(folder, "x"))
    start = trainer.init(small.KEY, (4, 4, 1))
    return train.fit(trainer.step, start, small.KEY, batches, small.STEPS, watch=watch)


@pytest.mark.parametrize("ends", [[(60, 77)], [(40, 41), (30, 59)], [(1, 2)], [(130, 131)]], ids=str)
def test_a_training_goes_on_to_the_same_bytes(tmp_path, due, capfd, ends):
    state, losses = fitted()
    done = 0
    for kept, end in ends:
        due([kept], end)
        if done + end <= small.STEPS:
            with pytest.raises(KeyboardInterrupt):
                fitted(tmp_path)
        else:
            fitted(tmp_path)
        done += kept
        capfd.readouterr()
        assert [path.name.partition("-")[2] for path in tmp_path.iterdir()] == [str(done)]
    due()
    again, curve = fitted(tmp_path)
    assert f"train: goes on from step {done} of {small.STEPS}" in capfd.readouterr().err
    equal(again, state)
    assert curve.shape == (small.STEPS,) and curve.tobytes() == losses.tobytes()


def test_no_state_is_kept_that_has_diverged(tmp_path, due):
    due(range(1, small.STEPS + 1))
    assert re.search("diverged at step [1-5]:", diverged(lambda: fitted(tmp_path, "sgd", 1e30)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [small.RECOVER, replace(small.RECOVER, schedule="plateau", anneal=10, min_scale=0.5, coarse=0.25)],
    ids=["cosine", "plateau"],
)
def test_a_recovery_goes_on_to_the_same_bytes(tmp_path, due, capfd, settings):
    due()
    whole = list(small.recovered(settings))
    due([40], 50)
    with pytest.raises(KeyboardInterrupt):
        list(small.recovered(settings, scratch=Scratch(tmp_path, "process 0")))
    due()
    assert [path.name.partition("-")[2] for path in tmp_path.iterdir()] == ["40"]
    capfd.readouterr()
    again = list(small.recovered(settings, scratch=Scratch(tmp_path, "process 0")))
    assert capfd.readouterr().err.count("recover: goes on from step 40") == 1
    equal(again, whole)
    assert list(tmp_path.iterdir()) == []
