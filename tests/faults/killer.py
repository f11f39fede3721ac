"""Programs that end at a chosen moment, each a fork of one process that has imported everything.

    programs = Programs()
    done = programs.run(folder, ["distill", "--dataset", "digits"], Kill("file", 7))

Importing JAX takes seconds, and a fork of a process in which no device was asked for yet has that behind it. A `Kill`
counts moments of one kind: changes of files below the folder in which the program works (`file`), or steps of a
training or a recovery (`step`), after each of which a checkpoint is written. What Orbax writes in threads of its own,
which Python does not see, is reached by a delay after such a moment or after the start (`start`).

Where a program runs to its end, `run_here` takes a tenth of the time of a process of its own.

`python -m faults.killer` is that process: it takes a job from each line of its input and answers each with a line.
"""

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = ("distill", "evaluate", "relabel", "report", "tables", "train")


@dataclass(frozen=True)
class Kill:
    """When a program gets a signal: ``delay`` seconds after the start, or just before the ``at``-th moment of a kind.

    With a ``delay`` the moment itself passes, and the signal comes so many seconds later. Moments before the step
    ``after`` do not count.
    """

    kind: str  # start, file or step
    at: int = 0
    delay: float = 0.0
    signal: int = signal.SIGKILL
    after: int = 0


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit status, minus the signal if one killed it, and what it wrote.

    ``moments`` are all [kind, what, seconds] of a program that was not killed.
    """

    status: int
    out: str
    err: str
    moments: list[list]

    def count(self, kind: str) -> int:
        """The number of moments of one kind."""
        return sum(moment[0] == kind for moment in self.moments)

    def after_steps(self) -> list[str]:
        """The changes of files after the last step."""
        last = max((k for k, moment in enumerate(self.moments) if moment[0] == "step"), default=-1)
        return [what for kind, what, _ in self.moments[last + 1 :] if kind == "file"]


class Programs:
    """Starts programs. ``out`` holds what they print, outside of the folders in which they work."""

    def __init__(self, out: Path):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "faults.killer"]
        environment = os.environ | {"PYTHONPATH": path}
        self.out, self.number = out, 0
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, folder: Path, arguments: list, kill: Kill | None = None, seconds: float = 0.0) -> tuple[int, Path]:
        """Start a program with its arguments in a folder; ``seconds`` lie between checkpoints."""
        self.number += 1
        log = self.out / str(self.number)
        folder.mkdir(parents=True, exist_ok=True)
        job = {"folder": str(folder), "arguments": [str(one) for one in arguments], "log": str(log)}
        job |= {"kill": asdict(kill) if kill else None, "seconds": seconds}
        return self._ask(job)["process"], log

    def wait(self, started: tuple[int, Path]) -> Done:
        """Wait for the end of a program."""
        process, log = started
        status = self._ask({"wait": process})["status"]
        read = lambda suffix: Path(f"{log}.{suffix}").read_text() if Path(f"{log}.{suffix}").exists() else ""
        return Done(os.waitstatus_to_exitcode(status), read("out"), read("err"), json.loads(read("moments") or "[]"))

    def run(self, *job: Any, **more: Any) -> Done:
        """`start` and `wait`."""
        return self.wait(self.start(*job, **more))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, job: dict) -> dict:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def run_here(folder: Path, arguments: list[str]) -> Done:
    """Run a program in this process, which has compiled everything after the first time."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _program(arguments)
        except SystemExit as exit:
            status = int(exit.code or 0)
        except Exception:
            traceback.print_exc()
            status = 1
    return Done(status, out.getvalue(), err.getvalue(), [])


_PATHS = {
    "open": 1, "os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.link": 2,
    "os.symlink": 2,
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Moments:
    """Counts the moments of this process, and sends it a signal at one of them."""

    def __init__(self, folder: str, kill: Kill | None):
        self.folder, self.kill = folder, kill
        self.seen: list[list] = []
        self.counts, self.steps = {"file": 0, "step": 0}, 0
        self.started = time.monotonic()
        self.lock = threading.RLock()
        if kill and kill.kind == "start":
            self._later(kill.delay)

    def audit(self, event: str, arguments: tuple) -> None:
        """The hook of `sys.addaudithook`, which is called before a change."""
        if event not in _PATHS or event == "open" and not _is_writing(arguments):
            return
        paths = [os.path.abspath(os.fsdecode(path)) for path in arguments[: _PATHS[event]] if _is_path(path)]
        inside = [os.path.relpath(path, self.folder) for path in paths if path.startswith(self.folder)]
        # Removing a whole tree names its entries relative to open folders.
        if inside:
            self.pass_by("file", f"{event} {' '.join(inside)}")

    def pass_by(self, kind: str, what: str) -> None:
        """One moment."""
        with self.lock:
            self.seen.append([kind, what, time.monotonic() - self.started])
            self.steps += kind == "step"
            self.counts[kind] += self.kill is None or self.steps >= self.kill.after
            hit = self.kill and self.kill.kind == kind and self.kill.at == self.counts[kind]
        if hit and self.kill:
            self._later(self.kill.delay) if self.kill.delay else os.kill(os.getpid(), self.kill.signal)

    def _later(self, delay: float) -> None:
        assert self.kill is not None
        number = self.kill.signal

        def end() -> None:
            time.sleep(delay)
            os.kill(os.getpid(), number)

        threading.Thread(target=end, daemon=True).start()


def _is_path(path: Any) -> bool:
    return isinstance(path, str | bytes | os.PathLike)


def _is_writing(arguments: tuple) -> bool:
    _, mode, flags = arguments
    return any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & _WRITING)


def _child(job: dict) -> None:
    """Run a program in this process, which is its own."""
    from jaxdd.ground.checkpoint import Checkpoints
    from jaxdd.ground.watch import Watch

    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{job['log']}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    moments = _Moments(job["folder"], Kill(**job["kill"]) if job["kill"] else None)
    Checkpoints.__init__.__defaults__ = (*Checkpoints.__init__.__defaults__[:-1], job["seconds"])  # type: ignore
    keep: Callable = Watch.keep

    def counted(self: Watch, step: int, *rest: Any) -> None:
        moments.pass_by("step", f"{self.stage} {step}")
        keep(self, step, *rest)

    Watch.keep = counted  # type: ignore[method-assign]
    sys.addaudithook(moments.audit)
    try:
        _program(job["arguments"])
    finally:
        with open(f"{job['log']}.moments", "w") as file:
            json.dump(moments.seen, file)


def _program(arguments: list[str]) -> None:
    importlib.import_module(f"jaxdd.programs.{arguments[0]}").cli(arguments[1:])


def serve() -> None:
    """Answer jobs until the input ends; in a child this returns when its program does."""
    for name in ("matplotlib.pyplot", "orbax.checkpoint", "PIL.Image", "sklearn.datasets", "tensorstore"):
        importlib.import_module(name)
    for name in PROGRAMS:
        importlib.import_module(f"jaxdd.programs.{name}")
    while line := sys.stdin.readline():
        job = json.loads(line)
        if "wait" in job:
            answer = {"status": os.waitpid(job["wait"], 0)[1]}
        else:
            process = os.fork()
            if not process:
                _child(job)
                return
            answer = {"process": process}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve()
