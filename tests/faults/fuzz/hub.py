"""Published configs: config.json of each component, and the schedule; nothing is built from them."""

import json
from pathlib import Path
from unittest import mock

from faults.fuzz import mutate
from faults.fuzz.rules import Target, packed, placed, unpacked

from jaxdd import pretrained
from jaxdd.ground.errors import InputError
from jaxdd.pretrained import latent
from jaxdd.pretrained.resnet import _normalisation

GOLDEN = Path(__file__).parents[2] / "golden" / "latent"
PARTS = {"vae": pretrained.vae, "transformer": pretrained.dit, "unet": pretrained.unet,
         "text_encoder": pretrained.text_encoder}  # fmt: skip
BASE = {
    **{f"{part}/config.json": (GOLDEN / part / "config.json").read_bytes() for part in PARTS},
    "scheduler/scheduler_config.json": (GOLDEN / "scheduler" / "scheduler_config.json").read_bytes(),
    "config.json": json.dumps({"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [1, 0.5, 1]}}).encode(),
}


def stop(config):
    raise InputError("the network is not built here; give the config to a program")


def read(folder, data):
    names = unpacked(data, BASE)
    likes = {f"_{part}_like": stop for part in ("vae", "dit", "unet", "text_encoder")}
    with placed(folder, names, BASE), mock.patch.multiple(latent, **likes):
        refused = None
        for name in names or BASE:
            part = name.partition("/")[0]
            try:
                if part in PARTS:
                    PARTS[part](folder)
                elif part == "scheduler":
                    pretrained.schedule(folder)
                else:
                    _normalisation(folder, 3)
            except InputError as error:
                refused = refused or error
        if refused:
            raise refused


TARGET = Target(
    "hub",
    lambda: [packed({name: content}) for name, content in BASE.items()],
    mutate.of_files(BASE, {".json": mutate.as_json}),
    read,
)
