"""Checkpoints that are written in the background do not outlive what they belong to."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.ground import checkpoint
from jaxdd.ground.checkpoint import Checkpoints
from jaxdd.ground.watch import Watch
from jaxdd.students import train

STEP = lambda state, key, images, targets, weights, context: (state + 1, state)


@pytest.fixture
def slow(monkeypatch):
    """A disk that takes its time."""
    save = checkpoint.save

    def slowly(path, tree):
        time.sleep(0.3)
        save(path, tree)

    monkeypatch.setattr(checkpoint, "save", slowly)


def fit(checkpoints, step=STEP):
    batches = [(None, None, None)] * 3
    return train.fit(step, jnp.zeros(()), None, batches, 3, watch=Watch("count").keeping(checkpoints))


def test_nothing_is_written_after_a_training(tmp_path, slow):
    """What comes later, such as removing the folder, finds all on the disk."""
    checkpoints = Checkpoints(tmp_path / "parts", seconds=0)
    state, losses = fit(checkpoints)
    assert float(state) == 3
    np.testing.assert_array_equal(losses, [0, 1, 2])
    before = sorted(tmp_path.rglob("*"))
    step, kept = checkpoints.latest(lambda step: {"state": state, "losses": jnp.zeros(step)})
    assert step == 3 and float(kept["state"]) == 3
    time.sleep(0.4)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_after_a_training_that_fails(tmp_path, slow):
    def fails(state, *rest):
        if state >= 2:
            raise ZeroDivisionError
        return STEP(state, *rest)

    with pytest.raises(ZeroDivisionError):
        fit(Checkpoints(tmp_path / "parts", seconds=0), fails)
    before = sorted(tmp_path.rglob("*"))
    assert any(place.name.endswith("-2") for place in before)
    time.sleep(0.4)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_refuses_ends_a_training(tmp_path, monkeypatch):
    def full(path, tree):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space"):
        fit(Checkpoints(tmp_path / "parts", seconds=0))
