"""Snapshots of images while they are optimised: they are true, rare, and change nothing."""

import divergence_helpers as small
import numpy as np
import pytest

from jaxdd.ground.checkpoint import Checkpoints, Scratch
from jaxdd.ground.normalise import denormalise
from jaxdd.methods import Recipe, distill
from jaxdd.stages.images import Recover
from jaxdd.stages.images.recover import loss
from jaxdd.stages.summarize import NoAtoms, Quantization


class Seen(list):
    """Keeps all snapshots, with copies of their images as they were at the time."""

    def __call__(self, snapshot):
        self.append((snapshot, snapshot.images.copy()))

    @property
    def steps(self):
        return [snapshot.step for snapshot, _ in self]


def test_snapshots_come_at_the_start_rarely_and_at_the_end():
    seen, begun = Seen(), []
    (part,) = small.recovered(start=lambda images: begun.append(images) or images, on_snapshot=seen)
    assert seen.steps == [0, 50, 100, small.STEPS]
    assert all(snapshot.steps == small.STEPS and not snapshot.first.any() for snapshot, _ in seen)
    assert all(snapshot.classes.tolist() == [0, 1, 2] for snapshot, _ in seen)
    np.testing.assert_array_equal(seen[0][0].images, begun[0])
    np.testing.assert_array_equal(seen[-1][0].images, part.images)
    np.testing.assert_array_equal(seen[-1][0].pixels(), denormalise(small.NORM, part.images))
    moved = [np.abs(image - begun[0]).max() for _, image in seen]
    assert moved[0] == 0 < moved[1] and not np.array_equal(seen[1][1], seen[2][1])
    # Later steps, which overwrite the arrays of earlier ones, leave the snapshots alone.
    for snapshot, copy in seen:
        np.testing.assert_array_equal(snapshot.images, copy)


def test_who_looks_changes_nothing():
    (alone,), (seen,) = small.recovered(), small.recovered(on_snapshot=lambda snapshot: None)
    np.testing.assert_array_equal(seen.images, alone.images)
    np.testing.assert_array_equal(seen.terms.feature, alone.terms.feature)


def test_a_resumed_run_shows_what_it_goes_on_from(tmp_path, monkeypatch):
    save, calls = Checkpoints.save, []
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, tree, wait: save(self, step, tree, wait=True))
    # It is asked once a step: the only checkpoint is that of step 56.
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: calls.append(1) or len(calls) == 56)
    kept = Scratch(tmp_path, "process 0")

    class Cut(Seen):
        def __call__(self, snapshot):
            super().__call__(snapshot)
            if snapshot.step > 56:
                raise KeyboardInterrupt

    cut, again, whole = Cut(), Seen(), Seen()
    with pytest.raises(KeyboardInterrupt):  # what is raised by who looks ends the run
        list(small.recovered(scratch=kept, on_snapshot=cut))
    (part,) = small.recovered(scratch=kept, on_snapshot=again)
    list(small.recovered(on_snapshot=whole))
    assert cut.steps[-2] == again.steps[0] == 56 and again.steps[-1] == small.STEPS
    np.testing.assert_array_equal(again[0][0].images, cut[-2][0].images)
    np.testing.assert_array_equal(part.images, whole[-1][0].images)


@pytest.mark.slow
def test_snapshots_of_slices_and_of_padding(context, monkeypatch):
    # Groups of four of the ten classes and slices of two of the four images; the last group is filled up.
    monkeypatch.setattr(loss, "group_size", lambda settings, classes, m: (4, 2))
    monkeypatch.setattr("jaxdd.stages.images.recover.imager.group_size", lambda settings, classes, m: (4, 2))
    imager = Recover(feature_weight=0.0, cross_entropy_weight=1.0, moments="global", weighted_moments=False, steps=2)
    seen = Seen()
    context = context._replace(on_snapshot=seen)
    result = distill(small.KEY, Recipe(NoAtoms(), imager), 4, context)
    images = np.full_like(result.images, np.nan)
    for snapshot, _ in seen:
        assert snapshot.images.shape[1] == 2 and set(snapshot.first.tolist()) <= {0, 2}
        for k, (label, first) in enumerate(zip(snapshot.classes, snapshot.first)):
            images[label, first : first + 2] = snapshot.images[k]
    np.testing.assert_array_equal(images, result.images)
    shown = [(label, first) for snapshot, _ in seen if snapshot.step == 2
             for label, first in zip(snapshot.classes.tolist(), snapshot.first.tolist())]  # fmt: skip
    assert sorted(shown) == [(label, first) for label in range(10) for first in (0, 2)]


@pytest.mark.slow
def test_a_recipe_shows_the_classes_that_it_makes(context):
    seen = Seen()
    context = context._replace(on_snapshot=seen, subset=np.array([3, 7]))
    recipe = Recipe(Quantization(), Recover(steps=2))
    result = distill(small.KEY, recipe, 2, context)
    assert {label for snapshot, _ in seen for label in snapshot.classes.tolist()} == {3, 7}
    last = {label: image for snapshot, _ in seen for label, image in zip(snapshot.classes.tolist(), snapshot.images)}
    np.testing.assert_array_equal(np.stack([last[3], last[7]]), result.images)
    assert seen[0][0].norm.mean.shape == (1,)
