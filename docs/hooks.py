"""What MkDocs does with these pages beyond Markdown: see `mkdocs.yml`.

- Formulas become MathML when the site is built, so that no page loads a script for them.
- A link to a file of the repository that is no page leads to the repository. In the Markdown it is a relative path, as
  on GitHub.
- CONTRIBUTING.md, CHANGELOG.md and the notebooks are pages, although they are not in this folder.
"""

import html
import posixpath
import re
from pathlib import Path

import griffe
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{f"notebooks/{place.name}": f"notebooks/{place.name}" for place in sorted(ROOT.glob("notebooks/*.ipynb"))},
}
INSIDE = {page: place for place, page in OUTSIDE.items()}
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\()([^)\s]+)(\))")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_CODE = re.compile(r"(^ {4}[^\n]*$|^```.*?^```$|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)


@event_priority(100)  # before the plug-in of the notebooks
def on_files(files, config):
    for place, page in OUTSIDE.items():
        if (ROOT / place).is_file() and page in _pages(config["nav"]):
            files.append(_file(place, page, config))
    return files


def _file(place, page, config):
    if place == page:
        return File(page, str(ROOT), config["site_dir"], config["use_directory_urls"])
    return File.generated(config, page, abs_src_path=str(ROOT / place))


def _pages(nav):
    """All pages of a part of the navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _pages(part)]


def on_page_markdown(markdown, page, config, files):
    """Lead links to files that are no pages into the repository."""
    uri = page.file.src_uri
    folder = posixpath.dirname(INSIDE.get(uri, f"docs/{uri}"))

    def link(match):
        before, target, after = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        to = OUTSIDE.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
        if place == "README.md":
            to = "index.md"
        if to is not None and files.get_file_from_path(to):
            return f"{before}{posixpath.relpath(to, posixpath.dirname(uri) or '.')}{mark}{anchor}{after}"
        if not (ROOT / place).exists():
            return match[0]
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"{before}{config['extra']['repository']}/{kind}/main/{place}{mark}{anchor}{after}"

    parts = _CODE.split(markdown)
    return "".join(part if k % 2 else _LINK.sub(link, part) for k, part in enumerate(parts))


def on_page_content(content, page, config, files):
    """Formulas as MathML, and tables that fit a phone.

    Formulas of notebooks are still between dollars, for a script that is left out.
    """
    if page.file.src_uri.endswith(".ipynb"):
        parts = re.split(r"(<(pre|style|script)\b.*?</\2>)", content, flags=re.DOTALL)
        content = "".join(
            part if k % 3 == 1 else re.sub(r"(?<!\\)\$([^$\n]+)\$", lambda match: mathml(match[1]), part)
            for k, part in enumerate(parts)
            if k % 3 != 2
        )
        # Scripts for formulas and diagrams would be loaded from a network.
        content = re.sub(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", content, flags=re.DOTALL)
        content = re.sub(r'<script type="module">(?:(?!</script>).)*?mermaid.*?</script>', "", content, flags=re.DOTALL)
    content = _FORMULA.sub(lambda match: mathml(match[3], match[2] == "["), content)
    content = re.sub(r"<table>.*?</table>", lambda match: _labelled(match[0]), content, flags=re.DOTALL)
    parts = re.split(r"(<pre\b.*?</pre>)", content, flags=re.DOTALL)
    return "".join(part if k % 2 else part.replace(" ± ", "&nbsp;±&nbsp;") for k, part in enumerate(parts))


def _labelled(table):
    """A table whose cells name their column, as on a phone its rows are blocks, see site.css."""
    soup = BeautifulSoup(table, "html.parser")
    heads = [head.get_text(" ", strip=True) for head in soup.thead.find_all("th")] if soup.thead else []
    for row in soup.tbody.find_all("tr") if heads and soup.tbody else ():
        for cell, head in zip(row.find_all("td"), heads):
            if head:
                cell["data-label"] = head
    return str(soup)


def mathml(formula, is_block=False):
    """A formula of LaTeX as MathML."""
    formula = " ".join(html.unescape(formula).split())
    formula = re.sub(r"\\arg\\(min|max)", r"\\mathrm{arg\\,\1}", formula)
    if is_block:  # the limits of a minimum are below it
        limits = r"(\\mathrm\{arg\\,(?:min|max)\}|\\min|\\max)_(\{[^{}]*\}|\w)"
        formula = re.sub(limits, r"\\underset{\2}{\1}\\;", formula)
        return f'<div class="formula">{convert(formula, display="block")}</div>'
    return convert(formula, display="inline")


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: formulas between dollars, and names in backticks as links where they have a page."""

    def on_attribute_instance(self, *, attr, **kwargs):
        """Show the default of a field, without its bounds or its registry."""
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) in _DEFAULTS:
            attr.value = value.arguments[_DEFAULTS[str(value.function)]]

    def on_package(self, *, pkg, **kwargs):
        for obj in _objects(pkg):
            if obj.docstring:
                obj.docstring.value = _linked(_formulas(obj.docstring.value), obj)


_DEFAULTS = {"bounded": 0, "settings.bounded": 0, "choice": 1}


def _objects(obj):
    """An object and all that is defined in it."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _linked(text, obj):
    """Names in backticks, outside of blocks of code, as links to their page; those without a page stay as they are."""

    def link(match):
        first, *rest = match[1].split(".")
        try:
            path = ".".join([obj.resolve(first), *rest])
        except griffe.NameResolutionError:
            path = f"jaxdd.{match[1]}"
        return f'<autoref identifier="{path}" optional><code>{match[1]}</code></autoref>'

    lines = [
        line if line.startswith("    ") and ">>>" in line else re.sub(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)", link, line)
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def _formulas(text):
    """The roles and directives of reStructuredText for formulas, in the notation of Markdown."""
    text = re.sub(r":math:`([^`]*)`", lambda match: f"${' '.join(match[1].split())}$", text)

    def block(match):
        return f"{match[1]}$$\n{match[1]}{' '.join(match[2].split())}\n{match[1]}$$\n"

    return re.sub(r"(?m)^([ \t]*)\.\. math::[ \t]*(.*(?:\n(?!\s*\n)\1[ \t]+.*)*)\n?", block, text + "\n").rstrip("\n")
