"""Train what the methods need on all real images of a dataset and keep it: a teacher, or a small latent model.

    python -m experiments.squeeze --dataset digits --out runs/teachers/digits
    python -m experiments.squeeze --what dit --dataset digits --out runs/latents/digits

Digits with convnet3 take about ten seconds on two cores. WMDD trains its ImageNette and Tiny-ImageNet teachers for 50
epochs with SGD, rate 0.025, weight decay 1e-4, batch 32, cosine: 89.9 and 63.5 % for ResNet-18. `vae` trains the
autoencoder alone, `dit` a denoiser on the latents of `--latent.place` or else of an autoencoder trained now.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments import cli, latents, teachers
from jaxdd.ground.errors import InputError


@dataclass(frozen=True)
class SqueezeConfig(teachers.TeacherConfig):
    what: str = "teacher"
    """teacher, vae or dit."""
    out: Path = Path("runs/teacher")
    """Where it goes: variables/ (Orbax) and teacher.json, or vae/, transformer/ and scheduler/ in diffusers' layout."""
    pretrained: str | None = None
    """Of a teacher: torchvision's or timm's weights of --model as safetensors, in a folder or of the hub."""
    latent: latents.LatentConfig = field(default_factory=latents.LatentConfig)


def main(config: SqueezeConfig) -> None:
    if config.what not in ("teacher", "vae", "dit"):
        raise InputError(f"unknown --what {config.what!r}; use teacher, vae or dit")
    with cli.run_folder(config.out) as out:
        if config.what == "teacher":
            if config.pretrained:
                source, teacher = teachers.published(config, config.pretrained)
            else:
                source, norm, flip = teachers.open_data(config)
                teacher = teachers.train_teacher(config, source, norm, flip)
            teachers.save_teacher(out, teacher)
            text = f"{config.model} on {source.name}: test accuracy {100 * teacher.info['accuracy']:.1f} %"
        else:
            source, _, flip = teachers.open_data(config)
            text = latents.squeeze(config.what, config.latent, config, source, flip, out)
    print(f"{text}, in {config.out}")


if __name__ == "__main__":
    cli.run(main, lambda arguments: SqueezeConfig())
