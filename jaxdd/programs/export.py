"""Write a distilled dataset for others: Hugging Face, a folder of images, TensorFlow Datasets, WebDataset or NumPy.

    jaxdd export runs/x --to hf --license cc-by-4.0

Each form becomes a folder with the images, their labels and weights, the teacher's probabilities, and a card with
provenance, scores and a picture. If the run stores soft labels (see jaxdd relabel), they are added as plain arrays,
together with every crop, flip and mix, and with a student in PyTorch that needs neither JAX nor the teacher.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxdd import commands
from jaxdd.exchange import FORMS, ExportSettings, opened, write
from jaxdd.ground.errors import InputError
from jaxdd.ground.programs import Work
from jaxdd.ground.progress import log


@dataclass(frozen=True)
class ExportConfig(ExportSettings):
    run: tyro.conf.Positional[Path] = Path("runs/distilled")
    """A run folder of jaxdd distill."""
    to: tuple[str, ...] = ("hf",)
    """One or more forms: hf, imagefolder, tfds, webdataset, npz."""
    out: Path | None = None
    """The folder of the export, or of several by their forms; default: export/FORM in the run folder."""


def places(config: ExportConfig) -> dict[str, Path]:
    """The folder of each form."""
    if not config.to:
        raise InputError(f"`to` is empty; use {', '.join(FORMS)}")
    for form in config.to:
        FORMS.find(form)
    if config.out is not None and len(config.to) == 1:
        return {config.to[0]: config.out}
    root = config.run / "export" if config.out is None else config.out
    return {form: root / form for form in config.to}


def plan(config: ExportConfig) -> list[Work]:
    opened(config.run, places(config), config)
    return []  # it computes next to nothing


def main(config: ExportConfig) -> None:
    found = opened(config.run, places(config), config)
    for form, out in places(config).items():
        print(f"writing {form}: {out}", flush=True)
        write(found, form, out, config)
    if config.labels and not (config.run / "labels").is_dir():
        log(f"without soft labels, as {config.run} stores none; jaxdd relabel {config.run} stores them")


def cli(arguments: list[str] | None = None) -> None:
    commands.run(main, lambda _: ExportConfig(), arguments, plan=plan)
