"""Networks from and to files of any format."""

from __future__ import annotations

import dataclasses
import importlib
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, unknown_name
from ..network import BiasRule, SparseLayer, SparseNetwork
from ..radixnet import CHALLENGE_BIAS, CHALLENGE_UPPER
from . import safetensors
from .layers import ARCHIVES, LAYER_FORMATS, read_archive, read_folder, read_layer
from .names import layer_name, layer_of, suffix_of
from .source import Source, check_file

FORMATS = ("safetensors", "tsv", "mat", "mtx")


def load_network(
    path: str | Path,
    *,
    bias: float | np.ndarray | None = None,
    upper: float | None = None,
    lower: float | None = None,
    bias_rule: BiasRule | None = None,
    layers: int | None = None,
    neurons: int | Sequence[int] | None = None,
) -> SparseNetwork:
    """Read a network.

    Parameters
    ----------
    path : a `.safetensors` file; a folder of layer files `nN-lK.tsv`, `.tsv.gz`, `.mat`, `.mtx` or `.mtx.gz`, or
        one that holds a single folder `neuronN` of them; a tar archive of such files; or one layer file. A folder
        of more than 2 GiB of text gives LazyLayers, which read a layer each time it is asked for.
    bias : a number, or one per output; of every layer. Layer files hold no bias: by default it is that of the
        Graph Challenge where their name says 1024, 4096, 16384 or 65536 neurons, and must be given elsewhere.
    upper : 32 by default where the bias is the Graph Challenge's by default, else none.
    lower, bias_rule : 0 and ``"nonzero"`` by default.
    layers : read the first so many only (of folders, archives, and `.safetensors` files).
    neurons : per layer, N of `nN-lK` by default; or one number per level (layers + 1) for layers that are not
        square. A layer file of another name is by default as large as its largest ids say (or as it says itself).

    For `.safetensors` files, which hold everything, bias, bounds and rule are replaced where given.

    Raises
    ------
    InputError : no such file or folder, an unknown ending, missing layers, no bias.
    FileFormatError : a damaged or malformed file; says where and why.
    """
    path = Path(path)
    layers = None if layers is None else _count(layers, "layers")
    neurons = _neurons(neurons)
    given = {"bias": bias, "lower": lower, "upper": upper, "bias_rule": bias_rule}
    given = {name: value for name, value in given.items() if value is not None}

    def options(n: int | None) -> dict[str, Any]:
        if "bias" not in given and n not in CHALLENGE_BIAS:
            raise InputError(
                f"Expected a bias: layer files hold none, and {path} is not one of the Graph Challenge's networks. "
                "Give bias=0.0 if there is none."
            )
        official = {"bias": CHALLENGE_BIAS[n], "upper": CHALLENGE_UPPER} if n in CHALLENGE_BIAS else {}
        return official | given

    if path.is_dir():
        made, n = read_folder(path, neurons, layers, options)
        return SparseNetwork(made, f"{n}-{len(made)}")
    check_file(path)
    suffix = suffix_of(path, (".safetensors", *LAYER_FORMATS, *ARCHIVES))
    if suffix == ".safetensors":
        network = safetensors.read_network(path, layers=layers)
        if neurons is not None and network.widths != _levels(neurons, len(network)):
            raise InputError(f"Expected levels of {neurons} neurons, but {path} has {network.widths}.")
        if not given:
            return network
        return SparseNetwork([dataclasses.replace(layer, **given) for layer in network], network.name)
    if suffix in ARCHIVES:
        made, n = read_archive(path, neurons, layers, options)
        return SparseNetwork(made, f"{n}-{len(made)}")
    if layers not in (None, 1):
        raise InputError(f"Expected a folder to read {layers} layers from, but {path} is the file of one layer.")
    parts = layer_of(path.name)
    n = parts[0] if parts else None
    return SparseNetwork([_single(path, suffix, n, neurons, options(n))], path.name.removesuffix(suffix))


def save_network(network: SparseNetwork, path: str | Path, *, format: str | None = None, gzip: bool = False) -> Path:
    """Write a network; every file appears whole or not at all.

    Parameters
    ----------
    path : by default its ending says the format: `.safetensors` holds everything; `.tsv`, `.tsv.gz`, `.mat`,
        `.mtx`, `.mtx.gz` the weights of a network of one layer. Without an ending it is a folder, which gets a
        file `nN-lK` per layer: weights only, N neurons in every level.
    format : ``"safetensors"``, ``"tsv"``, ``"mat"`` or ``"mtx"``; with one of the last three and no matching
        ending, `path` is a folder. The default for a folder is ``"tsv"``.
    gzip : compress layer files.

    Raises
    ------
    InputError : a network the format can't hold; a folder that has more layers of such a network already.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise unknown_name("network format", format, FORMATS)
    endings = (".safetensors", *LAYER_FORMATS)
    folder = path.is_dir() or not path.name.lower().endswith(endings)
    if folder and format is None and path.suffix and not path.is_dir():
        suffix_of(path, endings)
    if format == "safetensors" or (not folder and path.name.lower().endswith(".safetensors")):
        if format not in (None, "safetensors"):
            raise InputError(f"Expected a folder or a .{format} file for format {format!r}, got {path}.")
        return safetensors.write_network(network, path)
    if folder:
        return _save_folder(network, path, format or "tsv", gzip)
    module = LAYER_FORMATS[suffix_of(path, endings)]
    if format not in (None, module):
        raise InputError(f"Expected a folder or a .{format} file for format {format!r}, got {path}.")
    if len(network) != 1:
        raise InputError(
            f"Expected a network of one layer for the single file {path}, got {len(network)} layers. "
            "Name a folder, or a .safetensors file."
        )
    return _write_layer(module, network.layers[0], path, gzip)


def _save_folder(network: SparseNetwork, folder: Path, format: str, gzip: bool) -> Path:
    widths = set(network.widths)
    if len(widths) > 1:
        raise InputError(
            f"Expected the same number of neurons in every level for files nN-lK, got {network.widths}. "
            "Name a .safetensors file."
        )
    n = network.inputs
    suffix = f".{format}" + (".gz" if gzip and format != "mat" else "")
    if folder.is_dir():
        ours = {layer_name(n, k + 1, suffix) for k in range(len(network))}
        others = [p.name for p in folder.iterdir() if (layer_of(p.name) or (0,))[0] == n and p.name not in ours]
        if others:
            raise InputError(
                f"Expected no other layers of {n} neurons in {folder}, got {min(others)}: they would be read as "
                "part of this network. Name another folder, or remove them."
            )
    for k, layer in enumerate(network):
        _write_layer(format, layer, folder / layer_name(n, k + 1, suffix), gzip)
    return folder


def _write_layer(module: str, layer: SparseLayer, path: Path, gzip: bool) -> Path:
    return importlib.import_module(f".{module}", __package__).write_layer(layer, path, gzip=gzip)


def _single(
    path: Path, suffix: str, n: int | None, neurons: int | tuple[int, ...] | None, options: dict[str, Any]
) -> SparseLayer:
    inputs, outputs = (n, n) if neurons is None else _levels(neurons, 1)
    return read_layer(Source(path), suffix, inputs, outputs, **options)


def _levels(neurons: int | tuple[int, ...], depth: int) -> tuple[int, ...]:
    levels = (neurons,) * (depth + 1) if isinstance(neurons, int) else neurons
    if len(levels) != depth + 1:
        raise InputError(f"Expected the neurons of {depth + 1} levels for {depth} layers, got {len(levels)}.")
    return levels


def _neurons(neurons: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    if neurons is None:
        return None
    if np.ndim(neurons) == 0:
        return _count(neurons, "neurons")
    return tuple(_count(n, "neurons") for n in neurons)  # type: ignore[union-attr]


def _count(value: Any, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number < 2**31:
        raise InputError(f"Expected a whole number of {what} from 1 to 2**31 - 1, got {value!r}.")
    return number
