"""Chip-hours of the papers' tables on ImageNet-1K, projected from the rows of `benchmarks.tpu`.

    python -m benchmarks.tpu_costs benchmarks/rows/tpu.json

For every stage of a table: the units of work (images encoded, images times steps recovered, ...) over the units of
a launch, times the seconds that the compiler expects of a launch on one chip. Chips share the classes without waiting
for each other, so chip-hours hardly depend on their number. Not in it: the summaries, which take seconds to minutes on
the host's CPU (docs/results/ot-solvers.md); reading and sending images; compilation; and whatever a chip does slower
than its compiler expects. A cell without a row is left empty.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

TRAIN, CLASSES = 1_281_167, 1000  # images of ImageNet-1K
STEPS = 2000  # of WMDD and SRe2L
EPOCHS = 300  # of a student


class Stage(NamedTuple):
    """A stage of a table.

    Attributes:
      program: the name of its row.
      units: how much there is to do, in the unit of that row.
    """

    program: str
    units: int


FEATURES = Stage("encode resnet18", TRAIN)


def students(ipc: int) -> Stage:
    """One ResNet-18."""
    return Stage("students resnet18, 1", CLASSES * ipc * EPOCHS)


def latents(decoder: str, ipc: int) -> list[Stage]:
    """DDOQ: the latents of all images, and the atoms decoded."""
    return [Stage("encode latents", TRAIN), Stage(f"decode {decoder}", CLASSES * ipc)]


TABLES = {
    "WMDD, IPC 10": [FEATURES, Stage("recover resnet18, IPC 10", CLASSES * 10 * STEPS), students(10)],
    "WMDD, IPC 50": [FEATURES, Stage("recover resnet18, IPC 50", CLASSES * 50 * STEPS), students(50)],
    "WMDD, ResNet-50 teacher, IPC 10": [
        FEATURES, Stage("recover resnet50, IPC 10", CLASSES * 10 * STEPS), students(10),
    ],
    "SRe2L, IPC 10": [Stage("recover resnet18, global moments", CLASSES * 10 * STEPS), students(10)],
    "DDOQ, Stable Diffusion, IPC 10": [*latents("Stable Diffusion", 10), students(10)],
    "DDOQ, Stable Diffusion, IPC 50": [*latents("Stable Diffusion", 50), students(50)],
    "DDOQ, DiT-XL/2, IPC 10": [*latents("DiT-XL/2", 10), students(10)],
}  # fmt: skip


def seconds_each(rows: list[dict]) -> dict[tuple[str, str], float]:
    """(program, chip) -> seconds of one unit on one chip."""
    alone = [row for row in rows if "note" not in row and row["chips"] == 1]
    return {(row["program"], row["chip"]): row["expected_seconds"] / row["units"] for row in alone}


def costs(rows: list[dict]) -> list[dict]:
    """One row a table and chip: chip-hours of each stage, and their sum if all are known."""
    each, lines = seconds_each(rows), []
    for chip in dict.fromkeys(row["chip"] for row in rows):
        for name, stages in TABLES.items():
            hours = {
                stage.program: stage.units * each[stage.program, chip] / 3600
                for stage in stages
                if (stage.program, chip) in each
            }
            total = sum(hours.values()) if len(hours) == len(stages) else None
            lines.append({"table": name, "chip": chip, "hours": hours, "total": total})
    return lines


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("rows", type=Path)
    lines = costs(json.loads(flags.parse_args().rows.read_text()))
    print(f"{'projected chip-hours':32} {'chip':4} {'in all':>8}  stages")
    for row in lines:
        parts = ", ".join(f"{name} {value:.2g}" for name, value in row["hours"].items()) or "-"
        total = f"{row['total']:8.1f}" if row["total"] is not None else f"{'-':>8}"
        print(f"{row['table']:32} {row['chip']:4} {total}  {parts}")


if __name__ == "__main__":
    main()
