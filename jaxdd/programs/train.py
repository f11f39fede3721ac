"""Train the models that methods need on all real images of a dataset: a teacher, or a small latent model.

    jaxdd train --dataset digits --out runs/teachers/digits
    jaxdd train --what dit --dataset digits --out runs/latents/digits

Digits with convnet3 take about ten seconds on two cores. WMDD trains its ImageNette and Tiny-ImageNet teachers for 50
epochs with SGD, rate 0.025, weight decay 1e-4, batch 32, cosine: 89.9 and 63.5 % for ResNet-18. `vae` trains only an
autoencoder. `dit` trains a denoiser on the latents of `--latent.place`, or of an autoencoder that it trains first.
"""

from dataclasses import dataclass, field
from pathlib import Path

from jaxdd import commands, planning
from jaxdd.ground import manifest, settings
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.errors import InputError
from jaxdd.ground.programs import Work
from jaxdd.stages.context import Teacher
from jaxdd.workspace import LatentConfig, TeacherConfig, Workspace, latent_models, open_workspace, runs, teachers
from jaxdd.workspace.real_data import RealData, open_data


@dataclass(frozen=True)
class TrainConfig(TeacherConfig):
    what: str = "teacher"
    """teacher, vae or dit."""
    out: Path = Path("runs/teacher")
    """The output folder: variables/ (Orbax) and teacher.json, or vae/, transformer/ and scheduler/ in diffusers'
    layout."""
    pretrained: str | None = None
    """For a teacher: torchvision's or timm's weights of --model as safetensors, in a folder or on the hub."""
    latent: LatentConfig = field(default_factory=LatentConfig)


def train_teacher(config: TrainConfig, real: RealData, out: Path) -> str:
    """Train and write a teacher, and return a line about it."""
    return _saved(config, teachers.train_teacher(config, real, Scratch(out / runs.PARTS)), out)


def _saved(config: TrainConfig, teacher: Teacher, out: Path) -> str:
    teachers.save_teacher(out, teacher)
    info = teacher.info
    return f"{config.model} on {info['dataset']}: {teachers.judged(info['accuracy'], info)}"


TRAINED = {
    "teacher": train_teacher,
    "vae": lambda config, real, out: latent_models.train_autoencoder(config.latent, config, real, out),
    "dit": lambda config, real, out: latent_models.train_denoiser(config.latent, config, real, out),
}


def request(config: TrainConfig) -> dict:
    """Everything that determines a model; InputError if there is no such model."""
    if config.what not in TRAINED:
        raise InputError(f"unknown `what` {config.what!r}; use {', '.join(TRAINED)}")
    return {"train": runs.without_place(settings.record(config)), **teachers.machine(config)}


def plan(config: TrainConfig) -> list[Work]:
    if runs.is_done(config.out, request(config)):
        return []
    workspace = open_workspace(config, config.out.parent, latent=config.latent)
    return planning.training(workspace, config.what, config.pretrained is not None)


def trained(config: TrainConfig, out: Path) -> str:
    """Write the model, and return a line about it."""
    if config.pretrained and config.what == "teacher":
        return _saved(config, teachers.published(config, config.pretrained), out)
    workspace = Workspace(config.out.parent, config, config.latent, open_data(config))
    with planning.followed(lambda: planning.training(workspace, config.what)):
        return TRAINED[config.what](config, workspace.real, out)


def main(config: TrainConfig) -> None:
    with runs.run_folder(config.out, request(config)) as out:
        if runs.is_finished(out):
            manifest.verify(out, content=False)
            print(f"{config.out} is finished already")
            return
        text = trained(config, out)
        runs.finish(out, (*teachers.TEACHER, *latent_models.PARTS_OF_MODELS))
    print(f"{text}, in {config.out}")


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: TrainConfig(), arguments, plan=plan)
