"""The workspace: what it trains and encodes is found again where all that decides it is the same, and only there."""

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import message

from jaxdd import data
from jaxdd.data import distilled
from jaxdd.data.augment import Augment
from jaxdd.ground.normalise import normalise
from jaxdd.methods import Recipe
from jaxdd.stages.images import Nearest, Recover
from jaxdd.stages.summarize import Barycenter, Herding, Random
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import (
    Comparison,
    LatentConfig,
    TeacherConfig,
    config_of,
    distill,
    distillation,
    encoding,
    latent_models,
    open_workspace,
    real_data,
    teachers,
    workspace_of,
)
from jaxdd.workspace.comparison import full_accuracies

PLAIN = Augment(crop="none", flip=False)
TRAIN = TrainSettings(epochs=2, batch_size=21, optimizer="sgd", learning_rate=0.1, augment=PLAIN)
CONFIG = TeacherConfig(width=8, flip=False, teacher_train=TRAIN)
# More train images than are compared where a dataset is large.
TRAIN_LABELS, TEST_LABELS = np.arange(21) % 3, np.arange(6) % 3


def arrays():
    rng = np.random.default_rng(0)
    draw = lambda labels: (rng.integers(0, 99, (len(labels), 8, 8)) + 70 * labels[:, None, None]).astype(np.uint8)
    return draw(TRAIN_LABELS), TRAIN_LABELS, draw(TEST_LABELS), TEST_LABELS


@pytest.fixture(scope="module")
def source():
    return data.from_arrays(*arrays())


@pytest.fixture(scope="module")
def root(tmp_path_factory, source):
    """A folder in which a teacher was trained on them, once for all tests."""
    root = tmp_path_factory.mktemp("runs")
    assert open_workspace(CONFIG, root, source=source).teacher.info["dataset"] == "arrays"
    return root


@pytest.fixture
def calls(monkeypatch):
    """What was encoded since: the number of images of each pass."""
    calls, encode = [], encoding.encode_train

    def counted(encoder, source, *rest):
        calls.append(len(source.labels["train"]))
        return encode(encoder, source, *rest)

    monkeypatch.setattr(encoding, "encode_train", counted)
    return calls


def changed(place, value=None, which=0):
    """The arrays with one element of the ``which``-th changed."""
    parts = [part.copy() for part in arrays()]
    parts[which][place] = parts[which][place] + 1 if value is None else value
    return data.from_arrays(*parts)


# Students


def test_a_student_of_the_teachers_architecture_is_the_teachers_network(source, root):
    workspace = open_workspace(CONFIG, root, source=source)
    comparison = Comparison(workspace, {}, ("convnet3",))
    kernel = lambda student, **changes: teachers.shapes(
        replace(comparison, **changes).network(student), source.image_shape
    )["params"]["conv1"]["kernel"]  # fmt: skip
    assert comparison.network("convnet3").apply is workspace.teacher.apply
    # So the teacher is the first of the students of all images, and no other is trained for it.
    assert full_accuracies(comparison, "convnet3") == [workspace.teacher.info["accuracy"]]
    assert kernel("convnet3").shape[-1] == 8 and kernel("resnet18").shape[-1] == 64
    assert kernel("resnet18", width=4).shape[-1] == 4 and kernel("convnet3", width=3).shape[-1] == 3
    assert comparison.label("convnet3") == "convnet3"
    assert replace(comparison, width=3).label("convnet3") == "convnet3 (3)"


# Data and teachers


def test_nothing_is_done_before_it_is_asked_for(source, tmp_path):
    workspace = open_workspace(CONFIG, tmp_path / "runs", source=source)
    problem = workspace.problem("mine", 2)
    assert (problem.method, problem.ipc, problem.class_names) == ("mine", 2, ("0", "1", "2"))
    assert problem.counts.tolist() == [7, 7, 7]
    assert workspace.real.name == workspace.config.dataset == "arrays" and not workspace.real.flip
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_is_known_by_its_name(folder, tmp_path):
    workspace = open_workspace(replace(CONFIG, dataset=str(folder), flip=None), tmp_path / "runs")
    assert workspace.real.name == "data" and workspace.real.flip and workspace.real.content == ""
    assert workspace.problem("mine", 1).counts.tolist() == [4, 4]
    assert workspace.problem("mine", 1).class_names == ("cat", "dog")


@pytest.mark.slow
def test_the_context_of_arrays(source, root):
    workspace = open_workspace(CONFIG, root, source=source)
    context = workspace.context(Recipe(Herding(), Nearest()))
    encoded, images = context.classes.encoded, arrays()[0]
    assert context.teacher is workspace.teacher and context.latent is None and not context.flip
    assert context.resources.memory_bytes == CONFIG.memory_bytes and context.labels.tolist() == [0, 1, 2]
    assert encoded.counts.tolist() == [7, 7, 7] and encoded.features.shape == (21, 8)
    # The rows are those of the classes, one class after the other; their images are those that the teacher sees.
    order = np.concatenate([np.flatnonzero(c == TRAIN_LABELS) for c in range(3)])
    np.testing.assert_array_equal(encoded.labels, TRAIN_LABELS[order])
    pixels = normalise(workspace.teacher.norm, images[order][..., None])
    np.testing.assert_array_equal(context.classes.images(np.arange(21)), np.asarray(pixels))
    features = context.teacher.apply(context.teacher.variables, np.asarray(pixels)).features
    np.testing.assert_allclose(encoded.features, features, atol=1e-5)
    for c in range(3):
        assert context.classes.groups.rows(c).tolist() == list(range(7 * c, 7 * c + 7))
        np.testing.assert_array_equal(context.points(c), encoded.features[7 * c : 7 * c + 7])
    # Encoded once, whichever recipe asks.
    assert workspace.context(Recipe(Barycenter(), Nearest()), ipc=2).classes is context.classes


@pytest.fixture
def trained(monkeypatch, source, root):
    """What teachers were trained since: of these only the record, with the variables of the one that is there."""
    teacher, trained = open_workspace(CONFIG, root, source=source).teacher, []

    def train_teacher(config, real, scratch, on_training):
        trained.append(real.name)
        return teacher._replace(info=teachers.describe(config, real) | {"accuracy": 0.5})

    monkeypatch.setattr(teachers, "train_teacher", train_teacher)
    return trained


def test_a_teacher_is_found_again_by_all_that_decides_it(source, root, tmp_path, trained):
    first = open_workspace(CONFIG, root, source=source)
    again = open_workspace(replace(CONFIG, memory_gib=1.0), root, source=data.from_arrays(*arrays()))
    assert again.teacher_folder == first.teacher_folder and again.teacher_folder.parent == root / "teachers"
    jax.tree.map(np.testing.assert_array_equal, again.teacher.variables, first.teacher.variables)
    assert trained == []
    # Same name, sizes, class names and statistics; but another image of another class.
    swapped = np.arange(21)
    swapped[[0, 1]] = 1, 0
    images, labels, *test = arrays()
    others = [
        (CONFIG, data.from_arrays(images[swapped], labels, *test)),
        (CONFIG, data.from_arrays(images, labels[swapped], *test)),
        (CONFIG, changed((0, 0, 0), which=2)),
        (CONFIG, changed(0, 1, which=3)),
        (replace(CONFIG, seed=1), source),
        (replace(CONFIG, teacher_train=replace(TRAIN, epochs=3)), source),
    ]
    places = {first.teacher_folder.name}
    for k, (config, other) in enumerate(others, 1):
        places.add(open_workspace(config, tmp_path, source=other).teacher_folder.name)
        assert len(trained) == k
    assert len(places) == 1 + len(others)


def test_a_given_teacher_decides_how_the_data_are_seen(source, root, tmp_path, trained):
    known = open_workspace(CONFIG, root, source=source)
    changes = {"width": None, "mean": (0.1,), "std": (0.9,)}
    seen = open_workspace(replace(CONFIG, **changes), tmp_path, known.teacher_folder, source=source)
    assert seen.teacher_folder == known.teacher_folder and trained == [] and list(tmp_path.iterdir()) == []
    assert seen.config.width == 8
    jax.tree.map(np.testing.assert_array_equal, seen.real.norm, known.real.norm)
    other = data.from_arrays(*arrays(), class_names=("a", "b", "c"))
    text = message(lambda: open_workspace(CONFIG, tmp_path, known.teacher_folder, source=other))
    assert "trained on classes 0 1 2" in text and "a b c" in text
    assert "no teacher at" in message(lambda: open_workspace(CONFIG, tmp_path, tmp_path / "none", source=source))


def test_latent_models_belong_to_the_images_as_well(source, digits):
    identity = lambda source: latent_models._data_of(CONFIG, real_data.open_data(CONFIG, source))
    same = data.from_arrays(*arrays())
    assert identity(source) == identity(same) != identity(changed((20, 7, 7)))
    # A dataset that has a name is known by it, wherever its files lie.
    named = real_data.open_data(TeacherConfig())
    assert named.content == "" and len(latent_models._data_of(CONFIG, named)) == len(identity(source)) - 1


def test_an_autoencoder_of_other_images_cannot_see_arrays(latent):
    large = data.from_arrays(*(part.repeat(2, 1).repeat(2, 2) if part.ndim == 3 else part for part in arrays()))
    real = real_data.open_data(CONFIG, large)
    text = message(lambda: latent_models.open_for(latent, CONFIG, real))
    assert "[8, 8, 1]" in text and "[16, 16, 1]" in text and "`latent.size`" in text
    small = real_data.open_data(CONFIG, data.from_arrays(*arrays()))
    assert latent_models.open_for(latent, CONFIG, small) is small


# Encoded images


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert [leaf.dtype for leaf in jax.tree.leaves(one)[:-1]] == [leaf.dtype for leaf in jax.tree.leaves(other)[:-1]]


@pytest.fixture
def encoder(source, root):
    teacher = open_workspace(CONFIG, root, source=source).teacher
    return teacher[:3]


def test_features_are_kept_on_disk_and_read_again(source, root, tmp_path, calls):
    first = open_workspace(CONFIG, root, source=source)
    fresh = replace(first, root=tmp_path, given_teacher=(first.teacher, first.teacher_folder))
    encoded = fresh.classes("features").encoded
    (place,) = (tmp_path / "encoded").iterdir()
    content, times = place.read_bytes(), place.stat().st_mtime_ns
    assert calls == [21] and place.suffix == ".npz"
    again = replace(fresh, real=real_data.open_data(CONFIG, data.from_arrays(*arrays())))
    assert again.classes("features").encoded is not encoded
    equal(again.classes("features").encoded, encoded)
    assert calls == [21] and list((tmp_path / "encoded").iterdir()) == [place]
    assert (place.read_bytes(), place.stat().st_mtime_ns) == (content, times)


@pytest.mark.parametrize("place", [0, 1, 10, 20])
def test_features_of_other_images_or_labels_are_not_believed(source, encoder, tmp_path, calls, place):
    kept = lambda source: encoding.kept_or_encoded(encoder, source, tmp_path)
    encoded = kept(source)
    image = kept(changed((place, 3, 3)))
    row = np.concatenate([np.flatnonzero(c == TRAIN_LABELS) for c in range(3)]).tolist().index(place)
    differs = (image.features != encoded.features).any(1)
    assert differs[row] and differs.sum() == 1 and len(calls) == 2
    label = kept(changed(place, (TRAIN_LABELS[place] + 1) % 3, which=1))
    assert label.counts.tolist() != encoded.counts.tolist() and len(calls) == 3
    assert len(list(tmp_path.iterdir())) == 3
    # Test images are not encoded, and the first ones are still there.
    equal(kept(changed((0, 0, 0), which=2)), encoded)
    equal(kept(source), encoded)
    assert len(calls) == 3


def test_features_of_another_teacher_are_not_believed(source, encoder, tmp_path, calls):
    kept = lambda encoder: encoding.kept_or_encoded(encoder, source, tmp_path)
    apply, variables, norm = encoder
    encoded = kept(encoder)
    leaves, tree = jax.tree.flatten(variables)
    for k in (0, len(leaves) - 1):
        other = [leaf + 0.01 * (i == k) for i, leaf in enumerate(leaves)]
        kept((apply, jax.tree.unflatten(tree, other), norm))
    kept((apply, variables, norm._replace(mean=norm.mean + 0.01)))
    assert len(calls) == len(list(tmp_path.iterdir())) == 4
    equal(kept((apply, jax.tree.map(np.array, variables), norm)), encoded)
    assert len(calls) == 4


def test_of_many_images_some_are_compared(source, encoder, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(real_data, "_COMPARED_BYTES", 0)
    kept = lambda source: encoding.kept_or_encoded(encoder, source, tmp_path)
    kept(source)
    compared = np.linspace(0, 20, 16).astype(int).tolist()
    for place in range(21):
        kept(changed((place, 0, 0)))
    assert len(calls) == 1 + 16
    # But all labels.
    other = next(place for place in range(21) if place not in compared)
    kept(changed(other, (TRAIN_LABELS[other] + 1) % 3, which=1))
    assert len(calls) == 1 + 16 + 1


def test_large_features_are_not_kept(source, encoder, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(encoding, "_KEPT_BYTES", 4 * 21 * 8 - 1)
    encoding.kept_or_encoded(encoder, source, tmp_path / "encoded")
    assert calls == [21] and list(tmp_path.iterdir()) == []


# Runs

RANDOM = Recipe(Random(), Nearest())


@pytest.fixture
def request_of(root, source, tmp_path):
    """(changes) -> a config of random images, two a class, with the teacher that is there."""
    place = open_workspace(CONFIG, root, source=source).teacher_folder
    known = {item.name: getattr(CONFIG, item.name) for item in dataclasses.fields(CONFIG)}
    return lambda **changes: replace(
        config_of("random", **known, ipc=2, out=tmp_path / "runs" / "x", teacher=place), **changes
    )


@pytest.fixture
def interrupted(monkeypatch):
    """A call of `distill` that is cut off when all classes are done; its files, with the time of each."""

    def call(config, source):
        def cut(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(distillation, "save_run", cut)
            distill(config, source)
        parts = sorted((config.out / "parts").glob("*.npz"))
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts}

    return call


@pytest.mark.slow
def test_a_run_shows_its_images_while_they_are_optimised(source, request_of):
    config, seen = request_of(method="wmdd", recipe=Recipe(Barycenter(), Recover(steps=3))), []
    dataset = distill(config, source, seen.append)
    assert [snapshot.step for snapshot in seen] == [0, 3]
    np.testing.assert_array_equal(seen[1].images.reshape(dataset.images.shape), dataset.images)
    np.testing.assert_array_equal(seen[1].norm.mean, dataset.norm.mean)
    # The finished run is read: nothing is optimised.
    distill(config, source, seen.append)
    assert len(seen) == 2


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(source, request_of, interrupted, capfd, monkeypatch):
    config = request_of()
    parts = config.out / "parts"
    done = interrupted(config, source)
    assert list(done) == ["00000.npz", "00001.npz", "00002.npz"] and not (config.out / "distilled").exists()
    (parts / "00001.npz").unlink()
    capfd.readouterr()
    again = interrupted(config, source)
    assert "2 of 3 classes are done" in capfd.readouterr().err
    # The missing class is made as it was, and the others are not written again.
    assert {name: content for name, (content, _) in again.items()} == {name: part[0] for name, part in done.items()}
    assert {name for name in done if again[name] != done[name]} == {"00001.npz"}

    # What lies there is what comes out: a mark in the file of a class is in its images, and in no others.
    with np.load(parts / "00002.npz") as file:
        marked = dict(file)
    with np.load(parts / "00001.npz") as file:
        untouched = file["images"]
    marked["images"] = marked["images"] + 1
    np.savez(parts / "00002.npz", **marked)
    dataset = distill(replace(config, memory_gib=2.0), source)
    np.testing.assert_array_equal(dataset.images[4:], marked["images"])
    np.testing.assert_array_equal(dataset.images[2:4], untouched)
    files = ["atoms.npz", "config.json", "distilled", "manifest.json", "real.npz", "request.json", "teacher"]
    assert sorted(path.name for path in config.out.iterdir()) == files
    np.testing.assert_array_equal(distilled.load(config.out).images, dataset.images)

    # A finished run of the same request is read, another one refused.
    monkeypatch.setattr(distillation, "fill", None)
    np.testing.assert_array_equal(distill(config, source).images, dataset.images)
    assert "is finished already" in capfd.readouterr().err
    moved = config.out.rename(config.out.with_name("moved"))
    for place in (moved, Path(os.path.relpath(moved))):
        np.testing.assert_array_equal(distill(replace(config, out=place), source).images, dataset.images)
    for name in ("distilled", "teacher/variables", "teacher"):
        aside = (moved / name).rename(moved.with_name("aside"))
        line = message(lambda: distill(replace(config, out=moved), source))
        assert f"{moved / name}" in line and f"{moved} is damaged; copy that folder again, or remove it and run" in line
        aside.rename(moved / name)
    moved.rename(config.out)
    assert "finished run of other settings" in message(lambda: distill(replace(config, seed=1), source))


@pytest.mark.slow
def test_a_run_from_arrays_says_so(source, request_of):
    config = request_of(recipe=Recipe(Herding(), Nearest()), method="herding")
    dataset = distill(config, source)
    # Every image is a real one of its class, and no image is there twice.
    images, labels = arrays()[:2]
    pixels = dataset.pixels()[..., 0]
    rows = [np.flatnonzero((images == picture).all((1, 2))).tolist() for picture in pixels]
    assert [labels[row].tolist() for row in rows] == [[0], [0], [1], [1], [2], [2]]
    assert len({row for (row,) in rows}) == 6
    assert (dataset.ipc, dataset.class_names) == (2, ("0", "1", "2"))
    assert (dataset.provenance["method"], dataset.provenance["dataset"]) == ("herding", "arrays")
    saved = json.loads((config.out / "config.json").read_text())
    assert saved["dataset"] == "arrays" and saved["config"] == "DistillConfig" and saved["width"] == 8
    # No name leads back to arrays, least of all that of another dataset.
    assert "'arrays'" in message(lambda: workspace_of(config.out))


def test_a_folder_with_another_request_is_refused(source, request_of, interrupted):
    config = request_of()
    done = interrupted(config, source)
    swapped = replace(config, recipe=Recipe(Random(weights="uniform"), Nearest()))
    for other, images in (
        (replace(config, ipc=1), source),
        (replace(config, seed=1), source),
        (swapped, source),
        (replace(config, flip=True), source),
        (replace(config, latent=LatentConfig(channels=2)), source),
        (config, changed((20, 7, 7))),
        (config, changed(20, 0, which=1)),
        (config, data.from_arrays(*arrays(), name="others")),
    ):
        text = message(lambda other=other, images=images: distill(other, images))
        assert str(config.out) in text and "unfinished run of other settings" in text and "`out`" in text
    parts = sorted((config.out / "parts").glob("*.npz"))
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts} == done
    # The same images from other arrays are the same request.
    assert distill(config, data.from_arrays(*arrays())).images.shape == (6, 8, 8, 1)


def test_bad_requests_leave_nothing(source, request_of, tmp_path):
    few = "class '0' has 7 real images, fewer than the 8 per class"
    for config, words in (
        (request_of(ipc=0), "`ipc` 0"),
        (request_of(ipc=8), few),
        (request_of(teacher=tmp_path / "none"), "no teacher at"),
        (request_of(compute="float8"), "unknown `compute` 'float8'"),
        (request_of(recipe=Recipe(Random(weights="heavy"), Nearest())), "unknown `weights` 'heavy'"),
    ):
        assert words in message(lambda config=config: distill(config, source))
        assert list(tmp_path.iterdir()) == []


# A committee


@pytest.mark.slow
def test_a_committee_takes_turns_labels_together_and_is_kept_with_the_run(source, root, tmp_path):
    member = open_workspace(replace(CONFIG, seed=1), root, source=source)
    assert member.teacher.info["seed"] == 1
    known = {item.name: getattr(CONFIG, item.name) for item in dataclasses.fields(CONFIG)}
    known |= {"committee": (str(member.teacher_folder),)}
    first = open_workspace(CONFIG, root, source=source)
    recipe = Recipe(Barycenter(), Recover(steps=4, min_scale=1.0))
    config = config_of("wmdd", **known, ipc=2, out=root / "committee", teacher=first.teacher_folder, recipe=recipe)
    images = distill(config, source).images
    alone = distill(replace(config, committee=(), out=root / "alone"), source).images
    assert np.abs(images - alone).max() > 1e-3

    workspace = open_workspace(replace(CONFIG, committee=known["committee"]), root, source=source)
    (other, _), pixels = workspace.members[0], images[:3]
    answers = [np.asarray(one.apply(one.variables, pixels).logits) for one in (workspace.teacher, other)]
    mean = sum(z - z.mean(1, keepdims=True) for z in answers) / 2
    labeller = workspace.labeller
    np.testing.assert_allclose(labeller.apply(labeller.variables, pixels).logits, mean, atol=1e-5)
    assert first.labeller is first.teacher
    kept = teachers.load_teacher(root / "committee" / "committee" / "000")
    jax.tree.map(np.testing.assert_array_equal, kept.variables, other.variables)
    assert not (root / "alone" / "committee").exists()


def test_members_that_are_not_there_or_see_other_images_are_refused(source, root, tmp_path):
    ask = lambda *names: open_workspace(replace(CONFIG, committee=names), root, source=source)
    assert "convnet3" in message(lambda: ask("convnet33"))
    place = open_workspace(CONFIG, root, source=source).teacher_folder
    other = teachers.load_teacher(place)
    teachers.save_teacher(tmp_path / "other", other._replace(info=other.info | {"mean": [0.1], "std": [0.7]}))
    assert "another normalisation" in message(lambda: ask(str(tmp_path / "other")).members)
    teachers.save_teacher(tmp_path / "fewer", other._replace(info=other.info | {"class_names": ["a", "b", "c"]}))
    assert "was trained on classes" in message(lambda: ask(str(tmp_path / "fewer")).members)
