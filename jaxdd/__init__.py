"""Dataset distillation by optimal transport, as pure functions in JAX.

A distilled dataset is the pushforward of a small weighted measure. Data flows one way, and a method is a choice of
function at each stage:

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> --relabel--> --train-->
"""

from jaxdd import data, ground, latent, methods, nn, ot, pretrained, reports, stages, students
from jaxdd.data.distilled import DistilledDataset, load, save
from jaxdd.ground import checkpoint, hosts, losses, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure, from_labels
from jaxdd.ground.normalise import Normalisation, denormalise, normalise
from jaxdd.latent import Sampling
from jaxdd.methods import RECIPES, Classes, Recipe, Result, distill, distill_parts, recipe
from jaxdd.stages.encode import Encoded
from jaxdd.stages.images.crops import CropSettings
from jaxdd.stages.images.decode import LatentModel
from jaxdd.stages.images.recover.descent import RecoverSettings
from jaxdd.stages.relabel.stored import Labels, LabelSettings, materialise, open_labels
from jaxdd.stages.summarize.solve import summarize
from jaxdd.students.evaluation import accuracies, accuracy, student_trainer, train_student, train_students
from jaxdd.students.protocol import HARD, PROTOCOLS, SOFT, Protocol, named
from jaxdd.students.train import TrainSettings

__all__ = [
    "HARD",
    "PROTOCOLS",
    "RECIPES",
    "SOFT",
    "Classes",
    "CropSettings",
    "DistilledDataset",
    "Encoded",
    "InputError",
    "LabelSettings",
    "Labels",
    "LatentModel",
    "Measure",
    "Normalisation",
    "Protocol",
    "Recipe",
    "RecoverSettings",
    "Result",
    "Sampling",
    "TrainSettings",
    "accuracies",
    "accuracy",
    "checkpoint",
    "data",
    "denormalise",
    "distill",
    "distill_parts",
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
    "ot",
    "parallel",
    "pretrained",
    "recipe",
    "reports",
    "save",
    "stages",
    "student_trainer",
    "students",
    "summarize",
    "train_student",
    "train_students",
]
