"""Do the feature and the moment term of the recover loss stay comparable on every architecture, with one coefficient?

    python -m benchmarks.loss_balance [--models NAME ...] [--epochs N] [--quick] [--json FILE]

For ConvNet-3, ResNet-18 and ResNet-50 of full width, trained for a few epochs on the digits at 16 pixels, recovers one
image a class, from the nearest real images and from noise, with the default settings, and prints both terms and the
range of their ratio along the run. Minutes on two cores.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from experiments import distill, teachers
from jaxdd import methods


def measure(model: str, epochs: int, steps: int) -> list[dict]:
    config = teachers.TeacherConfig(dataset="digits", image_size=16, model=model)
    settings = dataclasses.replace(config.teacher_train, epochs=epochs, learning_rate=0.05)
    config = dataclasses.replace(config, teacher_train=settings)
    source, norm, flip = teachers.open_data(config)
    teacher = teachers.train_teacher(config, source, norm, flip)
    classes = distill.encode_real(teacher, source)
    recipe = methods.with_flip(methods.recipe("wmdd"), flip)
    rows = []
    for start in ("real", "noise"):
        changed = dataclasses.replace(recipe, recover=dataclasses.replace(recipe.recover, steps=steps, start=start))
        _, result = distill.make("wmdd", changed, 1, 0, source, teacher, classes, config.memory_gib)
        feature, moment = (result.curve[name].mean(1) for name in ("feature", "moment"))
        ratio = moment / feature
        rows.append(
            {
                "model": model,
                "teacher": round(teacher.info["accuracy"], 4),
                "start": start,
                "feature": [float(feature[0]), float(feature[-1])],
                "moment": [float(moment[0]), float(moment[-1])],
                "ratio": [float(ratio.min()), float(np.median(ratio)), float(ratio.max())],
                "steps": steps,
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["convnet3", "resnet18", "resnet50"])
    parser.add_argument("--epochs", type=int, default=4, help="of the teachers")
    parser.add_argument("--quick", action="store_true", help="ConvNet-3 only, a few steps")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    models = ["convnet3"] if arguments.quick else arguments.models
    steps = 20 if arguments.quick else 100
    rows = []
    print("model     teacher  start  feature first, last  moment first, last  moment/feature min, median, max")
    for model in models:
        for r in measure(model, 2 if arguments.quick else arguments.epochs, steps):
            pairs = "".join(f"{r[name][0]:13.3f} {r[name][1]:6.3f}" for name in ("feature", "moment"))
            ratios = " ".join(f"{value:6.2f}" for value in r["ratio"])
            print(f"{model:9} {100 * r['teacher']:6.1f}  {r['start']:5}{pairs}  {ratios:>31}", flush=True)
            rows.append(r)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
