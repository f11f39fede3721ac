"""Rounds of distilling and evaluating in one process; prints its memory and its programs, a line of JSON each time.

python -m faults.soak FOLDER ROUNDS EVERY
"""

import contextlib
import gc
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxdd import data
from jaxdd.data.augment import Augment
from jaxdd.students.protocol import PROTOCOLS
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import Comparison, compare, config_of, makers_for
from jaxdd.workspace.distillation import distill_in
from jaxdd.workspace.workspace import open_workspace

TRAIN = TrainSettings(epochs=2, batch_size=21, optimizer="sgd", learning_rate=0.1, augment=Augment("none", flip=False))


def source():
    """21 train and 6 test images of three classes."""
    rng, labels = np.random.default_rng(0), (np.arange(21) % 3, np.arange(6) % 3)
    draw = lambda of: (rng.integers(0, 99, (len(of), 8, 8)) + 70 * of[:, None, None]).astype(np.uint8)
    return data.from_arrays(draw(labels[0]), labels[0], draw(labels[1]), labels[1])


def one(folder: Path, images: data.Source) -> None:
    """A round: three classes are distilled into a new folder, and students learn them."""
    config = config_of("wmdd", dataset=images.name, width=8, flip=False, teacher_train=TRAIN, out=folder / "x")
    imager = replace(config.recipe.imager, steps=3)
    config = replace(config, recipe=replace(config.recipe, imager=imager))
    workspace = open_workspace(config, folder, source=images)
    dataset = distill_in(workspace, config)
    assert dataset is not None
    hard = PROTOCOLS.find("hard")
    protocol = replace(hard, train=replace(hard.train, epochs=2))
    comparison = Comparison(workspace, {"hard": protocol}, ("convnet3",), 1)
    rows = compare(makers_for({"wmdd": dataset}, ("random",), 1, workspace), comparison, lambda rows: None)
    assert len(rows) == 3
    shutil.rmtree(folder / "x")


def resident() -> float:
    """The resident memory of this process, MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def main(folder: Path, rounds: int, every: int) -> None:
    """Print the memory, the programs alive and those compiled so far, every few rounds."""
    compiled: list[str] = []

    def note(event: str, seconds: float, **more: object) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    images = source()
    for k in range(1, rounds + 1):
        with contextlib.redirect_stderr(io.StringIO()):
            one(folder, images)
        if k % every == 0:
            gc.collect()
            alive = len(jax.local_devices()[0].client.live_executables())
            line = {"round": k, "mib": round(resident(), 1), "alive": alive, "compiled": len(compiled)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
