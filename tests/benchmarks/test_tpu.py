"""Small programs compiled for TPUs: no communication, within their memory, in bfloat16 on the matrix unit.

Needs libtpu, the compiler, but no TPU: `make tpu`.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed; use make tpu"),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """In a process of its own, because it sets up JAX for TPUs that are not there."""
    place = tmp_path_factory.mktemp("tpu") / "rows.json"
    command = [sys.executable, "-m", "benchmarks.tpu", "--quick", "--chips", "v5e", "--json", str(place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(place.read_text())


def test_every_small_program_compiles_for_one_chip_and_for_hosts(rows):
    assert not [row for row in rows if "note" in row]
    assert {row["slice"] for row in rows if row["program"].startswith("recover")} == {"1x1", "2x2", "16x16"}
    assert {row["program"].split()[0].strip(",") for row in rows} == {"recover", "encode", "quantization", "students",
        "teacher"}  # fmt: skip


def test_no_program_communicates_but_a_training_that_several_chips_share(rows):
    for row in rows:
        shared = row["program"].startswith("teacher") and row["chips"] > 1
        assert set(row["collectives"]) == ({"all-reduce"} if shared else set()), row["program"]


def test_programs_fit_in_memory(rows):
    assert all(0 < row["memory_bytes"] < 0.9 * row["chip_bytes"] for row in rows)


def test_networks_compute_in_bfloat16_and_summaries_in_float32(rows):
    for row in rows:
        share = row["share_bfloat16"]
        assert share == 0 if row["program"].startswith("quantization") else share > 0.95, row["program"]


def test_a_host_of_a_large_slice_runs_the_program_of_one_chip(rows):
    recovers = [row for row in rows if row["program"].startswith("recover")]
    for name in ("units", "memory_bytes", "flops"):
        assert all(row[name] == recovers[0][name] for row in recovers), name
