"""Every reader of foreign files, on seeds, on inputs that fuzzing kept, and on a few hundred mutations of both."""

import importlib
import random
import time
from collections import Counter

import pytest
from faults.fuzz import rules
from faults.fuzz.__main__ import NAMES
from faults.fuzz.rules import Target, outcome

from jaxdd.ground.errors import InputError

MUTATIONS = 400


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_value_or_one_line(name):
    target, rng = importlib.import_module(f"faults.fuzz.{name}").TARGET, random.Random(0)
    fixed = [*target.seeds(), *target.kept()]
    mutated = (target.mutate(rng, rng.choice(fixed)) for _ in range(MUTATIONS))
    kinds: Counter[str] = Counter()
    with rules.folder() as place:
        for data in [*fixed, *mutated]:
            result = outcome(target, place, data)
            assert not result.broken, f"{result.broken}\n{data[:2000]!r}"
            kinds[result.kind] += 1
    # Neither are all inputs so bad that nothing is read, nor so good that nothing is refused.
    assert kinds.keys() == {"value", "refused"} and min(kinds.values()) > 3, kinds


class Lines(InputError):
    def __str__(self):
        return "a\nb"


def _raising(error):
    def read(folder, data):
        raise error

    return read


@pytest.mark.parametrize(("read", "words"), [
    (_raising(KeyError("a")), "KeyError"),
    (_raising(BaseException("panic")), "BaseException"),
    (_raising(Lines()), "more than one line"),
    (_raising(InputError("")), "or none"),
    (lambda folder, data: time.sleep(0.2), "0.2 s"),
    (lambda folder, data: None, "2048 MiB more"),
])  # fmt: skip
def test_broken_rules_are_found(read, words, tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "SECONDS", 0.1)
    # The peak of memory is that of the whole process, whatever ran before.
    peaks = iter((0.0, 2048.0 if "MiB" in words else 0.0))
    monkeypatch.setattr(rules, "peak", lambda: next(peaks, 0.0))
    assert words in outcome(Target("bad", list, lambda rng, data: data, read), tmp_path, b"").broken


def test_files_of_an_input_come_back(tmp_path):
    base = {"a.json": b"1", "b/c.npz": b"2\n"}
    files = {"a.json": b"x 9\n\xff", "b/c.npz": b""}
    assert rules.unpacked(rules.packed(files), base) == files
    assert rules.unpacked(rules.packed({"other": b""}) + b"a.json", base) == {}
    with rules.placed(tmp_path, files, base):
        assert (tmp_path / "a.json").read_bytes() == files["a.json"] and (tmp_path / "b/c.npz").read_bytes() == b""
    assert {name: (tmp_path / name).read_bytes() for name in base} == base
