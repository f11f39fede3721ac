"""The image stage: atoms or real images -> distilled images. One file per imager."""

from jaxdd.stages.images.base import IMAGERS, Imager, Images, real_images
from jaxdd.stages.images.crops import Crops
from jaxdd.stages.images.diffusion import Diffusion
from jaxdd.stages.images.nearest import Nearest
from jaxdd.stages.images.recover.imager import Recover
from jaxdd.stages.images.vae import Vae

__all__ = ["IMAGERS", "Crops", "Diffusion", "Imager", "Images", "Nearest", "Recover", "Vae", "real_images"]
