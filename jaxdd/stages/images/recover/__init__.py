"""Optimising pixels to match atoms and moments: the loss, the descent, chunks that fit in memory, and the imager."""

from jaxdd.stages.images.recover.imager import Recover
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings, Terms

__all__ = ["Goal", "Recover", "RecoverSettings", "Terms"]
