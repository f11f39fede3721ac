"""Teachers: loaded from disk, trained on real images, or built from published weights."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdd import data, nn, pretrained
from jaxdd.data.augment import Augment
from jaxdd.ground import checkpoint, course, hosts, manifest, parallel, settings
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_json
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.progress import log
from jaxdd.ground.watch import EVERY, Hook
from jaxdd.nn import Apply, Classifier, Variables
from jaxdd.stages.context import Teacher
from jaxdd.students import train
from jaxdd.students.evaluation import accuracy
from jaxdd.workspace import alternatives, full_training, records, runs
from jaxdd.workspace.real_data import DataConfig, RealData, open_data, test_batches


@dataclass(frozen=True)
class TeacherConfig(DataConfig):
    """The architecture and training of the teacher; a teacher from a folder replaces them."""

    model: str = "convnet3"
    """convnet3|4|5|6, resnet18|34|50|101, any other architecture of the students, or package.module:function."""
    width: int | None = settings.bounded(None, settings.WIDTH)
    """Channels of the first block; default 128 (ConvNet) or 64 (ResNet)."""
    stem: str = "auto"
    """ResNets: small (3x3), imagenet, or auto: small up to 64 pixels."""
    compute: str = "auto"
    """The dtype in which networks compute: float32, bfloat16, or auto (bfloat16 on accelerators that have it).
    Parameters, pixels, moments and losses are float32."""
    seed: int = settings.bounded(0, settings.SEED)
    committee: tuple[str, ...] = ()
    """More teachers: architectures, trained as the teacher is, or folders of jaxdd train. Recovery takes them in turn
    with the teacher, and soft labels are the mean of all."""
    teacher_train: train.TrainSettings = field(
        default_factory=lambda: train.TrainSettings(
            epochs=30,
            batch_size=128,
            min_batches=8,
            optimizer="sgd",
            learning_rate=0.1,
            weight_decay=5e-4,
            warmup=0.15,
            # With mixup, features change more smoothly between classes, which improves recovered images.
            augment=Augment(min_scale=0.5, mix="mixup"),
        )
    )


_Config = TypeVar("_Config", bound=DataConfig)


def with_flip(training: train.TrainSettings, flip: bool) -> train.TrainSettings:
    """The settings, with mirrored images only if the data allow them."""
    augment = training.augment
    return dataclasses.replace(training, augment=dataclasses.replace(augment, flip=augment.flip and flip))


def training_of(teacher: Teacher) -> train.TrainSettings:
    """The settings that a teacher was trained with, from its record; InputError if it has none."""
    if "train" not in teacher.info:
        raise InputError("the record of the teacher, teacher.json, has no `train`; give `full` 0, or another teacher")
    return settings.changed(train.TrainSettings(), dict(teacher.info["train"]), "the teacher's record")


def describe(config: TeacherConfig, real: RealData) -> dict:
    """Everything that identifies a teacher, apart from its training settings."""
    return {
        "dataset": real.source.name,
        "image_shape": list(real.source.image_shape),
        "class_names": list(real.class_names),
        "model": config.model,
        "width": config.width,
        "stem": config.stem,
        "mean": [float(x) for x in real.norm.mean],
        "std": [float(x) for x in real.norm.std],
        "holdout": config.holdout,
        "seed": config.seed,
    }


def build(info: dict, compute: str = "auto") -> Classifier:
    """The classifier that ``info`` describes. ``compute``: see `dtype_of`."""
    shape = len(info["class_names"]), info["image_shape"][0], info["width"], info["stem"]
    return nn.get(info["model"], *shape, dtype_of(compute))


def shapes(model: Classifier, image_shape: tuple[int, int, int]) -> Variables:
    """The variables of a classifier as shapes."""
    return jax.eval_shape(lambda key: model.init(key, image_shape), jax.random.key(0))


def dtype_of(compute: str) -> str | None:
    """The dtype as `nn.get` expects it: "bfloat16", or None for float32.

    Raises:
      InputError: ``compute`` is not auto, float32 or bfloat16, or the device has no bfloat16.
    """
    if compute not in ("auto", "float32", "bfloat16"):
        raise InputError(f"unknown `compute` {compute!r}; use auto, float32 or bfloat16")
    device = jax.devices()[0]
    if compute == "auto":
        compute = "bfloat16" if device.platform != "cpu" and parallel.has_bfloat16(device) else "float32"
    if compute == "bfloat16" and not parallel.has_bfloat16(device):
        raise InputError(f"a {device.device_kind} has no bfloat16; use `compute` float32")
    return None if compute == "float32" else compute


def fields_of(config: TeacherConfig) -> dict[str, Any]:
    """The settings of the data and the teacher in a config that may have more."""
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(TeacherConfig)}


OnTraining = Callable[[int, Mapping[str, float]], None]
"""Called with the number of steps taken, and the "loss" or the "accuracy" on the test images."""
# How often the accuracy of a teacher is measured while it is trained.
_TESTS = 20


def told(on_training: OnTraining, apply: Apply, real: RealData, steps: int) -> Hook:
    """A hook that tells the loss at every look, the mean since the last one, and twenty times the test accuracy."""
    seen, tested = 0, 0

    def hook(step: int, state: train.TrainState, losses: Sequence) -> None:
        nonlocal seen, tested
        on_training(step, {"loss": float(np.mean(jax.device_get(losses[max(seen, len(losses) - EVERY) :])))})
        seen = len(losses)
        if step * _TESTS // steps > tested:
            tested = step * _TESTS // steps
            with course.unfollowed():
                score = accuracy(apply, state.result, real.norm, test_batches(real.source))
            on_training(step, {"accuracy": score})

    return hook


def train_teacher(
    config: TeacherConfig,
    real: RealData,
    scratch: Scratch = Scratch(),  # noqa: B008
    on_training: OnTraining | None = None,
) -> Teacher:
    """Train the teacher of a config on all real images; an interrupted training goes on from what ``scratch`` keeps."""
    started, info = time.perf_counter(), describe(config, real)
    model = build(info, config.compute)
    training = with_flip(config.teacher_train, real.flip)
    log(f"training {config.model} on {len(real.source.labels['train'])} images, {training.epochs} epochs")
    trainer = full_training.trainer(real, model, training)
    steps = training.steps(len(real.source.labels["train"]))
    also = () if on_training is None else (told(on_training, model.apply, real, steps),)
    followed = full_training.Followed(scratch=scratch, also=also)
    variables, losses = full_training.fit(real, model, trainer, training, config.seed, followed)
    score = accuracy(model.apply, variables, real.norm, test_batches(real.source))
    info |= {"accuracy": score, "train": dataclasses.asdict(training), "jax": jax.__version__}
    info["loss"] = [float(chunk.mean()) for chunk in np.array_split(losses, min(50, len(losses)))]
    log(f"teacher: {judged(score, info)}, {time.perf_counter() - started:.0f} s")
    if _is_weak(score, info):
        log("teacher: images are no better than their teacher; train it longer (--teacher-train.epochs)")
    return Teacher(model.apply, variables, real.norm, info, model.apply_train)


def judged(score: float, info: Mapping) -> str:
    """An accuracy of a teacher in words, with that of chance."""
    which = "held-out" if info["holdout"] else "test"
    # A teacher of more classes than the data have was tested on theirs.
    classes = info.get("tested_classes", len(info["class_names"]))
    return f"{which} accuracy {100 * score:.1f} % (chance is {100 / classes:.3g} %)"


def _is_weak(score: float, info: Mapping) -> bool:
    # Nearer to chance than to no error.
    return score < 0.5 + 0.5 / len(info["class_names"])


def published(config: TeacherConfig, place: str) -> Teacher:
    """The teacher with published weights of ``config.model``, for the data of a config.

    Weights of 1,000 classes are taken for those of ImageNet-1K. If the data have other classes, all of them must be
    among these, by their WordNet identifiers.

    Raises:
      InputError: the weights have other classes.
    """
    net = pretrained.resnet(place, config.model)
    config = dataclasses.replace(
        config, width=net.width, stem=net.stem, mean=net.mean, std=net.std, channels=len(net.mean)
    )
    real = open_data(config)
    names = real.class_names
    if net.num_classes == len(pretrained.imagenet_classes()) and set(names) <= set(pretrained.imagenet_classes()):
        names = pretrained.imagenet_classes()
    if net.num_classes != len(names):
        raise InputError(
            f"{place} has {net.num_classes} classes, but {real.source.name} has {len(names)}; give weights that were "
            "trained on these classes, in this order, or name the classes as ImageNet-1K does, such as n01440764"
        )
    info = describe(config, real) | {"class_names": list(names)}
    model = build(info, config.compute)
    whole = Teacher(model.apply, net.variables, real.norm, info | {"jax": jax.__version__}, model.apply_train)
    teacher = of_classes(whole, real.class_names)
    score = accuracy(teacher.apply, net.variables, real.norm, test_batches(real.source))
    log(f"teacher: {judged(score, teacher.info)}")
    info |= {"accuracy": score, "tested_classes": len(real.class_names), "pretrained": place}
    return whole._replace(info={**whole.info, **info, "train": dataclasses.asdict(config.teacher_train)})


def save_teacher(path: Path, teacher: Teacher) -> None:
    """Write a folder with the variables (Orbax) and the record of a teacher, and their manifest."""
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path / "variables", teacher.variables)
    write_json(path / "teacher.json", teacher.info)
    manifest.write(path, TEACHER)


TEACHER = ("variables", "teacher.json")
"""What `save_teacher` writes."""


def load_teacher(path: Path, compute: str = "auto") -> Teacher:
    """Read a teacher that `save_teacher` wrote; ``compute`` as for `build`.

    Raises:
      InputError: the folder has no teacher or a damaged one, or its model is not registered.
    """
    record = path / "teacher.json"
    manifest.verify(path, *TEACHER)
    if not record.is_file():
        raise InputError(f"no teacher at {path}; train one with jaxdd train")
    info = records.teacher(record)
    model = build(info, compute)
    variables = checkpoint.load(path / "variables", shapes(model, tuple(info["image_shape"])))
    norm = Normalisation(*(np.array(info[name], np.float32) for name in ("mean", "std")))
    return Teacher(model.apply, variables, norm, info, model.apply_train)


def config_like(config: _Config, teacher: Teacher) -> _Config:
    """A config with the image size and normalisation of a teacher, and with its architecture if the config has one.

    Raises:
      InputError: the config names another model or another share of held-out images.
    """
    info = teacher.info
    model = getattr(config, "model", TeacherConfig.model)
    if model not in (TeacherConfig.model, info["model"]):
        raise InputError(f"`model` {model} but the given teacher is a {info['model']}; leave out one of the two")
    size, _, channels = info["image_shape"]
    if config.holdout not in (0.0, info["holdout"]):
        raise InputError(
            f"`holdout` {config.holdout} but the given teacher was trained with {info['holdout']}; leave it out, or "
            "give a teacher that has not seen these images"
        )
    same = {
        "holdout": info["holdout"],
        "image_size": config.image_size or size,
        "channels": config.channels or channels,
        "mean": tuple(info["mean"]),
        "std": tuple(info["std"]),
    }
    if isinstance(config, TeacherConfig):
        same |= {name: info[name] for name in ("model", "width", "stem")}
    return dataclasses.replace(config, **same)


def of_classes(teacher: Teacher, names: Sequence[str]) -> Teacher:
    """A teacher that answers for the classes ``names`` alone, if these are some of its own; else unchanged."""
    theirs = list(teacher.info["class_names"])
    if theirs == list(names) or len(set(theirs)) < len(theirs) or not set(names) <= set(theirs):
        return teacher
    places, training = tuple(theirs.index(name) for name in names), teacher.apply_train
    if training is not None:
        training = nn.of_classes_in_training(training, places)
    info = {**teacher.info, "class_names": list(names)}
    return teacher._replace(apply=nn.of_classes(teacher.apply, places), apply_train=training, info=info)


def check_fits(teacher: Teacher, real: RealData, place: Path) -> None:
    """Raise InputError unless the teacher was trained on these classes at this image size."""
    source = real.source
    for what, theirs, ours in (
        ("classes", teacher.info["class_names"], list(source.class_names)),
        ("images of", teacher.info["image_shape"], list(source.image_shape)),
    ):
        if theirs != ours:
            raise InputError(
                f"teacher {place} was trained on {what} {_short(theirs)}, but {source.name} has {_short(ours)}; give a "
                "teacher of this dataset"
            )


def _short(values: list) -> str:
    return " ".join(map(str, values[:4])) + (" ..." if len(values) > 4 else "")


def find_or_train(
    config: TeacherConfig, real: RealData, cache: Path, on_training: OnTraining | None = None
) -> tuple[Teacher, Path]:
    """The teacher that this config describes, and its folder in ``cache``; it is trained if it does not exist yet.

    In a run of several processes the first trains it, and the others wait and load it.
    """
    trained: list[Teacher] = []

    def find() -> str:
        in_memory = real
        if hosts.count() > 1:
            in_memory = real._replace(source=data.in_memory(real.source, config.memory_bytes))
        teacher, place = _find_or_train(config, in_memory, cache, on_training)
        trained.append(teacher)
        return str(place)

    place = Path(str(hosts.first(find)))
    return trained[0] if trained else load_teacher(place, config.compute), place


def place_of(config: TeacherConfig, real: RealData, cache: Path) -> tuple[Path, list]:
    """The folder in ``cache`` of the teacher that this config describes, and what identifies it."""
    training = dataclasses.asdict(with_flip(config.teacher_train, real.flip))
    identity = [describe(config, real), training, dtype_of(config.compute), *filter(None, [real.content])]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return cache / f"{real.name}-{config.model.replace(':', '-')}-{digest}", identity


def _find_or_train(
    config: TeacherConfig, real: RealData, cache: Path, on_training: OnTraining | None
) -> tuple[Teacher, Path]:
    place, identity = place_of(config, real, cache)
    request = {"identity": identity, **machine(config)}
    with runs.cached(place, request):
        if runs.is_finished(place):
            log(f"teacher: {place}")
            return load_teacher(place, config.compute), place
        if others := alternatives.note(cache, real):
            log(others)
        teacher = train_teacher(config, real, Scratch(place / runs.PARTS), on_training)
        save_teacher(place, teacher)
        runs.finish(place, TEACHER)
    return teacher, place


def machine(config: TeacherConfig) -> dict:
    """The properties of the machine that determine how numbers are rounded."""
    device = jax.devices()[0].device_kind
    return {"computes in": dtype_of(config.compute), "device": device, "jax": jax.__version__}
