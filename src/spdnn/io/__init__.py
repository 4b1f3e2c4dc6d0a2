"""Reading and writing networks, features and categories: one module per format, four functions for all."""

from .networks import load_network, save_network
from .samples import load_categories, load_features, save_categories, save_features

__all__ = ["load_categories", "load_features", "load_network", "save_categories", "save_features", "save_network"]
