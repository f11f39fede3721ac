"""Long loops say how long they take, once, and what makes them shorter; short ones say nothing."""

import pytest

from jaxdd.ground import progress as bars
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
    [(0.0123, "0.012 s"), (4.26, "4.3 s"), (119.0, "119 s"), (150.0, "2.5 min"), (6000.0, "100 min"),
     (7300.0, "2 h"), (2 * 86400.0, "2 days"), (1e8, "1,157 days")])  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
