"""Data sets: MNIST, the challenge's inputs made of it, synthetic digits, IDX files."""

from .folders import cache_folder
from .idx import read_idx
from .images import challenge_features
from .mnist_files import find_mnist, mnist
from .synthetic import digits

__all__ = ["cache_folder", "challenge_features", "digits", "find_mnist", "mnist", "read_idx"]
