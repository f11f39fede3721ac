"""Several processes: what they agree on, and real ones on this machine that share the digits."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import message

from jaxdd import commands
from jaxdd.ground import hosts
from jaxdd.ground.errors import InputError
from jaxdd.programs import distill, evaluate
from jaxdd.workspace import teachers
from jaxdd.workspace.real_data import RealData

ROOT = Path(__file__).parents[2]
DISTILL = ["--ipc", "10", "--imager.steps", "300"]


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
        ({"SLURM_NTASKS": "4"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
    ],
)
def test_the_environment_says_whether_there_are_several(environment, several):
    assert hosts._several(environment) == several


def test_a_bare_tpu_machine_asks_unless_told_not_to(monkeypatch):
    monkeypatch.setattr(hosts, "_has_tpu", lambda: True)
    assert hosts._several({}) and not hosts._several({"TPU_SKIP_MDS_QUERY": "1"})


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    assert "JAX_NUM_PROCESSES" in message(hosts.join)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert "two" in message(hosts.join)


def test_one_process_agrees_with_itself():
    assert hosts.is_first() and hosts.count() == 1
    assert hosts.first(lambda: "x") == "x" and hosts.first(lambda: None) is None
    np.testing.assert_array_equal(hosts.everywhere(np.arange(3)), [[0, 1, 2]])
    with pytest.raises(InputError, match="no"):
        hosts.first(lambda: (_ for _ in ()).throw(InputError("no")))


@pytest.fixture(scope="module")
def place(tmp_path_factory, digits, teacher):
    """A teacher on disk and the digits that one process distils with it."""
    place = tmp_path_factory.mktemp("hosts")
    config = teachers.TeacherConfig(width=8)
    trained = {"accuracy": 0.5, "train": dataclasses.asdict(config.teacher_train)}
    info = teachers.describe(config, RealData(digits, teacher.norm, False)) | trained
    teachers.save_teacher(place / "teacher", teacher._replace(info=info))
    arguments = [*DISTILL, "--teacher", str(place / "teacher"), "--out", str(place / "one")]
    commands.run(distill.main, distill.default, arguments)
    return place


def start(place, out, count, *more, program="distill"):
    """Start so many processes that distil to ``out``, or of another program, or text of one; ``out`` names the
    logs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = ["-c", program] if "\n" in program else ["-m", f"experiments.{program}", *more]
    command, started = [sys.executable, *code], []
    if program == "distill":
        command += [*DISTILL, "--teacher", "teacher", "--out", out]
    for i in range(count):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        if count > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
            env |= {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(i)}
        path = place / f"{out}.{i}.log"
        log = open(path, "w")  # noqa: SIM115  the process keeps it
        started.append(subprocess.Popen(command, cwd=place, env=env, stdout=log, stderr=log))
        started[-1].log = path
    return started


def wait(processes, status=0, seconds=300):
    for i, process in enumerate(processes):
        ended = process.wait(seconds)
        assert ended == status, f"process {i}:\n{process.log.read_text()[-2000:]}"


def same_files(place, out):
    names = lambda root: sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    # These hold the name of the folder, or the checksum of one that does.
    own = {"config.json", "request.json", "manifest.json", "report.html"}
    kept = [name for name in names(place / "one") if name not in own]
    assert kept == [name for name in names(place / out) if name not in own]
    assert sum(name.startswith("distilled/train") for name in kept) == 100
    for name in kept:
        assert (place / "one" / name).read_bytes() == (place / out / name).read_bytes(), name


WAITING = """
import time
import jax, jax.numpy as jnp
from jaxdd.ground import checkpoint, hosts
hosts._PATIENCE = 2.0
hosts.join()
hosts.first(lambda: checkpoint.save("kept", {"x": jnp.arange(3.0)}))
print("read:", checkpoint.load("kept", {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})["x"].tolist())
print("heard:", hosts.first(lambda: time.sleep(6) or "all is well"), hosts.everywhere([hosts.is_first()]).tolist())
hosts.part()
"""


@pytest.mark.slow
def test_what_the_first_writes_all_read_and_who_waits_long_is_not_taken_for_dead(tmp_path):
    wait(start(tmp_path, "waiting", 2, program=WAITING))
    for i in range(2):
        log = (tmp_path / f"waiting.{i}.log").read_text()
        assert "read: [0.0, 1.0, 2.0]" in log and "heard: all is well [[True], [False]]" in log


@pytest.mark.slow
def test_bad_input_ends_all_of_several_with_its_line(place):
    # All ten classes share their global moments, so one process would have nothing to do.
    wait(start(place, "bound", 2, "--method", "sre2l"), status=2)
    for i in range(2):
        assert "error: 2 processes cannot share 10 classes in groups of 10" in (place / f"bound.{i}.log").read_text()
    assert not (place / "bound").exists()


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(place):
    flags = ["--protocols", "hard", "--seeds", "2", "--full", "0", "--hard.train.epochs", "1", "--baselines", "random"]
    one, two = place / "one.json", place / "two.json"
    arguments = [str(place / "one"), *flags, "--out"]
    commands.run(evaluate.main, lambda arguments: evaluate.EvaluateConfig(), [*arguments, str(one)])
    wait(start(place, "evaluated", 2, *arguments, str(two), program="evaluate"))
    assert one.read_text() == two.read_text() and two.read_text().count("accuracies") == 2


LOST = """
import time
from jaxdd.ground import hosts
hosts._PATIENCE = 2.0
hosts.join()
hosts.meet()
print("met", flush=True)
hosts.first(lambda: time.sleep(600))
"""


@pytest.mark.slow
def test_the_first_is_killed_and_the_others_end_with_a_line(tmp_path):
    processes = start(tmp_path, "lost", 2, program=LOST)
    deadline = time.monotonic() + 120
    while not all("met" in process.log.read_text() for process in processes):
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    assert processes[1].wait(60) == 1
    log = processes[1].log.read_text()
    assert "error: process 0 of 2 stopped answering, so this one ends; run the same command again" in log
    assert "Traceback" not in log and "Fatal" not in log


@pytest.mark.faults
def test_one_of_four_is_killed_the_others_end_and_two_go_on_to_the_files_that_one_makes(place):
    processes = start(place, "four", 4)
    parts = place / "four" / "parts"
    deadline = time.monotonic() + 200
    while len(list(parts.glob("0*.npz"))) < 3:
        assert time.monotonic() < deadline and processes[1].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    for i in (0, 2, 3):
        assert processes[i].wait(60) == 1
        log = processes[i].log.read_text()
        assert "error: process 1 of 4 stopped answering, so this one ends; run the same command again" in log
    assert time.monotonic() - killed < 60
    assert 3 <= len(list(parts.glob("0*.npz"))) < 10 and not (place / "four" / "distilled").exists()

    processes = start(place, "four", 2)
    wait(processes)
    assert any("of 5 classes are done" in process.log.read_text() for process in processes)
    same_files(place, "four")
    assert not parts.exists()
