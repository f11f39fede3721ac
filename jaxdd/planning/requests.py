"""What each request has to do, stage by stage, as far as it is known before anything is computed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import dry, parallel
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Work
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent import decoding, dit, vae
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
from jaxdd.workspace import Comparison, Workspace, encoding, grid_runner, latent_models, runs, teachers
from jaxdd.workspace.comparison import with_flip
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
        tested = _tested(workspace, Teacher(model.apply, variables, real.norm), 1)
        fitted = _fitted(workspace, model, settings, teachers.TITLE).titled("train the teacher")
        return [tested] if pretrained else [fitted, tested]
    if what == "dit" and workspace.latent.place is not None:
        return _denoiser(workspace, _found(workspace, False))[1]
    whole, works = _autoencoder(workspace)
    return works + (_denoiser(workspace, whole)[1] if what == "dit" else [])


def distillation(workspace: Workspace, recipe: Recipe, ipc: int) -> list[Work]:
    """Distillation of all classes, with the models that it needs and that do not exist yet."""
    models, works = _models(workspace, recipe)
    return works + _own(workspace, recipe, ipc, models)


def comparison(
    setting: Comparison, methods: Callable[[str, str], int], ipc: int, baselines: Sequence[Recipe] = ()
) -> list[Work]:
    """Students of distilled datasets, baselines included, under all protocols, and on all real images.

    Args:
      methods: (student, protocol) -> the number of datasets.
      baselines: those of the methods that are yet to be made.
    """
    models, works = _shared(setting.workspace, baselines)
    for recipe in baselines:
        works += _own(setting.workspace, recipe, ipc, models[_kind(recipe)])
    works += _all_students(setting, methods, ipc)
    for student in setting.students:
        works += _full(setting, student)
    return works


def summaries(workspace: Workspace, space: str, counts: Sequence[int]) -> list[Work]:
    """Summaries of all classes with free and with equal weights, for several numbers of atoms."""
    free, equal = Recipe(Quantization(space=space)), Recipe(Barycenter(space=space, weights="uniform"))
    models, works = _models(workspace, free)
    for recipe, what in ((free, "free"), (equal, "equal")):
        context = _context(workspace, recipe, *models)
        for m in counts:
            work = recipe.summarizer.work(context, m)
            if work is not None:
                title = f"{m} atom{'s' if m > 1 else ''}, {what} weights"
                works.append(work.titled(title)._replace(shorter="fewer `counts`"))
    return works


def relabelling(workspace: Workspace, stream: Stream, form: LabelSettings, steps: int) -> list[Work]:
    """Storing the soft labels of ``steps`` steps of a stream."""
    teacher, works = _teacher(workspace)
    return [*works, storing.work(teacher, stream, form, workspace.real.source.image_shape, steps)]


def table(work: grid_runner.Work) -> list[Work]:
    """What is missing of a table: datasets, and their students."""
    workspace = work.workspace
    is_new = bool(_teacher(workspace)[1])
    sizes = grid_runner.left(work, is_new)
    cells = [(left.ipc, left.comparison, lambda *cell, left=left: left.methods[cell]) for left in sizes]
    recipes = [[entry.recipe for entry in left.entries] for left in sizes]
    return grid(workspace, recipes, cells, grid_runner.full_left(work, is_new))


def grid(
    workspace: Workspace,
    recipes: Sequence[Sequence[Recipe]],
    sizes: Sequence[tuple[int, Comparison, Callable[[str, str], int]]],
    full: Sequence[str],
) -> list[Work]:
    """Datasets of several sizes, and their students.

    Args:
      recipes: those to distil at each size.
      sizes: images per class, the comparison, and (student, protocol) -> the number of methods in it.
      full: the students that are trained on all real images.
    """
    models, shared = _shared(workspace, [recipe for some in recipes for recipe in some])
    own = []
    for some, (ipc, setting, methods) in zip(recipes, sizes):
        works = []
        for recipe in some:
            works += _own(workspace, recipe, ipc, models[_kind(recipe)])
        works += _all_students(setting, methods, ipc)
        own += [work.titled(f"{work.title}, IPC {ipc}") for work in works]
    own += [work for student in full for work in _full(sizes[0][1], student)]
    return [*shared, *own] if own else []


Models = tuple[Teacher, LatentModel | None]


def _models(workspace: Workspace, recipe: Recipe) -> tuple[Models, list[Work]]:
    """The models of a recipe, as shapes where they do not exist yet, and the work that all its runs share."""
    teacher, works = _teacher(workspace)
    latent = None
    if recipe.needs or "autoencoder" in SPACES.find(recipe.summarizer.space).needs:
        latent, more = _latent(workspace, "denoiser" in recipe.needs)
        works += more
    encoder, shape = _space(workspace, recipe, teacher, latent)
    return (teacher, latent), works + _encoding(workspace, encoder, shape, f"encode: {recipe.summarizer.space}")


def _kind(recipe: Recipe) -> tuple:
    """What recipes with the same models have in common."""
    return recipe.needs, recipe.summarizer.space


def _shared(workspace: Workspace, recipes: Iterable[Recipe]) -> tuple[dict[tuple, Models], list[Work]]:
    """The models of recipes by their `_kind`, and the work that all runs share, each once."""
    models: dict[tuple, Models] = {}
    works = {work.title: work for work in _teacher(workspace)[1]}
    for kind, recipe in {_kind(recipe): recipe for recipe in recipes}.items():
        models[kind], more = _models(workspace, recipe)
        works |= {work.title: work for work in more}
    return models, list(works.values())


def _own(workspace: Workspace, recipe: Recipe, ipc: int, models: Models) -> list[Work]:
    """The work of one run of a recipe."""
    context = _context(workspace, recipe, *models)
    summarize = recipe.summarizer.work(context, ipc // recipe.imager.repeats)
    images = recipe.imager.works(context, ipc)
    if recipe.imager.is_real:
        images = [_reading(workspace, work, work.units) for work in images]
    return images if summarize is None else [summarize, *images]


def _teacher(workspace: Workspace) -> tuple[Teacher, list[Work]]:
    """The teacher if it exists, otherwise its shapes and its training."""
    config, real = workspace.config, workspace.real
    place = teachers.place_of(config, real, workspace.root / "teachers")[0]
    if workspace.given_teacher or runs.is_finished(place):
        return workspace.teacher, []
    model = teachers.build(teachers.describe(config, real), config.compute)
    return Teacher(model.apply, teachers.shapes(model, real.source.image_shape), real.norm), training(workspace)


def _found(workspace: Workspace, denoiser: bool) -> LatentModel | None:
    cache = workspace.root / "latents"
    return latent_models.found(workspace.latent, workspace.config, workspace.real, cache, denoiser)


def _latent(workspace: Workspace, denoiser: bool) -> tuple[LatentModel, list[Work]]:
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
    scaled = _encoding(workspace, _latent_encoder(whole), shape, "scale of the latents")
    return whole, [_reading(workspace, work, work.units * steps), *scaled]


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
        works += _encoding(workspace, _latent_encoder(whole), whole.image_shape, view)
    works.append(latent_training.work("train denoiser", trainer, batch, steps, shorter))
    return whole._replace(denoiser=net, variables=jax.eval_shape(net.init, jax.random.key(0))), works


def _latent_encoder(model: LatentModel) -> encoding.Encoder:
    return decoding.encoder(model), model.vae_variables, vae.RANGE


def _space(workspace: Workspace, recipe: Recipe, teacher: Teacher, latent: LatentModel | None):
    """The encoder of a recipe, and the shape of the images that it takes."""
    kind = SPACES.find(recipe.summarizer.space)
    shape = workspace.real.source.image_shape
    if latent is not None and "autoencoder" in kind.needs:
        shape = latent.image_shape
    return kind.encoder(teacher, latent), shape


def _encoding(workspace: Workspace, encoder: encoding.Encoder, shape: tuple[int, int, int], title: str) -> list[Work]:
    """Encoding of all real images; nothing if the run folder keeps what an encoder that exists makes of them."""
    source = workspace.real.source
    if shape == source.image_shape and not _has_shapes(encoder[1]) and not dry.is_elsewhere():
        place = encoding.kept_place(encoder, source, workspace.root / "encoded")
        if place is not None and place.is_file():
            return []
    work = encoding.work(encoder, source._replace(image_shape=shape))
    return [_reading(workspace, work.titled(title), work.units)]


def _has_shapes(tree: Any) -> bool:
    """Whether a model does not exist yet, so that there are only shapes."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


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
    resources = Resources(dry.memory_bytes(workspace.config.memory_bytes))
    return Context(teacher, known, latent, workspace.real.flip, resources)


def _all_students(setting: Comparison, methods: Callable[[str, str], int], ipc: int) -> list[Work]:
    """The students of all architectures and protocols."""
    teacher, works = _teacher(setting.workspace)[0], []
    for student in setting.students:
        for kind, protocol in setting.protocols.items():
            count = methods(student, kind) * setting.seeds
            works += _students(setting, teacher, student, (kind, protocol), count, ipc) if count else []
    return works


def _students(
    setting: Comparison, teacher: Teacher, student: str, protocol: tuple[str, Protocol], count: int, ipc: int
) -> list[Work]:
    """The training of ``count`` students by a named protocol, and their tests."""
    kind, chosen = protocol
    workspace, model, real = setting.workspace, setting.network(student), setting.workspace.real
    chosen, shape = with_flip(chosen, real.flip), real.source.image_shape
    n, classes = ipc * len(real.class_names), len(real.class_names)
    data = _distilled(n, shape, classes, teacher.norm)
    trainer = evaluation.student_trainer(model, chosen, chosen.labels.answering(teacher), data)
    context = None
    if chosen.labels.asks_teacher:
        variables = teacher.variables
        context = shapes_of(nn.fold, variables) if nn.foldable(teacher.apply, variables, shape) else variables
    batch = chosen.train.batch(n)
    work = Lanes([0] * count, [0] * count, batch, chosen.train.steps(n))
    title = f"{setting.label(student)}, {kind}"
    datasets = -(-count // setting.seeds)
    limits = Limits(title=title, shorter=setting.hint(kind))
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


def _full(setting: Comparison, student: str) -> list[Work]:
    """The students that are trained on all real images."""
    workspace, model = setting.workspace, setting.network(student)
    teacher, works = _teacher(workspace)
    count = setting.full - (model.apply is teacher.apply)
    if count < 1:
        return []
    own = workspace.config.teacher_train if works else teachers.training_of(teacher)
    settings = setting.full_train or own
    training = teachers.with_flip(settings, workspace.real.flip)
    work = _fitted(workspace, model, training, f"{student}, full")
    work = work.titled(f"{setting.label(student)} on all real images")
    seconds = count * work.reading_seconds
    return [work._replace(steps=work.steps * count, shorter="a lower `full`", reading_seconds=seconds)]


def _fitted(workspace: Workspace, model: Classifier, settings: TrainSettings, title: str) -> Work:
    """The training of a classifier on all real images."""
    work = teachers.work(workspace.real, model, settings, title)
    return _reading(workspace, work, work.units * work.steps)


def _reading(workspace: Workspace, work: Work, count: int, split: str = "train") -> Work:
    """The work with the time in which ``count`` real images are read for it, which a rough plan leaves out."""
    if dry.is_rough():
        return work
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
    work = work.titled(title)._replace(shorter=work.shorter if count > 1 else "")
    return _reading(workspace, work, images, "test")
