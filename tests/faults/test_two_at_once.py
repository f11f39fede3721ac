"""Two processes at once: models are made once, a run folder has one owner, and what died holds nothing."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from faults.killer import Kill
from faults.stages import DDOQ, STAGES, TEACHER
from faults.trees import differences

SEED = ["--method", "random", *TEACHER]


def as_out(name):
    return ["distill", *SEED, "--out", f"runs/{name}"]


def said(started, text):
    """Wait until a program has printed a text to stderr."""
    place = Path(f"{started[1]}.err")
    for _ in range(1200):
        if place.exists() and text in place.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {text!r} in {place.read_text()!r}")


def halted(started):
    """Wait until a program has stopped itself."""
    for _ in range(1200):
        if "\nState:\tT" in Path(f"/proc/{started[0]}/status").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("it did not stop")


@pytest.mark.slow
def test_the_second_waits_for_a_model_and_finds_it(programs, tmp_path):
    first = programs.start(tmp_path, as_out("a"), Kill("step", 4, signal=signal.SIGSTOP))
    halted(first)
    # It holds the folder of the teacher and its own.
    refused = programs.run(tmp_path, as_out("a"))
    assert refused.status == 2
    assert refused.err == (
        f"error: runs/a is in use by process {first[0]}; wait until it ends, or choose another folder\n"
    )
    second = programs.start(tmp_path, as_out("b"))
    said(second, f"waiting for process {first[0]}, which makes runs/teachers/digits-convnet3-")
    os.kill(first[0], signal.SIGCONT)
    first, second = programs.wait(first), programs.wait(second)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "training convnet3" in first.err and "training convnet3" not in second.err
    assert differences(tmp_path / "runs" / "a" / "teacher", tmp_path / "runs" / "b" / "teacher") == []
    assert not list((tmp_path / "runs").rglob(".*"))


@pytest.mark.faults
@pytest.mark.slow
def test_the_waiting_one_goes_on_where_the_other_died(programs, tmp_path):
    """Also the lock of the dead one does not block, neither of the model nor of the run folder."""
    first = programs.start(tmp_path, as_out("a"), Kill("step", 6, signal=signal.SIGSTOP))
    halted(first)
    second = programs.start(tmp_path, as_out("b"))
    said(second, "waiting for process")
    os.kill(first[0], signal.SIGKILL)
    first, second = programs.wait(first), programs.wait(second)
    assert (first.status, second.status) == (-9, 0), second.err
    assert "goes on from step" in second.err
    assert (tmp_path / "runs" / "a" / ".lock").read_text() == str(first_process(first, second))
    third = programs.run(tmp_path, as_out("a"))
    assert third.status == 0 and "waiting" not in third.err and "training" not in third.err
    assert not list((tmp_path / "runs").rglob(".*"))


def first_process(first, second):
    """The number of the process that the second waited for."""
    (line,) = [line for line in second.err.splitlines() if line.startswith("waiting for process")]
    return int(line.split()[3].strip(","))


@pytest.mark.faults
@pytest.mark.slow
def test_latent_models_are_made_once(programs, tmp_path):
    other = ["distill", "--method", "d4m", *DDOQ[3:-1], "runs/z"]
    steps = programs.run(tmp_path / "whole", DDOQ).moments
    kinds = [what.rsplit(" ", 1)[0] for kind, what, _ in steps if kind == "step"]
    for model, what in (("train autoencoder", "vae"), ("train denoiser", "DiT")):
        shutil.rmtree(tmp_path / "both", ignore_errors=True)
        first = programs.start(tmp_path / "both", DDOQ, Kill("step", kinds.index(model) + 3, signal=signal.SIGSTOP))
        halted(first)
        second = programs.start(tmp_path / "both", other)
        said(second, f"waiting for process {first[0]}, which makes runs/latents/digits-{what}")
        os.kill(first[0], signal.SIGCONT)
        first, second = programs.wait(first), programs.wait(second)
        assert (first.status, second.status) == (0, 0), first.err + second.err
        for text in ("training an autoencoder", "training DiT-Ti/4", "training convnet3"):
            assert (first.err + second.err).count(text) == 1
        for name in ("latents", "teachers", "encoded", "y"):
            assert differences(tmp_path / "whole" / "runs" / name, tmp_path / "both" / "runs" / name) == []


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("rounds", range(6))
def test_a_crowd_without_order(programs, tmp_path, rounds):
    """Four that start at once, of which one is killed somewhere: the others end well, with one teacher."""
    kill = Kill("start", delay=0.4 + 0.5 * rounds)
    started = [programs.start(tmp_path, as_out(name), kill if name == "a" else None) for name in "abcd"]
    done = [programs.wait(one) for one in started]
    assert [one.status for one in done[1:]] == [0, 0, 0], [one.err for one in done]
    assert done[0].status in (0, -9)
    assert programs.run(tmp_path, as_out("a")).status == 0
    for name in "bcd":
        assert differences(tmp_path / "runs" / "a" / "teacher", tmp_path / "runs" / name / "teacher") == []
        assert differences(tmp_path / "runs" / "a" / "distilled", tmp_path / "runs" / name / "distilled") == []
    assert len(list((tmp_path / "runs" / "teachers").iterdir())) == 1
    assert not list((tmp_path / "runs").rglob(".*"))


@pytest.mark.faults
@pytest.mark.slow
def test_the_waiting_one_learns_that_the_other_diverged(programs, tmp_path):
    """It finds that the folder is gone, tries for itself, and says why there is no teacher."""
    wild = ["--teacher-train.learning-rate", "100000"]
    first = programs.start(tmp_path, [*as_out("a"), *wild], Kill("step", 2, signal=signal.SIGSTOP))
    halted(first)
    second = programs.start(tmp_path, [*as_out("b"), *wild])
    said(second, "waiting for process")
    os.kill(first[0], signal.SIGCONT)
    for done in (programs.wait(first), programs.wait(second)):
        assert done.status == 3, done.err
        assert "diverged" in done.err.splitlines()[-1] and "Traceback" not in done.err
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("what", ["teacher", "vae"])
def test_two_of_one_training_program(programs, tmp_path, what):
    """The folder of `jaxdd train` is a run folder: the second is refused."""
    arguments = STAGES[what].arguments
    first = programs.start(tmp_path, arguments, Kill("step", 3, signal=signal.SIGSTOP))
    halted(first)
    second = programs.run(tmp_path, arguments)
    assert second.status == 2 and len(second.err.splitlines()) == 1 and "in use by process" in second.err
    os.kill(first[0], signal.SIGCONT)
    assert programs.wait(first).status == 0
