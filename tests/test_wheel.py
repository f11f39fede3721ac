"""What is installed: the package, its data and the command, and nothing at the top level but jaxdd."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

import jaxdd

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The contents of the wheel by their names."""
    # A copy: setuptools would put what an earlier build left in the checkout into the wheel.
    place, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "jaxdd", source / "jaxdd", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", place, source]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel):
    return next(content for name, content in wheel.items() if name.endswith(".dist-info/METADATA"))


@pytest.mark.slow
def test_it_holds_the_whole_package_and_nothing_beside_it(wheel):
    assert {name.split("/")[0] for name in wheel} == {"jaxdd", f"jaxdd-{jaxdd.__version__}.dist-info"}
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxdd").rglob("*") if path.is_file()}
    here = {name for name in here if not name.endswith(".pyc")}
    assert here == {name for name in wheel if name.startswith("jaxdd/")}
    assert {"jaxdd/py.typed", "jaxdd/__init__.pyi", "jaxdd/exchange/student.py.txt"} <= here
    assert sum(name.endswith(".toml") for name in here) > 20
    assert sum(map(len, wheel.values())) < 2 * 2**20


@pytest.mark.slow
def test_it_installs_the_command(wheel):
    text = next(content for name, content in wheel.items() if name.endswith("entry_points.txt")).decode()
    points = configparser.ConfigParser()
    points.read_string(text)
    assert dict(points["console_scripts"]) == {"jaxdd": "jaxdd.programs.cli:main"}


@pytest.mark.slow
def test_its_metadata_say_what_it_is(wheel):
    known = BytesParser().parsebytes(metadata(wheel))
    assert known["Name"] == "jaxdd" and known["Version"] == jaxdd.__version__
    assert known["License-Expression"] == "Apache-2.0"
    assert known["Requires-Python"] == ">=3.11" and known["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in known.get_all("Classifier")
    extras = set(known.get_all("Provides-Extra"))
    assert {"tfds", "hub", "pretrained", "tensorboard", "tpu", "notebook", "dev"} <= extras
    needed = {
        line.split(";")[0].split(">")[0].strip() for line in known.get_all("Requires-Dist") if "extra" not in line
    }
    assert {"jax", "flax", "optax", "ott-jax", "orbax-checkpoint", "chex"} <= needed
    assert not needed & {"tensorflow-cpu", "tensorflow-datasets", "datasets", "torch"}
