"""spdnn: sparse deep neural networks, run at the speed of the hardware.

    network = spdnn.challenge_network(1024, 120)
    features = spdnn.challenge_features(1024)
    plan = spdnn.prepare(network, rows=features.rows)
    result = plan.run(features)
    print(len(result.categories))

Names are loaded when first used; importing spdnn imports neither torch, cupy nor numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "SparseLayer": "network",
    "LazyLayers": "network",
    "SparseNetwork": "network",
    "Features": "features",
    "Activations": "engine",
    "Engine": "engine",
    "Options": "engine",
    "Plan": "engine",
    "prepare": "engine",
    "get_engine": "engine",
    "engine_names": "engine",
    "RadixNet": "radixnet",
    "challenge_network": "radixnet",
    "challenge_features": "data",
    "mnist": "data",
    "digits": "data",
    "load_network": "io",
    "save_network": "io",
    "load_features": "io",
    "save_features": "io",
    "cross_entropy": "metrics",
    "accuracy": "metrics",
    "softmax": "metrics",
    "SpdnnError": "errors",
    "InputError": "errors",
    "FileFormatError": "errors",
    "UnavailableError": "errors",
    "MemoryLimitError": "errors",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from .data import challenge_features, digits, mnist
    from .engine import Activations, Engine, Options, Plan, engine_names, get_engine, prepare
    from .errors import FileFormatError, InputError, MemoryLimitError, SpdnnError, UnavailableError
    from .features import Features
    from .io import load_features, load_network, save_features, save_network
    from .metrics import accuracy, cross_entropy, softmax
    from .network import LazyLayers, SparseLayer, SparseNetwork
    from .radixnet import RadixNet, challenge_network


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'spdnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
