"""The file names of the Graph Challenge's site."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import unknown_name

_LAYER = re.compile(r"n(\d{1,9})-l(\d{1,9})(\.tsv|\.tsv\.gz|\.mat|\.mtx|\.mtx\.gz)", re.IGNORECASE)
_IMAGES = re.compile(r"sparse-images-(\d{1,9})\.", re.IGNORECASE)


def layer_name(neurons: int, layer: int, suffix: str = ".tsv") -> str:
    """`n1024-l1.tsv`: layer 1 (1-based) of a network with 1024 neurons per layer."""
    return f"n{neurons}-l{layer}{suffix}"


def images_name(neurons: int, suffix: str = ".tsv") -> str:
    """`sparse-images-1024.tsv`."""
    return f"sparse-images-{neurons}{suffix}"


def categories_name(neurons: int, layers: int) -> str:
    """`neuron1024-l120-categories.tsv`."""
    return f"neuron{neurons}-l{layers}-categories.tsv"


def folder_name(neurons: int) -> str:
    """`neuron1024`: the folder of a network's layers."""
    return f"neuron{neurons}"


def layer_of(name: str) -> tuple[int, int, str] | None:
    """(neurons, 1-based layer, suffix) if `name` is a layer file's, else None."""
    match = _LAYER.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3].lower()) if match else None


def columns_of(name: str) -> int | None:
    """The pixels per image if `name` is an images file's, else None."""
    match = _IMAGES.match(name)
    return int(match[1]) if match else None


def suffix_of(path: Path, known: tuple[str, ...]) -> str:
    """The longest of the `known` suffixes with which `path` ends, in lower case.

    Raises
    ------
    InputError : none does; names the nearest.
    """
    name = path.name.lower()
    for suffix in sorted(known, key=len, reverse=True):
        if name.endswith(suffix) and name != suffix:
            return suffix
    raise unknown_name("file name ending", "".join(path.suffixes[-2:]).lower() or path.name, known)
