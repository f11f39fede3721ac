"""Coverage-guided fuzzing: PYTHONPATH=.:tests python -m faults.fuzz [target ...] [-runs=N] [other flags of libFuzzer].

Every target runs in a process of its own. Inputs that break a rule are written to runs/fuzz/<target>/, one for each
place in the code, and the search goes on. At the end each target prints one line.
"""

import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

NAMES = ("grids", "distilled", "labels", "weights", "hub", "tokens", "runs", "folders", "images", "tensors", "archives",
         "tiny")  # fmt: skip
OUT = Path("runs/fuzz")
RUNS = 100_000


def main(arguments: list[str]) -> int:
    flags = [one for one in arguments if one.startswith("-")]
    names = [one for one in arguments if not one.startswith("-")] or NAMES
    if unknown := set(names) - set(NAMES):
        print(f"unknown targets {', '.join(unknown)}; use {', '.join(NAMES)}", file=sys.stderr)
        return 2
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzzing needs atheris; install it with: .venv/bin/pip install atheris", file=sys.stderr)
        return 2
    from faults.fuzz import rules  # imports the package, which the other processes first instrument

    if not any(one.startswith("-runs=") for one in flags):
        flags.append(f"-runs={RUNS}")
    status = 0
    for name in names:
        log = OUT / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # The folder is made and removed here, as libFuzzer ends the process that uses it.
        with log.open("wb") as file, rules.folder() as place:
            command = [sys.executable, "-m", "faults.fuzz.__main__", "--one", name, str(place), *flags]
            code = subprocess.run(command, stdout=file, stderr=file).returncode
        record = OUT / name / "summary.json"
        print(f"{name}: {record.read_text() if record.is_file() else 'no summary'}, status {code}", flush=True)
        status |= bool(code) or not record.is_file() or bool(json.loads(record.read_text())["findings"])
    return status


def one(name: str, place: Path, flags: list[str]) -> None:
    """Fuzz a target with files in a folder, in this process, which libFuzzer ends."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["jaxdd", "tomllib", "zipfile", "json", "PIL", "numpy.lib._format_impl"]):
        target = importlib.import_module(f"faults.fuzz.{name}").TARGET
    from faults.fuzz import rules

    out = OUT / name
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    for seed in (*target.seeds(), *target.kept()):
        (out / "corpus" / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    (out / "summary.json").unlink(missing_ok=True)
    runs = int(next(one for one in flags if one.startswith("-runs=")).partition("=")[2])
    seeds = target.seeds()
    found: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    begun, slowest = rules.peak(), 0.0

    def test(data: bytes) -> None:
        nonlocal slowest
        result = rules.outcome(target, place, data)
        kinds[result.kind] += 1
        slowest = max(slowest, result.seconds)
        if result.broken and result.where not in found:
            found[result.where] = hashlib.sha256(data).hexdigest()[:12]
            (out / f"{found[result.where]}.input").write_bytes(data)
            (out / f"{found[result.where]}.txt").write_text(result.broken, errors="backslashreplace")
            print(f"FINDING {result.where} {found[result.where]}", flush=True)
        if (count := kinds.total()) % 5000 == 0 or count >= runs:
            record = {"executions": count, "outcomes": dict(kinds), "findings": found, "slowest_s": round(slowest, 3),
                      "peak_mib": round(result.peak), "grown_mib": round(result.peak - begun)}  # fmt: skip
            (out / "summary.json").write_text(json.dumps(record))

    def custom_mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        # Most inputs that lead to new branches are refused; valid ones lead on.
        data = rng.choice(seeds) if rng.random() < 0.3 else data
        changed = atheris.Mutate(data, most) if rng.random() < 0.15 else target.mutate(rng, data)
        return bytes(changed[:most])

    limits = ["-max_len=60000", "-timeout=60", "-rss_limit_mb=6000", "-print_final_stats=1", "-len_control=0"]
    argv = [sys.argv[0], *limits, f"-artifact_prefix={out}/", *flags, str(out / "corpus")]
    atheris.Setup(argv, test, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main(sys.argv[1:]))
