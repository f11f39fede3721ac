"""The command `jaxdd`: it finds its programs, and says what there is."""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxdd
from jaxdd.programs import cli

ROOT = Path(__file__).parents[2]


def outcome(capfd, *arguments):
    """The status, stdout and stderr of a call of the command."""
    status = 0
    try:
        cli.main(list(arguments))
    except SystemExit as exit:
        status = exit.code
    return status, *capfd.readouterr()


def test_every_program_is_listed_with_a_sentence(capfd):
    modules = {path.stem for path in (ROOT / "jaxdd" / "programs").glob("[a-z]*.py")} - {"cli"}
    assert set(cli.PROGRAMS) == modules
    for arguments in ([], ["--help"], ["help"]):
        status, out, err = outcome(capfd, *arguments)
        assert status == 0 and err == ""
        lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
        assert set(lines) == modules and all(line.endswith(".") and len(line) < 140 for line in lines.values())


def test_a_program_that_there_is_not(capfd):
    assert outcome(capfd, "distil") == (2, "", "error: unknown program 'distil'; use: jaxdd distill\n")
    status, out, err = outcome(capfd, "\x1b[2J")
    assert status == 2 and out == "" and err.count("\n") == 1 and "\x1b" not in err


def test_the_version(capfd):
    assert outcome(capfd, "--version") == (0, f"jaxdd {jaxdd.__version__}\n", "")


def test_a_program_gets_the_other_arguments(capfd):
    status, out, _ = outcome(capfd, "report", "--help")
    assert status == 0 and out.startswith("usage: jaxdd report ")
    assert outcome(capfd, "report")[::2] == (2, "error: no run folder; use: jaxdd report runs/x\n")


def test_help_takes_no_time():
    code = "import sys; from jaxdd.programs import cli; cli.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("name", [name for name in cli.PROGRAMS if name != "tables"])
def test_a_clone_has_the_programs_as_modules(name):
    text = (ROOT / "experiments" / f"{name}.py").read_text()
    assert f"from jaxdd.programs.{name} import cli" in text and "cli()" in text
