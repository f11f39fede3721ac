"""The rules of the house, read off the source: imports point downward, names are compared in registries only."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdd

ROOT = Path(__file__).parents[1]
PACKAGE, PROGRAMS = ROOT / "jaxdd", ROOT / "jaxdd" / "programs"
# From the ground up: a room imports its own files and those below it.
FLOORS = (
    ("ground",), ("data", "nn"), ("ot", "latent"), ("pretrained",), ("stages",), ("students", "methods"), ("recipes",),
    ("workspace",), ("planning", "reports"), ("exchange",), ("commands",), ("programs",), ("__main__",),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree):
    """Dotted names of the modules of the project that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from jaxdd import nn` and `from jaxdd.ground import hosts` name modules, other imports may.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    if path == PACKAGE / "__init__.py":
        return
    here = room_of(path)
    for name in imported_modules(parsed(path)):
        parts = name.split(".")
        if parts[0] != "jaxdd":
            assert parts[0] not in ("experiments", "benchmarks", "tests"), name
            continue
        if len(parts) == 1:  # the package itself, for its version
            continue
        room = parts[1]
        assert room == here or LEVEL[room] < LEVEL[here], f"{here} imports {name}"


def test_programs_are_thin_and_import_no_program():
    for path in PROGRAMS.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 100, path.name
        assert not [name for name in imported_modules(parsed(path)) if name.startswith("jaxdd.programs")], path.name


def functions(folder):
    for path in folder.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                yield f"{path.relative_to(ROOT)}: {node.name}", len(arguments), node.end_lineno - node.lineno + 1


def test_functions_are_small():
    measured = [one for folder in (PACKAGE, ROOT / "benchmarks") for one in functions(folder)]
    assert not [name for name, arguments, _ in measured if arguments > 7]
    assert not [name for name, _, lines in measured if lines > 60]


def test_files_are_small():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not [(name, lines) for name, lines in lengths.items() if lines > 400]


def test_the_name_of_a_choice_at_a_stage_is_compared_nowhere():
    names = {*jaxdd.SUMMARIZERS, *jaxdd.IMAGERS, *jaxdd.stages.encode.SPACES, *jaxdd.LABELLINGS}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Compare):
                words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
                words = {word for word in words if isinstance(word, str)}
                assert not words & names, f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def printed(code):
    """What a new process prints that runs a line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return done.stdout.strip()


def test_importing_the_package_takes_no_time():
    start = "import time; begun = time.process_time(); import jaxdd; print(time.process_time() - begun)"
    assert float(printed(start)) < 0.5  # JAX alone takes more than a second
    assert printed("import sys, jaxdd; print('jax' in sys.modules)") == "False"


def test_distillation_imports_no_more_than_it_needs():
    slow = {"ott", "matplotlib", "scipy.stats", "scipy.optimize", "jaxopt", "flax.nnx"}
    assert (
        printed(f"import sys, jaxdd; jaxdd.distill, jaxdd.open_workspace; print({slow} & sys.modules.keys())")
        == "set()"
    )


def test_every_name_is_found_from_the_top():
    assert all(getattr(jaxdd, name) is not None for name in jaxdd.__all__)
    rooms = ("ground", "stages", "students", "reports")
    modules = [f"{path.parent.name}.{path.stem}" for room in rooms for path in (PACKAGE / room).glob("[a-z]*.py")]
    code = (
        f"import jaxdd, operator; [operator.attrgetter(name)(jaxdd) for name in {modules}]; print(len(jaxdd.__all__))"
    )
    assert printed(code) == str(len(jaxdd.__all__))


@pytest.mark.parametrize("module", ["jaxdd", "jaxdd.methods", "jaxdd.workspace"])
def test_the_methods_are_there_whatever_is_imported_first(module):
    assert "wmdd" in printed(f"import {module}, jaxdd.methods; print(list(jaxdd.methods.RECIPES))")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_room_has_the_names_that_it_lists(path):
    name = ".".join(path.parent.relative_to(ROOT).parts)
    room = importlib.import_module(name)
    assert [one for one in getattr(room, "__all__", ()) if not hasattr(room, one)] == []


def test_the_version_is_the_same_wherever_it_is_written():
    places = {
        r"(?m)^version: (.*)$": "CITATION.cff",
        r"version = {(.*)}": "docs/cite.md",
        r"jaxdd (\d\S*),": "docs/cite.md",
    }
    for pattern, place in places.items():
        assert re.search(pattern, (ROOT / place).read_text()).group(1) == jaxdd.__version__, place


def test_the_package_imports_nothing_of_other_frameworks_and_loads_no_code():
    for path in PACKAGE.rglob("*.py"):
        tree = parsed(path)
        assert not {name.split(".")[0] for name in imported_modules(tree)} & {"torch", "diffusers", "pickle"}, path
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not {"torch.load", "torch.save", "pickle.load", "pickle.loads", "eval", "exec"} & set(calls), path
