"""The models that requests need: the teacher, the committee and latent models, found or to be trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdd import nn
from jaxdd.ground import dry, parallel
from jaxdd.ground.programs import Work
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent import decoding, dit, vae
from jaxdd.latent import training as latent_training
from jaxdd.latent.decoding import LatentModel, latent_shape
from jaxdd.nn import Classifier
from jaxdd.planning.clock import reading_seconds
from jaxdd.stages.context import Teacher
from jaxdd.students import evaluation
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import (
    Workspace,
    committee,
    encoding,
    full_training,
    latent_models,
    runs,
    teachers,
)
from jaxdd.workspace.real_data import pass_size


def training(workspace: Workspace, what: str = "teacher", pretrained: bool = False) -> list[Work]:
    """Training of a "teacher", of an autoencoder ("vae"), or of that and a denoiser ("dit"), whatever exists already.

    Args:
      pretrained: whether the teacher has published weights, and is only tested.
    """
    if what == "teacher":
        config, real = workspace.config, workspace.real
        model = teachers.build(teachers.describe(config, real), config.compute)
        settings = teachers.with_flip(config.teacher_train, real.flip)
        variables = teachers.shapes(model, real.source.image_shape)
        test = tested(workspace, Teacher(model.apply, variables, real.norm), 1)
        fit = fitted(workspace, model, settings, full_training.TITLE).titled("train the teacher")
        return [test] if pretrained else [fit, test]
    if what == "dit" and workspace.latent.place is not None:
        return _denoiser(workspace, _found(workspace, False))[1]
    whole, works = _autoencoder(workspace)
    return works + (_denoiser(workspace, whole)[1] if what == "dit" else [])


def teacher_of(workspace: Workspace) -> tuple[Teacher, list[Work]]:
    """The teacher if it exists, otherwise its shapes and its training."""
    config, real = workspace.config, workspace.real
    place = teachers.place_of(config, real, workspace.root / "teachers")[0]
    if workspace.given_teacher or runs.is_finished(place):
        return workspace.teacher, []
    model = teachers.build(teachers.describe(config, real), config.compute)
    variables = teachers.shapes(model, real.source.image_shape)
    return Teacher(model.apply, variables, real.norm, apply_train=model.apply_train), training(workspace)


def labeller_of(workspace: Workspace) -> tuple[Teacher, list[Work]]:
    """The teacher, or the committee, with the training of those that do not exist yet."""
    teacher, works = teacher_of(workspace)
    members = []
    for part in committee.parts(workspace.config):
        if isinstance(part, Path):
            members.append(committee.loaded(part, workspace.config, workspace.real)[0])
            continue
        name = f"{part.model}, seed {part.seed}"
        member, more = teacher_of(replace(workspace, config=part, given_teacher=None))
        members.append(member)
        works += [work.titled(f"{work.title}, {name}") for work in more]
    return committee.joined(teacher, tuple(members)), works


def _found(workspace: Workspace, denoiser: bool) -> LatentModel | None:
    cache = workspace.root / "latents"
    return latent_models.found(workspace.latent, workspace.config, workspace.real, cache, denoiser)


def latent_of(workspace: Workspace, denoiser: bool) -> tuple[LatentModel, list[Work]]:
    """The latent model if it exists, otherwise its shapes and the training of what is missing."""
    known = _found(workspace, denoiser)
    if known is not None:
        return known, []
    works: list[Work] = []
    whole = _found(workspace, False)
    if whole is None:
        whole, works = _autoencoder(workspace)
    if denoiser:
        whole, more = _denoiser(workspace, whole)
        works += more
    return whole, works


def _autoencoder(workspace: Workspace) -> tuple[LatentModel, list[Work]]:
    """The shapes of the autoencoder to train, and the work."""
    latent, real = workspace.latent, workspace.real
    latent_models.check(latent, real)
    shape = real.source.image_shape
    model = vae.autoencoder(vae.small(shape, latent.channels))
    variables = jax.eval_shape(lambda key: model.init(key, shape), jax.random.key(0))
    trainer = latent_training.vae_trainer(model, latent.vae_train, shape, real.flip)
    batch = struct(latent.vae_train.batch_size, *shape, dtype=np.uint8)
    steps = latent_training.steps_of(latent.vae_train)
    work = latent_training.work("train autoencoder", trainer, batch, steps, "a lower `latent.vae_train.images`")
    whole = LatentModel(model, variables, shape)
    # The scale of the latents is measured on all images.
    scaled = encoding_of(workspace, _latent_encoder(whole), shape, "scale of the latents")
    return whole, [reading(workspace, work, work.units * steps), *scaled]


def _denoiser(workspace: Workspace, whole: LatentModel | None) -> tuple[LatentModel, list[Work]]:
    """The model with the shapes of the denoiser to train, and the work."""
    assert whole is not None
    latent, real = workspace.latent, workspace.real
    net = dit.denoiser(latent_models.dit_sizes(latent, real, whole))
    trainer = latent_training.dit_trainer(net, whole.schedule, latent.dit_train)
    batch, steps = struct(latent.dit_train.batch_size, *latent_shape(whole)), latent_training.steps_of(latent.dit_train)
    shorter = "a lower `latent.dit_train.images`"
    works = []
    for view in ("latents to train on", "mirrored latents to train on")[: 1 + real.flip]:
        works += encoding_of(workspace, _latent_encoder(whole), whole.image_shape, view)
    works.append(latent_training.work("train denoiser", trainer, batch, steps, shorter))
    return whole._replace(denoiser=net, variables=jax.eval_shape(net.init, jax.random.key(0))), works


def _latent_encoder(model: LatentModel) -> encoding.Encoder:
    return decoding.encoder(model), model.vae_variables, vae.RANGE


def encoding_of(workspace: Workspace, encoder: encoding.Encoder, shape: tuple[int, int, int], title: str) -> list[Work]:
    """Encoding of all real images; nothing if the run folder keeps what an encoder that exists makes of them."""
    source = workspace.real.source
    if shape == source.image_shape and not _has_shapes(encoder[1]) and not dry.is_elsewhere():
        place = encoding.kept_place(encoder, source, workspace.root / "encoded")
        if place is not None and place.is_file():
            return []
    work = encoding.work(encoder, source._replace(image_shape=shape))
    return [reading(workspace, work.titled(title), work.units)]


def _has_shapes(tree: Any) -> bool:
    """Whether a model does not exist yet, so that there are only shapes."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def fitted(workspace: Workspace, model: Classifier, settings: TrainSettings, title: str) -> Work:
    """The training of a classifier on all real images."""
    work = full_training.work(workspace.real, model, settings, title)
    return reading(workspace, work, work.units * work.steps)


def reading(workspace: Workspace, work: Work, count: int, split: str = "train") -> Work:
    """The work with the time in which ``count`` real images are read for it, which a rough plan leaves out."""
    if dry.is_rough():
        return work
    return work._replace(reading_seconds=reading_seconds(workspace.real.source, split, count))


def tested(workspace: Workspace, model: Teacher, count: int, title: str = "test the teacher") -> Work:
    """The tests of ``count`` classifiers on the real test images."""
    source = workspace.real.source
    images, local = len(source.labels["test"]), parallel.mesh(jax.local_devices())
    variables = jax.eval_shape(lambda tree: tree, model.variables)
    if nn.foldable(model.apply, variables, source.image_shape):
        variables = shapes_of(nn.fold, variables)
    form = count, images, min(pass_size(), images)
    work = evaluation.testing(model.apply, variables, source.image_shape, form, local)
    work = work.titled(title)._replace(shorter=work.shorter if count > 1 else "")
    return reading(workspace, work, images, "test")
