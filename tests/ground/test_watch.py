"""The watch: what it calls divergence, which step and row it names, and how late it may be."""

import numpy as np
import pytest
from helpers import diverged

from jaxdd.ground import hosts
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.watch import EVERY, LARGEST, Watch, is_flat, out_of_range, pinned

UNIT = Normalisation(np.zeros(1, np.float32), np.ones(1, np.float32))
GOOD = {"w": np.ones(3, np.float32), "n": np.int32(7)}


def watched(losses, state=lambda step: GOOD, **options):
    """Run through losses [steps] or [steps, rows]; returns the number of steps taken."""
    looks = []
    one = Watch("stage", also=[lambda step, state, seen: looks.append((step, len(seen)))], **options)
    for step in range(1, len(losses) + 1):
        watched.taken = step
        if one.is_due(step):
            one.look(step, state(step), list(losses[:step]))
    one.end(len(losses), state(len(losses)), list(losses))
    return looks


def test_a_run_that_learns_is_left_alone_and_hooks_see_every_look():
    assert EVERY <= 50
    assert watched(np.geomspace(5, 1e-6, 120)) == [(50, 50), (100, 100), (120, 120)]
    assert watched(np.ones(50)) == [(50, 50)] and watched(np.ones(7)) == [(7, 7)]
    # A loss of zero, and one that is negative.
    watched(np.zeros(120))
    watched(np.linspace(2, -300, 120))


def test_a_spike_is_not_a_divergence():
    losses = np.ones(200)
    losses[::3] = 1e30
    watched(losses)


@pytest.mark.parametrize("onset", [1, 2, 49, 50, 51, 100, 101, 149])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_step_of_the_first_bad_loss_is_named_within_a_hundred_steps(onset, value):
    losses = np.ones(400)
    losses[onset - 1 :] = value
    assert f"stage diverged at step {onset}: loss {value}; use a lower" in diverged(lambda: watched(losses))
    assert onset <= watched.taken <= onset + 2 * EVERY


@pytest.mark.parametrize(("first", "value"), [(2.0, 3e3), (1e-9, 2e3), (1e4, 2e7)])
def test_a_loss_blown_up_for_good_is_found_though_finite(first, value):
    losses = np.full(400, first)
    losses[60:] = value
    line = diverged(lambda: watched(losses))
    assert f"stage diverged at step 61: loss {value:.3g}, over 1000 times" in line and watched.taken <= 60 + 2 * EVERY
    watched(np.where(losses == value, 400 * max(first, 1), losses))


def test_a_state_that_is_not_finite_is_found_whatever_the_loss():
    state = lambda step: GOOD if step < 130 else GOOD | {"w": np.float32([1, np.inf, 1])}
    assert "stage diverged at step 150: its state holds numbers that are not finite" in diverged(
        lambda: watched(np.ones(400), state)
    )
    assert watched.taken == 200
    assert "at step 130" in diverged(lambda: watched(np.ones(130), state))
    large = {"w": np.float32([1, -2 * LARGEST])}
    assert out_of_range(large) and not out_of_range(large, 3 * LARGEST)
    assert not out_of_range(GOOD) and not out_of_range({"n": np.int32(1)})


def test_rows_are_named_and_padding_is_not_judged():
    rows = {"rows": ["a", None, "b", "c", "d", "e"], "curve": np.stack}
    losses = np.ones((60, 6))
    losses[:, 1] = np.nan
    watched(losses, **rows)
    losses[9, 3] = losses[4, 4] = np.nan
    assert "stage: d diverged at step 5: loss nan" in diverged(lambda: watched(losses, **rows))
    losses[4] = np.nan
    assert "stage: a, b, c and 2 more diverged at step 5" in diverged(lambda: watched(losses, **rows))
    state = {"w": np.float32([[1, 1], [np.nan, 1], [1, 1]]), "n": np.zeros(3, int)}
    assert out_of_range(state, rows=True).tolist() == [False, True, False]


def test_saturated_and_flat_images_by_hand():
    images = np.full((2, 3, 4, 4, 1), 0.5, np.float32)
    images[0, :, :2] = [[[0.0]]]
    images[0, 0, 0] = [[-3.0], [1.0], [2.0], [1 - 0.4 / 255]]
    images[1, 0, 0, 0] = 1 - 0.6 / 255
    assert pinned(images, UNIT).tolist() == [0.5, 0.0]
    scaled = Normalisation(np.float32([0.25]), np.float32([0.5]))
    assert pinned((images - 0.25) / 0.5, scaled).tolist() == pytest.approx([0.5, 0.0])
    assert not is_flat(images, UNIT) and is_flat(images[1, 1:], UNIT)
    assert is_flat(images[1, 1:] + np.arange(2)[:, None, None, None], UNIT)
    assert not is_flat(images[1, 1:] + np.float32([[[[0.0]] * 3 + [[2 / 255]]]]), UNIT)


@pytest.mark.parametrize("kind", [InputError, DivergenceError])
def test_the_first_process_tells_the_others_how_it_ended(monkeypatch, kind):
    told = {}
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "_publish", told.__setitem__)
    monkeypatch.setattr(hosts, "_wait_for", lambda name: next(iter(told.values())))

    def fail():
        raise kind("a: b diverged; c")

    for first in (True, False):
        monkeypatch.setattr(hosts, "is_first", lambda first=first: first)
        with pytest.raises(kind, match="^a: b diverged; c$"):
            hosts.first(fail)
    assert len(told) == 1
