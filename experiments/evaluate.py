"""Train students on distilled datasets, test them on real images, and compare with baselines under the same protocols.

    python -m experiments.evaluate runs/x --students convnet3 resnet18 --seeds 3

Prints a table and writes evaluation.json into the first run folder (or to --out). `random` draws new images for each
seed. `full` is the teacher if the student has its architecture, otherwise a student trained on all real images.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jaxdd import commands, planning
from jaxdd.ground import hosts, settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_json
from jaxdd.ground.programs import Work
from jaxdd.methods import RECIPES
from jaxdd.reports import run_page, tables
from jaxdd.students.protocol import PROTOCOLS
from jaxdd.workspace import Comparison, compare, comparison, finished, makers_for, workspace_of
from jaxdd.workspace.protocols import ProtocolConfig


@dataclass(frozen=True)
class EvaluateConfig(ProtocolConfig):
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of experiments.distill; all have the same dataset, image size and number of images per class."""
    students: tuple[str, ...] = ()
    """Architectures; default: the teacher's. The teacher's has its width and stem."""
    width: int | None = None
    """Channels of the first block of the students; default: the teacher's for its architecture, else each model's."""
    seeds: int = settings.bounded(3, settings.STUDENTS)
    protocols: tuple[str, ...] = ("hard", "soft")
    """hard, soft, wmdd, ddoq, dd-ranking. The suffix ":plain" removes the augmentation, ":uniform" the weights."""
    baselines: tuple[str, ...] = ("random", "medoid")
    """Methods that select real pixels: random, medoid, herding, kcenter, rded."""
    full: int = settings.bounded(1, settings.STUDENTS)
    """Students trained on all real images; the teacher counts as the first."""
    stored: bool = False
    """Use the soft labels that experiments.relabel stored in the run folders, instead of the teacher."""
    compute: str = "auto"
    """float32, bfloat16, or auto, which is bfloat16 on accelerators."""
    out: Path | None = None
    """The file for the rows; default: evaluation.json in the first run folder."""


def check(config: EvaluateConfig) -> None:
    """Raise InputError for settings that cannot be evaluated, before anything is loaded."""
    if not config.runs:
        raise InputError("no run folder; use: python -m experiments.evaluate runs/x")
    if config.seeds < 1:
        raise InputError(f"`seeds` {config.seeds} is no valid number of students; use 1 or more")
    if not config.protocols:
        raise InputError(f"`protocols` is empty; use {', '.join(PROTOCOLS)}")
    for name in config.baselines:
        if not RECIPES.find(name).imager.is_real:
            raise InputError(f"`baselines` {name} makes new pixels; distil it first, and give its run folder")


def opened(config: EvaluateConfig) -> Comparison:
    """The comparison that a config asks for."""
    protocols = {kind: config.protocol(kind) for kind in config.protocols}
    workspace = workspace_of(config.runs[0], config.compute)
    students = config.students or (workspace.teacher.info["model"],)
    return Comparison(workspace, protocols, students, config.seeds, config.full, width=config.width)


def plan(config: EvaluateConfig) -> list[Work]:
    check(config)
    datasets = comparison.named_datasets(config.runs)
    baselines = [RECIPES.find(name) for name in config.baselines if name not in datasets]
    return planning.comparison(opened(config), len(datasets) + len(baselines), [*datasets.values()][0].ipc, baselines)


def main(config: EvaluateConfig) -> None:
    check(config)
    datasets = comparison.named_datasets(config.runs)
    out = config.out or config.runs[0] / "evaluation.json"
    if out.is_dir():
        raise InputError(f"`out` {out} is a folder; give a file")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} of `out` does not exist; make it first")
    setting = opened(config)
    workspace, runs = setting.workspace, dict(zip(datasets, config.runs))
    list(map(setting.network, setting.students))  # raises for a network that does not take these images
    stored = comparison.stored_labels(runs, datasets, setting.protocols, workspace.real.flip) if config.stored else None
    makers = makers_for(datasets, config.baselines, next(iter(datasets.values())).ipc, workspace)
    with finished.scratch(out.with_name(f"{out.name}.parts")) as scratch:
        setting = replace(setting, stored=stored, scratch=scratch)
        rows = compare(makers, setting, lambda rows: write_json(out, rows) if hosts.is_first() else None)
        if hosts.is_first() and config.out is None:
            run_page.write(config.runs[0])
    if hosts.is_first():
        print(tables.table(rows))


if __name__ == "__main__":
    commands.run(main, lambda arguments: EvaluateConfig(), several=True, plan=plan)
