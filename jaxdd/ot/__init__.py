"""Optimal transport: how far two measures are, and a few weighted points that stand for many."""

from jaxdd.ot import clvq, semidual
from jaxdd.ot.barycenter import BarycenterSettings, barycenter
from jaxdd.ot.clvq import ClvqSettings
from jaxdd.ot.distance import (
    SinkhornSettings,
    distortion,
    sinkhorn_divergence,
    squared_distances,
    transport,
    w2_squared,
)
from jaxdd.ot.exact import exact
from jaxdd.ot.quantization import KMeansSettings, quantize
from jaxdd.ot.semidual import NewtonSettings
from jaxdd.ot.summary import Summary, check

__all__ = [
    "BarycenterSettings",
    "ClvqSettings",
    "KMeansSettings",
    "NewtonSettings",
    "SinkhornSettings",
    "Summary",
    "barycenter",
    "check",
    "clvq",
    "distortion",
    "exact",
    "quantize",
    "semidual",
    "sinkhorn_divergence",
    "squared_distances",
    "transport",
    "w2_squared",
]
