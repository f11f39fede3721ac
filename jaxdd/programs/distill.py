"""Distil a dataset: real images in, a few weighted images per class out.

    jaxdd distill --method wmdd --dataset digits --ipc 1 --out runs/x
    jaxdd distill --method ddoq --dataset digits --ipc 10 --out runs/y

A teacher is trained first, unless `--teacher` names one or the `teachers` folder beside the output has one of the same
settings. In the same way, methods of the latent space train an autoencoder and a denoiser, unless `--latent.place`
names them. On two cores, digits take half a minute with wmdd and six minutes with ddoq, or 14 seconds if its models
exist already. Published accuracies of ResNet-18 at 10 images per class with soft labels: WMDD reaches 64.8 % on
ImageNette, 41.8 % on Tiny-ImageNet and 38.2 % on ImageNet-1K; on ImageNet-1K, DDOQ reaches 33.1 % with Stable Diffusion
and 53.0 % with DiT-XL/2.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jaxdd import commands, planning
from jaxdd.ground.programs import Work
from jaxdd.methods import RECIPES, Recipe
from jaxdd.reports import run_page, watching
from jaxdd.workspace import DistillConfig, Workspace, distillation, open_workspace


@dataclass(frozen=True)
class DistillFlags(DistillConfig):
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    watch: watching.WatchSettings = field(default_factory=watching.WatchSettings)


def default(arguments: list[str]) -> DistillFlags:
    """The config of the method that ``--method`` names."""
    given = commands.flag_value(arguments, "--method")
    name = DistillConfig.method if given is None else given
    return DistillFlags(method=name, recipe=RECIPES.load(name))


def plan(config: DistillConfig) -> list[Work]:
    workspace = opened(config)
    is_done = distillation.is_done(workspace, config)
    return [] if is_done else planning.distillation(workspace, config.recipe, config.ipc)


def opened(config: DistillConfig) -> Workspace:
    return open_workspace(config, config.out.parent, config.teacher, config.latent)


def main(config: DistillFlags) -> None:
    watching.check(config.watch)
    workspace = opened(config)
    with watching.watched(config.watch, config.out, workspace.real.class_names, config.ipc) as seen:
        workspace = replace(workspace, on_training=seen.on_training)
        with planning.followed(lambda: planning.distillation(workspace, config.recipe, config.ipc)):
            dataset = distillation.distill_in(workspace, config, seen.on_snapshot)
    if dataset is None:
        return
    run_page.write(config.out)
    print(f"{config.method}: {len(dataset.labels)} images of {len(dataset.class_names)} classes in {config.out}")
    print(f"next: jaxdd evaluate {config.out}")


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, default, arguments, several=True, plan=plan)
