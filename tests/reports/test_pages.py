"""Reports: one well-formed file that fetches nothing, and shows what the run folder holds."""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import message
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import jaxdd
from jaxdd.commands import flags
from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import version
from jaxdd.ground.files import write_json, write_text
from jaxdd.ground.normalise import Normalisation
from jaxdd.methods import RECIPES
from jaxdd.programs import distill
from jaxdd.reports import gallery, names, run_page
from jaxdd.reports import html as page
from jaxdd.stages.images import Vae
from jaxdd.stages.summarize import Barycenter, Clvq, Quantization
from jaxdd.students.rows import row
from jaxdd.workspace import beside, config_of, distillation

AWKWARD = "<b>&\"'"
VOID = {"meta", "img", "br", "link", "input"}


class Parsed(HTMLParser):
    """Tags, which must close in order; the text inside each of a kind; tables as rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts, self.rows = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))
        self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            self.rows[-1].append(self.texts[tag][-1])

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


def picture(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))


def made(classes=3, ipc=4, side=8, channels=1, names=None):
    rng = np.random.default_rng(0)
    return DistilledDataset(
        images=rng.normal(size=(classes * ipc, side, side, channels)).astype(np.float32),
        labels=np.repeat(np.arange(classes, dtype=np.int32), ipc),
        weights=rng.dirichlet(np.ones(ipc), classes).astype(np.float32).reshape(-1),
        class_names=tuple(names or (f"class {c}" for c in range(classes))),
        norm=Normalisation(np.full(channels, 0.5, np.float32), np.full(channels, 0.2, np.float32)),
        provenance={
            "method": "wmdd", "dataset": "digits", "ipc": ipc, "recognised": 0.75,
            "teacher": {"model": "convnet3", "accuracy": 0.9944, "holdout": 0.0},
        },
    )  # fmt: skip


ROWS = [
    row("random", "digits", 4, "convnet3", "hard", [0.5, 0.6]),
    row("wmdd", "digits", 4, "convnet3", "hard", [0.9, 0.92]),
    row("wmdd", "digits", 4, "convnet3", "wmdd:uniform", [0.81, 0.83]),
    row("full", "digits", None, "convnet3", "hard", [0.9876]),
]


@pytest.fixture
def run(tmp_path):
    """A run folder of three classes with awkward names, with all its parts."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = config_of("wmdd", ipc=4, out=folder)
    config = replace(config, recipe=replace(config.recipe, summarizer=Quantization()))
    write_json(folder / "config.json", distillation.record(config))
    distilled.save(made(names=["0", AWKWARD, "a rather long name of a class"]), folder / "distilled")
    costs = np.array([[3.0, 2.0, 1.234567], [4.0, 4.0, 4.0], [9.0, 8.0, 7.0]])
    np.savez(folder / "atoms.npz", points=np.zeros((3, 4, 2)), weights=np.full((3, 4), 0.25), costs=costs)
    lines = [{"step": step, "feature": 1 / (1 + step), "moment": 0.5, "cross_entropy": 0.0} for step in (0, 10, 20)]
    write_text(folder / "metrics.jsonl", "\n".join(map(json.dumps, lines)))
    write_json(folder / "evaluation.json", ROWS)
    return folder


def test_the_page_is_well_formed_and_fetches_nothing(run):
    text = run_page.run_page(run)
    parsed = Parsed(text)
    for tag, attributes in parsed.attributes:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:image/png").startswith("data:image/png"), (tag, attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert all(attributes["alt"] for attributes in parsed.all("img"))
    levels = [int(tag[1]) for tag, _ in parsed.attributes if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1
    assert ("html", {"lang": "en"}) in parsed.attributes
    assert AWKWARD in parsed.texts["span"] and "<b>" not in text


def test_the_page_holds_what_the_folder_holds(run):
    parsed = Parsed(run_page.run_page(run))
    assert len(parsed.all("img")) == 12
    assert parsed.rows[:5] == [
        ["method", "IPC", "hard labels", "wmdd:uniform"],
        ["random", "4", "55.0 ± 7.1", ""],
        ["wmdd", "4", "91.0 ± 1.4", "82.0 ± 1.4"],
        ["full", "all", "98.8", ""],
        ["flag", "value", "default of wmdd"],
    ]
    assert ["--summarizer", "quantization", "barycenter"] in parsed.rows
    assert ["--summarizer.restarts", "4", "4"] in parsed.rows
    assert ["--imager.steps", "400", "400"] in parsed.rows
    # The best of two methods is emphasised; a protocol that one method saw has no best.
    assert "91.0 ± 1.4" in parsed.texts["strong"] and "82.0 ± 1.4" not in parsed.texts["strong"]
    weights = made().weights.reshape(3, 4).astype(float)
    ends = [f"{1 / (share**2).sum():.1f}" for share in weights] + ["1.235", "4.000", "7.000"]
    spans = zip(parsed.all("span"), parsed.texts["span"])
    assert [text for attributes, text in spans if attributes.get("class") == "end"] == ends
    assert any("99.4 %" in text for text in parsed.texts["dd"]) and "75.0 %" in parsed.texts["dd"]
    # Nothing of a term that is zero throughout can be drawn on a logarithmic axis.
    assert {"feature", "moment"} <= set(parsed.texts["li"]) and not any("cross" in text for text in parsed.texts["li"])


def test_what_the_folder_lacks_has_no_section(run):
    whole = Parsed(run_page.run_page(run)).texts["h2"]
    assert whole == ["Images", "Accuracy", "Weights", "Distances", "Recovery", "How to make it again"]
    (run / "evaluation.json").unlink()
    (run / "metrics.jsonl").unlink()
    np.savez(run / "atoms.npz", costs=np.zeros((3, 0)))
    assert Parsed(run_page.run_page(run)).texts["h2"] == ["Images", "Weights", "How to make it again"]
    (run / "atoms.npz").unlink()
    assert Parsed(run_page.run_page(run)).texts["h2"] == ["Images", "Weights", "How to make it again"]


def with_real_images(run, **changes):
    """Write real images beside those of the run, each of one grey level, and return them."""
    dataset = distilled.load(run)
    levels = np.arange(12, dtype=np.uint8)
    nearest = np.broadcast_to(20 * levels[:, None, None, None], (12, 8, 8, 1))
    random = np.broadcast_to(levels.reshape(3, 4, 1, 1, 1) + 100, (3, 4, 8, 8, 1))
    places = np.concatenate([distilled.heaviest(dataset, c, 4) for c in range(3)])
    real = beside.Beside(places, nearest, np.float32(levels / 8), random, "teacher")._replace(**changes)
    beside.save(run / beside.FILE, real)
    return real


def test_real_images_stand_beside_the_distilled_ones(run):
    real = with_real_images(run)
    text = run_page.run_page(run)
    parsed = Parsed(text)
    images = parsed.all("img")
    assert len(images) == 12 + 12 + 12 and "features, with the distance" in text and "<script" not in text
    shown = [picture(image["src"]) for image in images]
    for c in range(3):
        row = shown[12 * c : 12 * (c + 1)]
        np.testing.assert_array_equal(row[1:8:2], real.nearest[4 * c : 4 * c + 4, ..., 0])
        np.testing.assert_array_equal(row[8:], real.random[c, ..., 0])
    assert images[3]["alt"] == "the nearest real image, distance 0.12" and "real 0.12" in parsed.texts["div"]
    # Every image is a label of a switch, which makes it large without a script.
    assert [tag for tag, _ in parsed.attributes].count("input") == len(images)
    assert ".zoom input:checked ~ img" in parsed.texts["style"][0]


def test_distances_of_pixels_are_called_so(run):
    with_real_images(run, by="pixels")
    text = run_page.run_page(run)
    assert "by its pixels" in text and "features, with the distance" not in text


def test_real_images_that_do_not_fit_are_refused(run):
    with_real_images(run, places=np.arange(12) + 1)
    assert beside.FILE in message(lambda: run_page.run_page(run))
    (run / beside.FILE).write_bytes(b"no archive")
    assert beside.FILE in message(lambda: run_page.run_page(run))


def test_classes_of_imagenet_have_names_for_readers():
    text = gallery.grid(made(names=["n01440764", "n02115641", "n9"]))
    assert [name for name in Parsed(text).texts["span"] if name] == ["tench", "dingo", "n9"]
    assert 'title="n01440764"' in text and 'title="n9"' not in text
    assert len(set(names._WORDNET.values())) == len(names._WORDNET) == 20


def test_the_page_says_which_jaxdd_made_it(run, tmp_path):
    dataset = distilled.load(run)
    known = dataset.provenance | {"jaxdd": "0.1.0, commit 1234567"}
    shutil.rmtree(run / "distilled")
    distilled.save(replace(dataset, provenance=known), run / "distilled")
    assert "0.1.0, commit 1234567" in Parsed(run_page.run_page(run)).texts["dd"]
    assert version.describe().startswith(jaxdd.__version__) and version.commit(tmp_path) == ""
    command = ["git", "-C", tmp_path]
    git = lambda *words: subprocess.run([*command, *words], check=True, capture_output=True, text=True).stdout
    git("init")
    assert version.commit(tmp_path) == ""  # without a commit
    (tmp_path / "jaxdd").mkdir()
    (tmp_path / "jaxdd" / "a.py").write_text("")
    git("add", "jaxdd")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "a")
    assert version.commit(tmp_path) == git("rev-parse", "--short", "HEAD").strip()
    (tmp_path / "jaxdd" / "a.py").write_text("1")
    assert version.commit(tmp_path).endswith(" (changed)")


def test_a_setting_of_another_version_is_named(run):
    saved = json.loads((run / "config.json").read_text())
    saved["recipe"]["imager"]["sharpness"] = 3
    write_json(run / "config.json", saved)
    text = run_page.run_page(run)
    assert "imager.sharpness" in text and "sharpness" not in run_page.command(saved)


def test_the_program_writes_a_page_into_each_run(run, program, refused, tmp_path):
    (tmp_path / "other").mkdir()
    line = refused("report", run, tmp_path / "other")
    assert str(tmp_path / "other") in line and "config.json" in line
    assert "no run folder" in refused("report")
    status, out, _ = program("report", run)
    assert status == 0 and out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text(encoding="utf-8") == run_page.run_page(run)


# The command line


def parsed_back(command):
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["jaxdd", "distill"]
    return flags.parse(distill.default(words[2:]), words[2:])


def staged(config, **stages):
    return replace(config, recipe=replace(config.recipe, **stages))


CHANGES = {
    "nothing": lambda config: config,
    "switches": lambda config: staged(
        replace(config, flip=False, latent=replace(config.latent, bfloat16=True)),
        imager=replace(config.recipe.imager, flip=False, weighted_moments=False, steps=7),
    ),
    "lists": lambda config: replace(
        config,
        dataset="my photos/it's $HOME",
        mean=(0.1, 0.25, 1e-7),
        std=(0.3, 0.2, 0.1),
        latent=replace(config.latent, labels=(3, 1, 2), place="hub/name@refs/pr/1"),
    ),
    "nested": lambda config: staged(
        replace(
            config,
            ipc=50,
            image_size=64,
            teacher_train=replace(
                config.teacher_train, epochs=3, augment=replace(config.teacher_train.augment, flip=False, mix="none")
            ),
        ),
        summarizer=replace(config.recipe.summarizer, weights="free"),
        imager=replace(config.recipe.imager, strength=0.35),
    ),
    "choices": lambda config: staged(config, summarizer=Clvq(space="latents", batch_size=7), imager=Vae()),
    "choices with settings": lambda config: staged(
        config, summarizer=Barycenter(k_means=replace(Barycenter().k_means, restarts=9))
    ),
}


@pytest.mark.parametrize(
    "method, change",
    [
        ("wmdd", "nothing"), ("sre2l", "switches"), ("ddoq", "lists"), ("ddoq", "nested"), ("d4m", "choices"),
        ("random", "nothing"), ("mmd", "choices with settings"), ("herding", "lists"),
    ],
)  # fmt: skip
def test_the_command_makes_the_same_config(method, change):
    config = CHANGES[change](distill.default(["--method", method]))
    saved = json.loads(json.dumps(distillation.record(config)))
    command = run_page.command(saved)
    assert parsed_back(command) == config
    if change == "nothing":
        assert command.replace(" \\\n   ", "") == (
            f"jaxdd distill --dataset digits --method {method} --ipc 1 --out runs/distilled"
        )


def test_every_method_has_a_short_command():
    for method in RECIPES:
        saved = json.loads(json.dumps(distillation.record(config_of(method))))
        assert run_page.command(saved).count("--") == 4


# The blocks


TEXTS = st.text(
    st.characters(
        codec="utf-8",
        exclude_characters="\r\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
        exclude_categories=["Cc"],
    ),
    max_size=8,
)


@given(st.lists(st.tuples(TEXTS, TEXTS).map(list), max_size=3))
def test_a_table_gives_its_texts_back(rows):
    parsed = Parsed(page.document("t", [page.table(["<a>", "&amp;"], rows, best=[(0, 1)])]))
    assert parsed.rows == [["<a>", "&amp;"], *rows]
    assert parsed.texts.get("strong", []) == [row[1] for row in rows[:1]]


def test_the_grid_holds_each_image_as_it_is():
    dataset = made(channels=3)
    images = Parsed(gallery.grid(dataset)).all("img")
    pixels = dataset.pixels()
    for c in range(3):
        rows = 4 * c + np.argsort(-dataset.weights[4 * c : 4 * c + 4])
        for i, image in zip(rows, images[4 * c : 4 * c + 4]):
            np.testing.assert_array_equal(picture(image["src"]), pixels[i])
            assert image["alt"] == f"class class {c}, weight {100 * dataset.weights[i]:.1f} %"
            assert (image["width"], image["height"], image["class"]) == ("64", "64", "pixels")


def test_the_page_names_the_file_of_each_image(run):
    dataset = distilled.load(run)
    tree = run / "distilled" / "train"
    files = [one["title"] for one in Parsed(run_page.run_page(run)).all("div") if "title" in one]
    assert sorted(run / file for file in files) == sorted(tree.glob("*/*.png"))
    order = [i for c in range(3) for i in distilled.heaviest(dataset, c, 4)]
    for file, i in zip(files, order, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(run / file)), dataset.pixels()[i].squeeze())


def test_the_grid_of_much_is_short_and_says_so():
    dataset = made(classes=53, ipc=3, side=16)
    text = gallery.grid(dataset, most=2)
    assert len(Parsed(text).all("img")) == 100
    assert "first 50 of 53 classes" in text and "2 of the 3 images" in text
    large = Parsed(gallery.grid(made(classes=1, ipc=2, side=400))).all("img")
    assert all(picture(image["src"]).shape == (160, 160) for image in large)


def test_equal_weights_are_not_drawn():
    dataset = replace(made(), weights=np.full(12, 0.25, np.float32))
    assert "weight" not in gallery.grid(dataset) and "heaviest" not in gallery.grid(dataset)


def lines_of(text):
    paths = [a["d"] for a in Parsed(text).all("path") if a["class"].startswith("line") and a["d"] != "M1 5H27"]
    return [np.array([pair.split() for pair in path[1:].split("L")], float) for path in paths]


def test_a_curve_draws_its_values():
    x = np.array([0, 1, 2, 5, 10])
    text = page.curve(x, {"straight": 3 - 0.1 * x, "bent": x**2 / 40}, "step", "loss")
    drawn = np.concatenate(lines_of(text))
    np.testing.assert_allclose(drawn[:, 0], 10 * np.tile(x, 2), atol=0.01)
    # Downwards on the screen, and one affine map for both lines.
    fit = np.polyfit(np.concatenate([3 - 0.1 * x, x**2 / 40]), drawn[:, 1], 1)
    np.testing.assert_allclose(np.polyval(fit, np.concatenate([3 - 0.1 * x, x**2 / 40])), drawn[:, 1], atol=0.02)
    assert fit[0] < 0 and drawn[:, 1].min() >= 0 and drawn[:, 1].max() <= 100
    assert "straight from 3 to 2; bent from 0 to 2.5" in text


def test_a_logarithmic_curve_is_straight_where_the_values_are_exponential():
    x = np.arange(9)
    drawn, holes = lines_of(page.curve(x, {"a": 10.0**-x, "b": [0, *[1e-3] * 8]}, "step", "loss", log=True))
    np.testing.assert_allclose(np.diff(drawn, axis=0), np.diff(drawn, axis=0)[:1].repeat(8, 0), atol=0.03)
    assert len(holes) == 8


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_the_ticks_lie_inside(low, span, log):
    values = np.array([low, low + span])
    text = page.curve([0, 1], {"a": np.exp(values / 1e5) if log else values}, "x", "y", log=log)
    places = [float(place) for place in re.findall(r"bottom:([-\d.]+)%", text)]
    assert 2 <= len(places) <= 7 and min(places) >= 0 and max(places) <= 100


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [-3.0, float("nan")]])
def test_a_curve_that_stands_still(values):
    (drawn,) = lines_of(page.curve([0, 1], {"a": values}, "x", "y"))
    np.testing.assert_allclose(drawn[:, 1], 50, atol=0.01)
    assert lines_of(page.curve([0, 1], {"a": [0.0, -1.0]}, "x", "y", log=True)) == []


def test_a_figure_is_the_file_it_was_given():
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    (image,) = Parsed(page.figure(svg, "a caption", AWKWARD)).all("img")
    assert image["alt"] == AWKWARD
    kind, data = image["src"].split(";base64,")
    assert kind == "data:image/svg+xml" and base64.b64decode(data) == svg
