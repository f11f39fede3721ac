"""Write the page of a run folder, as jaxdd distill and jaxdd evaluate do at their end.

    jaxdd report runs/x [runs/y ...]

report.html is a single self-contained file, which any browser shows without a network.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxdd import commands
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_text
from jaxdd.ground.programs import Work
from jaxdd.reports import run_page


@dataclass(frozen=True)
class ReportConfig:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of jaxdd distill."""


def pages(config: ReportConfig) -> dict[Path, str]:
    """All pages, so that nothing is written if one folder is no run folder."""
    if not config.runs:
        raise InputError("no run folder; use: jaxdd report runs/x")
    return {folder: run_page.run_page(folder) for folder in config.runs}


def plan(config: ReportConfig) -> list[Work]:
    pages(config)
    return []  # it computes nothing


def main(config: ReportConfig) -> None:
    for folder, text in pages(config).items():
        write_text(folder / "report.html", text)
        print(folder / "report.html")


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: ReportConfig(), arguments, plan=plan)
