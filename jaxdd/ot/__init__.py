"""Optimal transport: distances between measures, and summaries of a measure by a few weighted points."""

from jaxdd.ot import clvq, semidual
from jaxdd.ot.barycenter import BarycenterSettings, barycenter
from jaxdd.ot.clvq import ClvqSettings
from jaxdd.ot.distance import (
    SinkhornSettings,
    distortion,
    quantization_loss,
    sinkhorn_divergence,
    squared_distances,
    transport,
    w2_squared,
)
from jaxdd.ot.entropic import INITS, EntropicSettings, entropic_barycenter
from jaxdd.ot.exact import exact
from jaxdd.ot.quantization import KMeansSettings, quantize
from jaxdd.ot.semidual import NewtonSettings
from jaxdd.ot.summary import Summary, check

__all__ = [
    "INITS",
    "BarycenterSettings",
    "ClvqSettings",
    "EntropicSettings",
    "KMeansSettings",
    "NewtonSettings",
    "SinkhornSettings",
    "Summary",
    "barycenter",
    "check",
    "clvq",
    "distortion",
    "entropic_barycenter",
    "exact",
    "quantization_loss",
    "quantize",
    "semidual",
    "sinkhorn_divergence",
    "squared_distances",
    "transport",
    "w2_squared",
]
