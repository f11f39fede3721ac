"""Classifiers as pure functions."""

from jaxdd.nn.batchnorm import BatchNorm, Moments, image_moments, merge, pool, pool_by_label
from jaxdd.nn.classifier import Apply, Classifier, Output, Variables, from_linen, moment_layers, remat
from jaxdd.nn.fold import fold, foldable, folded
from jaxdd.nn.nnx import from_nnx, nnx_variables
from jaxdd.nn.zoo import MODELS, Size, get

__all__ = [
    "MODELS",
    "Apply",
    "BatchNorm",
    "Classifier",
    "Moments",
    "Output",
    "Size",
    "Variables",
    "fold",
    "foldable",
    "folded",
    "from_linen",
    "from_nnx",
    "get",
    "image_moments",
    "merge",
    "moment_layers",
    "nnx_variables",
    "pool",
    "pool_by_label",
    "remat",
]
