"""Dataset distillation by optimal transport, as pure functions in JAX.

A distilled dataset is the pushforward of a small weighted measure. Data flows one way, and a method is a choice of
function at each stage:

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> --relabel--> --train-->
"""

from jaxdd import (
    augment,
    checkpoint,
    coreset,
    crops,
    data,
    decode,
    encode,
    hosts,
    labels,
    latent,
    losses,
    nn,
    ot,
    page,
    parallel,
    pretrained,
    protocol,
    recover,
    relabel,
    report,
    scores,
    train,
)
from jaxdd.crops import CropSettings
from jaxdd.decode import LatentModel
from jaxdd.distilled import DistilledDataset, load, save
from jaxdd.encode import Encoded
from jaxdd.errors import InputError
from jaxdd.evaluate import (
    accuracies,
    accuracy,
    student_trainer,
    train_student,
    train_students,
)
from jaxdd.labels import Labels, LabelSettings, materialise, open_labels
from jaxdd.latent import Sampling
from jaxdd.measure import Measure, from_labels
from jaxdd.methods import RECIPES, Classes, Recipe, Result, distill, distill_parts, recipe
from jaxdd.normalise import Normalisation, denormalise, normalise
from jaxdd.protocol import HARD, PROTOCOLS, SOFT, Protocol, named
from jaxdd.recover import RecoverSettings
from jaxdd.summarize import summarize
from jaxdd.train import TrainSettings

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
    "augment",
    "checkpoint",
    "coreset",
    "crops",
    "data",
    "decode",
    "denormalise",
    "distill",
    "distill_parts",
    "encode",
    "from_labels",
    "hosts",
    "labels",
    "latent",
    "load",
    "losses",
    "materialise",
    "named",
    "nn",
    "normalise",
    "open_labels",
    "ot",
    "page",
    "parallel",
    "pretrained",
    "protocol",
    "recipe",
    "recover",
    "relabel",
    "report",
    "save",
    "scores",
    "student_trainer",
    "summarize",
    "train",
    "train_student",
    "train_students",
]
