"""A full disk, a read-only one, no memory, no device: one line with the remedy, and what was there stays."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxdd import commands
from jaxdd.commands import failures
from jaxdd.ground import checkpoint, progress
from jaxdd.programs import report

ROOT = Path(__file__).parents[2]


def refusal(error, capsys):
    """The line that a program ends with when its work raises this error."""

    def main(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        commands.run(main, lambda _: report.ReportConfig(), [])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, "can be written to"),
    (errno.EACCES, "permissions"), (errno.EFBIG, "ulimit -f"), (errno.ENAMETOOLONG, "shorter name"),
    (errno.EMFILE, "ulimit -n"), (errno.ENOTDIR, "correct the path"), (errno.ELOOP, "correct the path"),
    (errno.EIO, "check the disk"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line(number, words, capsys):
    line = refusal(OSError(number, os.strerror(number), "/a\nb"), capsys)
    assert words in line and os.strerror(number) in line and "/a" in line


def test_a_library_that_passes_it_on_is_understood(capsys):
    full = ValueError("tensorstore failed")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/x")
    assert "free some space" in refusal(full, capsys)
    assert "out of memory (Unable to allocate 7 GiB)" in refusal(MemoryError("Unable to allocate 7 GiB"), capsys)
    assert "out of memory on the device" in refusal(RuntimeError("RESOURCE_EXHAUSTED: 7 GiB\nmore"), capsys)
    # CPython 3.12 and earlier, and later.
    for text in ("embedded null byte", "mkdir: embedded null character in path"):
        assert "null byte" in refusal(ValueError(text), capsys)


def test_a_mistake_of_ours_stays_a_traceback():
    for error in (ValueError("x"), KeyError("x"), RuntimeError("x"), OSError("x")):
        assert failures.line(error) is None
    other = ValueError("x")
    other.__context__ = FileNotFoundError(errno.ENOENT, "No such file", "/x")
    assert failures.line(other) is None


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_disk_that_is_full_keeps_what_was_there(call, program, finished, tmp_path, monkeypatch):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "report.html").write_text("before")
    before = sorted(path.name for path in run.iterdir())

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(*((os, "replace", full) if call == "replace" else (Path, "write_text", full)))
    status, out, err = program("report", run)
    assert status == 2 and out == "" and err.count("\n") == 1 and "free some space" in err
    assert sorted(path.name for path in run.iterdir()) == before and (run / "report.html").read_text() == "before"


def process(*arguments, before=(), **options):
    """The status, the lines of refusal and stderr of a program in a process of its own."""
    command = [*before, sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, text=True, cwd=ROOT, stderr=subprocess.PIPE, **{"stdout": subprocess.PIPE} | options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, lines, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("nonsense", "'nonsense'"), ("tpu", "'tpu'")])
def test_a_device_that_is_not_there(name, words, tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": name}
    status, lines, err = process("experiments.distill", "--out", tmp_path / "x", env=environment)
    assert status == 2 and len(lines) == 1 and "Traceback" not in err
    assert "no such device" in lines[0] and words in lines[0] and "JAX_PLATFORMS" in lines[0]
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_flags_that_xla_does_not_know(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "--nonsense=1"}
    status, _, err = process("experiments.distill", "--out", tmp_path / "x", env=environment)
    # XLA ends the process itself, with a line of its own.
    assert status != 0 and "Traceback" not in err and "Unknown flag in XLA_FLAGS: --nonsense" in err


@pytest.mark.slow
def test_limits_and_full_devices(finished, tmp_path):
    status, lines, err = process("experiments.report", finished, before=["bash", "-c", 'ulimit -f 1; exec "$@"', "-"])
    assert status == 2 and len(lines) == 1 and "ulimit -f" in lines[0] and "Traceback" not in err
    with open("/dev/full", "w") as full:
        status, lines, err = process("experiments.report", finished, stdout=full)
    assert status == 2 and len(lines) == 1 and "free some space" in lines[0] and "Traceback" not in err


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_program_without_a_stream_does_its_work(name, program, finished, tmp_path, monkeypatch):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "report.html").unlink(missing_ok=True)
    for place, status in ((run, 0), (tmp_path / "none", 2)):
        monkeypatch.setattr(sys, name, None)
        assert program("report", place)[0] == status
        monkeypatch.setattr(sys, name, None)
        progress.log("nobody sees it")
        assert list(progress.progress(range(3), "nor this")) == [0, 1, 2]
    assert (run / "report.html").is_file()


def test_lines_that_stderr_does_not_take_are_no_failure(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        for _ in range(2):
            progress.log("nobody sees it")
        full.flush()  # as Python does at its end


@pytest.mark.slow
def test_streams_that_are_closed_full_or_not_read(finished):
    """Results that cannot be written are a failure of their own; of stderr, only the status is left."""
    report, unread = f'"{sys.executable}" -m experiments.report', "2>&1 | head -0; exit ${PIPESTATUS[0]}"
    cases = {
        f"{report} {finished} <&- >&- 2>&-": 0,
        f"{report} /nowhere 2>/dev/full": 2,
        f"{report} {finished} {unread}": 141,
        f"{report} --help {unread}": 141,
    }
    start = lambda case: subprocess.run(["bash", "-c", case], cwd=ROOT, capture_output=True)
    with ThreadPoolExecutor(2) as pool:
        for case, done in zip(cases, pool.map(start, cases)):
            assert (done.returncode, done.stderr) == (cases[case], b""), case


def test_a_checkpoint_that_cannot_be_written_is_a_refusal_of_the_system(tmp_path, monkeypatch):
    class Orbax:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def save(self, *_, **__):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write [os_error_code='28']")

    tree = {"a": np.zeros(3, np.float32)}
    monkeypatch.setattr(checkpoint, "_checkpointer", Orbax)
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint.save(tmp_path / "x", tree)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "x")
    monkeypatch.undo()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(100, 95, 5))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path / "x", tree)
    assert not list(tmp_path.iterdir())
