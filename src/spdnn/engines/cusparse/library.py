"""cuSPARSE through nvmath: a handle, descriptors, and errors told apart."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import SpdnnError

FLOAT32 = 0  # of cudaDataType


class ProductError(SpdnnError):
    """cuSPARSE failed or gave a wrong product."""


class Library:
    """A cuSPARSE handle on the current device, float32, on the null stream.

    Scalars are read from the host; `one` and `zero` are their addresses.
    """

    def __init__(self) -> None:
        self.api: Any = importlib.import_module("nvmath.bindings.cusparse")
        self.handle = self.api.create()
        self.api.set_stream(self.handle, 0)
        self._scalars = np.array([1, 0], np.float32)
        self.one, self.zero = (int(self._scalars.ctypes.data) + 4 * k for k in range(2))
        self.plain = int(self.api.Operation.NON_TRANSPOSE)

    def close(self) -> None:
        if self.handle:
            self.api.destroy(self.handle)
            self.handle = 0

    @contextlib.contextmanager
    def checked(self, what: str) -> Iterator[None]:
        """Turns a bad status into a ProductError that says in what it came up."""
        try:
            yield
        except self.api.cuSPARSEError as error:
            raise ProductError(f"cuSPARSE {what}: {error}") from error

    def csr(self, rows: int, columns: int, nnz: int, ptr: int, indices: int, values: int) -> int:
        """A descriptor of a CSR matrix with int32 offsets and columns."""
        index = int(self.api.IndexType.INDEX_32I)
        base = int(self.api.IndexBase.ZERO)
        return self.api.create_csr(rows, columns, nnz, ptr, indices, values, index, index, base, FLOAT32)

    @contextlib.contextmanager
    def csr_for_now(self, *arguments: int) -> Iterator[int]:
        """As `csr`, destroyed at the end of the block."""
        descriptor = self.csr(*arguments)
        try:
            yield descriptor
        finally:
            self.api.destroy_sp_mat(descriptor)

    @contextlib.contextmanager
    def dense_for_now(self, rows: int, columns: int, values: int) -> Iterator[int]:
        """A descriptor of a row-major dense matrix."""
        order = int(self.api.Order.ROW)
        descriptor = self.api.create_dn_mat(rows, columns, columns, values, FLOAT32, order)
        try:
            yield descriptor
        finally:
            self.api.destroy_dn_mat(descriptor)
