"""Distilled datasets for other programs: files that their loaders read, and labels that need no JAX."""

from jaxdd.exchange import huggingface, imagefolder, npz, tensorflow, webdataset
from jaxdd.exchange.base import FORMS, Form
from jaxdd.exchange.export import ExportSettings, export, opened, write

__all__ = [
    "FORMS", "ExportSettings", "Form", "export", "huggingface", "imagefolder", "npz", "opened", "tensorflow",
    "webdataset", "write",
]  # fmt: skip
