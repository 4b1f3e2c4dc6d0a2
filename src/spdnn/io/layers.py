"""Folders and archives of layer files under the Graph Challenge's names."""

from __future__ import annotations

import importlib
import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import FileFormatError, InputError
from ..network import LazyLayers, SparseLayer
from .names import folder_name, layer_of
from .source import Source

LAYER_FORMATS = {".tsv": "tsv", ".tsv.gz": "tsv", ".mat": "mat", ".mtx": "mtx", ".mtx.gz": "mtx"}
"""File name endings of layers and the module that reads them, the preferred first."""
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
LAZY_BYTES = 1 << 31
"""Folders with more text than this are read layer by layer on every run."""
_COMPRESSION = 10  # about what gzip makes of such text

Neurons = int | Sequence[int]
Options = Callable[[int], dict[str, Any]]
"""From the neurons per layer in the files' names to the options of SparseLayer."""


def read_layer(source: Source, suffix: str, inputs: int | None, outputs: int | None, **options: Any) -> SparseLayer:
    """One layer with the reader of its file name ending."""
    module = importlib.import_module(f".{LAYER_FORMATS[suffix]}", __package__)
    return module.read_layer(source, inputs=inputs, outputs=outputs, **options)


def read_folder(
    folder: Path, neurons: Neurons | None, layers: int | None, options: Options
) -> tuple[Sequence[SparseLayer], int]:
    """The layers in a folder, or in its only `neuronN` folder, and N.

    Of several files for one layer the first by the order of LAYER_FORMATS counts. LazyLayers where the files are
    larger than LAZY_BYTES.

    Raises
    ------
    InputError : no layer files, files of several networks, missing numbers.
    """
    found = _layer_files(folder)
    if not found:
        folder = _subfolder(folder, neurons)
        found = _layer_files(folder)
    n = _which_network(found, neurons, folder)
    files = found[n]
    depth = _depth(files, layers, n, folder)
    shapes = [_shape(n, neurons, k + 1) for k in range(depth)]
    _check_levels(neurons, depth)
    kwargs = options(n)
    counts: dict[int, int] = {}

    def make(k: int) -> SparseLayer:
        path, suffix = files[k + 1]
        layer = read_layer(Source(path), suffix, *shapes[k], **kwargs)
        counts[k] = layer.nnz
        return layer

    def edges() -> int:
        return sum(counts[k] if k in counts else make(k).nnz for k in range(depth))

    paths = [files[k + 1][0] for k in range(depth)]
    if sum(path.stat().st_size * (_COMPRESSION if path.suffix == ".gz" else 1) for path in paths) <= LAZY_BYTES:
        return [make(k) for k in range(depth)], n
    widths = [shapes[0][0], *(outputs for _, outputs in shapes)]
    return LazyLayers(make, widths, edges, keeps_zero=make(0).keeps_zero), n


def read_archive(
    path: Path, neurons: Neurons | None, layers: int | None, options: Options
) -> tuple[Sequence[SparseLayer], int]:
    """The layers in a tar archive and N; read once from its beginning, all layers kept in memory.

    Raises
    ------
    FileFormatError : cut off, damaged, without layer files, or with one of them twice.
    InputError : files of several networks, missing numbers.
    """
    made: dict[int, dict[int, SparseLayer]] = defaultdict(dict)
    for n, number, suffix, source in _members(path):
        if (isinstance(neurons, int) and n != neurons) or (layers is not None and number > layers):
            continue
        if number in made[n]:
            raise FileFormatError(path, f"Expected layer {number} once, got it a second time as {source.path}.")
        _which_network(made, neurons, path)
        made[n][number] = read_layer(source, suffix, *_shape(n, neurons, number), **options(n))
        if len(made[n]) == layers:
            break
    if not made:
        raise FileFormatError(path, "Expected layer files nN-lK.tsv (.gz, .mat, .mtx) in the archive, got none.")
    n = _which_network(made, neurons, path)
    depth = _depth(made[n], layers, n, path)
    _check_levels(neurons, depth)
    return [made[n][k + 1] for k in range(depth)], n


def _layer_files(folder: Path) -> dict[int, dict[int, tuple[Path, str]]]:
    """By neurons and 1-based layer the file and its ending."""
    order = list(LAYER_FORMATS)
    found: dict[int, dict[int, tuple[Path, str]]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        parts = layer_of(path.name)
        if parts is None or not path.is_file():
            continue
        n, number, suffix = parts
        if number not in found[n] or order.index(suffix) < order.index(found[n][number][1]):
            found[n][number] = path, suffix
    return found


def _subfolder(folder: Path, neurons: Neurons | None) -> Path:
    found = [f for f in sorted(folder.glob("neuron*")) if f.is_dir() and _layer_files(f)]
    if isinstance(neurons, int):
        found = [f for f in found if f.name == folder_name(neurons)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f.name for f in found)
        raise InputError(f"Expected one network in {folder}, got the folders {names}. Give one, or the neurons.")
    name = f"n{neurons if isinstance(neurons, int) else 'N'}-lK.tsv"
    raise InputError(f"Expected layer files {name} (.gz, .mat, .mtx) in {folder}, got none.")


def _members(path: Path) -> Iterator[tuple[int, int, str, Source]]:
    """The layer files of an archive: neurons, 1-based layer, ending, content. Nothing is unpacked to the disk."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                parts = layer_of(PurePosixPath(member.name).name)
                stream = archive.extractfile(member) if member.isreg() else None
                if parts and stream:
                    yield *parts, Source(path / member.name, stream.read())
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise FileFormatError(path, f"Expected a tar archive, but it is damaged or cut off: {error}.") from error
    except OSError as error:
        raise FileFormatError(path, f"Expected a tar archive, but it can't be read: {error}.") from error


def _which_network(found: Collection[int], neurons: Neurons | None, where: Path) -> int:
    if isinstance(neurons, int):
        if neurons not in found:
            there = ", ".join(f"n{n}" for n in sorted(found))
            raise InputError(f"Expected layer files n{neurons}-lK.tsv in {where}, got those of {there}.")
        return neurons
    if len(found) > 1:
        there = ", ".join(map(str, sorted(found)))
        raise InputError(f"Expected the layers of one network in {where}, got {there} neurons. Say which.")
    return next(iter(found))


def _depth(found: Collection[int], layers: int | None, n: int, where: Path) -> int:
    depth = max(found) if layers is None else layers
    missing = [k for k in range(1, depth + 1) if k not in found]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"Expected layers 1 to {depth} (n{n}-lK) in {where}, but {len(missing)} of them are missing: {shown}."
        )
    return depth


def _shape(n: int, neurons: Neurons | None, number: int) -> tuple[int, int]:
    """Inputs and outputs of the 1-based layer `number`."""
    if neurons is None or isinstance(neurons, int):
        return n, n
    if number >= len(neurons):
        raise InputError(f"Expected neurons for layer {number} as well, got {len(neurons)} levels.")
    return neurons[number - 1], neurons[number]


def _check_levels(neurons: Neurons | None, depth: int) -> None:
    if neurons is not None and not isinstance(neurons, int) and len(neurons) != depth + 1:
        raise InputError(f"Expected the neurons of {depth + 1} levels for {depth} layers, got {len(neurons)}.")
