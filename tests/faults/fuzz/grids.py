"""Grid files: TOML with settings, methods and claims."""

import random
from pathlib import Path

from faults.fuzz import mutate
from faults.fuzz.rules import Target, write

from jaxdd.workspace import grid_file

CONFIGS = Path(__file__).parents[3] / "jaxdd" / "programs" / "configs"
SMALL = """# A grid.

title = "small"
columns = "ipc"

[grid]
dataset = "digits"
width = 8
ipc = [1, 10]
teacher_train = { epochs = 1 }

[methods.random]

[methods.mine]
recipe = "wmdd"
set = { imager.steps = 10, summarizer = "quantization" }
published = { 1 = 40.2 }

[sweep]
method = "mine"
field = "imager.steps"
values = [1, 2]

[[claim]]
what = "it is better"
better = "mine"
worse = "random"
"""
_VALUES = [
    "1", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "9" * 5000, "0x10", "0b1", "true", '""', '"a"', "'b'",
    '"\\u0000"', '"\\n"', "'''a\nb'''", "[]", "[1, 2]", "[1, [2]]", "{}", "{ a = 1 }", "{ name = 1 }", "1979-05-27",
    "07:32:00", "1979-05-27T07:32:00Z", "9999-99-99", '["a", 1]', '"' + "x" * 5000 + '"', "[" * 60 + "]" * 60,
    "1_000", "{a.b.c=1}",
]  # fmt: skip
_LINES = [
    "[grid]", "[methods.a]", "[methods]", "[methods.full]", '[methods."a/b"]', "[[claim]]", "[claim]", "[sweep]",
    "[[methods]]", "[methods.random.set]", "methods = 3", "claim = 1", "claim = [1]", "[a.b.c]", "grid = []",
    "[methods.'']", "scores = 'hard'", "columns = 'student'", "published = 1", "[methods.random.published]",
    "set.imager = 'nearest'", "recipe = 'ddoq'", "[grid.latent]", "[grid.teacher_train.augment]",
    "students = ['resnet18']", "[" + "a." * 300 + "a]", "a" * 300 + " = 1",
]  # fmt: skip


def change(rng: random.Random, data: bytes) -> bytes:
    """A TOML file with lines changed, removed, added or moved."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines) or 1) if lines else 0
        key, equals, old = (lines[at] if lines else "").partition("=")
        match rng.randrange(7):
            case 0 | 1 if equals:
                lines[at] = f"{key}= {rng.choice(_VALUES)}"
            case 2 if equals:
                names = ("name", "a.b", key.strip() + ".x", "''", "recipe", "set", "latent")
                lines[at] = f"{rng.choice(names)} ={old}"
            case 3 if lines:
                del lines[at]
            case 4:
                lines.insert(at, rng.choice(_LINES))
            case 5 if lines:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            case _:
                other = rng.choice(lines or [""])
                lines[at:at] = [f"{other.partition('=')[0]}= {rng.choice(_VALUES)}"]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def seeds():
    files = sorted(CONFIGS.glob("*.toml"), key=lambda place: place.stat().st_size)[:6]
    return [SMALL.encode(), *(place.read_bytes() for place in files)]


def read(folder, data):
    write(folder / "small.toml", data)
    grid = grid_file.read("table", folder / "small.toml", CONFIGS)
    assert grid.entries and all(entry.name.isprintable() for entry in grid.entries)


TARGET = Target("grids", seeds, mutate.either(change, mutate.raw), read)
