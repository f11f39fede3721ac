"""Real digits become ten images: every method at one image per class, and what each is worth.

    python -m experiments.demo

Under two minutes on two cores. Hard-label accuracy to expect: wmdd over 90 %, well above random.
"""

import shutil
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from experiments import cli, distill, evaluate, teachers
from jaxdd import methods
from jaxdd.reports import tables as report


@dataclass(frozen=True)
class DemoConfig:
    out: Path = Path("runs/demo")
    """Replaced if it holds an earlier demo."""
    methods: tuple[str, ...] = ("sre2l", "wmdd")
    steps: int = 500
    """Of the recover stage."""
    seeds: int = 3
    teacher: teachers.TeacherConfig = field(default_factory=teachers.TeacherConfig)


def main(config: DemoConfig) -> None:
    if (config.out / "evaluation.json").is_file():
        shutil.rmtree(config.out)
    with cli.run_folder(config.out) as out:
        source, norm, flip = teachers.open_data(config.teacher)
        teacher, place = teachers.find_or_train(config.teacher, source, norm, flip, out / "teachers")
        classes = distill.encode_real(teacher, source)
        made = {}
        for name in config.methods:
            recipe = methods.with_flip(methods.recipe(name), flip)
            recipe = replace(recipe, recover=replace(recipe.recover, steps=config.steps))
            same = {item.name: getattr(config.teacher, item.name) for item in fields(config.teacher)}
            run = distill.DistillConfig(**same, method=name, recipe=recipe, ipc=1, out=out / name)
            dataset, result = distill.make(name, recipe, 1, 0, source, teacher, classes, run.memory_gib)
            run.out.mkdir()
            distill.save_run(run.out, run, place, dataset, result)
            made[name] = dataset
        report.preview(made[config.methods[-1]], out / "preview.png")

        asked = evaluate.EvaluateConfig(seeds=config.seeds, full=config.seeds)
        makers = evaluate.makers_for(made, asked.baselines, 1, source, teacher, classes)
        rows = evaluate.compare(
            makers,
            asked,
            (config.teacher.model,),
            source,
            teacher,
            flip,
            lambda rows: cli.write_json(out / "evaluation.json", rows),
            config.teacher.teacher_train,
        )
    print(report.table(rows))
    print(f"\nthe ten images of {config.methods[-1]}: {config.out / 'preview.png'}")


if __name__ == "__main__":
    cli.run(main, lambda arguments: DemoConfig())
