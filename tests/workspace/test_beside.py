"""Real images beside distilled ones: the nearest is that of brute force, and a file holds what was put into it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import message, mutants

from jaxdd import data
from jaxdd.data.augment import Augment
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.normalise import normalise
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import TeacherConfig, beside, distillation, open_workspace

PLAIN = Augment(crop="none", flip=False)
TRAIN = TrainSettings(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.1, augment=PLAIN)
LABELS = np.arange(60) % 3


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = lambda labels: (rng.integers(0, 99, (len(labels), 8, 8)) + 70 * labels[:, None, None]).astype(np.uint8)
    source = data.from_arrays(images(LABELS), LABELS, images(LABELS[:9]), LABELS[:9])
    config = TeacherConfig(width=8, flip=False, teacher_train=TRAIN)
    return open_workspace(config, tmp_path_factory.mktemp("runs"), source=source)


@pytest.fixture(scope="module")
def dataset(workspace):
    """Real images with a little noise, heaviest last."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([np.flatnonzero(c == LABELS)[:2] for c in range(3)])
    pixels = workspace.real.source.read("train", rows)
    images = normalise(workspace.real.norm, pixels) + 0.05 * rng.normal(size=pixels.shape)
    weights = np.tile(np.float32([0.25, 0.75]), 3)
    names, norm = workspace.real.class_names, workspace.real.norm
    return DistilledDataset(np.float32(images), LABELS[rows], weights, names, norm, {})


def test_the_nearest_is_that_of_brute_force(workspace, dataset):
    found = beside.beside(workspace, "features", dataset, 0)
    assert found.places.tolist() == [1, 0, 3, 2, 5, 4] and found.by == "teacher"
    teacher, source = workspace.teacher, workspace.real.source
    features = lambda images: np.asarray(teacher.apply(teacher.variables, images).features, np.float64)
    every = source.read("train", np.arange(60))
    real = features(normalise(teacher.norm, every))
    deviation = np.sqrt(np.square(real - real.mean(0)).sum(1).mean())
    for k, i in enumerate(found.places):
        distances = np.linalg.norm(real - features(dataset.images[i : i + 1]), axis=1) / deviation
        distances[dataset.labels[i] != LABELS] = np.inf
        assert found.distances[k] == pytest.approx(distances.min(), rel=1e-3)
        np.testing.assert_array_equal(found.nearest[k], every[np.argmin(distances)])


def test_without_features_pixels_are_compared(workspace, dataset, monkeypatch):
    known = workspace.classes("features")
    monkeypatch.setattr(type(workspace), "classes", lambda self, space: known)
    found, every = beside.beside(workspace, "latents", dataset, 0), workspace.real.source.read("train", np.arange(60))
    assert found.by == "pixels"
    for k, i in enumerate(found.places):
        errors = np.sqrt(np.square(every.astype(float) - dataset.pixels()[i]).mean((1, 2, 3)))
        errors[dataset.labels[i] != LABELS] = np.inf
        assert found.distances[k] == pytest.approx(errors.min(), rel=1e-5)
        np.testing.assert_array_equal(found.nearest[k], every[np.argmin(errors)])


def test_random_images_are_those_of_the_class_and_of_the_seed(workspace, dataset):
    found, other = (beside.beside(workspace, "features", dataset, seed).random for seed in (0, 1))
    every = workspace.real.source.read("train", np.arange(60))
    for c in range(3):
        own = {image.tobytes() for image in every[c == LABELS]}
        assert len({image.tobytes() for image in found[c]} & own) == beside.RANDOM
    assert found.tobytes() != other.tobytes()


def test_a_file_gives_back_what_was_put_into_it_or_is_refused(workspace, dataset, tmp_path):
    found, place = beside.beside(workspace, "features", dataset, 0), tmp_path / beside.FILE
    beside.save(place, found)
    again = beside.load(place, dataset)
    assert all(np.array_equal(one, other) for one, other in zip(again, found))
    content = place.read_bytes()
    for changed in mutants(content, 40):
        place.write_bytes(changed)
        try:
            beside.load(place, dataset)
        except beside.InputError as error:
            assert "\n" not in str(error)
    nothing = found.distances * np.nan
    for wrong in ({"places": found.places + 4}, {"nearest": found.nearest[:1]}, {"distances": nothing},
                  {"by": "smell"}, {"random": found.random.repeat(2, 0)}, {"nearest": found.nearest[:0]}):  # fmt: skip
        beside.save(place, found._replace(**wrong))
        assert beside.FILE in message(lambda: beside.load(place, dataset))
    beside.save(place, found)
    coloured = replace(dataset, images=dataset.images.repeat(3, -1), norm=type(dataset.norm)(*[np.zeros(3) + 0.5] * 2))
    assert beside.FILE in message(lambda: beside.load(place, coloured))


def test_a_run_keeps_them(workspace, tmp_path):
    config = distillation.config_of("medoid", **distillation.teachers.fields_of(workspace.config), out=tmp_path / "run")
    dataset = distillation.distill_in(workspace, config)
    found = beside.load(tmp_path / "run" / beside.FILE, dataset)
    # A medoid is a real image: itself is the nearest.
    np.testing.assert_array_equal(found.nearest, dataset.pixels())
    assert (found.distances < 1e-3).all()
