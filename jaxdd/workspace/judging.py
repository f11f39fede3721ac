"""Which distilled images to judge, and by which real data and teacher: those of run folders, and those of anybody."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdd.data import distilled, foreign, places
from jaxdd.data.distilled import DistilledDataset
from jaxdd.data.mistaken import no_run, of_a_run
from jaxdd.data.whitening import Whitening, fit_zca
from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.normalise import Normalisation
from jaxdd.methods import RECIPES
from jaxdd.workspace import runs, teachers
from jaxdd.workspace.comparison import workspace_of
from jaxdd.workspace.teachers import TeacherConfig
from jaxdd.workspace.workspace import Workspace, open_workspace

ROOT = Path("runs")
"""The folder for the results and teachers of images that are no run folder."""
# What a run folder has, finished or not, whole or damaged.
_OF_RUNS = ("config.json", "distilled", "atoms.npz", runs.REQUEST, runs.PARTS)


@dataclass(frozen=True)
class JudgeConfig(TeacherConfig):
    """The images to judge. All but ``runs`` and ``names`` is for images that are no run folder."""

    runs: tuple[Path, ...] = ()
    """Run folders, or anybody's distilled images: a folder <class>/*, an .npz or .pt file, hf:owner/name. All have the
    same classes and image size."""
    names: tuple[str, ...] = ()
    """What they are called in tables; default: the method of a run, the name of a file."""
    dataset: str = ""
    """The real images for sets that are no run folder: digits, a folder, hf:owner/name, an .npz file, a TFDS name."""
    teacher: Path | None = None
    """A teacher's folder; default: found in runs/teachers or trained, as by jaxdd distill."""
    teacher_width: int | None = settings.bounded(None, settings.WIDTH)
    """Channels of the first block of a teacher that is trained here; default: --width, or those of the model."""
    image_norm: str | None = None
    """How floating images are normalised: cifar10, cifar100, imagenet, svhn, mnist, fashion_mnist, unit (pixels / 255),
    bytes (0 to 255) or zca (whitened, with eps 0.1 and the train images of --dataset; zca:cifar10 if normalised
    before); default: what the file says, or unit if all values are in [0, 1]."""
    image_mean: tuple[float, ...] | None = None
    """The same by the mean of each channel, in [0, 1]."""
    image_std: tuple[float, ...] | None = None
    """The standard deviation of each channel."""
    argmax: bool = False
    """Take a class from soft labels, the largest of each row; they themselves are not used."""


class Judged(NamedTuple):
    """What is judged.

    Attributes:
      workspace: the real data and the teacher.
      datasets: the distilled images, by their names.
      folders: the run folder or file of each, by the same names.
    """

    workspace: Workspace
    datasets: dict[str, DistilledDataset]
    folders: dict[str, Path]


def is_run(path: Path) -> bool:
    """Whether a path is a run folder, perhaps a damaged or missing one, and not the images of somebody else."""
    if path.is_dir():
        return any((path / name).exists() for name in _OF_RUNS) or not any(path.iterdir())
    name = places.parsed(str(path)).path
    return not (name.startswith(places.HUB) or foreign.is_array_file(name) or ".tar" in name or os.path.exists(name))


def opened(config: JudgeConfig) -> Judged:
    """The images that a config names, with the real data and the teacher; nothing is trained yet.

    Raises:
      InputError: see `distilled.load`, `foreign.open_distilled` and `open_workspace`; sets of other classes; settings
        of the data beside a run folder, which has its own; none without one.
    """
    if config.names and len(config.names) != len(config.runs):
        raise InputError(f"`names` {' '.join(config.names)} are {len(config.names)}, for {len(config.runs)} sets; give "
                         "one for each")  # fmt: skip
    known = {path: distilled.load(path) for path in config.runs if is_run(path)}
    workspace = _of_run(next(iter(known)), config) if known else _of_flags(config)
    norm = _image_norm(config, workspace) if len(known) < len(config.runs) else None
    strangers = {path: _opened(path, config, workspace, norm) for path in config.runs if path not in known}
    found = [(known | strangers)[path] for path in config.runs]
    _check_alike(config.runs, found)
    names = config.names or _names(config.runs, found, set(strangers))
    if len(set(names)) < len(names):
        raise InputError(f"`names` {' '.join(names)}: two are equal; give different ones")
    return Judged(workspace, dict(zip(names, found)), dict(zip(names, config.runs)))


def output_file(first: Path, out: Path | None) -> Path:
    """The file for the rows; default: in the first run folder, or in `ROOT` for images that are none.

    Raises:
      InputError: it is a folder, or ``out`` is in none.
    """
    if out is not None or is_run(first):
        return runs.output_file(out or first / "evaluation.json")
    place = ROOT / f"{foreign.title(str(first))}.evaluation.json"
    return runs.output_file(place) if ROOT.exists() else place


def _of_run(run: Path, config: JudgeConfig) -> Workspace:
    """The workspace of a run folder; InputError if the config has settings of other data."""
    shared = ("width", "compute", "image_norm", "image_mean", "image_std", "argmax", "runs", "names")
    for item in dataclasses.fields(JudgeConfig):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if item.name not in shared and getattr(config, item.name) != default:
            raise InputError(f"`{item.name}` is for images that are no run folder, and {run} names its data and "
                             "teacher; leave it out")  # fmt: skip
    return workspace_of(run, config.compute)


def _of_flags(config: JudgeConfig) -> Workspace:
    """The workspace that the settings of a config describe, as jaxdd distill would open it."""
    if not config.dataset:
        raise InputError(_no_dataset(config.runs[0]))
    teacher = TeacherConfig(**teachers.fields_of(config) | {"width": config.teacher_width or config.width})
    out = getattr(config, "out", None)
    return open_workspace(teacher, out.parent if out else ROOT, config.teacher)


def _no_dataset(path: Path) -> str:
    """What to say of images that are no run folder where no real images are named."""
    given = f"with `dataset`, which takes {places.TAKEN}"
    if words := of_a_run(path):
        return words
    if not path.is_dir():
        return f"{path} is no run folder, so that its real images are not known; name them {given}"
    name = f"name the real images {given}"
    text = no_run(path, f"{path} is no run folder", name)
    return text if text.endswith(name) else f"{text}; if it holds distilled images already, {name}"


def _image_norm(config: JudgeConfig, workspace: Workspace) -> str | Normalisation | Whitening | None:
    """How the floating images of others are normalised or whitened, as far as the config says it."""
    if (config.image_mean is None) != (config.image_std is None):
        raise InputError("`image_mean` and `image_std` must be given together; give both or neither")
    norm: str | Normalisation | None = config.image_norm
    if config.image_mean is not None and config.image_std is not None:
        if norm is not None:
            raise InputError("`image_norm` and `image_mean` say the same; give one of them")
        norm = Normalisation(*(np.array(part, np.float32) for part in (config.image_mean, config.image_std)))
    kind, _, before = norm.partition(":") if isinstance(norm, str) else ("", "", "")
    if kind != foreign.ZCA:
        return norm
    if workspace.config.holdout:
        raise InputError(f"`image_norm` {norm} is fitted on all train images; leave out `holdout`")
    source = workspace.real.source
    return fit_zca(source, foreign.named(before or "unit", source.image_shape[2], source.name))


def _opened(
    path: Path, config: JudgeConfig, workspace: Workspace, norm: str | Normalisation | Whitening | None
) -> DistilledDataset:
    """Foreign images in the normalisation of the teacher."""
    real = workspace.real
    return foreign.open_distilled(
        str(path), real.class_names, real.norm, norm, real.source.image_shape, config.image_size is not None,
        config.argmax
    )  # fmt: skip


def _check_alike(paths: Sequence[Path], datasets: Sequence[DistilledDataset]) -> None:
    """InputError if a set has other classes than the first."""
    for path, dataset in zip(paths, datasets):
        if dataset.class_names != datasets[0].class_names:
            raise InputError(f"{path} has other classes than {paths[0]}; evaluate it separately")


def _names(paths: Sequence[Path], datasets: Sequence[DistilledDataset], strangers: set[Path]) -> list[str]:
    """The names of methods and files: with those of the paths if two are equal, or if a file has that of a method."""
    names = [dataset.provenance["method"] for dataset in datasets]
    equal = len(set(names)) < len(names)
    return [f"{name} ({path.name})" if equal or path in strangers and name in RECIPES else name
            for name, path in zip(names, paths)]  # fmt: skip
