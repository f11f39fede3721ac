"""The short help of a program: the settings that are set first, and the others in a line for each group."""

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import tyro

from jaxdd.ground import settings

_FIRST = (
    "runs", "run", "dataset", "holdout", "method", "methods", "ipc", "image-size", "model", "teacher", "students",
    "seeds", "protocols", "baselines", "form", "protocol", "epochs", "to", "what", "grid", "only", "seed", "out",
)  # fmt: skip
"""The settings that are set first, of whichever program has them, in this order."""
FEW = 12
"""A program with up to so many settings shows all of them."""
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]
_WIDEST = 100


def text(config: Any, public: Any, name: str, description: str) -> str:
    """The short help of a program.

    Args:
      config: its config.
      public: gives a field's part of a flag, see `flags.public`.
      name: what the program is called.
      description: its documentation, and what else is said before the settings.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    first, others, groups = [], [], []
    documented = _documented(type(config))
    for flag, item, value in _fields(config, public):
        words = documented.get(item.name, "")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            groups.append((flag, value, settings.registry_of(item)))
        elif flag in _FIRST:
            first.append((flag, _shown(flag, item), _with_default(words, value, item)))
        else:
            others.append(f"--{flag}")
    first.sort(key=lambda one: _FIRST.index(one[0]))
    before = " ".join(title for _, title, _ in first if not title.startswith("-"))
    lines = [f"usage: {name} {before}{' ' if before else ''}[--SETTING VALUE ...]", "", description.strip(), ""]
    lines += ["Settings that are set first:"]
    lines += _table([(title, words) for _, title, words in first], width)
    lines += ["", f"Other settings; {name} --help-all shows each of them with its default:"]
    lines += [f"  {line}" for line in textwrap.wrap(" ".join(others), width - 2, break_on_hyphens=False)]
    # Several groups may be of one kind, as those of the protocols are.
    titles: dict[str, list[str]] = {}
    for group in groups:
        title, words = _group(*group, public)
        titles.setdefault(words, []).append(title)
    lines += _table([(", ".join(title), words) for words, title in titles.items()], width)
    return "\n".join(lines)


def _fields(config: Any, public: Any) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """The settings of a config and its tables, by their flags; the tables of a recipe lie beside the others."""
    for item in dataclasses.fields(config):
        value, flag = getattr(config, item.name), public(item)
        if flag:
            yield flag.replace("_", "-"), item, value
        else:
            yield from _fields(value, public)


def _documented(kind: type) -> dict[str, str]:
    """The documentation of the fields of a dataclass: the texts below them in its source and in that of its bases."""
    found: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # a class without a file
            continue
        nodes = body.body if isinstance(body, ast.ClassDef) else []
        for node, after in zip(nodes, nodes[1:]):
            words = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(words, str):
                found[node.target.id] = " ".join(words.split())
    return found


def _is_positional(item: dataclasses.Field) -> bool:
    return _POSITIONAL in getattr(item.type, "__metadata__", ())


def _shown(flag: str, item: dataclasses.Field) -> str:
    """A flag, or the capitals of what is given without one."""
    return flag.upper() + (" ..." if flag.endswith("s") else "") if _is_positional(item) else f"--{flag}"


def _with_default(words: str, value: Any, item: dataclasses.Field) -> str:
    """The documentation of a setting, with its default unless the words have it."""
    if value in (None, (), "") or "default:" in words or _is_positional(item):
        return words
    default = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{words} (default: {default})".strip()


def _group(flag: str, value: Any, registry: Any, public: Any) -> tuple[str, str]:
    """A table of settings in a line."""
    about = (inspect.getdoc(type(value)) or "").split("\n\n")[0].replace("\n", " ").strip()
    about = "" if about.startswith(f"{type(value).__name__}(") else about
    count = _count(value, public)
    if registry is None:
        return f"--{flag}.*", f"{about} {count} settings.".strip()
    choices = f"{', '.join(registry)}, or package.module:Name (default: {registry.name_of(value)})."
    return f"--{flag}", f"{choices} Its settings: --{flag}.*"


def _count(value: Any, public: Any) -> int:
    tables = [one for _, _, one in _fields(value, public)]
    return sum(_count(one, public) if dataclasses.is_dataclass(one) else 1 for one in tables)


def _table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names with their texts beside them, wrapped; a long name has its text below it."""
    indent = min(max((len(name) for name, _ in rows), default=0), 20) + 4
    lines = []
    for name, words in rows:
        wrapped = textwrap.wrap(words, max(width - indent, 20), break_on_hyphens=False) or [""]
        if len(name) + 4 > indent:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:{indent - 2}}{wrapped.pop(0)}".rstrip())
        lines += [" " * indent + one for one in wrapped if one]
    return lines
