"""The command `jaxdd`: one program after the other by its name.

jaxdd distill --dataset digits --ipc 1 --out runs/x
jaxdd evaluate runs/x
"""

import ast
import difflib
import importlib
import signal
import sys
import threading
from pathlib import Path

PROGRAMS = ("distill", "evaluate", "relabel", "export", "report", "tables", "train", "demo", "doctor")


def summary(name: str) -> str:
    """The first sentence of the documentation of a program, which is not imported for it."""
    text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def overview() -> str:
    """What ``jaxdd --help`` prints."""
    lines = [f"  {name:9} {summary(name)}" for name in PROGRAMS]
    return "\n".join(
        ["usage: jaxdd PROGRAM [flags]", "", *lines, "", "`jaxdd PROGRAM --help` lists the flags of a program."]
    )


def _end_on_interrupt() -> None:
    """Until a program heeds signals itself, Ctrl-C ends it without a stack trace: its imports take seconds."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names, with the others."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in PROGRAMS:
        _end_on_interrupt()
        importlib.import_module(f"jaxdd.programs.{name}").cli(rest)
    elif name in ("", "-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        import jaxdd

        print(f"jaxdd {jaxdd.__version__}")
    else:
        from jaxdd.ground.errors import shown
        from jaxdd.ground.progress import say

        near = difflib.get_close_matches(name, PROGRAMS, 1) or PROGRAMS
        say(f"error: unknown program {shown(name)}; use: jaxdd {'|'.join(near)}")
        sys.exit(2)
