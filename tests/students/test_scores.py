"""DD-Ranking's scores, worked out by hand."""

import math

import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st

from jaxdd.students import scores

SHARE = st.floats(0, 1)


def test_by_hand():
    # Full 0.9; distilled 0.4 hard and 0.7 soft; random 0.6 soft.
    lost, gained = scores.hard_label_recovery(0.9, 0.4), scores.improvement_over_random(0.7, 0.6)
    assert lost == pytest.approx(0.5) and gained == pytest.approx(0.1)
    # a = 0.05 - 0.25 = -0.2: (0.81873 - 0.36788) / (2.71828 - 0.36788).
    assert scores.label_robust(gained, lost) == pytest.approx(0.191819, abs=1e-6)
    # b = 0.5 * 0.1 + 0.5 * 0.3 = 0.2: (1.22140 - 0.36788) / 2.35040.
    assert scores.augmentation_robust(0.1, 0.3) == pytest.approx(0.363139, abs=1e-6)


def test_random_images_that_lose_nothing():
    assert scores.label_robust(0.0, 0.0) == scores.augmentation_robust(0.0, 0.0) == pytest.approx(0.268941, abs=1e-6)


@given(SHARE, SHARE, SHARE, SHARE)
def test_they_lie_between_zero_and_one_and_rise_with_what_they_reward(hard, full, soft, random):
    lost, gained = scores.hard_label_recovery(full, hard), scores.improvement_over_random(soft, random)
    value = scores.label_robust(gained, lost)
    assert 0 <= value <= 1
    assert scores.label_robust(gained + 0.1, lost) > value > scores.label_robust(gained, lost + 0.1)
    assert scores.label_robust(gained, lost, weight=1.0) == pytest.approx(
        (math.exp(gained) - math.exp(-1)) / (math.e - math.exp(-1))
    )


def test_percentages_are_refused():
    assert "distilled 40" in message(lambda: scores.hard_label_recovery(0.9, 40))
    assert "weight 2" in message(lambda: scores.label_robust(0.1, 0.1, weight=2))
