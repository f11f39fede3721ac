"""Locks between processes: one holder at a time, named to the others, and free when it dies."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import message

from jaxdd.ground.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from jaxdd.ground.locks import locked
with locked(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path):
    return tmp_path / ".lock"


def test_a_lock_is_held_by_one_and_removed_at_the_end(place):
    with locked(place, "the model"):
        assert place.read_text() == str(os.getpid())
        line = message(lambda: locked(place, "the model").__enter__())
        assert line.startswith(f"the model is in use by process {os.getpid()}; wait until it ends")
        assert place.is_file()
    assert not place.exists()
    with pytest.raises(RuntimeError), locked(place, "the model"):
        raise RuntimeError
    assert not place.exists()


@pytest.mark.slow
def test_another_process_is_waited_for_until_it_is_killed(place, capfd):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, place], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert f"x is in use by process {holder.pid}" in message(lambda: locked(place, "x").__enter__())
        got = threading.Event()

        def wait():
            with locked(place, "x", wait=True):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.3)
        assert capfd.readouterr().err == f"waiting for process {holder.pid}, which makes x\n"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    waiting.join(10)
    assert got.is_set() and not place.exists()


def test_many_take_turns_though_each_removes_the_file(place):
    inside, most, turns = [], [], []

    def work():
        for _ in range(20):
            with locked(place, "x", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()
            turns.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(turns) == 80 and set(most) == {1} and not place.exists()


def test_a_file_system_without_locks_gives_none_and_other_errors_are_errors(place, monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with locked(place, "x"), locked(place, "x"):
        pass
    assert not place.exists()
    refuse(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked(place, "x"):
        pass
