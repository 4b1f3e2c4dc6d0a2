"""Writing the Graph Challenge's files under their official names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .errors import FileFormatError, InputError
from .features import Features
from .io import tsv
from .io.names import categories_name, folder_name, images_name, layer_name
from .io.source import Source
from .network import SparseNetwork

Progress = Callable[[int, int], None]
"""Called with (rows or layers done, of how many)."""

_ROWS = 4096


def generate_images(
    features: Features,
    output: str | Path,
    *,
    gzip: bool = False,
    progress: Progress | None = None,
    resume: bool = True,
) -> Path:
    """Write `output/sparse-images-N.tsv` (`.tsv.gz` with `gzip`), N the columns; returns its path.

    Text is made and written in pieces, whatever the size. With `resume` a file that holds just this text is kept
    as it is; anything else under that name is replaced once the new file is whole.

    Raises
    ------
    InputError : features without any value that is not 0; an output folder that can't be written.
    """
    if not features.nnz:
        raise InputError("Expected images with some pixel that is not 0, got none: there is nothing to write.")
    path = Path(output) / images_name(features.columns, ".tsv.gz" if gzip else ".tsv")

    def text() -> Iterator[memoryview]:
        for start in range(0, features.rows, _ROWS):
            yield from tsv.features_text(features[start : start + _ROWS], first_row=start)
            if progress:
                progress(min(start + _ROWS, features.rows), features.rows)

    if not (resume and _holds(path, text())):
        tsv.write_text(text(), path, gzip=gzip)
    return path


def generate_network(
    network: SparseNetwork,
    output: str | Path,
    *,
    gzip: bool = False,
    progress: Progress | None = None,
    resume: bool = True,
) -> Path:
    """Write `output/neuronN/nN-lK.tsv` (`.tsv.gz` with `gzip`) for every layer; returns the folder `neuronN`.

    Layers are made, written and let go one after the other. With `resume` a file that holds just a layer's text is
    kept as it is, so that an interrupted run goes on where it stopped; any other is replaced. Files of further
    layers stay: a deeper network of the same width begins with the same layers.

    Raises
    ------
    InputError : levels of different widths, a layer without weights, an output folder that can't be written.
    """
    if len(set(network.widths)) > 1:
        raise InputError(f"Expected the same number of neurons in every level, got {network.widths}.")
    n, depth = network.inputs, len(network)
    folder = Path(output) / folder_name(n)
    for k, layer in enumerate(network):
        path = folder / layer_name(n, k + 1, ".tsv.gz" if gzip else ".tsv")
        if not (resume and layer.nnz and _holds(path, tsv.layer_text(layer))):
            tsv.write_layer(layer, path, gzip=gzip)
        if progress:
            progress(k + 1, depth)
    return folder


def generate_categories(ids: Iterable[int] | np.ndarray, neurons: int, layers: int, output: str | Path) -> Path:
    """Write the 1-based ids `ids` to `output/neuronN-lL-categories.tsv`; returns its path.

    Raises
    ------
    InputError : ids below 1 or given twice, or an output folder that can't be written.
    """
    return tsv.write_categories(ids, Path(output) / categories_name(neurons, layers))


def _holds(path: Path, text: Iterable[memoryview]) -> bool:
    """Whether the file is there and holds just this text."""
    if not path.is_file():
        return False
    try:
        with Source(path).open() as stream:
            return all(stream.read(len(piece)) == piece for piece in text) and not stream.read(1)
    except FileFormatError:  # a gzip file that is cut off
        return False
