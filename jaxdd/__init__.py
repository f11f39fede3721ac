"""Dataset distillation by optimal transport, as pure functions in JAX.

A distilled dataset is the pushforward of a small weighted measure. Data flows through the stages in one direction, and
a method chooses one function for each stage:

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> --relabel--> --train-->
"""

from jaxdd import data, ground, latent, methods, nn, ot, pretrained, recipes, reports, stages, students, workspace
from jaxdd.data import SOURCES, Source, from_arrays
from jaxdd.data.distilled import DistilledDataset, load, save
from jaxdd.ground import checkpoint, hosts, losses, parallel
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.measure import Measure, from_labels
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation, denormalise, normalise
from jaxdd.latent.decoding import LatentModel
from jaxdd.methods import RECIPES, Recipe, Result, distill, distill_parts
from jaxdd.nn import MODELS
from jaxdd.stages.context import Classes, Context, Problem, Snapshot, Teacher
from jaxdd.stages.encode import Encoded, encode
from jaxdd.stages.images import IMAGERS, Crops, Diffusion, Imager, Images, Nearest, Recover, Vae
from jaxdd.stages.relabel.labelling import LABELLINGS, HardLabels, Labelling, SoftLabels
from jaxdd.stages.relabel.stored import Labels, LabelSettings, open_labels
from jaxdd.stages.relabel.storing import materialise
from jaxdd.stages.summarize import (
    SUMMARIZERS,
    AtMost,
    Barycenter,
    Clvq,
    Coreset,
    Herding,
    KCenter,
    NoAtoms,
    Quantization,
    Random,
    Sinkhorn,
    Solver,
    Summarizer,
    Summary,
    summarize,
)
from jaxdd.students.evaluation import Lane, accuracies, accuracy, student_trainer, train_student, train_students
from jaxdd.students.protocol import HARD, PROTOCOLS, SOFT, Protocol, named
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import DistillConfig, LatentConfig, TeacherConfig, Workspace, open_workspace

__all__ = [
    "HARD",
    "IMAGERS",
    "LABELLINGS",
    "MODELS",
    "PROTOCOLS",
    "RECIPES",
    "SOFT",
    "SOURCES",
    "SUMMARIZERS",
    "AtMost",
    "Barycenter",
    "Classes",
    "Clvq",
    "Context",
    "Coreset",
    "Crops",
    "Diffusion",
    "DistillConfig",
    "DistilledDataset",
    "DivergenceError",
    "Encoded",
    "HardLabels",
    "Herding",
    "Imager",
    "Images",
    "InputError",
    "KCenter",
    "LabelSettings",
    "Labelling",
    "Labels",
    "Lane",
    "LatentConfig",
    "LatentModel",
    "Measure",
    "Nearest",
    "NoAtoms",
    "Normalisation",
    "Problem",
    "Protocol",
    "Quantization",
    "Random",
    "Recipe",
    "Recover",
    "Resources",
    "Result",
    "Sinkhorn",
    "Snapshot",
    "SoftLabels",
    "Solver",
    "Source",
    "Summarizer",
    "Summary",
    "Teacher",
    "TeacherConfig",
    "TrainSettings",
    "Vae",
    "Workspace",
    "accuracies",
    "accuracy",
    "checkpoint",
    "data",
    "denormalise",
    "distill",
    "distill_parts",
    "encode",
    "from_arrays",
    "from_labels",
    "ground",
    "hosts",
    "latent",
    "load",
    "losses",
    "materialise",
    "methods",
    "named",
    "nn",
    "normalise",
    "open_labels",
    "open_workspace",
    "ot",
    "parallel",
    "pretrained",
    "recipes",
    "reports",
    "save",
    "stages",
    "student_trainer",
    "students",
    "summarize",
    "train_student",
    "train_students",
    "workspace",
]
