"""A run that is killed anywhere goes on with the same command, to the same files."""

import signal

import numpy as np
import pytest
from faults.killer import Kill
from faults.stages import STAGES, Tally, Trial


@pytest.fixture
def trial(programs, tmp_path):
    """A stage by its name, in a folder of its own."""
    return lambda name: Trial(programs, tmp_path, STAGES[name])


@pytest.fixture
def tally(record_property):
    """A tally of the kills of a stage; `check` reports it for the summary."""
    return lambda stage: Tally(stage, record_property)


def spread(most, count, first=1):
    """About ``count`` different numbers from ``first`` to ``most``."""
    return sorted({int(k) for k in np.linspace(first, most, count).round()})


def moments(counted, count):
    """Moments all over a run: at steps, at changes of files, shortly after them, and at any time."""
    kills = [Kill("step", k) for k in spread(counted.count("step"), count // 4) if counted.count("step")]
    left = count - len(kills)
    files = spread(counted.count("file"), left // 2)
    kills += [Kill("file", k, 0.003 * (i % 2)) for i, k in enumerate(files)]
    seconds = counted.moments[-1][-1]
    return kills + [Kill("start", delay=s) for s in np.linspace(0.02, 0.95 * seconds, count - len(kills))]


def check(tally):
    tally.report()
    assert (tally.refused, tally.unequal) == (0, 0), "\n".join(tally.lines)


def survived(trial, tally, kill):
    """Kill a run as told and count it; whether there is anything left to kill."""
    killed = trial.killed(kill)
    tally.note(kill, killed)
    return killed.status == -9


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("stage", [name for name in STAGES if not name.startswith("all")])
def test_kills_are_made_good(trial, tally, stage):
    """Killed somewhere, then twice while it goes on from there, then run to the end; again from many places."""
    trial, tally = trial(stage), tally(stage)
    seconds = trial.counted.moments[-1][-1]
    firsts = moments(trial.counted, 18)
    for i, first in enumerate([*firsts[::3], *firsts[1::3], *firsts[2::3]]):
        if tally.kills >= 32:
            break
        trial.begin()
        for kill in (first, Kill("file", 4 + 5 * i, 0.003 * (i % 2)), Kill("start", delay=(i + 1) / 36 * seconds)):
            if not survived(trial, tally, kill):
                break
        tally.compare(kill, *trial.again())
    check(tally)
    assert tally.kills >= 30


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "vae", "dit", "recover", "decode", "evaluate", "tables"])
def test_a_kill_at_each_write_of_the_end(trial, tally, stage):
    """After the last step: results, manifest, removal of the parts, report."""
    trial, tally = trial(stage), tally(f"{stage}, each last write")
    trial.begin(beginning_of_the_end(trial.counted))
    trial.begin_from_here()
    rest = trial.programs.run(trial.work, trial.stage.arguments)
    assert rest.count("step") == 0
    for k in spread(rest.count("file"), rest.count("file")):
        trial.begin()
        tally.note(Kill("file", k), trial.killed(Kill("file", k)))
        tally.compare(Kill("file", k), *trial.again())
    check(tally)
    assert tally.kills == rest.count("file")


def beginning_of_the_end(counted):
    """A kill at the first write of a result after the last step."""
    files = counted.after_steps()
    # Entries of a folder that is removed have no path.
    first = next(k for k, file in enumerate(files, 1) if "/" in file and "parts" not in file)
    return Kill("file", first, after=counted.count("step"))


@pytest.mark.faults
@pytest.mark.slow
def test_one_run_survives_many_kills(trial, tally):
    """From images to images through all models: killed again and again, each time a little later."""
    trial, tally = trial("all of ddoq"), tally("ddoq, one after another")
    trial.begin()
    for k in range(40):
        kill = [Kill("step", 2), Kill("file", 9 + 5 * k, 0.002 * (k % 2)), Kill("start", delay=0.1 * k)][k % 3]
        if not survived(trial, tally, kill):
            break
    tally.compare(kill, *trial.again())
    check(tally)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "vae", "recover", "evaluate", "tables"])
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_one_line(trial, stage, number, status):
    trial = trial(stage)
    for step in spread(trial.counted.count("step"), 3):
        trial.begin()
        stopped = trial.killed(Kill("step", step, signal=number))
        assert stopped.status == status, stopped.err
        assert stopped.err.splitlines()[-1] == "stopped; the same command goes on from what is kept"
        assert "Traceback" not in stopped.err
        done, found = trial.again()
        assert (done.status, found) == (0, []), done.err


@pytest.mark.slow
def test_a_run_goes_on_wherever_it_is_killed(trial, tally):
    """A few kills in the same folder: in the training, in the recovery, between classes and in the results."""
    trial, tally = trial("all of wmdd"), tally("wmdd, a few")
    counted = trial.counted
    trial.begin()
    for kill in (Kill("step", 7), Kill("step", 9), Kill("step", 3, signal=signal.SIGTERM), Kill("file", 60)):
        killed = trial.killed(kill)
        assert killed.status == (143 if kill.signal == signal.SIGTERM else -9), killed.err
        tally.kills += killed.status == -9
    tally.compare(kill, *trial.again())
    check(tally)
    assert counted.count("step") == 18
