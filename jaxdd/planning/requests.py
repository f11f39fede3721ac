"""What each request has to do, stage by stage, as far as it is known before anything is computed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import dry
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Work
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent.decoding import LatentModel
from jaxdd.methods import RECIPES, Recipe
from jaxdd.nn import Moments
from jaxdd.planning import trained
from jaxdd.stages.context import Classes, Context, Teacher
from jaxdd.stages.encode import SPACES, Encoded
from jaxdd.stages.relabel import storing
from jaxdd.stages.relabel.stored import LabelSettings, Stream
from jaxdd.stages.summarize import Barycenter, Quantization
from jaxdd.students import evaluation, lanes
from jaxdd.students.lanes import Form, Lanes, Limits
from jaxdd.students.protocol import Protocol
from jaxdd.workspace import (
    Comparison,
    Workspace,
    grid_runner,
    teachers,
)
from jaxdd.workspace.comparison import by_size, with_flip


def distillation(workspace: Workspace, recipe: Recipe, ipc: int) -> list[Work]:
    """Distillation of all classes, with the models that it needs and that do not exist yet."""
    models, works = _models(workspace, recipe)
    if recipe.imager.takes_committee:
        # The teacher is planned already.
        works += trained.labeller_of(workspace)[1][len(trained.teacher_of(workspace)[1]) :]
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


def comparisons(setting: Comparison, datasets: dict[str, DistilledDataset], baselines: Sequence[str]) -> list[Work]:
    """The work of `compare_sets`: datasets of one or several numbers of images per class, with their baselines."""
    recipes, sizes = [], []
    for ipc, some in by_size(datasets).items():
        recipes.append([RECIPES.find(name) for name in baselines if name not in some])
        count = len(some) + len(recipes[-1])
        sizes.append((ipc, setting, lambda *_, count=count: count))
    if len(sizes) == 1:
        ipc, _, methods = sizes[0]
        return comparison(setting, methods, ipc, recipes[0])
    return grid(setting.workspace, recipes, sizes, setting.students)


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
    teacher, works = trained.labeller_of(workspace)
    return [*works, storing.work(teacher, stream, form, workspace.real.source.image_shape, steps)]


def table(work: grid_runner.Work) -> list[Work]:
    """What is missing of a table: datasets, and their students."""
    workspace = work.workspace
    # The keys of rows name the whole committee, none of which is trained for a plan.
    is_new = bool(trained.labeller_of(workspace)[1])
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
    teacher, works = trained.teacher_of(workspace)
    latent = None
    if recipe.needs or "autoencoder" in SPACES.find(recipe.summarizer.space).needs:
        latent, more = trained.latent_of(workspace, "denoiser" in recipe.needs)
        works += more
    encoder, shape = _space(workspace, recipe, teacher, latent)
    return (teacher, latent), works + trained.encoding_of(
        workspace, encoder, shape, f"encode: {recipe.summarizer.space}"
    )


def _kind(recipe: Recipe) -> tuple:
    """What recipes with the same models have in common."""
    return recipe.needs, recipe.summarizer.space


def _shared(workspace: Workspace, recipes: Iterable[Recipe]) -> tuple[dict[tuple, Models], list[Work]]:
    """The models of recipes by their `_kind`, and the work that all runs share, each once."""
    models: dict[tuple, Models] = {}
    works = {work.title: work for work in trained.labeller_of(workspace)[1]}
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
        images = [trained.reading(workspace, work, work.units) for work in images]
    return images if summarize is None else [summarize, *images]


def _space(workspace: Workspace, recipe: Recipe, teacher: Teacher, latent: LatentModel | None):
    """The encoder of a recipe, and the shape of the images that it takes."""
    kind = SPACES.find(recipe.summarizer.space)
    shape = workspace.real.source.image_shape
    if latent is not None and "autoencoder" in kind.needs:
        shape = latent.image_shape
    return kind.encoder(teacher, latent), shape


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
    teacher, works = trained.labeller_of(setting.workspace)[0], []
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
    fit = lanes.work(trainer, Form(datasets, n, shape, classes), work, context, limits)
    network = Teacher(model.apply, teachers.shapes(model, shape), teacher.norm)
    return [fit, trained.tested(workspace, network, count, f"test {title}")]


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
    teacher, works = trained.teacher_of(workspace)
    count = setting.full - (model.apply is teacher.apply)
    if count < 1:
        return []
    own = workspace.config.teacher_train if works else teachers.training_of(teacher)
    settings = setting.full_train or own
    training = teachers.with_flip(settings, workspace.real.flip)
    work = trained.fitted(workspace, model, training, f"{student}, full")
    work = work.titled(f"{setting.label(student)} on all real images")
    seconds = count * work.reading_seconds
    return [work._replace(steps=work.steps * count, shorter="a lower `full`", reading_seconds=seconds)]
