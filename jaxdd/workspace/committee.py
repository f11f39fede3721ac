"""More teachers beside the teacher: recovery takes them in turn with it, and soft labels are the mean of all."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxdd import nn
from jaxdd.ground.errors import InputError
from jaxdd.stages.context import Teacher
from jaxdd.workspace import teachers
from jaxdd.workspace.real_data import RealData
from jaxdd.workspace.teachers import TeacherConfig

FOLDER = "committee"
"""The folder of a run folder with a numbered folder of each member."""


def found(config: TeacherConfig, real: RealData, cache: Path) -> tuple[tuple[Teacher, Path], ...]:
    """The members that a config names, each with its folder.

    An architecture is trained as the teacher is, member k from seed + 1 + k. A path names the folder of a teacher.

    Raises:
      InputError: no such architecture or folder, or a member of other data or another normalisation.
    """
    return tuple(
        loaded(part, config, real) if isinstance(part, Path) else teachers.find_or_train(part, real, cache)
        for part in parts(config)
    )


def parts(config: TeacherConfig) -> list[TeacherConfig | Path]:
    """What a config calls its members: the config of one that is trained, or the folder of one that is there."""
    return [
        dataclasses.replace(config, model=name, width=None, stem="auto", seed=config.seed + 1 + k, committee=())
        if name in nn.MODELS
        else Path(name)
        for k, name in enumerate(config.committee)
    ]


def loaded(place: Path, config: TeacherConfig, real: RealData) -> tuple[Teacher, Path]:
    """A member from its folder; InputError if it does not see the images as the teacher does."""
    if not place.is_dir():
        raise InputError(f"`committee` {place} is neither a folder nor an architecture; use {', '.join(nn.MODELS)}, or "
                         "the folder of a teacher")  # fmt: skip
    teacher = teachers.of_classes(teachers.load_teacher(place, config.compute), real.class_names)
    teachers.check_fits(teacher, real, place)
    for ours, theirs in zip(real.norm, teacher.norm):
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            raise InputError(f"`committee` {place} was trained with another normalisation of the images than the "
                             "teacher; train it with the same `mean` and `std`")  # fmt: skip
    return teacher, place


def check(config: TeacherConfig) -> None:
    """Raise InputError for members that can be neither found nor trained, before anything is trained."""
    for name in config.committee:
        if name not in nn.MODELS and not Path(name).is_dir():
            nn.MODELS.find(name)


def joined(teacher: Teacher, members: tuple[Teacher, ...]) -> Teacher:
    """A teacher whose answers are the mean of those of the teacher and the members; itself if there are none."""
    if not members:
        return teacher
    every = (teacher, *members)
    training = [one.apply_train for one in every if one.apply_train is not None]
    return teacher._replace(
        apply=nn.mean_of(tuple(one.apply for one in every)),
        variables=tuple(one.variables for one in every),
        apply_train=nn.mean_in_training(tuple(training)) if len(training) == len(every) else None,
    )
