"""A run folder as a folder that others read: images, labels and weights in a form, labels without JAX, a card."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from jaxdd.data import distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import card, items, views
from jaxdd.exchange.base import FORMS
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, write_text
from jaxdd.ground.reading import read_json
from jaxdd.reports import preview, run_page
from jaxdd.stages.relabel.stored import open_labels
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


def export(run: Path, form: str, out: Path, settings: ExportSettings = ExportSettings()) -> None:  # noqa: B008
    """Write a run folder in a form. The folder ``out`` is complete or absent.

    Args:
      form: one of `FORMS`.

    Raises:
      InputError: no run folder, an unknown form or one whose library is not installed, a damaged file, or ``out``
        exists.
    """
    chosen, licence = FORMS.find(form), card.check_licence(settings.license)
    config = records.run(run, ("method", "dataset", "recipe"))
    dataset = distilled.load(run)
    place = run / "evaluation.json"
    scores = rows.read(place) if place.is_file() else []
    soft = items.soft_labels(dataset, teachers.load_teacher(run / "teacher")) if (run / "teacher").is_dir() else None
    labels = open_labels(run) if settings.labels and (run / "labels" / "labels.json").is_file() else None
    if out.exists():
        raise InputError(f"{out} exists; choose another `out` or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; choose another `out`") from None
    with atomic(out) as folder:
        folder.mkdir()
        chosen.write(folder, dataset, soft)
        stream = None
        if labels is not None:
            views.write(folder / "soft", labels, dataset)
            shutil.copyfile(Path(__file__).with_name("student.py.txt"), folder / "student.py")
            stream = read_json(folder / "soft" / "stream.json")
        preview.preview(dataset, folder / "preview.png")
        title = settings.title or _title(dataset, config)
        command = run_page.command(card.without_places(config))
        facts = card.Facts(title, licence, command, soft is not None, stream)
        write_text(folder / "README.md", card.card(dataset, chosen, scores, facts))


def _title(dataset: DistilledDataset, config: dict) -> str:
    name = dataset.provenance.get("dataset", config["dataset"])
    return f"{name}, distilled to {dataset.ipc} images per class by {config['method']}"
