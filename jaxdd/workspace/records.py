"""The records of teachers and run folders, checked when they are read: anybody may have written them."""

from dataclasses import dataclass, field
from pathlib import Path

from jaxdd.data.mistaken import no_run
from jaxdd.ground import manifest, settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.reading import read_json


@dataclass(frozen=True)
class _Teacher:
    """What is read of a teacher.json; a field without a default must be there."""

    dataset: str
    model: str
    stem: str
    width: int | None = settings.bounded(settings.REQUIRED, settings.WIDTH)
    image_shape: tuple[int, ...] = settings.bounded(settings.REQUIRED, settings.SIDE)
    class_names: tuple[str, ...] = settings.bounded(settings.REQUIRED, settings.CLASSES)
    mean: tuple[float, ...] = settings.bounded(settings.REQUIRED, settings.ANY)
    std: tuple[float, ...] = settings.bounded(settings.REQUIRED, settings.Bounds(1e-12, 1e12))
    holdout: float = settings.bounded(settings.REQUIRED, settings.SHARE)
    seed: int = settings.bounded(settings.REQUIRED, settings.SEED)
    accuracy: float = settings.bounded(settings.REQUIRED, settings.SHARE)
    train: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """What is read of the config.json of a run folder, besides the settings of its data."""

    method: str = ""
    dataset: str = ""
    recipe: dict = field(default_factory=dict)


def teacher(place: Path) -> dict:
    """The content of a teacher.json.

    Raises:
      InputError: the file is damaged, or a field is missing, of the wrong type or out of bounds.
    """
    info = read_json(place)
    known = settings.parsed(_Teacher, info, str(place))
    if len(known.image_shape) != 3:
        raise InputError(
            f"{place}: image_shape {list(known.image_shape)} has no height, width and channels; make it again"
        )
    for name in ("mean", "std"):
        if len(getattr(known, name)) not in (1, known.image_shape[2]):
            raise InputError(f"{place}: {name} does not have {known.image_shape[2]} channels; make it again")
    if not known.class_names:
        raise InputError(f"{place}: class_names is empty; make it again")
    return info


def run(folder: Path, needed: tuple[str, ...] = ()) -> dict:
    """The content of the config.json of a run folder.

    Args:
      needed: the settings that must be there.

    Raises:
      InputError: no such file, it is damaged or not what the manifest says, or a field is missing or of the wrong
        type.
    """
    place = folder / "config.json"
    if not place.is_file():
        raise InputError(no_run(folder, f"{folder} has no config.json"))
    manifest.verify(folder, place.name)
    config = read_json(place)
    known = settings.parsed(_Run, config, str(place))
    for name in needed:
        if name not in config:
            raise InputError(f"{place} has no {name}; make it again")
    for stage, choice in known.recipe.items():
        if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
            raise InputError(f"{place}: recipe.{stage} has no name; make it again")
    return config
