"""Train a teacher on all real images of a dataset and keep it.

    python -m experiments.squeeze --dataset digits --out runs/teachers/digits

Digits with convnet3 take about ten seconds on two cores. WMDD trains its ImageNette and Tiny-ImageNet teachers for 50
epochs with SGD, rate 0.025, weight decay 1e-4, batch 32, cosine: 89.9 and 63.5 % for ResNet-18.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments import cli, teachers


@dataclass(frozen=True)
class SqueezeConfig(teachers.TeacherConfig):
    out: Path = Path("runs/teacher")
    """Where the teacher goes: variables/ (Orbax) and teacher.json."""


def main(config: SqueezeConfig) -> None:
    with cli.run_folder(config.out) as out:
        source, norm, flip = teachers.open_data(config)
        teacher = teachers.train_teacher(config, source, norm, flip)
        teachers.save_teacher(out, teacher)
    print(f"{config.model} on {source.name}: test accuracy {100 * teacher.info['accuracy']:.1f} %, in {config.out}")


if __name__ == "__main__":
    cli.run(main, lambda arguments: SqueezeConfig())
