"""Sparse layers for PyTorch. Needs the `torch` extra."""

import warnings

from .sparse_linear import FORMATS, Format, SparseLinear

__all__ = ["FORMATS", "Format", "SparseLinear"]

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
