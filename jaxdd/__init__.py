"""Dataset distillation by optimal transport, as pure functions in JAX.

A distilled dataset is the pushforward of a small weighted measure. Data flows one way, and a method is a choice of
function at each stage:

    images --encode--> class measures --summarize--> atoms and weights --recover | decode--> --relabel--> --train-->
"""

from jaxdd import (
    augment,
    checkpoint,
    data,
    decode,
    encode,
    latent,
    losses,
    nn,
    ot,
    pretrained,
    recover,
    relabel,
    report,
    train,
)
from jaxdd.decode import LatentModel
from jaxdd.distilled import DistilledDataset, load, save
from jaxdd.encode import Encoded
from jaxdd.errors import InputError
from jaxdd.evaluate import HARD, SOFT, Protocol, accuracy, student_trainer, train_student
from jaxdd.latent import Sampling
from jaxdd.measure import Measure, from_labels
from jaxdd.methods import RECIPES, Classes, Recipe, Result, distill, recipe
from jaxdd.normalise import Normalisation, denormalise, normalise
from jaxdd.recover import RecoverSettings
from jaxdd.summarize import summarize
from jaxdd.train import TrainSettings

__all__ = [
    "HARD",
    "RECIPES",
    "SOFT",
    "Classes",
    "DistilledDataset",
    "Encoded",
    "InputError",
    "LatentModel",
    "Measure",
    "Normalisation",
    "Protocol",
    "Recipe",
    "RecoverSettings",
    "Result",
    "Sampling",
    "TrainSettings",
    "accuracy",
    "augment",
    "checkpoint",
    "data",
    "decode",
    "denormalise",
    "distill",
    "encode",
    "from_labels",
    "latent",
    "load",
    "losses",
    "nn",
    "normalise",
    "ot",
    "pretrained",
    "recipe",
    "recover",
    "relabel",
    "report",
    "save",
    "student_trainer",
    "summarize",
    "train",
    "train_student",
]
