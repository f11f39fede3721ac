"""Bounds of settings, and records of files that anybody may have written."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers import message

import jaxdd
from jaxdd.ground import settings
from jaxdd.ground.settings import Bounds, bounded
from jaxdd.methods import RECIPES
from jaxdd.programs import demo, distill, evaluate, relabel, tables, train
from jaxdd.reports import ot_rates

CONFIGS = [
    *(distill.default(["--method", name]) for name in ("wmdd", "ddoq", "rded")),
    evaluate.EvaluateConfig(),
    relabel.RelabelConfig(),
    train.TrainConfig(),
    demo.DemoConfig(),
    ot_rates.OtConfig(),
    tables.default("scores", []),
    *(kind() for kind in jaxdd.SUMMARIZERS.values()),
]


def numbers(config):
    """Every number inside of a config: a function that puts a value in its place, and whether it is whole."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            for path, put, whole in numbers(value):
                yield (
                    f"{item.name}.{path}",
                    lambda new, put=put, item=item: dataclasses.replace(config, **{item.name: put(new)}),
                    whole,
                )
        kinds = str(item.type)
        if kinds in ("<class 'int'>", "<class 'float'>", "int | None", "float | None"):
            put = lambda new, item=item: dataclasses.replace(config, **{item.name: new})
            yield item.name, put, "float" not in kinds


def test_no_number_of_any_program_is_without_bounds():
    count = 0
    for config in CONFIGS:
        settings.check(config)
        for path, put, whole in numbers(config):
            for bad in (-1, 10**12, 10**5000, "3", 1.5) if whole else (math.nan, math.inf, -0.5, 1e300, "3"):
                assert path in message(lambda put=put, bad=bad: settings.check(put(bad))), (config, path, bad)
            count += 1
    assert count > 300


def test_every_recipe_and_its_default_settings_are_within_bounds():
    for recipe in RECIPES.values():
        settings.check(recipe)


@dataclass(frozen=True)
class Mine:
    share: float = 0.5
    shift: float = -1.0
    many: int = 10**7
    sides: tuple[int, ...] = bounded((1, 2), Bounds(1, 8, longest=3))
    name: str = ""
    maybe: int | None = None
    more: dict = field(default_factory=dict)


@pytest.mark.parametrize("good", [
    {"share": 0}, {"share": np.float32(0.25)}, {"shift": -5.0}, {"many": 10**7}, {"many": np.int64(3)}, {"sides": ()},
    {"sides": (1, 8, 3)}, {"maybe": None}, {"maybe": 3}, {"more": {"a": math.nan}},
])  # fmt: skip
def test_what_is_within_bounds_passes(good):
    settings.check(Mine(**good))


@pytest.mark.parametrize("bad", [
    {"share": -1e-9}, {"share": None}, {"share": "0.5"}, {"share": math.nan}, {"shift": -math.inf}, {"many": 10**7 + 1},
    {"many": 2.0}, {"sides": (0,)}, {"sides": (1, 2, 3, 4)}, {"sides": (1, None)}, {"name": "a" * 5000},
    {"maybe": -1}, {"maybe": "3"},
])  # fmt: skip
def test_what_is_not_within_bounds_is_named(bad):
    (name,) = bad
    assert f"`{name}`" in message(lambda: settings.check(Mine(**bad)))
    assert f"a.json: {name}" in message(lambda: settings.check(Mine(**bad), "a.json"))


def test_a_file_cannot_set_what_is_out_of_bounds():
    assert settings.changed(Mine(), {"sides": [3], "share": 1}, "a.toml") == Mine(sides=(3,), share=1.0)
    for bad in ({"sides": [9]}, {"share": math.nan}, {"many": 10**9}, {"sides": 10**5000}, {"share": 10**400}):
        (name,) = bad
        text = message(lambda bad=bad: settings.changed(Mine(), bad, "a.toml"))
        assert text.startswith(f"a.toml: {name}") and len(text) < 300


@dataclass(frozen=True)
class Record:
    name: str
    inner: Mine
    size: int = bounded(settings.REQUIRED, Bounds(1, 9))
    note: str = "none"


def test_a_record_is_what_the_file_says_or_refused():
    good = {"name": "a", "inner": {"share": 0.25}, "size": 3, "unknown": [1]}
    assert settings.parsed(Record, good, "a.json") == Record("a", Mine(share=0.25), 3)
    for bad, words in (
        ([], "a.json holds []"),
        ({**good, "size": 0}, "a.json: size 0 is out of range; use 1 to 9"),
        ({**good, "size": "3"}, "a.json: size = '3' is no whole number"),
        ({**good, "inner": {"shade": 1}}, "a.json: inner: unknown setting 'shade'"),
        ({"name": "a", "inner": {}}, "a.json has no size"),
    ):
        assert words in message(lambda bad=bad: settings.parsed(Record, bad, "a.json"))


def test_the_library_refuses_before_any_work(tmp_path):
    config = jaxdd.DistillConfig(out=tmp_path / "run")
    for bad, words in (
        ({"ipc": 10**12}, "`ipc`"),
        ({"memory_gib": math.nan}, "`memory_gib`"),
        ({"recipe": jaxdd.Recipe(imager=jaxdd.Recover(learning_rate=math.nan))}, "`recipe.imager.learning_rate`"),
        ({"teacher_train": jaxdd.TrainSettings(epochs=10**12)}, "`teacher_train.epochs`"),
    ):
        changed = dataclasses.replace(config, **bad)
        assert words in message(lambda changed=changed: jaxdd.workspace.distill(changed))
    assert not list(tmp_path.iterdir())
    protocol = dataclasses.replace(jaxdd.SOFT, labels=jaxdd.SoftLabels(temperature=math.nan))
    assert "temperature" in message(lambda: jaxdd.students.protocol.check(protocol))
