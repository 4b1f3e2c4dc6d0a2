"""Sparse layers for PyTorch. Needs the `torch` extra."""

from .sparse_linear import FORMATS, Format, SparseLinear

__all__ = ["FORMATS", "Format", "SparseLinear"]
