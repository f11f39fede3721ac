"""What each request has to do, stage by stage, as far as it is known before anything is computed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Work
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent import dit, vae
from jaxdd.latent import training as latent_training
from jaxdd.latent.decoding import LatentModel, latent_shape
from jaxdd.methods import Recipe
from jaxdd.nn import Classifier, Moments
from jaxdd.planning.clock import reading_seconds
from jaxdd.stages.context import Classes, Context, Teacher
from jaxdd.stages.encode import SPACES, Encoded
from jaxdd.stages.relabel import storing
from jaxdd.stages.relabel.stored import LabelSettings, Stream
from jaxdd.stages.summarize import Barycenter, Quantization
from jaxdd.students import evaluation, lanes
from jaxdd.students.lanes import Form, Lanes, Limits
from jaxdd.students.protocol import Protocol
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import Comparison, Workspace, encoding, latent_models, runs, teachers
from jaxdd.workspace.comparison import with_flip
from jaxdd.workspace.real_data import pass_size


def training(workspace: Workspace, what: str = "teacher") -> list[Work]:
    """Training of a "teacher", of an autoencoder ("vae"), or of that and a denoiser ("dit")."""
    if what == "teacher":
        config, real = workspace.config, workspace.real
        model = teachers.build(teachers.describe(config, real), config.compute)
        settings = teachers.with_flip(config.teacher_train, real.flip)
        variables = teachers.shapes(model, real.source.image_shape)
        tested = _tested(workspace, Teacher(model.apply, variables, real.norm), 1)
        return [_fitted(workspace, model, settings, "train the teacher"), tested]
    return _latent(workspace, what == "dit")[1]


def distillation(workspace: Workspace, recipe: Recipe, ipc: int) -> list[Work]:
    """Distillation of all classes, with the models that it needs and that do not exist yet."""
    teacher, works = _teacher(workspace)
    latent = None
    if recipe.needs:
        latent, more = _latent(workspace, "denoiser" in recipe.needs)
        works += more
    # Only random images need no features.
    if not recipe.summarizer.is_random:
        works.append(_encoding(workspace, recipe, teacher, latent))
    context = _context(workspace, recipe, teacher, latent)
    stages = recipe.summarizer.work(context, ipc), recipe.imager.work(context, ipc)
    works += [work for work in stages if work is not None]
    if recipe.imager.is_real and works and works[-1] is stages[1]:
        works[-1] = _reading(workspace, works[-1], works[-1].units)
    return works


def comparison(setting: Comparison, methods: int, ipc: int, baselines: Sequence[Recipe] = ()) -> list[Work]:
    """Students of ``methods`` datasets, baselines included, under all protocols, and on all real images.

    Args:
      baselines: those of the methods that are yet to be made.
    """
    workspace = setting.workspace
    teacher, works = _teacher(workspace)
    for recipe in baselines:
        works += [work for work in distillation(workspace, recipe, ipc) if work.title not in {w.title for w in works}]
    for student in setting.students:
        for kind, protocol in setting.protocols.items():
            works += _students(setting, teacher, student, (kind, protocol), methods * setting.seeds, ipc)
        works += _full(setting, teacher, student)
    return works


def summaries(workspace: Workspace, space: str, counts: Sequence[int]) -> list[Work]:
    """Summaries of all classes with free and with equal weights, for several numbers of atoms."""
    teacher, works = _teacher(workspace)
    latent = None
    if "autoencoder" in SPACES.find(space).needs:
        latent, more = _latent(workspace, False)
        works += more
    free, equal = Recipe(Quantization(space=space)), Recipe(Barycenter(space=space, weights="uniform"))
    works.append(_encoding(workspace, free, teacher, latent))
    smallest = int(np.bincount(workspace.real.source.labels["train"]).min())
    for recipe, what in ((free, "free"), (equal, "equal")):
        context = _context(workspace, recipe, teacher, latent)
        for m in counts:
            if 2 * m <= smallest:
                work = recipe.summarizer.work(context, m)
                works += [work._replace(title=f"{m} atoms, {what} weights", shorter="fewer `counts`")] if work else []
    return works


def relabelling(workspace: Workspace, stream: Stream, form: LabelSettings, images: int) -> list[Work]:
    """Storing soft labels of ``images`` distilled images."""
    teacher, works = _teacher(workspace)
    steps = form.steps(images, stream.batch_size)
    return [*works, storing.work(teacher, stream, form, workspace.real.source.image_shape, steps)]


def grid(workspace: Workspace, recipes: Sequence[Recipe], sizes: Sequence[tuple[int, Comparison]]) -> list[Work]:
    """All cells of a grid: every recipe at every number of images per class, and its students.

    Args:
      sizes: the images per class, with the comparison at that size.
    """
    works: list[Work] = []
    once = {"train the teacher", "train autoencoder", "train denoiser", "encode: features", "encode: latents"}

    def add(more: Sequence[Work], size: str) -> None:
        begun = {work.title for work in works}
        for work in more:
            shared = work.title in once or work.title.endswith("all real images")
            if not (shared and work.title in begun):
                works.append(work if shared else work._replace(title=f"{work.title}, {size}"))

    for ipc, setting in sizes:
        for recipe in recipes:
            add(distillation(workspace, recipe, ipc), f"IPC {ipc}")
        add(comparison(setting, len(recipes), ipc), f"IPC {ipc}")
    return works


def _teacher(workspace: Workspace) -> tuple[Teacher, list[Work]]:
    """The teacher if it exists, otherwise its shapes and its training."""
    config, real = workspace.config, workspace.real
    place = teachers.place_of(config, real, workspace.root / "teachers")[0]
    if workspace.given_teacher or runs.is_finished(place):
        return workspace.teacher, []
    model = teachers.build(teachers.describe(config, real), config.compute)
    return Teacher(model.apply, teachers.shapes(model, real.source.image_shape), real.norm), training(workspace)


def _latent(workspace: Workspace, denoiser: bool) -> tuple[LatentModel, list[Work]]:
    """The latent model if it exists, otherwise its shapes and the training of what is missing."""
    latent, config, real = workspace.latent, workspace.config, workspace.real
    known = latent_models.found(latent, config, real, workspace.root / "latents", denoiser)
    if known is not None:
        return known, []
    latent_models.check(latent, real)
    shape = real.source.image_shape
    sizes = vae.small(shape, latent.channels)
    model = vae.autoencoder(sizes)
    variables = jax.eval_shape(lambda key: model.init(key, shape), jax.random.key(0))
    whole = LatentModel(model, variables, shape)
    steps = latent_training.steps_of(latent.vae_train)
    trainer = latent_training.vae_trainer(model, latent.vae_train, shape, real.flip)
    batch = struct(latent.vae_train.batch_size, *shape, dtype=np.uint8)
    works = [latent_training.work("train autoencoder", trainer, batch, steps, "a lower `latent.vae_train.images`")]
    if denoiser:
        net = dit.denoiser(latent_models.dit_sizes(latent, real, whole))
        whole = whole._replace(denoiser=net, variables=jax.eval_shape(net.init, jax.random.key(0)))
        steps = latent_training.steps_of(latent.dit_train)
        dit_trainer = latent_training.dit_trainer(net, whole.schedule, latent.dit_train)
        batch = struct(latent.dit_train.batch_size, *latent_shape(whole))
        shorter = "a lower `latent.dit_train.images`"
        works.append(latent_training.work("train denoiser", dit_trainer, batch, steps, shorter))
    return whole, works


def _space(workspace: Workspace, recipe: Recipe, teacher: Teacher, latent: LatentModel | None):
    """The encoder of a recipe, and the shape of the images that it takes."""
    kind = SPACES.find(recipe.summarizer.space)
    shape = workspace.real.source.image_shape
    if latent is not None and "autoencoder" in kind.needs:
        shape = latent.image_shape
    return kind.encoder(teacher, latent), shape


def _encoding(workspace: Workspace, recipe: Recipe, teacher: Teacher, latent: LatentModel | None) -> Work:
    encoder, shape = _space(workspace, recipe, teacher, latent)
    work = encoding.work(encoder, workspace.real.source._replace(image_shape=shape))
    return _reading(workspace, work._replace(title=f"encode: {recipe.summarizer.space}"), work.units)


def _context(workspace: Workspace, recipe: Recipe, teacher: Teacher, latent: LatentModel | None) -> Context:
    """The context of a recipe, with zeros in the place of what is not computed yet; they take no memory."""
    source, classes = workspace.real.source, len(workspace.real.class_names)
    labels, zeros = source.labels["train"], _zeros
    (apply, variables, _), shape = _space(workspace, recipe, teacher, latent)
    out = shapes_of(apply, variables, struct(1, *shape))
    moments = {name: Moments(*[zeros(classes, x.mean.shape[1])] * 2) for name, x in out.moments.items()}
    counts = np.bincount(labels, minlength=classes).astype(np.float32)
    encoded = Encoded(zeros(len(labels), out.features.shape[1]), labels, counts, moments, 1.0)
    known = Classes.of(encoded, lambda rows: zeros(len(rows), *source.image_shape), source.image_shape)
    return Context(teacher, known, latent, workspace.real.flip, Resources(workspace.config.memory_bytes))


def _students(
    setting: Comparison, teacher: Teacher, student: str, protocol: tuple[str, Protocol], count: int, ipc: int
) -> list[Work]:
    """The training of ``count`` students by a named protocol, and their tests."""
    kind, chosen = protocol
    workspace, model, real = setting.workspace, setting.network(student), setting.workspace.real
    chosen, shape = with_flip(chosen, real.flip), real.source.image_shape
    n, classes = ipc * len(real.class_names), len(real.class_names)
    trainer = evaluation.student_trainer(model, chosen, teacher.apply, _distilled(n, shape, classes, teacher.norm))
    context = None
    if chosen.labels.asks_teacher:
        variables = teacher.variables
        context = shapes_of(nn.fold, variables) if nn.foldable(teacher.apply, variables, shape) else variables
    batch = min(chosen.train.batch_size, n)
    work = Lanes([0] * count, [0] * count, batch, chosen.train.steps(n))
    title, shorter = f"{setting.label(student)}, {kind}", f"a lower `{kind.partition(':')[0]}.train.epochs`"
    datasets = -(-count // setting.seeds)
    limits = Limits(title=title, shorter=shorter)
    trained = lanes.work(trainer, Form(datasets, n, shape, classes), work, context, limits)
    network = Teacher(model.apply, teachers.shapes(model, shape), teacher.norm)
    return [trained, _tested(workspace, network, count, f"test {title}")]


def _distilled(n: int, shape: tuple[int, int, int], classes: int, norm: Normalisation) -> DistilledDataset:
    """A distilled dataset of zeros, which take no memory."""
    labels = np.repeat(np.arange(classes, dtype=np.int32), n // classes)
    return DistilledDataset(
        _zeros(n, *shape), labels, np.ones(n, np.float32), tuple(map(str, range(classes))), norm, {}
    )


def _zeros(*shape: int) -> Any:
    return np.broadcast_to(np.float32(0), shape)


def _full(setting: Comparison, teacher: Teacher, student: str) -> list[Work]:
    """The students that are trained on all real images."""
    workspace, model = setting.workspace, setting.network(student)
    count = setting.full - (model.apply is teacher.apply)
    if count < 1:
        return []
    settings = setting.full_train or workspace.config.teacher_train
    title = f"{setting.label(student)} on all real images"
    work = _fitted(workspace, model, teachers.with_flip(settings, workspace.real.flip), title)
    seconds = count * work.reading_seconds
    return [work._replace(steps=work.steps * count, shorter="a lower `full`", reading_seconds=seconds)]


def _fitted(workspace: Workspace, model: Classifier, settings: TrainSettings, title: str) -> Work:
    """The training of a classifier on all real images."""
    work = teachers.work(workspace.real, model, settings, title)
    return _reading(workspace, work, work.units * work.steps)


def _reading(workspace: Workspace, work: Work, count: int, split: str = "train") -> Work:
    """The work with the time in which ``count`` real images are read for it."""
    return work._replace(reading_seconds=reading_seconds(workspace.real.source, split, count))


def _tested(workspace: Workspace, model: Teacher, count: int, title: str = "test the teacher") -> Work:
    """The tests of ``count`` classifiers on the real test images."""
    source = workspace.real.source
    images, local = len(source.labels["test"]), parallel.mesh(jax.local_devices())
    variables = jax.eval_shape(lambda tree: tree, model.variables)
    if nn.foldable(model.apply, variables, source.image_shape):
        variables = shapes_of(nn.fold, variables)
    form = count, images, min(pass_size(), images)
    work = evaluation.testing(model.apply, variables, source.image_shape, form, local)
    work = work._replace(title=title, shorter=work.shorter if count > 1 else "")
    return _reading(workspace, work, images, "test")
