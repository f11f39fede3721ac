"""The documentation: links lead somewhere, and commands name programs and flags that there are."""

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

import jaxdd
from jaxdd.commands.flags import flags_of
from jaxdd.programs import cli, distill
from jaxdd.programs.demo import DemoConfig
from jaxdd.programs.evaluate import EvaluateConfig
from jaxdd.programs.export import ExportConfig
from jaxdd.programs.relabel import RelabelConfig
from jaxdd.programs.train import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
# Flags that every program takes.
EVERYWHERE = {"help", "help-all", "plugin", "dry-run", "on", "no-skip-corrupt"}
CONFIGS = {
    "evaluate": EvaluateConfig,
    "relabel": RelabelConfig,
    "train": TrainConfig,
    "demo": DemoConfig,
    "export": ExportConfig,
}
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")


def name_of(path):
    return str(path.relative_to(ROOT))


@cache
def text_of(path):
    """The Markdown of a page, or of the cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def prose_of(path):
    """The text of a page without blocks and spans of code."""
    text = _FENCE.sub("", text_of(path))
    text = re.sub(r"(?m)^ {4}.*$", "", text)
    return re.sub(r"`[^`\n]*`", "code", text)


@cache
def anchors_of(path):
    """What a link can name in a page: its headings as GitHub and MkDocs call them."""
    if path.suffix not in (".md", ".ipynb"):
        return set()
    headings = re.findall(r"(?m)^#{1,6} (.*)$", _FENCE.sub("", text_of(path)))
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower())) for heading in plain}


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=name_of)
def test_relative_links_and_anchors_resolve(page):
    for target in _LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target


def nav_pages(part):
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [page for one in parts for page in nav_pages(one)]


def test_the_navigation_has_every_page_and_no_other():
    class Loader(yaml.SafeLoader):
        """Reads the tags of MkDocs as nothing."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    pages = nav_pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    assert len(pages) == len(set(pages))
    outside = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
    for page in pages:
        place = outside.get(page, page if page.startswith("notebooks/") else f"docs/{page}")
        assert (ROOT / place).is_file(), page
    assert {name_of(page).removeprefix("docs/") for page in ROOT.glob("docs/**/*.md")} <= set(pages)


def is_defined(path):
    """Whether the file of a module has a name, read as text: importing all modules takes seconds."""
    *modules, name = path.split(".")
    place = ROOT.joinpath(*modules)
    # `jaxdd.checkpoint` is `jaxdd.ground.checkpoint`, and so for others of that room.
    ground = ROOT.joinpath(modules[0], "ground", *modules[1:]).with_suffix(".py")
    files = [place.with_suffix(".py"), place / "__init__.py", place / "__init__.pyi", ground]
    if ROOT.joinpath(*path.split(".")).with_suffix(".py").is_file():
        return True
    return any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files if file.is_file())


def api_names():
    """The dotted names of all objects on the pages of the API."""
    for page in ROOT.glob("docs/api/*.md"):
        yield from re.findall(r"(?m)^::: ([\w.]+)$", page.read_text(encoding="utf-8"))


def test_objects_of_the_api_pages_exist():
    names = list(api_names())
    assert len(names) > 100 and len(names) == len(set(names))
    assert not [name for name in names if not is_defined(name)]


def test_all_public_classes_and_functions_are_on_the_api_pages():
    rooms = {path.stem for path in (ROOT / "jaxdd").iterdir()} | {"checkpoint", "hosts", "parallel"}
    last = {name.rpartition(".")[2] for name in api_names()}
    missing = set(jaxdd.__all__) - rooms - last
    assert not missing


def commands():
    """The commands of all pages, with the page: (page, program, arguments)."""
    for page in PAGES + NOTEBOOKS:
        if page.name == "CHANGELOG.md":
            continue
        text = re.sub(r" *\\\n\s*", " ", text_of(page))
        for match in re.finditer(r"(?:(?<=[\s`(])|(?<=bin/)|^)(?:\.\.\. )?jaxdd ([a-z]+)\b([^`\n]*)", text):
            line = text[: match.start()].rpartition("\n")[2]
            in_code = line.startswith("    ") or line.count("`") % 2 == 1
            if in_code and text[match.end(1)] != ".":
                yield name_of(page), match[1], arguments_of(match[2])


def arguments_of(text):
    text = re.sub(r"\s+(#|\||&).*$", "", text)
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def flags(arguments):
    return [one.partition("=")[0].removeprefix("--") for one in arguments if re.match(r"--[a-z]", one)]


@cache
def known_flags(program, method, summarizer, imager):
    """The flags of a program; those of `distill` depend on what is chosen."""
    if program != "distill":
        names = flags_of(CONFIGS[program]())
    else:
        chosen = [argument for pair in (("--method", method),) if pair[1] for argument in pair]
        config = distill.default(chosen)
        names = flags_of(config)
        for stage, registry, name in (
            ("summarizer", jaxdd.SUMMARIZERS, summarizer),
            ("imager", jaxdd.IMAGERS, imager),
        ):
            if name and ":" not in name:
                names += [f"{stage}.{field}" for field in flags_of(registry.find(name)())]
    return {name.replace("_", "-") for name in names}


def value_of(arguments, flag):
    return next((arguments[k + 1] for k, one in enumerate(arguments[:-1]) if one == flag), None)


def test_every_command_names_a_program():
    found = list(commands())
    assert len(found) > 60
    unknown = {(page, name) for page, name, _ in found if name not in cli.PROGRAMS}
    assert not unknown


def test_every_flag_of_a_command_exists():
    checked = 0
    for page, program, arguments in commands():
        if program not in {"distill", *CONFIGS}:
            continue
        method = value_of(arguments, "--method")
        if method not in jaxdd.RECIPES:
            method = None
        chosen = [value_of(arguments, flag) for flag in ("--summarizer", "--imager")]
        known = known_flags(program, method, *chosen)
        own = {f"{stage}." for stage, name in zip(("summarizer", "imager"), chosen) if name and ":" in name}
        for flag in flags(arguments):
            if flag.startswith(tuple(own)) or flag in EVERYWHERE:
                continue
            assert flag.replace("_", "-") in known, f"{page}: jaxdd {program} --{flag}"
            checked += 1
    assert checked > 100


def test_flags_in_the_prose_are_flags_of_some_program():
    known = {*EVERYWHERE, "protocol", "grid", "only", "epochs", "full", "recoveries"} | known_flags(
        "distill", None, None, None
    )
    for name in jaxdd.SUMMARIZERS:
        known |= known_flags("distill", None, name, None)
    for name in jaxdd.IMAGERS:
        known |= known_flags("distill", None, None, name)
    for program in CONFIGS:
        known |= known_flags(program, None, None, None)
    others = {"to", "labels", "no-labels", "license", "title", "out", "signal"}  # of jaxdd export and of SLURM
    pages = [page for page in PAGES if page.parent == ROOT / "docs"]
    for page in pages:
        for span in re.findall(r"`(--[a-z][\w.-]*)", text_of(page)):
            name = span.removeprefix("--")
            assert name in known | others or name.endswith("."), f"{page.name}: {span}"


def test_blocks_of_python_compile():
    for page in PAGES:
        for block in re.findall(r"(?ms)^```python\n(.*?)^```", text_of(page)):
            ast.parse(block)


def test_files_modules_and_targets_that_are_named_exist():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    for page in pages:
        text = text_of(page)
        for place in re.findall(r"`((?:tests|jaxdd|docs|notebooks|benchmarks)/[\w./-]+\.\w+)`", text):
            assert (ROOT / place).is_file(), f"{page.name}: {place}"
        for module in re.findall(r"python -m ((?:benchmarks|experiments)\.\w+)", text):
            assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), f"{page.name}: {module}"
        for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"
