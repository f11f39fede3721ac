"""The summarize stage: the points of each class -> a few weighted atoms. One file per summarizer."""

from jaxdd.stages.summarize.barycenter import Barycenter
from jaxdd.stages.summarize.base import SUMMARIZERS, Summarizer, Summary
from jaxdd.stages.summarize.clvq import Clvq
from jaxdd.stages.summarize.coreset import Coreset
from jaxdd.stages.summarize.herding import Herding, herding
from jaxdd.stages.summarize.kcenter import KCenter, kcenter
from jaxdd.stages.summarize.none import NoAtoms
from jaxdd.stages.summarize.points import AtMost, summarize
from jaxdd.stages.summarize.quantization import Quantization
from jaxdd.stages.summarize.random import Random
from jaxdd.stages.summarize.sinkhorn import Sinkhorn
from jaxdd.stages.summarize.solver import Solver

__all__ = [
    "SUMMARIZERS",
    "AtMost",
    "Barycenter",
    "Clvq",
    "Coreset",
    "Herding",
    "KCenter",
    "NoAtoms",
    "Quantization",
    "Random",
    "Sinkhorn",
    "Solver",
    "Summarizer",
    "Summary",
    "herding",
    "kcenter",
    "summarize",
]
