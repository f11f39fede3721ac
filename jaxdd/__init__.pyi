from . import data, ground, latent, methods, nn, ot, pretrained, recipes, reports, stages, students, workspace
from .data import SOURCES, Source, from_arrays
from .data.distilled import DistilledDataset, load, save
from .data.foreign import open_distilled
from .data.whitening import fit_zca
from .ground import checkpoint, hosts, losses, parallel
from .ground.errors import DivergenceError, InputError
from .ground.measure import Measure, from_labels
from .ground.memory import Resources
from .ground.normalise import Normalisation, denormalise, normalise
from .latent.decoding import LatentModel
from .methods import RECIPES, Recipe, Result, distill, distill_parts
from .nn import MODELS
from .stages.context import Classes, Context, Problem, Snapshot, Teacher
from .stages.encode import Encoded, encode
from .stages.images import IMAGERS, Crops, Diffusion, Imager, Images, Nearest, Recover, Vae
from .stages.relabel.labelling import LABELLINGS, HardLabels, Labelling, SoftLabels
from .stages.relabel.stored import Labels, LabelSettings, open_labels
from .stages.relabel.storing import materialise
from .stages.summarize import (
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
from .students.evaluation import Lane, accuracies, accuracy, student_trainer, train_student, train_students
from .students.protocol import HARD, PROTOCOLS, SOFT, Protocol, named
from .students.train import TrainSettings
from .workspace import DistillConfig, LatentConfig, TeacherConfig, Workspace, open_workspace

__version__: str

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
    "fit_zca",
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
    "open_distilled",
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
