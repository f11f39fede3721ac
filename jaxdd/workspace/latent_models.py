"""Latent models: loaded from disk or from the hub, or trained on the dataset; denoisers are in diffusers' layout."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import pretrained
from jaxdd.ground import hosts, manifest, settings
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_json
from jaxdd.ground.progress import log
from jaxdd.latent import dit, training, unet, vae
from jaxdd.latent.decoding import LatentModel, latent_shape
from jaxdd.latent.training import DiTTraining, VAETraining
from jaxdd.workspace import latent_training, runs
from jaxdd.workspace.real_data import RealData, open_data
from jaxdd.workspace.teachers import TeacherConfig, dtype_of, machine


@dataclass(frozen=True)
class LatentConfig:
    """The latent model to use, or to train."""

    place: str | None = None
    """A folder or hub id in diffusers' layout: vae/, and transformer/ or unet/ with their parts; or the
    encoder.safetensors and decoder.safetensors of the TAESD family. Missing models are trained; default: all."""
    size: int | None = settings.bounded(None, settings.SIDE)
    """Side of the autoencoder's images; default: the size for which a loaded one was made, or that of the dataset."""
    labels: tuple[int, ...] | None = None
    """For a loaded DiT: its class for each class of the dataset, if they differ."""
    prompts: Path | None = None
    """For a loaded UNet: a text file with one line per class, its prompt; default: the names of the classes."""
    negative_prompt: str = ""
    """For a loaded UNet: the prompt that guidance moves away from; default: the empty text."""
    bfloat16: bool = False
    """Compute in bfloat16 also where `compute` says otherwise; the parameters, the sampler and the training of a model
    stay float32."""
    channels: int = settings.bounded(4, settings.Bounds(1, 256))
    """Channels of the latents of an autoencoder trained here."""
    dit: str = "DiT-Ti/2"
    """Size and patch of a denoiser trained here."""
    vae_train: VAETraining = field(default_factory=VAETraining)
    dit_train: DiTTraining = field(default_factory=DiTTraining)


def find_or_train(
    latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path, denoiser: bool
) -> tuple[LatentModel, Path]:
    """The latent model of a config and its folder; parts that ``latent.place`` lacks are found in ``cache`` or trained.

    In a run of several processes the first does this, and the others wait and load the result.
    """
    place = Path(str(hosts.first(lambda: str(_find_or_train(latent, config, real, cache, denoiser)))))
    latent = _computing(latent, config)
    model = load_autoencoder(latent, place, real)
    return (with_denoiser(latent, real.class_names, place, model) if denoiser else model), place


def _find_or_train(latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path, denoiser: bool) -> Path:
    """`find_or_train` on the first process: the folder of the model."""
    if latent.place is None:
        check(latent, real)
        place = _kept_vae(latent, config, real, cache)
    else:
        place = pretrained.find(latent.place)
    if not denoiser or any((place / part / "config.json").is_file() for part in ("transformer", "unet")):
        return place
    dit_sizes(latent, real, load_autoencoder(latent, place, real))
    return _kept_dit(latent, config, real, cache, place)


def found(
    latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path, denoiser: bool
) -> LatentModel | None:
    """`find_or_train` if nothing is left to train or to download; otherwise None."""
    if latent.place is not None and not Path(latent.place).is_dir():
        raise InputError(f"`latent.place` {latent.place} is no folder of this machine; download it first")
    place = Path(latent.place) if latent.place is not None else _vae_place(latent, config, real, cache)[0]
    if latent.place is None and not runs.is_finished(place):
        return None
    computing = _computing(latent, config)
    model = load_autoencoder(computing, place, real)
    if not denoiser:
        return model
    if not any((place / part / "config.json").is_file() for part in ("transformer", "unet")):
        place = _dit_place(latent, config, real, cache, pretrained.autoencoder(place))[0]
        if not runs.is_finished(place):
            return None
    return with_denoiser(computing, real.class_names, place, model)


def _computing(latent: LatentConfig, config: TeacherConfig) -> LatentConfig:
    """The settings with bfloat16 if that is the dtype in which all networks of the config compute."""
    return replace(latent, bfloat16=latent.bfloat16 or dtype_of(config.compute) is not None)


def check(latent: LatentConfig, real: RealData) -> None:
    """Raise InputError for models that cannot be trained on these images, before anything is trained."""
    shape = real.source.image_shape
    sizes = vae.small(shape, latent.channels)
    dit.named(latent.dit, len(real.class_names), shape[0] // sizes.reduction, latent.channels)
    for steps in (latent.vae_train, latent.dit_train):
        training.steps_of(steps)


def load_autoencoder(latent: LatentConfig, place: Path, real: RealData) -> LatentModel:
    """The autoencoder in ``place``, without a denoiser; one that suits any size gets that of the real ones."""
    manifest.verify(place, "vae")
    config, variables = pretrained.autoencoder(place)
    size = latent.size or config.sample_size or real.source.image_shape[0]
    if size % config.reduction:
        raise InputError(f"images of {size} pixels are not divisible by {config.reduction}, the reduction of the "
                         "autoencoder; use another `latent.size`")  # fmt: skip
    return LatentModel(pretrained.build(config, _dtype(latent)), variables, (size, size, config.in_channels))


def _dtype(latent: LatentConfig):
    return jnp.bfloat16 if latent.bfloat16 else None


def dit_sizes(latent: LatentConfig, real: RealData, model: LatentModel) -> dit.DiTConfig:
    """The sizes of the denoiser to train on the latents of an autoencoder."""
    side, _, channels = latent_shape(model)
    return dit.named(latent.dit, len(real.class_names), side, channels)


def with_denoiser(latent: LatentConfig, class_names: tuple[str, ...], place: Path, model: LatentModel) -> LatentModel:
    """The model with the denoiser in ``place``, conditioned on these classes."""
    dtype, classes = _dtype(latent), len(class_names)
    manifest.verify(place, "transformer", "scheduler")
    schedule = pretrained.schedule(place)
    if (place / "transformer").is_dir():
        sizes, weights = pretrained.dit(place)
        net = dit.denoiser(sizes, dtype)
        labels = _labels(latent, sizes.num_embeds_ada_norm, classes)
    else:
        sizes, weights = pretrained.unet(place)
        net = unet.denoiser(sizes, classes, dtype)
        context = pretrained.class_context(place, _prompts(latent, class_names), negative_prompt=latent.negative_prompt)
        weights = {**weights, "context": context}
        labels = np.arange(classes)
    shape = latent_shape(model)
    if shape != net.latent_shape:
        raise InputError(
            f"{place}: at {model.image_shape[0]} pixels the autoencoder makes latents {shape}, but the denoiser needs "
            f"{net.latent_shape}; use another `latent.size`"
        )
    return model._replace(denoiser=net, variables=weights, schedule=schedule, labels=labels)


def _labels(latent: LatentConfig, known: int, classes: int) -> np.ndarray:
    """The denoiser's class of each class of the dataset; InputError if they do not match."""
    labels = np.arange(classes) if latent.labels is None else np.array(latent.labels)
    same = latent.labels is not None or known == classes
    if not same or len(labels) != classes or labels.min() < 0 or labels.max() >= known:
        given = "" if latent.labels is None else f", and {len(labels)} `latent.labels` are given"
        raise InputError(
            f"the denoiser has {known} classes and the dataset {classes}{given}; give `latent.labels`, the denoiser's "
            f"class (0 to {known - 1}) for each class of the dataset"
        )
    return labels


def _prompts(latent: LatentConfig, class_names: tuple[str, ...]) -> list[str]:
    """The prompt of each class; InputError if the file cannot be read or has another number of lines."""
    if latent.prompts is None:
        return [name.replace("_", " ") for name in class_names]
    try:
        prompts = latent.prompts.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot read `latent.prompts` {latent.prompts}: {error.strerror}") from error
    if len(prompts) != len(class_names):
        raise InputError(
            f"{latent.prompts} has {len(prompts)} prompts for {len(class_names)} classes; give one line per class"
        )
    return prompts


def open_for(model: LatentModel, config: TeacherConfig, real: RealData) -> RealData:
    """The same images at the size and with the channels that the autoencoder needs.

    Raises:
      InputError: the caller passed images of another shape, which cannot be loaded again.
    """
    if model.image_shape == real.source.image_shape:
        return real
    if real.passed:
        shapes = list(model.image_shape), list(real.source.image_shape)
        raise InputError(f"the autoencoder needs images {shapes[0]}, but {real.name} has {shapes[1]}; give images of "
                         "that shape, or use another `latent.size`")  # fmt: skip
    size, _, channels = model.image_shape
    return open_data(replace(config, image_size=size, channels=channels, mean=None, std=None))


def train_autoencoder(latent: LatentConfig, config: TeacherConfig, real: RealData, out: Path) -> str:
    """Train an autoencoder into the folder ``out``, and return a line about it."""
    check(latent, real)
    info = latent_training.train_vae(latent.vae_train, latent.channels, real, config.seed, out)
    write_json(out / "latents.json", {"vae": info})
    return f"autoencoder on {real.source.name}: {info['psnr']:.1f} dB on the test images"


def train_denoiser(latent: LatentConfig, config: TeacherConfig, real: RealData, out: Path) -> str:
    """Put a trained denoiser and its autoencoder into ``out``, and return a line about them.

    The autoencoder is that of ``latent.place``; without a place it is trained first.
    """
    info = {}
    if latent.place is None:
        check(latent, real)
        info["vae"] = latent_training.train_vae(latent.vae_train, latent.channels, real, config.seed, out)
    else:
        place = pretrained.find(latent.place)
        training.steps_of(latent.dit_train)
        dit_sizes(latent, real, load_autoencoder(latent, place, real))
        pretrained.save_autoencoder(out / "vae", *pretrained.autoencoder(place))
    info["dit"] = _train_dit(latent, config, real, out)
    write_json(out / "latents.json", info)
    return f"{latent.dit} on {real.source.name}: loss {info['dit']['loss'][-1]:.4f}"


def _train_dit(latent: LatentConfig, config: TeacherConfig, real: RealData, out: Path) -> dict:
    """Train a denoiser on the latents of the autoencoder in ``out``, and return its record."""
    model = load_autoencoder(latent, out, real)
    seen = open_for(model, config, real)._replace(flip=real.flip)
    sizes = dit_sizes(latent, seen, model)
    count, shape = len(seen.source.labels["train"]), list(latent_shape(model))
    log(f"training {latent.dit} on {count} latents {shape}, {latent.dit_train.images} draws")
    info = latent_training.train_dit(latent.dit_train, sizes, model, seen, config.seed, out)
    return info | {"name": latent.dit}


def _kept_vae(latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path) -> Path:
    """The folder of the autoencoder that this config describes, which is trained if it does not exist yet."""
    train = lambda out: {"vae": latent_training.train_vae(latent.vae_train, latent.channels, real, config.seed, out)}
    return _kept(*_vae_place(latent, config, real, cache), config, train)


def _vae_place(latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path) -> tuple[Path, list]:
    """The folder of the autoencoder that this config describes, and what identifies it."""
    sizes = vae.small(real.source.image_shape, latent.channels)
    identity = [_data_of(config, real), dataclasses.asdict(sizes), dataclasses.asdict(latent.vae_train)]
    return _place(cache, f"{real.name}-vae", identity), identity


def _kept_dit(latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path, place: Path) -> Path:
    """The folder of the autoencoder of ``place`` and the denoiser that this config describes; trained if needed."""
    autoencoder = pretrained.autoencoder(place)

    def train(out: Path) -> dict:
        pretrained.save_autoencoder(out / "vae", *autoencoder)
        return {"dit": _train_dit(latent, config, real, out)}

    return _kept(*_dit_place(latent, config, real, cache, autoencoder), config, train)


def _dit_place(
    latent: LatentConfig, config: TeacherConfig, real: RealData, cache: Path, autoencoder: pretrained.Loaded
) -> tuple[Path, list]:
    """The folder of the denoiser of an autoencoder that this config describes, and what identifies it."""
    settings = dataclasses.asdict(latent.dit_train)
    identity = [_data_of(config, real), _digest(autoencoder), latent.size, latent.dit, settings]
    return _place(cache, f"{real.name}-{latent.dit.replace('/', '-')}", identity), identity


def _data_of(config: TeacherConfig, real: RealData) -> list:
    """Everything that identifies the training images."""
    source = real.source
    named = [source.name, source.image_shape, source.class_names, config.holdout, config.seed, real.flip]
    return [*named, *filter(None, [real.content])]


def _digest(loaded: pretrained.Loaded) -> str:
    """A digest of the sizes and parameters of a model; it does not depend on where they are stored."""
    digest = hashlib.sha256(repr(loaded.config).encode())
    for leaf in jax.tree.leaves(loaded.variables):
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _place(cache: Path, name: str, identity: list) -> Path:
    """The folder in ``cache`` for this name and identity."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return cache / f"{name}-{digest}"


def _kept(place: Path, identity: list, config: TeacherConfig, train: Callable[[Path], dict]) -> Path:
    """The folder ``place`` of this identity; if it does not exist, ``train`` fills it."""
    with runs.cached(place, {"identity": identity, **machine(config)}):
        if runs.is_finished(place):
            log(f"latent model: {place}")
            return place
        write_json(place / "latents.json", train(place))
        runs.finish(place, PARTS_OF_MODELS)
    return place


PARTS_OF_MODELS = ("vae", "transformer", "scheduler", "latents.json")
"""What training writes into a folder."""
