"""The papers' tables and plots, made again from real data: whatever of a table is missing is run first, and kept.

    python -m experiments.tables wmdd-main [--grid cifar10 --dataset path/to/cifar10]

`wmdd-main`, `wmdd-ablation`, `wmdd-cross-architecture`, `ddoq-main`, `ddoq-weights` and `scores` are grids of
experiments/configs, whose files say what each reproduces, the published figures, the cost and the command; `--grid`
takes another of them, or any file like them, and every field is a flag. `ot` is what weights are worth, see
experiments/ot_table.py. A run that was cut off goes on with the same command.
"""

import os
import shlex
import sys
from datetime import date
from pathlib import Path

import jax

from experiments import cli, grid, gridfile, ot_table, results, table_page, teachers
from jaxdd.ground.errors import InputError

GRIDS = ("wmdd-main", "wmdd-ablation", "wmdd-cross-architecture", "ddoq-main", "ddoq-weights", "scores")


def main() -> None:
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name == "ot":
        cli.run(ot_table.ot_table, lambda _: ot_table.OtConfig(), arguments)
        return
    command = shlex.join(["python", "-m", "experiments.tables", name, *arguments])
    cli.run(lambda config: table(name, config, command), lambda asked: default(name, asked), arguments)


def default(name: str, arguments: list[str]) -> gridfile.GridConfig:
    """What the file of the grid says, which flags then change."""
    if name not in GRIDS:
        raise InputError(f"unknown table {name!r}; use: python -m experiments.tables {'|'.join(('ot', *GRIDS))}")
    path = None
    for flag, value in zip(arguments, [*arguments[1:], None]):
        if flag == "--grid" and value is not None:
            path = value
        elif flag.startswith("--grid="):
            path = flag.removeprefix("--grid=")
    return gridfile.read(name, path and Path(path)).config


def table(name: str, config: gridfile.GridConfig, command: str) -> None:
    with grid.alone(config.out):
        _table(gridfile.read(name, config.grid), config, command)


def _table(said: gridfile.Grid, config: gridfile.GridConfig, command: str) -> None:
    work = grid.opened(said, config)
    out = work.config.out / said.name
    out.mkdir(exist_ok=True)
    rows = grid.run(work, lambda rows: cli.write_text(out / "table.txt", results.text(said, rows) + "\n"))
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {date.today()}"
    record = f"{teachers.short_name(work.source)}; {device}."
    for name, text in (
        ("table.txt", results.text(said, rows) + "\n"),
        ("table.md", results.as_markdown(said, rows, command, record)),
        ("table.csv", results.as_csv(said, rows)),
        ("table.tex", results.as_latex(said, rows)),
    ):
        cli.write_text(out / name, text)
    page = table_page.write(out, work, rows, command)
    print(results.text(said, rows))
    print(f"\nreport: {page}")


if __name__ == "__main__":
    main()
