"""A process that works for long needs no more memory and keeps no more programs than one that has just begun."""

import json
import os
import subprocess
import sys

import pytest
from faults.killer import ROOT


@pytest.mark.faults
@pytest.mark.slow
def test_memory_and_programs_level_off(tmp_path, record_property):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "faults.soak", str(tmp_path), "200", "50"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    record_property("soak", ", ".join(f"{one['mib']:.0f} MiB at {one['round']}" for one in seen))
    assert [one["round"] for one in seen] == [50, 100, 150, 200]
    # Equal settings are compiled once.
    assert len({one["alive"] for one in seen}) == len({one["compiled"] for one in seen}) == 1, seen
    assert seen[-1]["mib"] < 1.01 * seen[1]["mib"], seen
