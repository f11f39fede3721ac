"""Several processes, one per host: joining them, exchanging small values, and ending all of them when one fails.

The stages run without communication between processes, because each process has its own classes and data. Small values
are exchanged through JAX's coordination service. The only other communication is a reduction of moments
(`jaxdd.stages.encode`).
"""

import contextlib
import io
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdd.ground.errors import DivergenceError, InputError

_PATIENCE = 15.0  # seconds without a heartbeat after which a process counts as dead
_numbers = itertools.count()
_ERRORS = {kind.__name__: kind for kind in (InputError, DivergenceError)}


def join() -> None:
    """Join the other processes of this run, if the environment describes several; otherwise do nothing.

    The processes are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID if these are set, else
    from SLURM, Open MPI or a Cloud TPU of several hosts, as `jax.distributed.initialize` detects them. Call this before
    any other function of JAX. From then on, if a process dies, each of the others prints one line and ends with status
    1 within half a minute.

    Raises:
      InputError: the environment names no complete set of processes.
    """
    if jax.distributed.is_initialized() or not _several(os.environ):
        return
    settings: dict[str, Any] = {"heartbeat_timeout_seconds": 40, "shutdown_timeout_seconds": 60}
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            settings |= {
                "num_processes": int(os.environ["JAX_NUM_PROCESSES"]),
                "process_id": int(os.environ["JAX_PROCESS_ID"]),
            }
        except (KeyError, ValueError) as error:
            raise InputError(
                f"JAX_COORDINATOR_ADDRESS is set, but not both of JAX_NUM_PROCESSES and JAX_PROCESS_ID ({error}); set "
                "all three, or none"
            ) from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _outliving_service():
            jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot join the other processes ({str(error).splitlines()[0]}); check JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID or the SLURM step, or on a single Cloud TPU machine set "
            "TPU_SKIP_MDS_QUERY=1"
        ) from error
    if count() > 1:
        threading.Thread(target=_watch, daemon=True).start()


@contextlib.contextmanager
def _outliving_service() -> Iterator[None]:
    """JAX's coordination service, if it is started meanwhile, runs in a process of its own.

    In the first process it would end together with that, and JAX then aborts all others with a stack trace, before
    `_watch` can end them with a line. JAX has no public setting for this.
    """
    from jax._src.lib import _jax

    start = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = _Service
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = start


class _Service:
    """The coordination service, in a process that outlives this one: by seconds after `shutdown`, else by longer."""

    def __init__(self, *address: Any, recoverable: bool = False, **timeouts: int):
        code = (
            "import os, sys, time\n"
            "from jax._src.lib import _jax\n"
            f"service = _jax.get_distributed_runtime_service(*{address!r}, **{timeouts!r})\n"
            "print('ready', flush=True)\n"
            # Reads until the pipe closes, which is when the first process ends.
            f"time.sleep(5 if sys.stdin.read() else {_PATIENCE + 5})\n"
            "os._exit(0)\n"
        )
        # That of an earlier run which was killed may still have the address.
        for _ in range(10):
            # A session of its own, so that Ctrl-C does not end it before the processes of the run.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], start_new_session=True, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert self.process.stdout
            if self.process.stdout.readline():
                return
            time.sleep(2.0)
        raise RuntimeError(f"the address {address[0]} is in use")

    def shutdown(self) -> None:
        """Have the service end some seconds after this process.

        Not before: JAX aborts every process whose service ends, and the first is one of them.
        """
        assert self.process.stdin
        self.process.stdin.write("end")
        self.process.stdin.flush()


def _several(environment: os._Environ | dict[str, str]) -> bool:
    """Whether the environment describes more than this one process."""
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    # Set inside of a job step only. A script that SLURM runs without srun is one process, whatever the job's tasks.
    if "SLURM_STEP_NODELIST" in environment:
        return int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))) > 1
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if "TPU_WORKER_HOSTNAMES" in environment:
        return "," in environment["TPU_WORKER_HOSTNAMES"]
    # On a bare Cloud TPU machine JAX queries Google's metadata server, unless this variable is set.
    return _has_tpu() and "TPU_SKIP_MDS_QUERY" not in environment


def _has_tpu() -> bool:
    return find_spec("libtpu") is not None and any(Path("/dev").glob(place) for place in ("accel*", "vfio/[0-9]*"))


def is_first() -> bool:
    """Whether this is the first process, which prints and writes for all."""
    return count() == 1 or jax.process_index() == 0


def count() -> int:
    """The number of processes; 1 if `join` has joined none."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def first(make: Callable[[], str | None]) -> str | None:
    """Call ``make()`` on the first process, while the others wait; all return its text, or raise its error.

    Raises:
      InputError, DivergenceError: the call on the first process raised it.
    """
    if count() == 1:
        return make()
    name = f"jaxdd/first/{next(_numbers)}"
    if not is_first():
        kind, _, content = _wait_for(name).decode().partition(":")
        if kind in _ERRORS:
            raise _ERRORS[kind](content)
        return content if kind == "text" else None
    try:
        text = make()
    except tuple(_ERRORS.values()) as error:
        _publish(name, f"{type(error).__name__}:{error}".encode())
        raise
    _publish(name, b"none:" if text is None else f"text:{text}".encode())
    return text


def everywhere(values: np.ndarray) -> np.ndarray:
    """The arrays [...] of all processes, of one shape, stacked in process order, bit for bit: [processes, ...]."""
    values = np.asarray(values)
    if count() == 1:
        return values[None]
    name, buffer = f"jaxdd/everywhere/{next(_numbers)}", io.BytesIO()
    np.save(buffer, values)
    _publish(f"{name}/{jax.process_index()}", buffer.getvalue())
    places = (f"{name}/{i}" for i in range(count()))
    return np.stack([np.load(io.BytesIO(_wait_for(place))) for place in places])


def meet() -> None:
    """Wait until all processes have called this; with a single process, return at once."""
    everywhere(np.zeros(0))


def part() -> None:
    """End this process with status 0, once all of several processes have called this; the first ends last.

    The coordination service ends some seconds after the first process. JAX aborts every process whose connection is
    still open then, even if only Python's cleanup is left.
    """
    meet()
    if is_first():
        for i in range(1, count()):
            _wait_for(f"jaxdd/parted/{i}")
        _state().service.shutdown()
    else:
        _publish(f"jaxdd/parted/{jax.process_index()}", b"")
    leave(0)


def leave(status: int) -> None:
    """End this process at once, without waiting for the others at exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _publish(name: str, content: bytes) -> None:
    _client().key_value_set_bytes(name, content)


def _wait_for(name: str) -> bytes:
    """The content that another process publishes; if that process dies first, `_watch` ends this one."""
    while True:
        try:
            return _client().key_value_try_get_bytes(name)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
        # The service's blocking call would hold Python's lock, and so stop the heartbeats of this process.
        time.sleep(0.05)


def _client():
    return _state().client


def _state():
    # JAX has no public interface to the key-value store of its coordination service; Orbax uses this one, too.
    from jax._src import distributed

    return distributed.global_state


def _watch() -> None:
    """Send a heartbeat every second, and end this process when another one sends none."""
    client, process = _client(), jax.process_index()
    others = [i for i in range(count()) if i != process]
    seen: dict[int, str | None] = {}
    since = dict.fromkeys(others, time.monotonic())
    for beat in itertools.count():
        try:
            client.key_value_set(f"jaxdd/alive/{process}", str(beat), allow_overwrite=True)
            beats = dict(client.key_value_dir_get("jaxdd/alive"))
        except jax.errors.JaxRuntimeError:
            if _is_over():
                return
            _end("the first process stopped answering")
        for i in others:
            now = beats.get(f"jaxdd/alive/{i}")
            if now != seen.get(i):
                seen[i], since[i] = now, time.monotonic()
            elif time.monotonic() - since[i] > _PATIENCE and not _is_over():
                _end(f"process {i} of {count()} stopped answering")
        time.sleep(1.0)


def _is_over() -> bool:
    """Whether the run has ended normally, and only its connection is being closed."""
    return not jax.distributed.is_initialized() or not threading.main_thread().is_alive()


def _end(what: str) -> None:
    print(f"error: {what}, so this one ends; run the same command again to resume the run", file=sys.stderr)
    leave(1)
