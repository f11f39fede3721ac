"""The stages of the work that are killed: a small command each, and the folder in which it starts."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.killer import Done, Kill, Programs, run_here
from faults.trees import differences

TEACHER = ["--dataset", "digits", "--width", "8", "--teacher-train.epochs", "1"]
LATENT = ["--latent.vae-train.images", "640", "--latent.dit-train.images", "1280", "--latent.dit", "DiT-Ti/4"]
GRID = """# A small grid.
#
# Published: none.
#
# Cost: seconds.
#
# Command: none.

title = "A small grid"
published = "nowhere"

[grid]
dataset = "digits"
width = 8
teacher_train = { epochs = 1 }
ipc = [1, 2]
epochs = [3, 2]
seeds = 2
protocols = ["hard"]

[methods.random]

[methods.wmdd]
set = { "imager.steps" = 3 }
"""
WMDD = ["distill", "--method", "wmdd", *TEACHER, "--imager.steps", "6", "--out", "runs/x"]
DDOQ = ["distill", "--method", "ddoq", *TEACHER, *LATENT, "--imager.steps", "4", "--out", "runs/y"]
FEW = ["--seeds", "2", "--protocols", "hard", "--hard.train.epochs", "3", "--baselines", "random", "--full", "2"]
VAE = ["train", "--what", "vae", "--dataset", "digits", *LATENT, "--out", "runs/vae"]


@dataclass(frozen=True)
class Stage:
    """A command, and the commands before it, which are not killed. ``removed``: what is made again of their results."""

    arguments: list[str]
    before: tuple[list[str], ...] = ()
    removed: tuple[str, ...] = ()


STAGES = {
    "teacher": Stage(["train", *TEACHER, "--out", "runs/teacher"]),
    "vae": Stage(VAE),
    "dit": Stage(["train", "--what", "dit", "--dataset", "digits", *LATENT, "--latent.place", "runs/vae",
                  "--out", "runs/dit"], (VAE,)),
    "recover": Stage(WMDD, (WMDD,), ("x", "encoded")),
    "decode": Stage(DDOQ, (DDOQ,), ("y", "encoded")),
    "evaluate": Stage(["evaluate", "runs/x", *FEW], (WMDD,)),
    "tables": Stage(["tables", "wmdd-main", "--grid", "grid.toml", "--out", "runs/tables"]),
    "all of ddoq": Stage(DDOQ),
    "all of wmdd": Stage(WMDD),
}  # fmt: skip


@dataclass
class Tally:
    """What became of the kills of a stage; ``record`` takes a name and a value."""

    stage: str
    record: Callable[[str, object], None]
    kills: int = 0
    refused: int = 0
    unequal: int = 0
    lines: tuple[str, ...] = ()

    def report(self) -> None:
        """Record the row of the summary."""
        for name in ("stage", "kills", "refused", "unequal"):
            self.record(name, getattr(self, name))

    def note(self, kill: Kill, killed: Done) -> None:
        """Count a kill; a program that ends otherwise than by the kill, and not well, is a refused rerun."""
        self.kills += killed.status == -9
        self._refuse(kill, killed, killed.status not in (-9, 0))

    def compare(self, kill: Kill, again: Done, found: list[str]) -> None:
        """Count the last run of the same command after a kill, and what differs after it."""
        self._refuse(kill, again, again.status != 0)
        self.unequal += bool(found)
        if found:
            self.lines = (*self.lines, f"{kill}: {found}")

    def _refuse(self, kill: Kill, done: Done, is_refused: bool) -> None:
        self.refused += is_refused
        if is_refused:
            self.lines = (*self.lines, f"{kill}: status {done.status}, {done.err[-2000:]}")


class Trial:
    """A stage in a folder: where it starts, what comes out where nothing is killed, and trials with kills."""

    def __init__(self, programs: Programs, folder: Path, stage: Stage):
        self.programs, self.folder, self.stage = programs, folder, stage
        self.work, self.start = folder / "work", folder / "start"
        self.start.mkdir(parents=True)
        (self.start / "grid.toml").write_text(GRID)
        self._run_before()
        # Once in this process, almost without checkpoints, and once with a checkpoint at each step, in a process that
        # counts its moments.
        self._once("whole", run_here)
        self.counted = self._once("counted", programs.run)
        assert differences(folder / "whole" / "runs", folder / "counted" / "runs") == []

    def _run_before(self) -> None:
        shutil.copytree(self.start, self.work)
        for arguments in self.stage.before:
            done = run_here(self.work, arguments)
            assert done.status == 0, done.err
        for name in self.stage.removed:
            shutil.rmtree(self.work / "runs" / name)
        shutil.rmtree(self.start)
        self.work.rename(self.start)

    def _once(self, name: str, run: Callable[[Path, list[str]], Done]) -> Done:
        shutil.copytree(self.start, self.work)
        done = run(self.work, self.stage.arguments)
        assert done.status == 0, done.err
        self.work.rename(self.folder / name)
        return done

    def begin(self, kill: Kill | None = None) -> None:
        """Make the folder anew; with ``kill``, as a run that is killed there leaves it."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.start, self.work)
        if kill:
            assert self.programs.run(self.work, self.stage.arguments, kill).status == -9

    def begin_from_here(self) -> None:
        """From now on the work starts as the folder is now."""
        shutil.rmtree(self.start)
        shutil.copytree(self.work, self.start)

    def killed(self, kill: Kill) -> Done:
        """Run the command in the folder as it is, and kill it."""
        return self.programs.run(self.work, self.stage.arguments, kill)

    def again(self) -> tuple[Done, list[str]]:
        """Run the command to its end; how it ended, and what then differs from the run without kills."""
        done = run_here(self.work, self.stage.arguments)
        if done.status:
            return done, []
        return done, differences(self.folder / "whole" / "runs", self.work / "runs")
