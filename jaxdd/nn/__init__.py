"""Classifiers as pure functions."""

from typing import TYPE_CHECKING

import lazy_loader

from jaxdd.nn.batchnorm import BatchNorm, Moments, image_moments, merge, pool, pool_by_label
from jaxdd.nn.classifier import Apply, Classifier, Output, Variables, from_linen, moment_layers, remat
from jaxdd.nn.committee import mean_in_training, mean_of, of_classes, of_classes_in_training
from jaxdd.nn.fold import fold, foldable, folded
from jaxdd.nn.quantize import quantized
from jaxdd.nn.zoo import MODELS, Size, get

if TYPE_CHECKING:
    from jaxdd.nn.nnx import from_nnx, nnx_variables
else:  # NNX is imported when it is first used
    __getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"nnx": ["from_nnx", "nnx_variables"]})

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
    "mean_in_training",
    "mean_of",
    "merge",
    "moment_layers",
    "nnx_variables",
    "of_classes",
    "of_classes_in_training",
    "pool",
    "pool_by_label",
    "quantized",
    "remat",
]
