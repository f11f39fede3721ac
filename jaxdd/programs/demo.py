"""Distil the digits to ten images with several methods, and compare the accuracies of students.

    jaxdd demo

Takes less than two minutes on two cores. Expect a hard-label accuracy of more than 90 % for wmdd, well above random.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxdd import commands, methods, planning
from jaxdd.data import distilled
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import remove_at_once, write_json
from jaxdd.ground.programs import Work
from jaxdd.methods import RECIPES, Recipe
from jaxdd.reports import preview, run_page, tables
from jaxdd.students.protocol import named
from jaxdd.workspace import TeacherConfig, Workspace, comparison, distillation, open_workspace, runs, teachers
from jaxdd.workspace.comparison import Comparison

BASELINES = ("random", "medoid")


@dataclass(frozen=True)
class DemoConfig:
    out: Path = Path("runs/demo")
    """Replaced if it holds an earlier demo."""
    methods: tuple[str, ...] = ("sre2l", "wmdd")
    steps: int = 500
    """Steps of the recover stage."""
    seeds: int = settings.bounded(3, settings.STUDENTS)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


def distil(name: str, config: DemoConfig, workspace: Workspace) -> distilled.DistilledDataset:
    """Distil one image per class with a method, and write its run folder."""
    fields = teachers.fields_of(config.teacher) | {"recipe": recipes(replace(config, methods=(name,)))[0]}
    distillation.distill_in(workspace, replace(distillation.config_of(name, out=config.out / name), **fields))
    return distilled.load(config.out / name)


def compared(config: DemoConfig, workspace: Workspace) -> Comparison:
    """The students, of the teacher's architecture."""
    protocols, student, seeds = {name: named(name) for name in ("hard", "soft")}, config.teacher.model, config.seeds
    trained = config.teacher.teacher_train
    return Comparison(workspace, protocols, (student,), seeds, seeds, trained, shorter="fewer `seeds`")


def recipes(config: DemoConfig) -> list[Recipe]:
    """Those of the methods; InputError for settings that are out of range."""
    if not config.methods or not config.seeds:
        raise InputError("`seeds` is 0; use 1 or more" if config.methods else "`methods` is empty; give one or more")
    return [settings.changed(RECIPES.find(name), {"imager.steps": config.steps}, name) for name in config.methods]


def is_finished(config: DemoConfig) -> bool:
    """Whether the folder holds an earlier demo, which is replaced."""
    return (config.out / "evaluation.json").is_file() and not (config.out / runs.PARTS).exists()


def plan(config: DemoConfig) -> list[Work]:
    return planned(config, open_workspace(config.teacher, config.out / (runs.PARTS if is_finished(config) else "")))


def planned(config: DemoConfig, workspace: Workspace) -> list[Work]:
    every = [*recipes(config), *map(RECIPES.find, BASELINES)]
    for name, recipe in zip(config.methods, every):
        methods.check(recipe, workspace.problem(name, 1))
    sizes = [(1, compared(config, workspace), lambda *_: len(every))]
    return planning.grid(workspace, [every], sizes, (config.teacher.model,))


def main(config: DemoConfig) -> None:
    recipes(config)
    if is_finished(config):
        remove_at_once(config.out)
    with runs.run_folder(config.out, runs.without_place(settings.record(config))) as out:
        workspace = open_workspace(config.teacher, out)
        with planning.followed(lambda: planned(config, workspace)):
            datasets = {name: distil(name, config, workspace) for name in config.methods}
            preview.preview(datasets[config.methods[-1]], out / "preview.png")
            keep = lambda rows: write_json(out / "evaluation.json", rows)
            makers = comparison.makers_for(datasets, BASELINES, 1, workspace)
            rows = comparison.compare(makers, compared(config, workspace), keep)
        for run in map(out.joinpath, datasets):
            write_json(run / "evaluation.json", rows)
            run_page.write(run)
        runs.finish(out, ("evaluation.json", "preview.png"))
    print(tables.table(rows))
    print(f"\nthe ten images of {config.methods[-1]}: {config.out / 'preview.png'}; pages: report.html in its folders")


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: DemoConfig(), arguments, plan=plan)
