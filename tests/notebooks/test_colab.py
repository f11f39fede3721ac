"""The notebook as it is in the repository: well formed, without outputs, and all that it imports is there."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

import jaxdd

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "notebooks" / "colab.ipynb"
NOTEBOOK = json.loads(PLACE.read_text(encoding="utf-8"))
CELLS = {cell["id"]: cell for cell in NOTEBOOK["cells"]}
CODE = {name: "".join(cell["source"]) for name, cell in CELLS.items() if cell["cell_type"] == "code"}


def parsed(code):
    """The tree of a cell, without the commands of IPython."""
    return ast.parse(re.sub(r"(?m)^( *)[%!].*$", r"\1pass", code))


def test_the_format_is_that_of_a_notebook_without_outputs():
    assert NOTEBOOK["nbformat"] == 4 and NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    assert len(CELLS) == len(NOTEBOOK["cells"]) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in CELLS)
    for cell in CELLS.values():
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("name", CODE)
def test_a_cell_is_short_and_compiles(name):
    assert len(CODE[name].splitlines()) <= 25
    compile(parsed(CODE[name]), name, "exec")


def imported():
    """The names that the notebook imports from jaxdd, with what they stand for."""
    found = {"jaxdd": jaxdd}
    for code in CODE.values():
        for node in ast.walk(parsed(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxdd"):
                for alias in node.names:
                    module = importlib.import_module(node.module)
                    is_module = importlib.util.find_spec(node.module).submodule_search_locations is not None
                    if is_module and not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
                    found[alias.name] = getattr(module, alias.name)
    return found


def test_what_is_imported_and_its_attributes_exist():
    found, checked = imported(), set()
    for code in CODE.values():
        for node in ast.walk(parsed(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in found:
                assert hasattr(found[node.value.id], node.attr), ast.unparse(node)
                checked.add(ast.unparse(node))
    assert {"jaxdd.named", "plots.png", "run_page.write", "tables.table"} <= checked


def test_the_badge_and_the_first_cell_name_the_same_repository():
    (address,) = re.findall(r'(?m)^REPOSITORY = "https://github.com/(.*)"$', CODE["install"])
    badge = f"https://colab.research.google.com/github/{address}/blob/main/notebooks/colab.ipynb"
    assert badge in "".join(CELLS["title"]["source"]) and badge in (ROOT / "README.md").read_text(encoding="utf-8")
