"""A label stream as plain arrays: NumPy alone makes of them what the pipeline makes of the key."""

import ast
import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from helpers import message
from PIL import Image

import jaxdd
from jaxdd.data import augment, image
from jaxdd.data.augment import Augment, Crop
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import views
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.stored import LabelSettings, Stream
from jaxdd.stages.relabel.storing import materialise

SIDE, CHANNELS, BATCH, CLASSES = 8, 3, 4, 3
NORM = Normalisation(np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.25]))
STUDENT = Path(jaxdd.__file__).parent / "exchange" / "student.py.txt"


@pytest.fixture(scope="module")
def dataset():
    pixels = np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, CHANNELS), np.uint8)
    return DistilledDataset.from_arrays(pixels, np.repeat(np.arange(CLASSES), 3), np.arange(1.0, 10.0), norm=NORM)


def linear(variables, images):
    flat = images.reshape(len(images), -1)
    return jaxdd.nn.Output(flat @ variables["params"], flat, {})


@pytest.fixture(scope="module")
def teacher():
    weights = np.random.default_rng(1).normal(size=(SIDE * SIDE * CHANNELS, CLASSES)).astype(np.float32)
    return Teacher(linear, {"params": weights}, NORM)


def written(folder, dataset, teacher, settings, form="float32", epochs=2):
    """The labels of a stream, the arrays of its export by name, and its stream.json."""
    stream = Stream(settings, BATCH, 4.0)
    labels = materialise(folder / "labels", dataset, stream, teacher, LabelSettings(form, 2, epochs))
    views.write(folder / "soft", labels, dataset)
    arrays = {place.stem: np.load(place) for place in (folder / "soft").glob("*.npy")}
    return labels, arrays, json.loads((folder / "soft" / "stream.json").read_text())


def seen(arrays, about, t):
    """The images of step t by the description of the arrays, in float64."""
    images = (arrays["images"][arrays["rows"][t]] / 255 - np.array(about["mean"])) / np.array(about["std"])
    if "boxes" in arrays:
        images = np.stack([cropped(x, box, about["beyond_the_image"]) for x, box in zip(images, arrays["boxes"][t])])
    if "flips" in arrays:
        images = np.where(arrays["flips"][t][:, None, None, None], images[:, :, ::-1], images)
    if "partners" in arrays:
        others, share = images[arrays["partners"][t]], np.float64(arrays["shares"][t])
        if "pastes" in arrays:
            top, bottom, left, right = map(int, arrays["pastes"][t])
            images = images.copy()
            images[:, top:bottom, left:right] = others[:, top:bottom, left:right]
            assert share == pytest.approx(1 - (bottom - top) * (right - left) / SIDE**2)
        else:
            images = share * images + (1 - share) * others
    return images


def cropped(image, box, beyond):
    """One box of an image, sampled bilinearly pixel by pixel."""
    top, left, height, width = np.float64(box) * SIDE
    result = np.zeros_like(image)
    for y in range(SIDE):
        for x in range(SIDE):
            at = top + (y + 0.5) * height / SIDE - 0.5, left + (x + 0.5) * width / SIDE - 0.5
            for row in (np.floor(at[0]), np.floor(at[0]) + 1):
                for column in (np.floor(at[1]), np.floor(at[1]) + 1):
                    share = (1 - abs(at[0] - row)) * (1 - abs(at[1] - column))
                    inside = 0 <= row < SIDE and 0 <= column < SIDE
                    place = int(np.clip(row, 0, SIDE - 1)), int(np.clip(column, 0, SIDE - 1))
                    result[y, x] += share * image[place] * (inside or beyond == "border")
    return result


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Augment(mix="cutmix"), {"boxes", "flips", "partners", "pastes", "shares"}),
        (Augment("pad", mix="mixup", alpha=0.8), {"boxes", "flips", "partners", "shares"}),
        (Augment("none", flip=False), set()),
    ],
    ids=["cutmix", "mixup", "plain"],
)
def test_numpy_makes_the_same_views(settings, names, dataset, teacher, tmp_path):
    labels, arrays, about = written(tmp_path, dataset, teacher, settings)
    assert set(arrays) == {"images", "labels", "weights", "rows", "logits"} | names
    assert views.drawn_bytes(labels, dataset) == sum(arrays[name].nbytes for name in {"rows"} | names)
    assert all(len(arrays[name]) == labels.steps for name in {"rows", "logits"} | names)
    assert np.bincount(arrays["rows"].ravel(), minlength=9).min() >= 2  # each image in each epoch
    run = jax.jit(augment.pipeline(settings))
    key = jax.random.fold_in(jax.random.key(labels.seed), 1)
    for t in range(labels.steps):
        batch = np.asarray(normalise(NORM, dataset.pixels()[arrays["rows"][t]]))
        expected, _ = run(jax.random.fold_in(key, t), batch, np.zeros((BATCH, 1), np.float32))
        mine = seen(arrays, about, t)
        np.testing.assert_allclose(mine, expected, atol=2e-5)
        # The answers are those for these very views.
        logits = mine.reshape(BATCH, -1) @ np.float64(teacher.variables["params"])
        np.testing.assert_allclose(arrays["logits"][t], logits, atol=1e-3)


@pytest.mark.parametrize("form", ["int8", "topk", "float16"])
def test_every_form_is_written_as_it_is_stored(form, dataset, teacher, tmp_path):
    labels, arrays, about = written(tmp_path, dataset, teacher, Augment("none", flip=False), form)
    stored = labels.read(np.arange(labels.steps))
    for name, values in stored.items():
        np.testing.assert_array_equal(arrays[name], values)
    assert about["form"] == form and about["temperature"] == (4.0 if form == "topk" else None)


def test_what_does_not_change_is_there_once(dataset, teacher, tmp_path):
    _, arrays, about = written(tmp_path, dataset, teacher, Augment("none", flip=False))
    np.testing.assert_array_equal(arrays["images"], dataset.pixels())
    np.testing.assert_array_equal(arrays["labels"], dataset.labels)
    np.testing.assert_allclose(arrays["weights"], dataset.loss_weights(), rtol=1e-6)
    assert arrays["weights"].mean() == pytest.approx(1) and arrays["rows"].dtype == np.uint8
    assert about["class_names"] == list(dataset.class_names) and about["steps"] == len(arrays["rows"])


def test_labels_of_other_images_are_refused(dataset, teacher, tmp_path):
    stream = Stream(Augment("none", flip=False), BATCH, 4.0)
    labels = materialise(tmp_path / "labels", dataset, stream, teacher, LabelSettings("int8", 2, 1))
    other = replace(dataset, images=dataset.images[::-1])
    assert "other images" in message(lambda: views.write(tmp_path / "soft", labels, other))
    assert not (tmp_path / "soft").exists()


def test_a_crop_of_a_plug_in_that_draws_something_else_is_refused(dataset, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(augment.CROPS, "_known", dict(augment.CROPS))
    turn = lambda key, shape, settings: {"angle": jax.random.uniform(key, shape[:1])}
    augment.CROPS.register("turned", Crop(turn, lambda images, drawn, settings: images))
    said = message(lambda: written(tmp_path, dataset, teacher, Augment("turned", flip=False)))
    assert "'turned'" in said and "angle" in said


def test_the_student_needs_numpy_and_torch_alone():
    tree = ast.parse(STUDENT.read_text())
    names = [node.names[0].name if isinstance(node, ast.Import) else node.module
             for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert {name.split(".")[0] for name in names} == {"json", "sys", "pathlib", "numpy", "torch"}
    texts = [node.body[0] for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef)
             if ast.get_docstring(node)]  # fmt: skip
    prose = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
    lines = [line for number, line in enumerate(STUDENT.read_text().splitlines(), 1)
             if line.strip() and number not in prose and not line.startswith(("import", "from"))]  # fmt: skip
    assert len(lines) < 56


def test_the_student_in_torch_sees_the_same_views(dataset, teacher, tmp_path):
    pytest.importorskip("torch")
    for settings in (Augment(mix="cutmix"), Augment("pad", mix="mixup")):
        folder = tmp_path / settings.crop
        folder.mkdir()
        labels, arrays, about = written(folder, dataset, teacher, settings)
        (folder / "student.py").write_text(STUDENT.read_text())
        student = runpy.run_path(str(folder / "student.py"))
        for t in range(labels.steps):
            found = student["views"](t).permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(found, seen(arrays, about, t), atol=1e-4)
            np.testing.assert_allclose(student["answers"](t).numpy(), arrays["logits"][t], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--help", "usage: python student.py [test.npz"),
        ("nowhere.npz", "No such file"),
        (".", "Is a directory"),
        ("text.npz", "usage: "),
        ("empty.npz", "x_test"),
        ("other.npz", "give uint8 of the distilled size, (8, 8, 3)"),
        ("floats.npz", "x_test is float64"),
    ],
)
def test_the_student_refuses_other_tests_with_one_line(given, words, dataset, teacher, tmp_path, monkeypatch):
    """Torch is not needed as far as that."""
    for name in ("torch", "torch.nn"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    written(tmp_path, dataset, teacher, Augment("none", flip=False))
    (tmp_path / "student.py").write_text(STUDENT.read_text())
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "empty.npz", y_test=[0])
    np.savez(tmp_path / "other.npz", x_test=np.zeros((1, 9, 9, 3), np.uint8), y_test=[0])
    np.savez(tmp_path / "floats.npz", x_test=np.zeros((1, SIDE, SIDE, 3)), y_test=[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["student.py", given])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path("student.py", run_name="__main__")
    assert words in exit.value.code and len(exit.value.code.splitlines()) == 1


def test_the_recipe_of_the_docs_makes_the_tests_of_a_student(dataset, teacher, tmp_path, monkeypatch):
    page = Path(jaxdd.__file__).parents[1] / "docs" / "export.md"
    (recipe,) = (code for code in re.findall("```python\n(.*?)```", page.read_text(), re.DOTALL) if "x_test" in code)
    written(tmp_path, dataset, teacher, Augment("none", flip=False))
    random, expected = np.random.default_rng(0), []
    for name, shape in zip(dataset.class_names, [(8, 8, 3), (13, 20, 3), (31, 9)]):
        (tmp_path / "test" / name).mkdir(parents=True)
        for file in ("a.png", "b.png"):
            picture = Image.fromarray(random.integers(0, 256, shape, np.uint8))
            picture.save(tmp_path / "test" / name / file)
            expected.append(image.fit(picture, SIDE, CHANNELS))
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    made = np.load("test.npz")
    np.testing.assert_array_equal(made["x_test"], expected)
    assert made["x_test"].dtype == np.uint8 and made["y_test"].tolist() == [0, 0, 1, 1, 2, 2]
