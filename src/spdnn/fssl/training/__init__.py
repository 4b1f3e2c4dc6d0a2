"""Training recipes for image classification: data, augmentation, one loop for a network or a fleet of them."""

from .augment import Augmentation
from .data import ImageData, load_images
from .loop import Recipe, Trainer
from .methods import METHODS, Method
from .networks import dense_network, radix_network
from .runs import Job, Outcome, record_of, train_teacher
from .runs import train as run_job

__all__ = [
    "METHODS",
    "Augmentation",
    "ImageData",
    "Job",
    "Method",
    "Outcome",
    "Recipe",
    "Trainer",
    "dense_network",
    "load_images",
    "radix_network",
    "record_of",
    "run_job",
    "train_teacher",
]
