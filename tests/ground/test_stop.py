"""Signals: what is computed is kept, the exit status says which signal, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import divergence_helpers as small
import jax
import numpy as np
import pytest

from jaxdd import commands
from jaxdd.ground import stop
from jaxdd.ground.checkpoint import Checkpoints
from jaxdd.ground.watch import Watch
from jaxdd.students import train

AGAIN = {signal.SIGTERM: "send SIGTERM again", signal.SIGINT: "press Ctrl-C again"}
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
each_signal = pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)


def send(number):
    os.kill(os.getpid(), number)


@each_signal
def test_a_signal_ends_at_once_or_waits(number):
    stop.heed()
    with pytest.raises(stop.Stopped) as caught:
        send(number)
    assert caught.value.status == STATUS[number] and isinstance(caught.value, KeyboardInterrupt)
    reached = []
    with pytest.raises(stop.Stopped) as caught, stop.deferred():
        with stop.deferred():
            assert not stop.is_asked()
            send(number)
            assert stop.is_asked()
        reached.append("the end of the inner block")
    assert caught.value.status == STATUS[number] and reached and not stop.is_asked()
    with pytest.raises(stop.Stopped), stop.deferred():
        send(number)
        stop.check()
        reached.append("after the check")
    assert len(reached) == 1
    stop.check()


def test_a_second_signal_does_not_wait():
    stop.heed()
    with pytest.raises(stop.Stopped) as caught, stop.deferred():
        send(signal.SIGINT)
        send(signal.SIGTERM)
        pytest.fail("goes on")
    assert caught.value.status == 143


@each_signal
def test_a_signal_is_not_lost_where_nothing_can_be_raised(number, capfd):
    class Last:
        def __del__(self):
            send(number)

    stop.heed()
    with pytest.raises(stop.Stopped) as caught:
        last = Last()
        del last
        time.sleep(10)
    assert caught.value.status == STATUS[number] and capfd.readouterr().err == ""


def test_a_signal_of_before_is_not_answered_after(capfd):
    """One that was answered at once, in a command before this one in the same process."""
    stop.heed()
    with pytest.raises(stop.Stopped):
        send(signal.SIGINT)
    time.sleep(stop._QUIET / 3)  # the thread hears of it
    stop.heed()
    with pytest.raises(stop.Stopped), stop.deferred():
        stop._sent = 1  # as the thread has it that hears of the next one before it is handled
        time.sleep(2 * stop._QUIET)
        send(signal.SIGTERM)
    assert capfd.readouterr().err == f"stopping after this step; {AGAIN[signal.SIGTERM]} to stop at once\n"


@dataclass(frozen=True)
class Config:
    """A config without settings."""


def fitted(folder, number=None, at=0):
    """A linear classifier; the process gets a signal in the middle of a step."""

    def batch(step):
        if step == at:
            send(number)
        return small.X * np.float32(1 + 0.01 * step), small.Y, small.ONES

    batches = lambda done: (batch(step) for step in range(done + 1, small.STEPS + 1))
    trainer = small.trainer_of("adamw", 0.01)
    watch = Watch("train").keeping(Checkpoints(folder, "x"))
    return train.fit(trainer.step, trainer.init(small.KEY, (4, 4, 1)), small.KEY, batches, small.STEPS, watch=watch)


@each_signal
def test_a_program_that_is_stopped_keeps_its_step_and_goes_on(tmp_path, capfd, number):
    def main(config):
        fitted(tmp_path, number, at=37)

    with pytest.raises(SystemExit) as ended:
        commands.run(main, lambda arguments: Config(), [])
    assert ended.value.code == STATUS[number]
    first = f"stopping after this step; {AGAIN[number]} to stop at once\n"
    assert capfd.readouterr() == ("", f"{first}stopped; the same command goes on from what is kept\n")
    assert [path.name.partition("-")[2] for path in tmp_path.iterdir()] == ["37"]
    again, whole = fitted(tmp_path), fitted(None)
    assert "goes on from step 37" in capfd.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_program_without_checkpoints_is_stopped_too(capfd):
    with pytest.raises(SystemExit) as ended:
        commands.run(lambda config: fitted(None, signal.SIGTERM, at=3), lambda arguments: Config(), [])
    assert ended.value.code == 143 and "stopped" in capfd.readouterr().err


@pytest.mark.faults
def test_a_process_that_is_stopped_goes_on_to_the_same_teacher(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    flags = ["--width", "8", "--teacher-train.epochs", "6", "--out"]
    command = [sys.executable, "-m", "experiments.train", *flags]
    process = subprocess.Popen([*command, "cut"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "parts").is_dir():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)  # of the compilation
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.endswith("stopped; the same command goes on from what is kept\n") and "Traceback" not in err
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"parts"}
    kept = any(path.is_dir() for path in (tmp_path / "cut" / "parts").iterdir())
    for out in ("cut", "whole"):
        process = subprocess.run([*command, out], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0
        assert ("goes on from step" in process.stderr) == (kept and out == "cut")
    same = [(tmp_path / out / "teacher.json").read_bytes() for out in ("cut", "whole")]
    assert same[0] == same[1]


BUSY = """
import hashlib, sys, threading, time
from jaxdd import commands
from dataclasses import dataclass
@dataclass(frozen=True)
class Config:
    "No settings."
def inside():
    # Long enough, and no Python runs meanwhile, as while XLA compiles.
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
def tell(main_thread=threading.get_ident()):
    while sys._current_frames()[main_thread].f_code.co_name != "inside":
        time.sleep(0.01)
    time.sleep(0.2)
    print("begun", flush=True)
def main(config):
    threading.Thread(target=tell, daemon=True).start()
    inside()
    print("ended", flush=True)
commands.run(main, lambda _: Config(), [])
"""


def busy(rounds):
    """A program that is in the middle of something that is no Python."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(rounds=rounds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


@each_signal
def test_a_signal_is_answered_at_once_and_a_second_one_ends_what_does_not_return(number):
    process, started = busy(10**9), time.monotonic()
    process.send_signal(number)
    assert process.stderr.readline() == f"stopping after this step; {AGAIN[number]} to stop at once\n"
    assert time.monotonic() - started < 2 and process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == STATUS[number] and time.monotonic() - started < 6
    assert err == "stopped; the same command goes on from what is kept\n" and out == ""


def test_a_signal_is_answered_once_where_the_step_returns():
    process = busy(4 * 10**6)  # some seconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and out == ""
    assert err.splitlines() == [
        "stopping after this step; press Ctrl-C again to stop at once",
        "stopped; the same command goes on from what is kept",
    ]


@each_signal
def test_a_process_that_stops_at_once_says_only_that_and_waits_for_nothing_while_python_ends(number):
    code = BUSY.replace('hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})', "time.sleep(100)")
    code = f"import atexit, time\natexit.register(time.sleep, 100)\n{code}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == STATUS[number] and err == "stopped; the same command goes on from what is kept\n"


def test_a_command_that_is_interrupted_while_it_imports_leaves_no_stack_trace():
    code = (
        "import importlib, time; from jaxdd.programs import cli\n"
        "importlib.import_module = lambda name: print('importing', flush=True) or time.sleep(100)\n"
        "cli.main(['report'])"
    )
    # A shell that starts the tests in the background has them ignore SIGINT, and Python its default handler.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and err == ""


LEAVING = """
import atexit, os, signal, sys
from jaxdd.ground import stop
atexit.register(lambda: os.kill(os.getpid(), signal.{name}))
stop.heed()
print("done", flush=True)
"""


def test_a_signal_while_python_ends_leaves_no_stack_trace():
    number = signal.SIGINT
    ended = subprocess.run([sys.executable, "-c", LEAVING.format(name=number.name)], capture_output=True, text=True)
    assert ended.returncode == -number and ended.stdout == "done\n" and ended.stderr == ""
