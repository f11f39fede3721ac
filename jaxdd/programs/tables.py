"""Reproduce the papers' tables and plots from real data; missing cells of a table are run first, and kept.

    jaxdd tables wmdd-main [--grid cifar10 --dataset path/to/cifar10]

`wmdd-main`, `wmdd-plus`, `wmdd-plus-ablation`, `wmdd-ablation`, `wmdd-cross-architecture`, `ddoq-main`, `ddoq-weights`,
`ddoq-stages`, `label-bytes`, `scores` and the papers to the letter, `wmdd-paper`, `sre2l-paper`, `d4m-paper`,
`ddoq-paper` and `rded-paper`, are grids of jaxdd/programs/configs. Their files say what each reproduces, with the
published figures, the cost and the command. `--grid` selects another of these files or any file of the same form, and
every field is a flag. `ot` measures the value of weights, see jaxdd/reports/ot_rates.py. To resume an interrupted run,
use the same command.
"""

import difflib
import os
import shlex
import sys
from datetime import date
from pathlib import Path

import jax

from jaxdd import commands, planning
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_text
from jaxdd.ground.programs import Work
from jaxdd.reports import grid_page, grid_tables, ot_rates
from jaxdd.workspace import grid_file, grid_runner

CONFIGS = Path(__file__).parent / "configs"
PAPERS = ("wmdd-paper", "sre2l-paper", "d4m-paper", "ddoq-paper", "rded-paper")
GRIDS = (
    "wmdd-main", "wmdd-plus", "wmdd-plus-ablation", "wmdd-ablation", "wmdd-cross-architecture", "ddoq-main",
    "ddoq-weights", "ddoq-stages", "label-bytes", "scores", *PAPERS,
)  # fmt: skip


def cli(arguments: list[str] | None = None) -> None:
    name, *arguments = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name == "ot":
        commands.run(ot_rates.table, lambda _: ot_rates.OtConfig(), arguments, plan=plan_ot)
        return
    command = shlex.join(["jaxdd", "tables", name, *arguments])
    main = lambda config: table(name, config, command)
    commands.run(main, lambda flags: default(name, flags), arguments, plan=lambda config: plan(name, config))


def default(name: str, arguments: list[str]) -> grid_file.GridConfig:
    """The config in the grid file, which flags can change."""
    if name.startswith("-"):
        raise InputError(f"the name of the table comes before {name}; use: jaxdd tables NAME {name}")
    if name not in GRIDS:
        near = difflib.get_close_matches(name[:100], ("ot", *GRIDS), 3) or ("ot", *GRIDS)
        raise InputError(f"unknown table {name!r}; use: jaxdd tables {'|'.join(near)}")
    path = commands.flag_value(arguments, "--grid")
    return grid_file.read(name, None if path is None else Path(path), CONFIGS).config


def plan(name: str, config: grid_file.GridConfig) -> list[Work]:
    return planning.table(grid_runner.opened(grid_file.read(name, config.grid, CONFIGS), config))


def plan_ot(config: ot_rates.OtConfig) -> list[Work]:
    return planning.summaries(*ot_rates.opened(config))


def table(name: str, config: grid_file.GridConfig, command: str) -> None:
    with grid_runner.alone(config.out):
        write(grid_file.read(name, config.grid, CONFIGS), config, command)


def write(grid: grid_file.Grid, config: grid_file.GridConfig, command: str) -> None:
    """Run the missing cells of a grid, then write the table in all formats and print it."""
    work = grid_runner.opened(grid, config)
    out = work.config.out / grid.name
    out.mkdir(exist_ok=True)
    with planning.followed(lambda: planning.table(work)):
        rows = grid_runner.run(work, lambda rows: write_text(out / "table.txt", grid_tables.text(grid, rows) + "\n"))
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {date.today()}"
    for name, text in (
        ("table.txt", grid_tables.text(grid, rows) + "\n"),
        ("table.md", grid_tables.as_markdown(grid, rows, command, f"{work.workspace.real.name}; {device}.")),
        ("table.csv", grid_tables.as_csv(grid, rows)),
        ("table.tex", grid_tables.as_latex(grid, rows)),
    ):
        write_text(out / name, text)
    page = grid_page.write(out, work, rows, command)
    print(grid_tables.text(grid, rows))
    print(f"\nreport: {page}")
