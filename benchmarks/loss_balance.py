"""Do the feature and the moment term of the recover loss stay comparable on every architecture, with one coefficient?

    python -m benchmarks.loss_balance [--models NAME ...] [--epochs N] [--quick] [--json FILE]

For ConvNet-3, ResNet-18 and ResNet-50 of full width, trained for a few epochs on the digits at 16 pixels, recovers one
image a class, from the nearest real images and from noise, with the default settings, and prints both terms and the
range of their ratio along the run. Minutes on two cores.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np

from jaxdd.methods import RECIPES
from jaxdd.workspace import TeacherConfig, Workspace, open_workspace
from jaxdd.workspace.distillation import make


def opened(model: str, epochs: int, root: str) -> Workspace:
    """The digits and a teacher, to be trained in a folder."""
    config = TeacherConfig(dataset="digits", image_size=16, model=model)
    settings = dataclasses.replace(config.teacher_train, epochs=epochs, learning_rate=0.05)
    return open_workspace(dataclasses.replace(config, teacher_train=settings), root)


def measure(workspace: Workspace, steps: int) -> list[dict]:
    teacher, recipe = workspace.teacher, RECIPES["wmdd"]
    rows = []
    for start in ("real", "noise"):
        changed = dataclasses.replace(recipe, imager=dataclasses.replace(recipe.imager, steps=steps, start=start))
        _, result = make("wmdd", changed, 1, 0, workspace)
        feature, moment = (result.curve[name].mean(1) for name in ("feature", "moment"))
        ratio = moment / feature
        rows.append(
            {
                "model": teacher.info["model"],
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
        with tempfile.TemporaryDirectory() as root:
            measured = measure(opened(model, 2 if arguments.quick else arguments.epochs, root), steps)
        for r in measured:
            pairs = "".join(f"{r[name][0]:13.3f} {r[name][1]:6.3f}" for name in ("feature", "moment"))
            ratios = " ".join(f"{value:6.2f}" for value in r["ratio"])
            print(f"{model:9} {100 * r['teacher']:6.1f}  {r['start']:5}{pairs}  {ratios:>31}", flush=True)
            rows.append(r)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
