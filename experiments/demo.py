"""Distil the digits to ten images with several methods, and compare the accuracies of students.

    python -m experiments.demo

Takes less than two minutes on two cores. Expect a hard-label accuracy of more than 90 % for wmdd, well above random.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxdd import commands, planning
from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import remove_at_once, write_json
from jaxdd.ground.programs import Work
from jaxdd.methods import RECIPES
from jaxdd.reports import preview, run_page, tables
from jaxdd.students.protocol import named
from jaxdd.workspace import (
    Comparison,
    TeacherConfig,
    Workspace,
    compare,
    config_of,
    distillation,
    makers_for,
    open_workspace,
    runs,
    teachers,
)


@dataclass(frozen=True)
class DemoConfig:
    out: Path = Path("runs/demo")
    """Replaced if it holds an earlier demo."""
    methods: tuple[str, ...] = ("sre2l", "wmdd")
    steps: int = 500
    """Steps of the recover stage."""
    seeds: int = settings.bounded(3, settings.STUDENTS)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


def distil(name: str, config: DemoConfig, workspace: Workspace) -> DistilledDataset:
    """Distil one image per class with a method, and write its run folder and page."""
    run = config_of(name, **teachers.fields_of(config.teacher), out=config.out / name)
    run = replace(run, recipe=settings.changed(run.recipe, {"imager.steps": config.steps}, name))
    distillation.distill_in(workspace, run)
    run_page.write(run.out)
    return distilled.load(run.out)


def compared(config: DemoConfig, workspace: Workspace) -> Comparison:
    """The students, of the teacher's architecture."""
    protocols, teacher = {name: named(name) for name in ("hard", "soft")}, config.teacher
    return Comparison(workspace, protocols, (teacher.model,), config.seeds, config.seeds, teacher.teacher_train)


def plan(config: DemoConfig) -> list[Work]:
    workspace = open_workspace(config.teacher, config.out)
    changes = {"imager.steps": config.steps}
    recipes = [settings.changed(RECIPES.find(name), changes, name) for name in config.methods]
    # The medoid and random images are trained on as well.
    baselines = [RECIPES.find(name) for name in ("random", "medoid")]
    return planning.grid(workspace, [*recipes, *baselines], [(1, compared(config, workspace))])


def main(config: DemoConfig) -> None:
    if not config.methods:
        raise InputError("`methods` is empty; give one or more")
    if (config.out / "evaluation.json").is_file() and not (config.out / runs.PARTS).exists():
        remove_at_once(config.out)
    with runs.run_folder(config.out, runs.without_place(settings.record(config))) as out:
        workspace = open_workspace(config.teacher, out)
        datasets = {name: distil(name, config, workspace) for name in config.methods}
        preview.preview(datasets[config.methods[-1]], out / "preview.png")
        makers = makers_for(datasets, ("random", "medoid"), 1, workspace)
        rows = compare(makers, compared(config, workspace), lambda rows: write_json(out / "evaluation.json", rows))
        runs.finish(out, ("evaluation.json", "preview.png"))
    print(tables.table(rows))
    print(f"\nthe ten images of {config.methods[-1]}: {config.out / 'preview.png'}")


if __name__ == "__main__":
    commands.run(main, lambda arguments: DemoConfig(), plan=plan)
