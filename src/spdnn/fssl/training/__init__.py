"""Training recipes for image classification: data, augmentation, one loop for a network or a fleet of them."""

from .augment import Augmentation
from .data import ImageData, load_images
from .loop import Recipe, Trainer
from .methods import METHODS, Method
from .networks import dense_network, radix_network

__all__ = [
    "METHODS",
    "Augmentation",
    "ImageData",
    "Method",
    "Recipe",
    "Trainer",
    "dense_network",
    "load_images",
    "radix_network",
]
