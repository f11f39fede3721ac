"""Distilled images of anybody, judged beside run folders: equal images have equal accuracies; the rest is refused."""

import json
import shutil

import numpy as np
import pytest
from golden_helpers import HERE
from helpers import message
from PIL import Image
from source_helpers import as_torch, tar

from jaxdd.commands import flags
from jaxdd.data import distilled
from jaxdd.programs.evaluate import EvaluateConfig
from jaxdd.workspace import alternatives, judging

FAST = ["--seeds", 2, "--full", 0, "--hard.train.epochs", 30, "--protocols", "hard"]
TEACHER = ["--dataset", "digits", "--model", "convnet3", "--teacher-width", 8, "--teacher-train.epochs", 1]
GOLDEN = HERE / "foreign"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of random digits, two of each class, of a teacher of one epoch."""
    from dataclasses import replace

    from jaxdd import workspace

    place = tmp_path_factory.mktemp("judged") / "run"
    config = workspace.config_of("random", dataset="digits", width=8, out=place, ipc=2)
    workspace.distill(replace(config, teacher_train=replace(config.teacher_train, epochs=1)))
    return place


def png_of(place, picture):
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(place)
    return place


def layouts(root, dataset):
    """The images of a dataset in every foreign layout, by the names that rows have."""
    import datasets

    pixels, labels = dataset.pixels()[..., 0], dataset.labels.astype(np.int64)
    # In another order: they are sorted by class, and those of a class keep theirs.
    order = np.argsort(np.tile([0, 1], 10), kind="stable")
    made = {}
    for k, (picture, label) in enumerate(zip(pixels, labels)):
        png_of(root / "classes" / str(label) / f"{k:02d}.png", picture)
        png_of(root / "tree" / "train" / str(label) / f"{k:02d}.png", picture)
        png_of(root / "listed" / f"{k:02d}.png", picture)
    (root / "listed" / "metadata.csv").write_text(
        "file_name,label,weight\n" + "".join(f"{k:02d}.png,{labels[k]},2\n" for k in order)
    )
    made |= {name: root / name for name in ("classes", "tree", "listed")}
    np.savez(root / "pixels.npz", images=pixels[order], labels=labels[order])
    held = {"image": [(root / "listed" / f"{k:02d}.png").read_bytes() for k in order], "label": labels[order]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(map(str, range(10))))}
    )
    table = datasets.Dataset.from_dict(held, features=features)
    (root / "table").mkdir()
    table.to_parquet(root / "table" / "train-00000-of-00001.parquet")
    tar(root / "shard.tar", {f"{k:02d}.{kind}": content for k in order for kind, content in (
        ("png", (root / "listed" / f"{k:02d}.png").read_bytes()), ("cls", str(labels[k]).encode()))})  # fmt: skip
    first = pixels[order][:, None].astype(np.float32)
    as_torch(root / "unit.pt", images=first / np.float32(255), labels=labels[order])
    as_torch(root / "images_best.pt", images=dataset.images.transpose(0, 3, 1, 2), labels=labels)
    distilled.save(dataset, root / "saved")
    return made | {name: root / name for name in ("pixels.npz", "table", "shard.tar", "unit.pt", "saved")}


def scores(place):
    return {row["method"]: row["accuracies"] for row in json.loads(place.read_text())}


@pytest.mark.slow
def test_equal_images_have_equal_accuracies_in_every_layout(run, tmp_path, program):
    dataset = distilled.load(run)
    places = layouts(tmp_path, dataset)
    names = ["itself", *places]
    status, out, err = program("evaluate", run, *places.values(), *FAST, "--names", *names, "--baselines", "medoid",
                               "--out", tmp_path / "rows.json")  # fmt: skip
    assert status == 0, err
    rows = scores(tmp_path / "rows.json")
    assert list(rows) == ["medoid", *names] and "medoid" in out
    assert all(rows[name] == rows["itself"] for name in names) and rows["medoid"] != rows["itself"]
    # Without the run folder, the teacher of the same settings is found beside the results, or given.
    norm = [str(x) for x in np.asarray(dataset.norm.mean)], [str(x) for x in np.asarray(dataset.norm.std)]
    shutil.copytree(run.parent / "teachers", tmp_path / "teachers")
    floats = tmp_path / "images_best.pt"
    for teacher in (TEACHER, ["--dataset", "digits", "--teacher", run / "teacher"]):
        status, out, err = program("evaluate", floats, *FAST, *teacher, "--image-mean", *norm[0], "--image-std",
                                   *norm[1], "--baselines", "random", "--out", tmp_path / "alone.json")  # fmt: skip
        assert status == 0 and "training convnet3" not in err, err
        alone = scores(tmp_path / "alone.json")
        assert alone["images_best"] == rows["itself"] and set(alone) == {"random", "images_best"}


@pytest.mark.slow
def test_results_of_foreign_images_alone(tmp_path, program, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [f"{GOLDEN}/dc.pt?set=1", GOLDEN / "dict.pt", "--image-norm", "mnist", *TEACHER, *FAST]
    status, out, err = program("evaluate", *arguments, "--seeds", 1, "--baselines")
    assert status == 0, err
    rows = scores(tmp_path / "runs" / "dc.evaluation.json")
    assert rows["dc"] == rows["dict"] and list(rows) == ["dc", "dict"]
    assert [line.split()[2] for line in out.splitlines()[2:]] == ["dc", "dict"]
    assert not list((tmp_path / "runs").glob("*.parts")) and len(list((tmp_path / "runs" / "teachers").iterdir())) == 1


def test_a_plan_trains_no_teacher(tmp_path, program, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = program("evaluate", GOLDEN / "dict.pt", "--image-norm", "mnist", *TEACHER, *FAST, "--dry-run")
    assert status == 0 and "train the teacher" in out, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dict.pt"], ["dict.pt", "--dataset"]),
        (["dict.pt", *TEACHER], ["--image-norm cifar10", "--image-mean and --image-std"]),
        (["dict.pt", *TEACHER, "--image-norm", "nist"], ["--image-norm 'nist'", "cifar10"]),
        (["dict.pt", *TEACHER, "--image-mean", 0.1], ["--image-mean and --image-std must be given together"]),
        (["dict.pt", *TEACHER, "--image-norm", "mnist", "--image-mean", 0, "--image-std", 1], ["say the same"]),
        (["soft.pt", *TEACHER, "--image-norm", "mnist"], ["soft", "--argmax"]),
        (["dict.pt", *TEACHER, "--image-norm", "mnist", "--image-size", 16], ["8x8x1", "16x16x1", "not resized"]),
        (["dict.pt", *TEACHER, "--image-norm", "mnist", "--channels", 3], ["8x8x1", "8x8x3", "--channels 1"]),
        (["command.pt", *TEACHER], ["posix.system", "no code of a file is run"]),
        (["claim.pt", *TEACHER], ["4398046511104 bytes"]),
        (["legacy.pt", *TEACHER], ["weights_only=True"]),
        (["nothing.pt", *TEACHER], ["nothing.pt does not exist"]),
        (["dict.pt?images=x", *TEACHER], ["'images=x'", "KEY=VALUE"]),
        (["dict.pt", "--dataset", "digts"], ["'digts'"]),
        (["dict.pt", "dict.pt", *TEACHER, "--image-norm", "mnist", "--names", "a"], ["--names a are 1, for 2 sets"]),
        (["dict.pt", "dict.pt", *TEACHER, "--image-norm", "mnist", "--names", "a", "a"], ["two are equal"]),
        (["dict.pt", *TEACHER, "--image-norm", "mnist", "--teacher", "none"], ["no teacher at none"]),
    ],
)
def test_foreign_images_that_are_refused(refused, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    places = [GOLDEN / one if ".pt" in str(one) else one for one in arguments]
    line = refused("evaluate", *places)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", ["evaluate", "export", "report", "relabel"])
def test_real_images_are_no_run_folder(refused, tmp_path, monkeypatch, name):
    for split in ("train", "test"):
        png_of(tmp_path / "pets" / split / "cat" / "0.png", np.zeros((8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    for place in ("pets", "pets/train"):
        line = refused(name, place)
        assert f"{place}" in line and "it looks like a folder of real images, of classes cat" in line
        assert "jaxdd distill --dataset pets" in line


def test_what_the_real_images_may_be_given_as(refused):
    line = refused("evaluate", GOLDEN / "dict.pt")
    assert "name them with --dataset, which takes digits, a folder, hf:owner/name" in line


@pytest.mark.slow
def test_other_teachers_of_the_data_are_named_before_one_is_trained(run, tmp_path, program, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teachers = tmp_path / "runs" / "teachers"
    shutil.copytree(run / "teacher", teachers / "better")
    (teachers / "damaged").mkdir()
    (teachers / "damaged" / "teacher.json").write_text("{")
    accuracy = json.loads((teachers / "better" / "teacher.json").read_text())["accuracy"]
    np.savez("x.npz", images=np.zeros((10, 8, 8), np.uint8), labels=np.arange(10))
    arguments = ["x.npz", "--dataset", "digits", "--width", 8, "--teacher-train.epochs", 2, *FAST[:-2]]
    arguments += ["--protocols", "hard", "--hard.train.epochs", 1, "--seeds", 1, "--baselines"]
    status, _, err = program("evaluate", *arguments)
    known = f"others of these data are there: better (convnet3, {100 * accuracy:.1f} %)"
    assert status == 0 and f"so one is trained; {known}; to use it, give --teacher runs/teachers/better\n" in err
    # Now it is there.
    status, _, err = program("evaluate", *arguments)
    assert status == 0 and "others of these data" not in err
    # A teacher of other classes is none for these images.
    info = json.loads((teachers / "better" / "teacher.json").read_text())
    (teachers / "better" / "teacher.json").write_text(json.dumps(info | {"class_names": list("abcdefghij")}))
    real = judging.opened(evaluate_config(arguments)).workspace.real
    assert "better" not in alternatives.note(teachers, real) and "digits-convnet3" in alternatives.note(teachers, real)


def evaluate_config(arguments):
    return flags.parse(EvaluateConfig(), [str(one) for one in arguments])


def test_settings_of_data_beside_a_run_folder(refused, run, tmp_path):
    for flag in (["--dataset", "digits"], ["--teacher", run / "teacher"], ["--image-size", 8], ["--flip", True]):
        line = refused("evaluate", run, *flag)
        assert f"{flag[0]} is for images that are no run folder" in line and str(run) in line
    line = refused("evaluate", run, GOLDEN / "labels_best.pt")
    assert "labels_best.pt has images without labels" in line
    (tmp_path / "one.npz").write_bytes(b"")
    assert "one.npz cannot be read" in refused("evaluate", run, tmp_path / "one.npz")
    sets = [distilled.DistilledDataset.from_arrays(np.zeros((2, 8, 8, 1), np.uint8), [0, 1], class_names=names)
            for names in (("a", "b"), ("a", "c"))]  # fmt: skip
    line = message(lambda: judging._check_alike([run, tmp_path / "one.npz"], sets))
    assert "one.npz has other classes than" in line and str(run) in line


def cells(place):
    return {(row["method"], row["ipc"]): row["accuracies"] for row in json.loads(place.read_text())}


@pytest.mark.slow
def test_sets_of_several_numbers_of_images_per_class(run, tmp_path, program):
    dataset = distilled.load(run)
    np.savez(tmp_path / "one.npz", images=dataset.pixels()[::2, ..., 0], labels=dataset.labels[::2])
    fast = ["--seeds", 1, "--full", 1, "--hard.train.epochs", 2, "--protocols", "hard", "--baselines", "random"]
    given = [run, tmp_path / "one.npz", "--names", "two", "one", *fast]
    status, out, err = program("evaluate", *given, "--dry-run")
    assert status == 0 and "convnet3, hard, IPC 1" in out and "convnet3, hard, IPC 2" in out, err
    status, out, err = program("evaluate", *given, "--out", tmp_path / "both.json")
    assert status == 0, err
    both = cells(tmp_path / "both.json")
    assert list(both) == [("random", 1), ("one", 1), ("random", 2), ("two", 2), ("full", None)]
    assert [line.split()[2:4] for line in out.splitlines()[2:]] == [
        [method, "all" if ipc is None else str(ipc)] for method, ipc in both
    ]
    alone = {}
    for name, place in (("two", run), ("one", tmp_path / "one.npz")):
        flags = ["--dataset", "digits", "--teacher", run / "teacher"] if name == "one" else []
        status, _, err = program("evaluate", place, "--names", name, *flags, *fast, "--out", tmp_path / "alone.json")
        assert status == 0, err
        alone |= cells(tmp_path / "alone.json")
    assert alone == both


def test_what_is_a_run_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    png_of(tmp_path / "set" / "a" / "0.png", np.zeros((8, 8), np.uint8))
    assert all(map(judging.is_run, (run, tmp_path / "none", tmp_path / "empty")))
    for place in (GOLDEN / "dict.pt", tmp_path / "none.npz", tmp_path / "set", run / "distilled"):
        assert not judging.is_run(place)
