"""A run folder as a folder that others read: images, labels and weights in a form, labels without JAX, a card."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import card, items, views
from jaxdd.exchange.base import FORMS
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, write_text
from jaxdd.ground.reading import read_json
from jaxdd.reports import preview, run_page
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel.stored import Labels, open_labels
from jaxdd.students import rows
from jaxdd.workspace import records, teachers


@dataclass(frozen=True)
class ExportSettings:
    """What an export holds besides the images."""

    license: str = "unknown"
    """The licence of the exported files, as the Hugging Face hub calls it: cc-by-4.0, mit, other, unknown."""
    title: str | None = None
    """The title of the card; default: the method and the dataset."""
    labels: bool = True
    """Add the soft labels that the run stores, with boxes, flips and mixes, and a student for PyTorch."""


@dataclass(frozen=True)
class Contents:
    """What a run folder holds for an export: the settings of the run, its images, scores, teacher and stored labels."""

    config: dict
    dataset: DistilledDataset
    scores: list[dict]
    teacher: Teacher | None
    labels: Labels | None

    @cached_property
    def soft(self) -> np.ndarray | None:
        """The teacher's answers for the images, float32 [n, K]."""
        return None if self.teacher is None else items.soft_labels(self.dataset, self.teacher)


def export(run: Path, form: str, out: Path, settings: ExportSettings = ExportSettings()) -> None:  # noqa: B008
    """Write a run folder in a form. The folder ``out`` is complete or absent.

    Args:
      form: one of `FORMS`.

    Raises:
      InputError: no run folder, an unknown form or one whose library is not installed, a damaged file, or ``out``
        exists.
    """
    write(opened(run, {form: out}, settings), form, out, settings)


def opened(run: Path, places: Mapping[str, Path], settings: ExportSettings) -> Contents:
    """What is to be written into a folder for each form. All that can be refused is refused here.

    Raises:
      InputError: see `export`.
    """
    card.check_licence(settings.license)
    forms = [FORMS.find(form) for form in places]
    config = records.run(run, ("method", "dataset", "recipe"))
    dataset = distilled.load(run)
    place = run / "evaluation.json"
    scores = rows.read(place) if place.is_file() else []
    teacher = teachers.load_teacher(run / "teacher") if (run / "teacher").is_dir() else None
    if teacher is not None:
        items.check_teacher(dataset, teacher)
    labels = open_labels(run) if settings.labels and (run / "labels" / "labels.json").is_file() else None
    if labels is not None:
        views.check(labels, dataset)
    for out in places.values():
        _check_place(out)
    for form in forms:
        if form.libraries:
            form.libraries()
    return Contents(config, dataset, scores, teacher, labels)


def _check_place(out: Path) -> None:
    """Raise InputError for a folder that exists, or cannot be made."""
    if os.path.lexists(out):
        raise InputError(f"{out} exists; choose another `out` or remove it")
    above = next(place for place in out.absolute().parents if os.path.lexists(place))
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = "no permission to write there" if above.is_dir() else f"{above} is no folder"
        raise InputError(f"cannot write to {out}: {reason}; choose another `out`")


def write(found: Contents, form: str, out: Path, settings: ExportSettings) -> None:
    """Write what `opened` found in a form."""
    dataset, labels, chosen, stream = found.dataset, found.labels, FORMS.find(form), None
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as folder:
        folder.mkdir()
        chosen.write(folder, dataset, found.soft)
        if labels is not None:
            views.write(folder / "soft", labels, dataset)
            shutil.copyfile(Path(__file__).with_name("student.py.txt"), folder / "student.py")
            stream = read_json(folder / "soft" / "stream.json")
        preview.preview(dataset, folder / "preview.png")
        title = settings.title or _title(dataset, found.config)
        command = run_page.command(card.without_places(found.config))
        held_out = bool(found.config.get("holdout"))
        facts = card.Facts(title, settings.license, command, found.soft, stream, held_out)
        write_text(folder / "README.md", card.card(dataset, chosen, found.scores, facts))


def _title(dataset: DistilledDataset, config: dict) -> str:
    name = dataset.provenance.get("dataset", config["dataset"])
    return f"{name}, distilled to {dataset.ipc} images per class by {config['method']}"
