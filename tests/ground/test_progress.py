"""Long loops say how long they take, once, and what makes them shorter; short ones say nothing."""

import io
import sys

import pytest
import tqdm

from jaxdd.ground import course
from jaxdd.ground import progress as bars
from jaxdd.ground.course import Stage
from jaxdd.ground.progress import Bar, duration, progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are added to."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "perf_counter", lambda: now[0])
    return now


def ran(clock, bar, seconds):
    """What is done in a loop whose items take so many seconds."""
    done = []
    for item, duration_ in zip(progress(range(len(seconds)), bar), seconds):
        clock[0] += duration_
        done.append(item)
    return done


def test_a_long_loop_announces_its_time_once_without_that_of_its_first_item(clock, capfd):
    assert ran(clock, Bar("recover 1/3", "a lower `imager.steps`", 3), [500.0] + [2.0] * 99) == list(range(100))
    lines = [line for line in capfd.readouterr().err.splitlines() if "takes about" in line]
    assert lines == ["recover 1/3: this takes about 10 min in all; for less, use a lower `imager.steps`"]


@pytest.mark.parametrize(
    ("bar", "seconds"),
    [(Bar("short", "less"), [9.0] + [0.5] * 99), ("untitled", [2.0] * 99), (Bar("no remedy"), [2.0] * 99),
     (Bar("two", "less"), [99.0, 99.0])])  # fmt: skip
def test_other_loops_say_nothing(clock, capfd, bar, seconds):
    ran(clock, bar, seconds)
    assert "takes about" not in capfd.readouterr().err


def test_a_program_words_the_names_of_its_flags(clock, capfd):
    with bars.worded(lambda line: line.replace("`imager.steps`", "--imager.steps")):
        ran(clock, Bar("recover", "a lower `imager.steps`"), [4.0] * 99)
    assert "use a lower --imager.steps" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "0.012 s"), (4.26, "4.3 s"), (99.7, "100 s"), (119.0, "119 s"), (150.0, "2.5 min"),
     (5985.0, "100 min"), (6000.0, "100 min"), (7300.0, "2 h"),
     (2 * 86400.0, "2 days"), (1e8, "1,157 days")])  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


# A program of several stages


STAGES = [
    Stage("train the teacher", "train", "100 steps", 100, 100.0),
    Stage("test the teacher", "test", "50 images", 5, 5.0),
    Stage("encode: features", "encode", "200 images", 10, 10.0),
    Stage("recover", "recover", "40 steps", 80, 400.0),
]


@pytest.fixture
def program(clock):
    """(title, seconds of each item, plan) of loops, one after the other, that are the stages of one program."""

    def call(loops, plan):
        with course.followed(plan) as followed:
            for title, seconds in loops:
                ran(clock, Bar(title), seconds)
        return followed

    return call


def test_the_time_of_a_program_follows_from_the_first_stage_that_is_measured(clock, program, capfd):
    loops = [("train", [50.0] + [1.0] * 99), ("test", [5.0] + [1.0] * 4), ("encode", [9.0] + [1.0] * 9)]
    loops += [("recover 1/2", [30.0] + [5.0] * 39), ("recover 2/2", [5.0] * 40)]
    followed = program(loops, lambda: STAGES)
    lines = capfd.readouterr().err.splitlines()
    # 89 items of training are left, 5 + 10 of an operation each, and 400 operations, at a second an operation; the
    # other three stages compile for 49 s each, as the first did.
    assert lines[0] == "stage 1 of 4, train: 11 of 100, about 89 s left, about 11 min to the end"
    # The pace of the recovery is that of its own items: 5 s, without the first. The other half of it is yet to come.
    assert any(line.startswith("stage 4 of 4, recover 1/2: ") and " left, about " in line for line in lines)
    ends = [line for line in lines if " in " in line]
    assert ends == ["train the teacher: 100 steps in 2.5 min", "test the teacher: 50 images in 9 s",
                    "encode: features: 200 images in 18 s", "recover: 40 steps in 7.1 min"]  # fmt: skip
    assert not followed.left and followed.seconds_left() == 0
    assert not any("\r" in line for line in lines)


def test_no_more_than_a_line_a_minute(clock, program, capfd):
    program([("train", [1.0] * 600)], list)
    assert len(capfd.readouterr().err.splitlines()) == 600 // 60


def test_a_short_program_is_not_planned(program, capfd):
    program([("train", [5.0] + [0.1] * 99), ("recover 1/1", [1.0] * 15)], lambda: pytest.fail("planned"))
    assert capfd.readouterr().err.splitlines() == ["train: 15 s", "recover: 15 s"]


def test_what_is_over_is_not_left_and_other_loops_are_no_stage(clock, program, capfd):
    loops = [("train", [2.0] * 5), ("decode images", [1.0] * 9), ("test", [1.0] * 5), ("encode", [2.0] * 90)]
    program(loops, lambda: STAGES)
    lines = [line for line in capfd.readouterr().err.splitlines() if "stage" in line]
    # Three loops are over, of which the plan still lists two, and the encoding and the recovery are left.
    assert lines[0].startswith("stage 4 of 5, encode: ")


def test_a_loop_that_goes_on_has_less_to_do(clock, capfd):
    with course.followed(lambda: STAGES[:1]):
        for _ in progress(range(100), Bar("train", done=300)):
            clock[0] += 1.0
    assert capfd.readouterr().err.splitlines()[0].startswith("stage 1 of 1, train: 360 of 400, about 40 s left")


def test_a_bar_on_a_terminal_says_how_long_all_takes(clock, program, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
    program([("train", [4.0] * 100)], lambda: STAGES)
    shown = sys.stderr.getvalue().split("\r")
    assert any("stage 1 of 4, train" in line and "left, about" in line and "to the end" in line for line in shown)
    assert not any("in 400 s" in line for line in shown)
