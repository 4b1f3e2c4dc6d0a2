"""What works here: engines, data, hardware, versions."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from . import machine
from .engine import choose_engine, engine_names, get_engine
from .errors import UnavailableError
from .radixnet import CHALLENGE_LAYERS, CHALLENGE_NEURONS
from .verify import official_file

PACKAGES = ("numpy", "scipy", "numba", "torch", "python-graphblas", "nvmath-python", "safetensors")
"""Distributions whose versions are told; CuPy's are found by their beginning."""


def examine() -> dict[str, Any]:
    """Facts in plain types: `engines` (one dict each), `chosen`, `data`, `hardware`, `versions`, `commit`."""
    engines = [_engine(name) for name in engine_names()]
    try:
        chosen = choose_engine().engine.name
    except UnavailableError:
        chosen = None
    commit, dirty = machine.commit()
    return {
        "engines": engines,
        "chosen": chosen,
        "data": _data(),
        "hardware": machine.hardware() | {"name": machine.machine_name()},
        "versions": machine.versions() | _installed(),
        "commit": commit,
        "dirty": dirty,
    }


def _engine(name: str) -> dict[str, Any]:
    try:
        engine = get_engine(name)
    except UnavailableError as error:
        return {"name": name, "works": False, "why_not": str(error), "install": None, "device": None, "variants": []}
    why = engine.available()
    return {
        "name": name,
        "works": why is None,
        "why_not": why,
        "install": f"pip install 'spdnn[{engine.requires}]'" if why and engine.requires else None,
        "device": engine.device,
        "variants": list(engine.variants),
        "dtypes": list(engine.dtypes),
        "switches": list(engine.switches),
        "versions": {} if why else engine.versions(),
    }


def _data() -> dict[str, Any]:
    from .data import cache_folder, find_mnist

    folder = os.environ.get("SPDNN_DATA")
    mnist = find_mnist()
    instances = [(neurons, layers) for neurons in CHALLENGE_NEURONS for layers in CHALLENGE_LAYERS]
    categories = [path for instance in instances if (path := official_file(*instance))]
    return {
        "SPDNN_DATA": folder,
        "folder_exists": bool(folder) and Path(folder).is_dir(),
        "mnist": None if mnist is None else str(mnist),
        "cache": str(cache_folder()),
        "official_categories": [str(path) for path in categories],
    }


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name.lower().startswith("cupy"):
            found[name.lower()] = distribution.version
    return found
