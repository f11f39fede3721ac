"""Train students on distilled datasets, test them on real images, and compare with baselines under the same protocols.

    jaxdd evaluate runs/x --students convnet3 resnet18 --seeds 3
    jaxdd evaluate path/to/images_best.pt --image-norm cifar10 --dataset path/to/cifar10 --model convnet3

Images of anybody are judged like those of a run folder: --dataset names the real images, --model the teacher, which is
found in runs/teachers or trained. Prints a table and adds its rows to evaluation.json in the first run folder, or to
runs/<name>.evaluation.json (or --out). What the file has already is not measured again. `random` draws new images for
each seed. `full` is the teacher if the student has its architecture, otherwise a student trained on all real images.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jaxdd import commands, planning
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import hosts, settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.programs import Work
from jaxdd.methods import RECIPES
from jaxdd.reports import run_page, tables
from jaxdd.students.protocol import PROTOCOLS
from jaxdd.workspace import Comparison, compare_sets, comparison, finished, judging
from jaxdd.workspace.judging import JudgeConfig
from jaxdd.workspace.kept_rows import KeptRows
from jaxdd.workspace.protocols import ProtocolConfig


@dataclass(frozen=True)
class EvaluateConfig(ProtocolConfig, JudgeConfig):
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, or anybody's distilled images: a folder <class>/*, an .npz or .pt file, hf:owner/name. All have the
    same classes and image size. Each is beside the baselines of its number of images per class."""
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
    """Use the soft labels that jaxdd relabel stored in the run folders, instead of the teacher."""
    out: Path | None = None
    """The file for the rows; default: evaluation.json in the first run folder, or runs/<name>.evaluation.json."""


def check(config: EvaluateConfig) -> None:
    """Raise InputError for settings that cannot be evaluated, before anything is loaded."""
    if not config.runs:
        raise InputError("no run folder; use: jaxdd evaluate runs/x")
    if config.seeds < 1:
        raise InputError(f"`seeds` {config.seeds} is no valid number of students; use 1 or more")
    if not config.protocols:
        raise InputError(f"`protocols` is empty; use {', '.join(PROTOCOLS)}")
    for name in config.baselines:
        if not RECIPES.find(name).imager.is_real:
            raise InputError(f"`baselines` {name} makes new pixels; distil it first, and give its run folder")


def opened(config: EvaluateConfig) -> tuple[Comparison, dict[str, DistilledDataset], Path]:
    """The comparison that a config asks for, the datasets, and the file for the rows."""
    check(config)
    protocols = {kind: config.protocol(kind) for kind in config.protocols}
    workspace, datasets, paths = judging.opened(config)
    out = judging.output_file(config.runs[0], config.out)
    students = config.students or (workspace.config.model,)
    stored = comparison.stored_labels(paths, datasets, protocols, workspace.real.flip) if config.stored else None
    setting = Comparison(workspace, protocols, students, config.seeds, config.full, stored=stored, width=config.width)
    list(map(setting.network, setting.students))  # raises for a network that does not take these images
    return setting, datasets, out


def plan(config: EvaluateConfig, known: tuple | None = None) -> list[Work]:
    setting, datasets, _ = known or opened(config)
    return planning.comparisons(setting, datasets, config.baselines)


def main(config: EvaluateConfig) -> None:
    setting, datasets, out = known = opened(config)
    place = out.with_name(f"{out.name}.parts")
    with planning.followed(lambda: plan(config, known)), finished.scratch(place) as scratch:
        kept = KeptRows(out)
        setting = replace(setting, scratch=scratch, before=tuple(kept.before))
        rows = compare_sets(datasets, config.baselines, setting, kept.add)
        if hosts.is_first() and config.out is None and judging.is_run(config.runs[0]):
            run_page.write(config.runs[0])
    if hosts.is_first():
        print(tables.table(rows))


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: EvaluateConfig(), arguments, several=True, plan=plan)
