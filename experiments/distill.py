"""Distil a dataset: real images in, a few weighted images per class out.

    python -m experiments.distill --method wmdd --dataset digits --ipc 1 --out runs/x
    python -m experiments.distill --method ddoq --dataset digits --ipc 10 --out runs/y

Trains a teacher first unless `--teacher` names one (or one of the same settings lies in the `teachers` folder beside
the output). Methods of the latent space train an autoencoder and a denoiser likewise, unless `--latent.place` names
some. Digits take half a minute on two cores with wmdd and six minutes with ddoq, or 14 seconds once its models are
there. Published, with ResNet-18 at 10 images per class and soft labels: WMDD reaches 64.8 % on ImageNette, 41.8 % on
Tiny-ImageNet and 38.2 % on ImageNet-1K; DDOQ with Stable Diffusion 33.1 % on ImageNet-1K, with DiT-XL/2 53.0 %.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jaxdd import commands, workspace
from jaxdd.methods import RECIPES, Recipe
from jaxdd.reports import run_page
from jaxdd.workspace import DistillConfig


@dataclass(frozen=True)
class DistillFlags(DistillConfig):
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def default(arguments: list[str]) -> DistillFlags:
    """The config of the method that ``--method`` names."""
    name = commands.flag_value(arguments, "--method") or DistillConfig.method
    return DistillFlags(method=name, recipe=RECIPES.load(name))


def main(config: DistillConfig) -> None:
    dataset = workspace.distill(config)
    if dataset is None:
        return
    run_page.write(config.out)
    print(f"{config.method}: {len(dataset.labels)} images of {len(dataset.class_names)} classes in {config.out}")
    print(f"next: python -m experiments.evaluate {config.out}")


if __name__ == "__main__":
    commands.run(main, default, several=True)
