"""Optimal transport: how far two measures are, and a few weighted points that stand for many."""

from jaxdd.ot.barycenter import BarycenterSettings, barycenter
from jaxdd.ot.distance import SinkhornSettings, distortion, squared_distances, transport, w2_squared
from jaxdd.ot.quantization import KMeansSettings, Summary, check, quantize

__all__ = [
    "BarycenterSettings",
    "KMeansSettings",
    "SinkhornSettings",
    "Summary",
    "barycenter",
    "check",
    "distortion",
    "quantize",
    "squared_distances",
    "transport",
    "w2_squared",
]
