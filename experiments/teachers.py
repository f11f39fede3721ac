"""Teachers: opened data, a trained classifier and its normalisation, on disk and in memory."""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.cli import log, write_json
from jaxdd import data, nn, pretrained
from jaxdd.data import Source
from jaxdd.data.augment import Augment
from jaxdd.ground import checkpoint, hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import budget, forward_bytes
from jaxdd.ground.normalise import Normalisation
from jaxdd.nn import Apply, Classifier, Variables
from jaxdd.stages import encode
from jaxdd.stages.relabel import criteria as relabel
from jaxdd.students import train
from jaxdd.students.evaluation import accuracy

# A mirrored 2 or 5 is another character, so mirroring is off for these unless asked for.
_HANDED = ("digits", "mnist", "kmnist", "emnist", "svhn_cropped", "omniglot")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and at what size."""

    dataset: str = "digits"
    """"digits", a folder with train/<class>/* and val|test/<class>/*, or any TFDS name."""
    image_size: int | None = None
    """Side in pixels; default: that of the images if they are equal squares, else 224."""
    channels: int | None = None
    """1 or 3; default: 1 if all images are grey, else 3."""
    data_dir: str | None = None
    """Where TFDS keeps its datasets."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the images in [0, 1]; default: measured."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation; default: measured."""
    flip: bool | None = None
    """Mirror images in all stages; default: yes, except for characters."""
    holdout: float = 0.0
    """Share of the train images that take the place of the test images: choose settings on these, not on the test."""
    memory_gib: float = 4.0
    """Memory that decoded images may take, and again the pixels being optimised at a time."""


@dataclass(frozen=True)
class TeacherConfig(DataConfig):
    """How the teacher is made, unless one is given."""

    model: str = "convnet3"
    """convnet3|4|5|6 or resnet18|34|50|101."""
    width: int | None = None
    """Channels of the first block; default 128 (ConvNet) or 64 (ResNet)."""
    stem: str = "auto"
    """ResNets: small (3x3), imagenet, or auto: small up to 64 pixels."""
    compute: str = "auto"
    """What networks compute in: float32, bfloat16, or auto, which is bfloat16 on accelerators. Parameters, pixels,
    moments and losses are float32."""
    seed: int = 0
    teacher_train: train.TrainSettings = field(
        default_factory=lambda: train.TrainSettings(
            epochs=30,
            batch_size=128,
            optimizer="sgd",
            learning_rate=0.1,
            weight_decay=5e-4,
            warmup=0.15,
            # Mixup makes features change steadily between classes, and images recovered through them better.
            augment=Augment(min_scale=0.5, mix="mixup"),
        )
    )


class Teacher(NamedTuple):
    """A trained classifier and what is needed to use it."""

    model: Classifier
    variables: Variables
    norm: Normalisation
    info: dict  # what `build` needs, and the test accuracy


def open_data(config: DataConfig) -> tuple[Source, Normalisation, bool]:
    """The source, its normalisation, and whether to mirror.

    It is kept in memory where it fits; one of several processes, which needs a share of it, reads what it needs.
    """
    source = data.load(config.dataset, config.image_size, config.channels, config.data_dir)
    if hosts.count() == 1:
        source = data.in_memory(source, int(config.memory_gib * 2**30))
    if config.holdout:
        source = data.hold_out(source, config.holdout)
    flip = config.flip if config.flip is not None else short_name(source).split("-")[0] not in _HANDED
    for split, labels in source.labels.items():
        # Decodes all of a split that fits in memory, so that a damaged image is found before any work is done.
        source.read(split, np.arange(min(1, len(labels))))
    if (config.mean is None) != (config.std is None):
        raise InputError("--mean and --std go together; give both or neither")
    if config.mean is None:
        return source, Normalisation(*data.statistics(source)), flip
    for name, value in (("mean", config.mean), ("std", config.std)):
        if len(value) != source.image_shape[2] or (name == "std" and min(value) <= 0):
            raise InputError(f"--{name} {value} does not fit images with {source.image_shape[2]} channels")
    return source, Normalisation(*(np.array(v, np.float32) for v in (config.mean, config.std))), flip


def short_name(source: Source) -> str:
    """What tables and file names call a dataset: a folder's own name, or the TFDS name without its slashes."""
    return Path(source.name).name if Path(source.name).is_dir() else source.name.replace("/", "-").replace(":", "-")


def with_flip(settings: train.TrainSettings, flip: bool) -> train.TrainSettings:
    augment = settings.augment
    return dataclasses.replace(settings, augment=dataclasses.replace(augment, flip=augment.flip and flip))


def settings_from(record: dict) -> train.TrainSettings:
    """TrainSettings from their JSON."""
    return train.TrainSettings(**{**record, "augment": Augment(**record["augment"])})


def pass_size() -> int:
    """Images that a pass without gradients takes at a time: on CPU few, whose activations stay in the cache."""
    return 25 if jax.default_backend() == "cpu" else 250


def test_batches(source: Source):
    return data.batches(source, "test", min(pass_size(), len(source.labels["test"])))


def own_rows(source: Source, mesh: Mesh, together: int = 1) -> list[np.ndarray]:
    """The train images of each class of this process, see `parallel.own`.

    Raises:
      InputError: there are fewer classes, or groups of ``together`` classes, than processes.
    """
    own = parallel.own(len(source.class_names), mesh, together)
    processes = len({device.process_index for device in mesh.devices.flat})
    if processes * together >= len(source.class_names) + together:
        raise InputError(
            f"{processes} processes share {len(source.class_names)} classes, of which {together} stay together; start "
            "fewer processes"
        )
    rows = data.class_indices(source)
    return [rows[c] for c in own]


def encode_train(
    apply: Apply,
    variables: Variables,
    norm: Normalisation,
    source: Source,
    memory_bytes: int = 4 * 2**30,
    rows: list[np.ndarray] | None = None,
    mesh: Mesh | None = None,
) -> encode.Encoded:
    """Stage 1 on the train split, in batches that fit the memory.

    rows: of this process's classes (default: `own_rows`). On CPU no batch holds images of two classes, so that a
      class's features and moments are the same bytes whichever classes are encoded here.
    mesh: default: all devices of all hosts.
    """
    mesh = mesh or parallel.mesh()
    rows = own_rows(source, mesh) if rows is None else rows
    image = jax.ShapeDtypeStruct((1, *source.image_shape), np.float32)
    most = max(np.bincount(source.labels["train"], minlength=1))
    if jax.default_backend() != "cpu":
        rows = [np.concatenate(rows)]
        most = len(rows[0])
    # As few and as full batches as the largest class needs.
    fits = max(1, min(pass_size(), budget(jax.local_devices(), memory_bytes) // forward_bytes(apply, variables, image)))
    size = -(-most // -(-most // fits))
    batches = data.batches(source, "train", size, rows)
    total = sum(-(-len(part) // size) for part in rows)
    return encode.encode(apply, variables, norm, batches, len(source.class_names), total, mesh)


def describe(config: TeacherConfig, source: Source, norm: Normalisation) -> dict:
    """All that decides which teacher this is."""
    return {
        "dataset": source.name,
        "image_shape": list(source.image_shape),
        "class_names": list(source.class_names),
        "model": config.model,
        "width": config.width,
        "stem": config.stem,
        "mean": [float(x) for x in norm.mean],
        "std": [float(x) for x in norm.std],
        "holdout": config.holdout,
        "seed": config.seed,
    }


def build(info: dict, compute: str = "auto") -> Classifier:
    """The classifier that ``info`` describes, computing in float32 or bfloat16; "auto" is float32 on CPU only."""
    shape = len(info["class_names"]), info["image_shape"][0], info["width"], info["stem"]
    return nn.get(info["model"], *shape, dtype_of(compute))


def dtype_of(compute: str) -> str | None:
    """What `nn.get` calls it.

    Raises:
      InputError: neither auto, float32 nor bfloat16.
    """
    if compute not in ("auto", "float32", "bfloat16"):
        raise InputError(f"unknown --compute {compute!r}; use auto, float32 or bfloat16")
    if compute == "auto":
        compute = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return None if compute == "float32" else compute


def fit_full(source: Source, model: Classifier, settings: train.TrainSettings, norm: Normalisation, seed: int):
    """Train on all real images with hard labels: (variables, losses, seconds)."""
    labels = source.labels["train"]
    steps = settings.steps(len(labels))
    batch_size = min(settings.batch_size, len(labels))
    trainer = train.trainer(model, settings, steps, relabel.hard(), norm)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    state = trainer.init(jax.random.key(seed), source.image_shape)
    ones = np.ones(batch_size, np.float32)
    stream = (
        (images, train.one_hot(target, len(source.class_names)), ones)
        for images, target in data.shuffled(source, "train", batch_size, seed)
    )
    started = time.perf_counter()
    state, losses = train.fit(trainer.step, state, key, stream, steps, title="train on all images")
    return state.variables, losses, time.perf_counter() - started


def train_teacher(config: TeacherConfig, source: Source, norm: Normalisation, flip: bool) -> Teacher:
    info = describe(config, source, norm)
    model = build(info, config.compute)
    settings = with_flip(config.teacher_train, flip)
    log(f"training {config.model} on {len(source.labels['train'])} images, {settings.epochs} epochs")
    variables, losses, seconds = fit_full(source, model, settings, norm, config.seed)
    score = accuracy(model.apply, variables, norm, test_batches(source))
    info |= {
        "accuracy": score,
        "seconds": seconds,
        "train": dataclasses.asdict(settings),
        "jax": jax.__version__,
    }
    info["loss"] = [float(chunk.mean()) for chunk in np.array_split(losses, min(50, len(losses)))]
    log(f"teacher: test accuracy {100 * score:.1f} %, {seconds:.0f} s")
    return Teacher(model, variables, norm, info)


def published(config: TeacherConfig, place: str) -> tuple[Source, Teacher]:
    """The data as published weights of ``config.model`` want it, and the teacher that they are."""
    net = pretrained.resnet(place, config.model)
    config = dataclasses.replace(
        config, width=net.width, stem=net.stem, mean=net.mean, std=net.std, channels=len(net.mean)
    )
    source, norm, _ = open_data(config)
    if net.num_classes != len(source.class_names):
        raise InputError(
            f"{place} knows {net.num_classes} classes, {source.name} has {len(source.class_names)}; give weights that "
            "were trained on these classes, in their order"
        )
    info = describe(config, source, norm)
    model = build(info, config.compute)
    score = accuracy(model.apply, net.variables, norm, test_batches(source))
    log(f"teacher: test accuracy {100 * score:.1f} %")
    info |= {"accuracy": score, "pretrained": place, "train": dataclasses.asdict(config.teacher_train)}
    return source, Teacher(model, net.variables, norm, info | {"jax": jax.__version__})


def save_teacher(path: Path, teacher: Teacher) -> None:
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path / "variables", teacher.variables)
    write_json(path / "teacher.json", teacher.info)


def load_teacher(path: Path, compute: str = "auto") -> Teacher:
    """Read what `save_teacher` wrote, to compute as in `build`; InputError where there is none."""
    record = path / "teacher.json"
    if not record.is_file():
        raise InputError(f"no teacher at {path}; train one with: python -m experiments.squeeze --out {path}")
    info = json.loads(record.read_text())
    model = build(info, compute)
    like = jax.eval_shape(lambda key: model.init(key, tuple(info["image_shape"])), jax.random.key(0))
    variables = checkpoint.load(path / "variables", like)
    norm = Normalisation(*(np.array(info[name], np.float32) for name in ("mean", "std")))
    return Teacher(model, variables, norm, info)


def data_like(teacher: Teacher, config: DataConfig) -> dict:
    """The architecture, channels, normalisation, hold-out and, unless asked for, image size of a given teacher."""
    asked = getattr(config, "model", TeacherConfig.model)
    if asked not in (TeacherConfig.model, teacher.info["model"]):
        raise InputError(
            f"--model {asked} but the given teacher is a {teacher.info['model']}; leave out one of the two"
        )
    size, _, channels = teacher.info["image_shape"]
    holdout = teacher.info["holdout"]
    if config.holdout not in (0.0, holdout):
        raise InputError(
            f"--holdout {config.holdout} but the given teacher was trained with {holdout}; leave it out, or give a "
            "teacher that has not seen these images"
        )
    return {
        "holdout": holdout,
        "image_size": config.image_size or size,
        "channels": config.channels or channels,
        "mean": tuple(teacher.info["mean"]),
        "std": tuple(teacher.info["std"]),
        "model": teacher.info["model"],
        "width": teacher.info["width"],
        "stem": teacher.info["stem"],
    }


def check_fits(teacher: Teacher, source: Source, place: Path) -> None:
    """Raise InputError unless the teacher knows these classes at this size."""
    for what, theirs, ours in (
        ("classes", teacher.info["class_names"], list(source.class_names)),
        ("images of", teacher.info["image_shape"], list(source.image_shape)),
    ):
        if theirs != ours:
            raise InputError(
                f"teacher {place} was trained on {what} {_short(theirs)}, {source.name} has {_short(ours)}; "
                "give a teacher of this dataset"
            )


def _short(values: list) -> str:
    return " ".join(map(str, values[:4])) + (" ..." if len(values) > 4 else "")


def find_or_train(
    config: TeacherConfig, source: Source, norm: Normalisation, flip: bool, cache: Path
) -> tuple[Teacher, Path]:
    """The teacher that this config describes and its folder, in ``cache``, trained now if it is not there.

    Of several processes the first trains it, the others wait and read it.
    """
    made = []

    def find() -> str:
        kept = data.in_memory(source, int(config.memory_gib * 2**30)) if hosts.count() > 1 else source
        teacher, place = _find_or_train(config, kept, norm, flip, cache)
        made.append(teacher)
        return str(place)

    place = Path(hosts.first(find))
    return made[0] if made else load_teacher(place, config.compute), place


def _find_or_train(
    config: TeacherConfig, source: Source, norm: Normalisation, flip: bool, cache: Path
) -> tuple[Teacher, Path]:
    settings = dataclasses.asdict(with_flip(config.teacher_train, flip))
    identity = json.dumps([describe(config, source, norm), settings, dtype_of(config.compute)], sort_keys=True)
    name = f"{short_name(source)}-{config.model}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"
    if (cache / name / "teacher.json").is_file():
        log(f"teacher: {cache / name}")
        return load_teacher(cache / name, config.compute), cache / name
    teacher = train_teacher(config, source, norm, flip)
    save_teacher(cache / name, teacher)
    return teacher, cache / name
