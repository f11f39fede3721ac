"""The workspace: real data, a teacher and, if a recipe needs one, a latent model; found on disk or trained."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdd import data, nn
from jaxdd.data import Source
from jaxdd.ground import parallel, settings
from jaxdd.ground.files import sweep
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import normalise
from jaxdd.latent.decoding import LatentModel
from jaxdd.methods import Recipe
from jaxdd.nn.classifier import takes
from jaxdd.stages.context import Classes, Context, Problem, Teacher
from jaxdd.stages.encode import SPACES, Encoded
from jaxdd.workspace import committee, latent_models, runs, teachers
from jaxdd.workspace.encoding import Encoder, encode_train, kept_or_encoded, local_rows
from jaxdd.workspace.latent_models import LatentConfig
from jaxdd.workspace.real_data import RealData, open_data
from jaxdd.workspace.teachers import TeacherConfig


@dataclass(frozen=True)
class Workspace:
    """The data and models on which methods are run. Nothing is encoded or trained before it is needed.

    Attributes:
      root: the folder for teachers, latent models and encoded images.
      config: the settings of the data and the teacher.
      latent: the settings of the latent model.
      real: the real images.
      given_teacher: a teacher and its folder, if the user named one.
      on_training: is told how the training of the teacher goes, if there is one.
    """

    root: Path
    config: TeacherConfig
    latent: LatentConfig
    real: RealData
    given_teacher: tuple[Teacher, Path] | None = None
    on_training: teachers.OnTraining | None = None

    @cached_property
    def _teacher(self) -> tuple[Teacher, Path]:
        cache = self.root / "teachers"
        return self.given_teacher or teachers.find_or_train(self.config, self.real, cache, self.on_training)

    @cached_property
    def _memory(self) -> dict:
        return {}

    @property
    def teacher(self) -> Teacher:
        """The teacher, which is trained if there is none yet."""
        return self._teacher[0]

    @cached_property
    def members(self) -> tuple[tuple[Teacher, Path], ...]:
        """The teachers of the committee beside the teacher, each with its folder; they are trained if need be."""
        return committee.found(self.config, self.real, self.root / "teachers")

    @cached_property
    def labeller(self) -> Teacher:
        """The teacher that labels images: the teacher, or the committee."""
        return committee.joined(self.teacher, tuple(member for member, _ in self.members))

    @property
    def teacher_folder(self) -> Path:
        """The folder of the teacher."""
        return self._teacher[1]

    def problem(self, method: str, ipc: int) -> Problem:
        """A request for these data, as far as it is known before anything is computed."""
        names = self.real.class_names
        counts = np.bincount(self.real.source.labels["train"], minlength=len(names))
        shape = self.real.source.image_shape
        return Problem(
            method, ipc, counts, names, lambda: self._moment_layers, shape, lambda other: takes(*self._network, other)
        )

    @cached_property
    def _network(self) -> tuple[nn.Apply, nn.Variables]:
        """The function of the teacher, and its variables or, before it is trained, their shapes."""
        if self.given_teacher:
            return self.given_teacher[0][:2]
        model = teachers.build(teachers.describe(self.config, self.real), self.config.compute)
        return model.apply, teachers.shapes(model, self.real.source.image_shape)

    @cached_property
    def _moment_layers(self) -> list[str]:
        """The layers whose moments the teacher outputs, also before it is trained."""
        return nn.moment_layers(*self._network, self.real.source.image_shape, complete=True)

    def latent_model(self, denoiser: bool) -> tuple[LatentModel, str]:
        """The latent model, with a denoiser if requested, and the name of its folder; trained if there is none yet."""
        name = f"latent model, {denoiser}"
        if name not in self._memory:
            cache = self.root / "latents"
            model, place = latent_models.find_or_train(self.latent, self.config, self.real, cache, denoiser)
            self._memory[name] = model, place.name
        return self._memory[name]

    def context(self, recipe: Recipe, mesh: Mesh | None = None, ipc: int = 1) -> Context:
        """The context of a recipe, with the real data encoded in its space.

        Args:
          mesh: the devices over which classes are distributed; default: those of this process, which then has all
            classes.
          ipc: images per class; with global moments it determines which classes stay together.
        """
        latent = self.latent_model("denoiser" in recipe.needs)[0] if recipe.needs else None
        resources = Resources(self.config.memory_bytes)
        rows = None
        if mesh is None or not mesh.is_multi_process:
            classes = self.classes(recipe.summarizer.space)
        else:
            together = recipe.imager.group_size(len(self.real.class_names), ipc)
            rows = local_rows(self.real.source, mesh, together)
            encoder, source = self._encoder(recipe.summarizer.space)
            classes = self._with_images(encode_train(encoder, source, rows, mesh), np.concatenate(rows))
        others = self._committee(mesh, rows) if recipe.imager.takes_committee else ()
        return Context(self.teacher, classes, latent, self.real.flip, resources, committee=others)

    def _committee(self, mesh: Mesh | None, rows: list[np.ndarray] | None) -> tuple[tuple[Teacher, Classes], ...]:
        """The members, each with the images as it encodes them: some ``rows``, or all in this process."""
        found = []
        for member, _ in self.members:
            encoder = member.apply, member.variables, member.norm
            if rows is None:
                encoded = kept_or_encoded(encoder, self.real.source, self.root / "encoded")
                here = np.concatenate(local_rows(self.real.source, parallel.mesh(jax.local_devices())))
            else:
                encoded, here = encode_train(encoder, self.real.source, rows, mesh), np.concatenate(rows)
            found.append((member, self._with_images(encoded, here)))
        return tuple(found)

    def classes(self, space: str) -> Classes:
        """All real train images, encoded in a space by this process alone; they are encoded only once."""
        if space not in self._memory:
            encoder, source = self._encoder(space)
            encoded = kept_or_encoded(encoder, source, self.root / "encoded")
            rows = np.concatenate(local_rows(source, parallel.mesh(jax.local_devices())))
            self._memory[space] = self._with_images(encoded, rows)
        return self._memory[space]

    def _encoder(self, space: str) -> tuple[Encoder, Source]:
        """The encoder into a space, and the images of the shape that it needs."""
        kind = SPACES.find(space)
        teacher = self.teacher if "teacher" in kind.needs else None
        if "autoencoder" not in kind.needs:
            return kind.encoder(teacher, None), self.real.source
        latent = self.latent_model(False)[0]
        return kind.encoder(teacher, latent), latent_models.open_for(latent, self.config, self.real).source

    def _with_images(self, encoded: Encoded, rows: np.ndarray) -> Classes:
        """The encoded ``rows`` of the train split, with access to their images in the teacher's normalised space."""
        source = self.real.source
        read = lambda chosen: np.asarray(normalise(self.teacher.norm, source.read("train", rows[chosen])))
        return Classes.of(encoded, read, source.image_shape)


def open_workspace(
    config: TeacherConfig,
    root: Path | str = "runs",
    teacher: Path | None = None,
    latent: LatentConfig = LatentConfig(),  # noqa: B008
    source: Source | None = None,
) -> Workspace:
    """Open the data of a config. The teacher is found or trained when it is first needed.

        workspace = jaxdd.open_workspace(jaxdd.TeacherConfig(dataset="digits"))

    Args:
      config: the settings of the data and the teacher.
      root: the folder for teachers, latent models and encoded images.
      teacher: a folder that `teachers.save_teacher` wrote; its architecture, image size and normalisation replace those
        of the config. Default: found in ``root``, or trained.
      latent: the settings of the latent model, for recipes that need one.
      source: images in memory or from your own reader; default: those that ``config.dataset`` names.

    Raises:
      InputError: no such data, settings that are unknown or out of bounds, or a teacher of other data.
    """
    for name in ("", *runs.SHARED):
        sweep(Path(root) / name)
    settings.check(config)
    settings.check(latent)
    committee.check(config)
    given_teacher = None
    if source is not None:
        config = replace(config, dataset=data.checked(source, needs_test=False).name)
    if teacher:
        given_teacher = teachers.load_teacher(teacher, config.compute), teacher
        config = teachers.config_like(config, given_teacher[0])
    real = open_data(config, source)
    teachers.build(teachers.describe(config, real), config.compute)
    if given_teacher:
        given_teacher = teachers.of_classes(given_teacher[0], real.class_names), given_teacher[1]
        teachers.check_fits(given_teacher[0], real, given_teacher[1])
    return Workspace(Path(root), config, latent, real, given_teacher)
