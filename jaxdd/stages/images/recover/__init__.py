"""Pixels optimised towards atoms and moments: the loss, its descent, chunks that fit the memory, and the imager."""

from jaxdd.stages.images.recover.imager import Recover
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms

__all__ = ["Goal", "Recover", "RecoverSettings", "Terms"]
