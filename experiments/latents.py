"""Latent models: found on disk or on the hub, or trained here on any dataset, always in diffusers' folder layout."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import teachers
from experiments.cli import log, write_json
from jaxdd import data, pretrained
from jaxdd.data import Source
from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import aside
from jaxdd.ground.normalise import normalise
from jaxdd.latent import dit, training, unet, vae
from jaxdd.latent.diffusion import Schedule
from jaxdd.latent.dit import DiTConfig
from jaxdd.latent.training import DiTTraining, VAETraining
from jaxdd.nn.classifier import Variables
from jaxdd.stages import encode
from jaxdd.stages.images import decode
from jaxdd.stages.images.decode import LatentModel
from jaxdd.students import train


@dataclass(frozen=True)
class LatentConfig:
    """Which latent model, and how it is trained unless one is given."""

    place: str | None = None
    """A folder or a hub id in diffusers' layout: vae/, and transformer/ or unet/ with what belongs to it. What is
    missing there is trained here; default: all of it."""
    size: int | None = None
    """Side of the images that the autoencoder sees; default: what a given one was made for, else the dataset's."""
    labels: tuple[int, ...] | None = None
    """A given DiT's class of each class of the dataset, where they are not the same."""
    prompts: Path | None = None
    """A text file with one prompt a line for each class, for a given UNet; default: the names of the classes."""
    bfloat16: bool = False
    """Compute in bfloat16; the parameters and the sampler stay float32."""
    channels: int = 4
    """Of the latents of an autoencoder trained here."""
    dit: str = "DiT-Ti/2"
    """Size and patch of a denoiser trained here."""
    vae_train: VAETraining = field(default_factory=VAETraining)
    dit_train: DiTTraining = field(default_factory=DiTTraining)


def find_or_train(
    latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, cache: Path, denoiser: bool
) -> tuple[LatentModel, Path]:
    """The latent model of a config and its folder; what is not given is looked up in ``cache`` or trained now.

    Of several processes the first looks and trains, the others wait and read.
    """
    place = Path(hosts.first(lambda: str(_find_or_train(latent, config, source, flip, cache, denoiser))))
    model = load_vae(latent, place)
    return (with_denoiser(latent, source, place, model) if denoiser else model), place


def _find_or_train(
    latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, cache: Path, denoiser: bool
) -> Path:
    if latent.place is None:
        check(latent, source)
        place = cached_vae(latent, config, source, flip, cache)
    else:
        place = pretrained.find(latent.place)
    if not denoiser or any((place / part / "config.json").is_file() for part in ("transformer", "unet")):
        return place
    _dit_sizes(latent, source, load_vae(latent, place))
    return cached_dit(latent, config, source, flip, cache, place)


def check(latent: LatentConfig, source: Source) -> None:
    """Raise InputError for what cannot be trained on these images, before anything is."""
    sizes = vae.small(source.image_shape, latent.channels)
    dit.named(latent.dit, len(source.class_names), source.image_shape[0] // sizes.reduction, latent.channels)
    for settings in (latent.vae_train, latent.dit_train):
        training.steps_of(settings)


def load_vae(latent: LatentConfig, place: Path) -> LatentModel:
    """The autoencoder in ``place``, and no denoiser."""
    config, variables = pretrained.vae(place)
    size = latent.size or config.sample_size
    if size % config.reduction:
        raise InputError(f"images of {size} pixels do not divide by the autoencoder's {config.reduction}; use another "
                         "--latent.size")  # fmt: skip
    return LatentModel(vae.autoencoder(config, _dtype(latent)), variables, (size, size, config.in_channels))


def _dtype(latent: LatentConfig):
    return jnp.bfloat16 if latent.bfloat16 else None


def _dit_sizes(latent: LatentConfig, source: Source, model: LatentModel) -> DiTConfig:
    side, _, channels = decode.latent_shape(model)
    return dit.named(latent.dit, len(source.class_names), side, channels)


def with_denoiser(latent: LatentConfig, source: Source, place: Path, model: LatentModel) -> LatentModel:
    """The model with the denoiser in ``place``, which knows the classes of ``source``."""
    dtype = _dtype(latent)
    classes = len(source.class_names)
    schedule = pretrained.schedule(place)
    if (place / "transformer").is_dir():
        made, weights = pretrained.dit(place)
        net = dit.denoiser(made, dtype)
        labels = _labels(latent, made.num_embeds_ada_norm, classes)
    else:
        made, weights = pretrained.unet(place)
        net = unet.denoiser(made, classes, dtype)
        weights = {**weights, "context": pretrained.class_context(place, _prompts(latent, source))}
        labels = np.arange(classes)
    ours = decode.latent_shape(model)
    if ours != net.latent_shape:
        raise InputError(
            f"{place}: at {model.image_shape[0]} pixels the autoencoder makes latents of {ours}, the denoiser wants "
            f"{net.latent_shape}; use another --latent.size"
        )
    return model._replace(denoiser=net, variables=weights, schedule=schedule, labels=labels)


def _labels(latent: LatentConfig, known: int, classes: int) -> np.ndarray:
    labels = np.arange(classes) if latent.labels is None else np.array(latent.labels)
    same = latent.labels is not None or known == classes
    if not same or len(labels) != classes or labels.min() < 0 or labels.max() >= known:
        raise InputError(
            f"the denoiser knows {known} classes, the data has {classes}; give --latent.labels, its class of each of "
            f"them, from 0 to {known - 1}"
        )
    return labels


def _prompts(latent: LatentConfig, source: Source) -> list[str]:
    if latent.prompts is None:
        return [name.replace("_", " ") for name in source.class_names]
    try:
        prompts = latent.prompts.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot read --latent.prompts {latent.prompts}: {error.strerror}") from error
    if len(prompts) != len(source.class_names):
        raise InputError(
            f"{latent.prompts} has {len(prompts)} prompts for {len(source.class_names)} classes; give one a line"
        )
    return prompts


def open_source(model: LatentModel, config: teachers.DataConfig, source: Source) -> Source:
    """The same images as the autoencoder sees them."""
    if model.image_shape == source.image_shape:
        return source
    size, _, channels = model.image_shape
    return teachers.open_data(replace(config, image_size=size, channels=channels, mean=None, std=None))[0]


def encode_latents(
    model: LatentModel, source: Source, rows: list[np.ndarray] | None = None, mesh: Mesh | None = None
) -> encode.Encoded:
    """Stage 1 with the autoencoder on the train split; its features are latents [n, h w c]."""
    return teachers.encode_train(decode.encoder(model), model.vae_variables, vae.RANGE, source, rows=rows, mesh=mesh)


def _encode_here(model: LatentModel, source: Source) -> encode.Encoded:
    """The same of all classes, on this process alone."""
    return encode_latents(model, source, mesh=parallel.mesh(jax.local_devices()))


def _mirrored(source: Source) -> Source:
    return source._replace(read=lambda split, rows: source.read(split, rows)[:, :, ::-1])


def train_vae(latent: LatentConfig, source: Source, flip: bool, seed: int, out: Path) -> dict:
    """Train an autoencoder, write ``out``/vae and return what is known of it."""
    config = vae.small(source.image_shape, latent.channels)
    model = vae.autoencoder(config)
    settings = latent.vae_train
    log(f"training an autoencoder on {settings.images} of {len(source.labels['train'])} images, repeats counted")
    trainer = training.vae_trainer(model, settings, source.image_shape, flip)
    stream = ((images, labels, None) for images, labels in data.shuffled(source, "train", settings.batch_size, seed))
    variables, info = _fit(trainer, stream, settings, seed, "train autoencoder")

    latents = _encode_here(LatentModel(model, variables, source.image_shape), source).features
    config = replace(config, scaling_factor=float(1 / latents.std()))
    restore = jax.jit(lambda v, x: jnp.square(model.decode(v, model.encode(v, x).mean) - x).mean((1, 2, 3)))
    errors = [
        np.asarray(restore(variables, normalise(vae.RANGE, images)))[valid > 0]
        for images, _, valid in teachers.test_batches(source)
    ]
    psnr = float(10 * np.log10(4 / np.concatenate(errors).mean()))
    log(f"autoencoder: {psnr:.1f} dB on the test images, {info['seconds']:.0f} s")
    pretrained.save_vae(out / "vae", config, variables)
    return info | {"psnr": psnr, "settings": dataclasses.asdict(settings)}


def train_dit(latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, out: Path) -> dict:
    """Train a denoiser on the latents of the autoencoder in ``out``, write ``out``/transformer and /scheduler."""
    model = load_vae(latent, out)
    source, seed = open_source(model, config, source), config.seed
    shape, sizes, schedule = decode.latent_shape(model), _dit_sizes(latent, source, model), Schedule()
    settings = latent.dit_train
    encoded = _encode_here(model, source)
    labels, count = encoded.labels, len(encoded.labels)
    views = [encoded.features, _encode_here(model, _mirrored(source)).features] if flip else [encoded.features]
    views = np.stack(views).reshape(len(views), count, *shape)
    log(f"training {latent.dit} on {settings.images} of {count} latents {list(shape)}, repeats counted")
    trainer = training.dit_trainer(dit.denoiser(sizes), schedule, settings)

    def batches():
        draws = np.random.default_rng([seed, 1])
        for rows in data.permutations(count, settings.batch_size, seed):
            yield views[draws.integers(len(views), size=settings.batch_size), rows], labels[rows], None

    variables, info = _fit(trainer, batches(), settings, seed, "train denoiser")
    log(f"denoiser: loss {info['loss'][-1]:.4f}, {info['seconds']:.0f} s")
    pretrained.save_dit(out / "transformer", sizes, variables)
    pretrained.save_schedule(out / "scheduler", schedule)
    return info | {"name": latent.dit, "settings": dataclasses.asdict(settings)}


def _fit(trainer: training.LatentTrainer, stream, settings, seed: int, title: str) -> tuple[Variables, dict]:
    """Run a trainer; the averaged variables on the host, and how it went."""
    key, started = jax.random.key(seed), time.perf_counter()
    state = trainer.init(jax.random.fold_in(key, 0))
    state, losses = train.fit(
        trainer.step, state, jax.random.fold_in(key, 1), stream, training.steps_of(settings), title=title
    )
    loss = [float(chunk.mean()) for chunk in np.array_split(losses, min(50, len(losses)))]
    info = {"seconds": time.perf_counter() - started, "loss": loss, "jax": jax.__version__}
    return jax.device_get(state.average), info


def squeeze(
    what: str, latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, out: Path
) -> str:
    """Fill ``out`` with an autoencoder ("vae"), or with one and a denoiser ("dit"); a line about them."""
    info = {}
    check(latent, source)
    if what == "vae" or latent.place is None:
        info["vae"] = train_vae(latent, source, flip, config.seed, out)
        text = f"autoencoder on {source.name}: {info['vae']['psnr']:.1f} dB on the test images"
    if what == "dit":
        if latent.place is not None:
            pretrained.save_vae(out / "vae", *pretrained.vae(latent.place))
        info["dit"] = train_dit(latent, config, source, flip, out)
        text = f"{latent.dit} on {source.name}: loss {info['dit']['loss'][-1]:.4f}"
    write_json(out / "latents.json", info)
    return text


def cached_vae(latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, cache: Path) -> Path:
    """A folder with the autoencoder that this config describes, trained now if it is not there."""
    sizes = vae.small(source.image_shape, latent.channels)
    identity = [_data_of(config, source, flip), dataclasses.asdict(sizes), dataclasses.asdict(latent.vae_train)]
    make = lambda out: {"vae": train_vae(latent, source, flip, config.seed, out)}
    return _cached(cache, f"{teachers.short_name(source)}-vae", identity, make)


def cached_dit(
    latent: LatentConfig, config: teachers.TeacherConfig, source: Source, flip: bool, cache: Path, place: Path
) -> Path:
    """A folder with the autoencoder of ``place`` and the denoiser that this config describes, likewise."""
    known = pretrained.vae(place)
    identity = [_data_of(config, source, flip), _digest(known), latent.size, latent.dit]
    identity.append(dataclasses.asdict(latent.dit_train))

    def make(out: Path) -> dict:
        pretrained.save_vae(out / "vae", *known)
        return {"dit": train_dit(latent, config, source, flip, out)}

    return _cached(cache, f"{teachers.short_name(source)}-{latent.dit.replace('/', '-')}", identity, make)


def _data_of(config: teachers.TeacherConfig, source: Source, flip: bool) -> list:
    return [source.name, source.image_shape, source.class_names, config.holdout, config.seed, flip]


def _digest(known: pretrained.Loaded) -> str:
    """Of a model's sizes and parameters, wherever they lie."""
    digest = hashlib.sha256(repr(known.config).encode())
    for leaf in jax.tree.leaves(known.variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def _cached(cache: Path, name: str, identity: list, make: Callable[[Path], dict]) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    place = cache / f"{name}-{digest}"
    if (place / "latents.json").is_file():
        log(f"latent model: {place}")
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with aside(place) as out:
        out.mkdir()
        write_json(out / "latents.json", make(out))
    return place
