"""Several processes, one a host: joining them, agreeing on small things, and ending together when one dies.

The stages need none of this while they run: each process has its own classes and its own data. What crosses hosts goes
through JAX's coordination service, except one reduction of moments (`jaxdd.stages.encode`).
"""

import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np

from jaxdd.ground.errors import InputError

_PATIENCE = 15.0  # seconds without a sign of life after which a process counts as dead
_numbers = itertools.count()


def join() -> None:
    """Make this process one of the run's, where the environment says that there are several; else do nothing.

    Told from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID if these are set, else from SLURM, Open MPI
    or a Cloud TPU of several hosts, as `jax.distributed.initialize` finds them. Call it before anything else of JAX.
    From then on a process whose peer dies prints one line and ends with status 1, within half a minute; if it was the
    first that died, JAX itself ends the others at once, with a message of its own.

    Raises:
      InputError: the environment names no complete set of processes.
    """
    if jax.distributed.is_initialized() or not _several(os.environ):
        return
    settings = {"heartbeat_timeout_seconds": 40, "shutdown_timeout_seconds": 60}
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
        jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot join the other processes ({str(error).splitlines()[0]}); check JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID or the SLURM step, or on a single Cloud TPU machine set "
            "TPU_SKIP_MDS_QUERY=1"
        ) from error
    if count() > 1:
        threading.Thread(target=_watch, daemon=True).start()


def _several(environment: os._Environ | dict[str, str]) -> bool:
    """Whether the environment describes more than this one process."""
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    # Set inside a job step only: a script that SLURM runs without srun is alone, however many tasks the job has.
    if "SLURM_STEP_NODELIST" in environment:
        return int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))) > 1
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if "TPU_WORKER_HOSTNAMES" in environment:
        return "," in environment["TPU_WORKER_HOSTNAMES"]
    # On a bare Cloud TPU machine only Google's metadata server knows, which JAX asks; this switch says not to.
    return _has_tpu() and "TPU_SKIP_MDS_QUERY" not in environment


def _has_tpu() -> bool:
    return find_spec("libtpu") is not None and any(Path("/dev").glob(place) for place in ("accel*", "vfio/[0-9]*"))


def is_first() -> bool:
    """Whether this process is the one that speaks and writes for all."""
    return count() == 1 or jax.process_index() == 0


def count() -> int:
    """The number of processes; one where none were joined."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def first(make: Callable[[], str | None]) -> str | None:
    """``make()`` on the first process while the others wait; all of them return its text or raise its InputError."""
    if count() == 1:
        return make()
    name = f"jaxdd/first/{next(_numbers)}"
    if not is_first():
        kind, _, text = _wait_for(name).decode().partition(":")
        if kind == "error":
            raise InputError(text)
        return text if kind == "text" else None
    try:
        made = make()
    except InputError as error:
        _tell(name, f"error:{error}".encode())
        raise
    _tell(name, b"none:" if made is None else f"text:{made}".encode())
    return made


def everywhere(values: np.ndarray) -> np.ndarray:
    """The arrays of all processes, of one shape, stacked in their order: [processes, ...], exact in any dtype."""
    values = np.asarray(values)
    if count() == 1:
        return values[None]
    name, buffer = f"jaxdd/everywhere/{next(_numbers)}", io.BytesIO()
    np.save(buffer, values)
    _tell(f"{name}/{jax.process_index()}", buffer.getvalue())
    places = (f"{name}/{i}" for i in range(count()))
    return np.stack([np.load(io.BytesIO(_wait_for(place))) for place in places])


def meet() -> None:
    """Wait until all processes are here, if there are several."""
    everywhere(np.zeros(0))


def part() -> None:
    """End this process with status 0, once all of several are here; the first is the last to go.

    With the first goes the service that all are joined by, and JAX aborts whoever has not closed its connection by
    then, though it has only Python's own tidying up left.
    """
    meet()
    if is_first():
        for i in range(1, count()):
            _wait_for(f"jaxdd/parted/{i}")
    else:
        _tell(f"jaxdd/parted/{jax.process_index()}", b"")
    leave(0, 1.0)


def leave(status: int, after: float = 3.0) -> None:
    """End this process at once: the others notice, and nobody waits at an exit that never comes.

    after: seconds that the first stays on.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        # With it goes the service that all are joined by, and JAX aborts whoever still has something to say.
        time.sleep(after)
    os._exit(status)


def _tell(name: str, content: bytes) -> None:
    _client().key_value_set_bytes(name, content)


def _wait_for(name: str) -> bytes:
    """What another process told, or will tell; should it die meanwhile, the watch ends this one."""
    while True:
        try:
            return _client().key_value_try_get_bytes(name)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
        # Not the service's own waiting: that holds Python's lock, and this process would give no sign of life.
        time.sleep(0.05)


def _client():
    # JAX has no public name for its coordination service's keys and values; Orbax takes it from here, too.
    from jax._src import distributed

    return distributed.global_state.client


def _watch() -> None:
    """Give a sign of life every second and end this process when another gives none."""
    me, others = jax.process_index(), [i for i in range(count()) if i != jax.process_index()]
    client, seen, since = _client(), {}, dict.fromkeys(others, time.monotonic())
    for sign in itertools.count():
        try:
            client.key_value_set(f"jaxdd/alive/{me}", str(sign), allow_overwrite=True)
            signs = dict(client.key_value_dir_get("jaxdd/alive"))
        except jax.errors.JaxRuntimeError:
            if _is_over():
                return
            _end("the first process stopped answering")
        for i in others:
            now = signs.get(f"jaxdd/alive/{i}")
            if now != seen.get(i):
                seen[i], since[i] = now, time.monotonic()
            elif time.monotonic() - since[i] > _PATIENCE and not _is_over():
                _end(f"process {i} of {count()} stopped answering")
        time.sleep(1.0)


def _is_over() -> bool:
    """Whether this run has ended as it should, and only the connection is being closed."""
    return not jax.distributed.is_initialized() or not threading.main_thread().is_alive()


def _end(what: str) -> None:
    print(f"error: {what}, so this one ends; run the same command again to go on from what is done", file=sys.stderr)
    leave(1)
