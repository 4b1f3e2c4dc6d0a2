"""Rows of activations in CSR on the device, and how they get there from features."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ...features import Features
from .launch import Kernels
from .memory import Buffer, DeviceMemory
from .weights import DeviceLayer

_ITEMS = {"ptr": 8, "ids": 4, "due": 8, "bound": 4, "products": 8}


class Rows:
    """Some rows in CSR with int64 offsets: `nnz` int32 columns and float32 values.

    Every row has its original number (`ids`), and what is due of its product with the next weights: the checksum
    (`due`), the size it is compared to (`bound`) and the number of multiplications (`products`; `total` of all).
    After the last layer `due` is the sum of the row. `live` rows have an entry.
    """

    def __init__(self, memory: DeviceMemory, kind: str):
        self.buffers: dict[str, Buffer] = {name: memory.buffer(kind) for name in (*_ITEMS, "columns", "values")}
        self.rows = self.nnz = self.total = self.live = 0

    def __getattr__(self, name: str) -> int:
        try:
            return self.__dict__["buffers"][name].ptr
        except KeyError:
            raise AttributeError(name) from None

    def clear(self, rows: int) -> None:
        """No rows, with room for `rows`."""
        for name, size in _ITEMS.items():
            self.buffers[name].need(size * (rows + 1), slack=0.125)
        self.rows = self.nnz = self.total = self.live = 0

    def room(self, nnz: int, most: int) -> None:
        """Room for `nnz` entries more; `most` is the number there can ever be."""
        need = self.nnz + nnz
        for name in ("columns", "values"):
            buffer = self.buffers[name]
            slack = min(0.5, max(0.0, most / need - 1)) if self.nnz else 0.125
            buffer.need(4 * max(1, need), keep=4 * self.nnz, slack=slack)

    def at(self, name: str, item: int) -> int:
        """Address of an item of a per-row array."""
        return self.buffers[name].ptr + item * _ITEMS[name]

    def entries(self, item: int) -> tuple[int, int]:
        """Addresses of the column and the value of an entry."""
        return self.columns + 4 * item, self.values + 4 * item

    def host(self, name: str, count: int) -> np.ndarray:
        dtype = {"ptr": np.int64, "ids": np.int32, "due": np.float64, "products": np.int64}[name]
        return self.buffers[name].download(dtype, count)

    def to_csr(self, columns: int) -> sparse.csr_matrix:
        """On the host."""
        ptr = self.host("ptr", self.rows + 1) if self.rows else np.zeros(1, np.int64)
        indices = self.buffers["columns"].download(np.int32, self.nnz)
        values = self.buffers["values"].download(np.float32, self.nnz)
        return sparse.csr_matrix((values, indices, ptr), shape=(self.rows, columns))

    def measure(self, kernels: Kernels, layer: DeviceLayer) -> None:
        """Find what is due of the product with `layer`."""
        kernels.clear_totals()
        kernels.per_row(
            "rows", "measure_rows", self.rows, self.ptr, self.columns, self.values, layer.measures, self.rows,
            self.due, self.bound, self.products, kernels.totals,
        )  # fmt: skip
        self.total = kernels.read_totals().products

    def free(self) -> None:
        for buffer in self.buffers.values():
            buffer.free()
        self.rows = self.nnz = self.total = self.live = 0


def upload(features: Features, memory: DeviceMemory, kernels: Kernels, *, drop: bool, numbers: int = 0) -> Rows:
    """Features as rows on the device; `drop` leaves out those that are all zero.

    numbers : address of the columns' new numbers (order.py), or 0.
    """
    n = features.rows
    rows = Rows(memory, "features")
    scratch = [memory.buffer("workspace") for _ in range(6)]
    given, columns, values, counts, place, ids = scratch
    rows.clear(n)
    counts.need(4 * max(1, n))
    place.need(4 * max(1, n))
    ids.upload(np.arange(n, dtype=np.int32))
    words = 0
    if features.kind == "bits":
        words = features.store.shape[1]
        given.upload(features.store)
        kernels.per_row("features", "count_bits", n, given.ptr, n, words, counts.ptr)
    else:
        matrix = features.to_csr(np.float32)
        matrix.eliminate_zeros()
        given.upload(matrix.indptr.astype(np.int64))
        columns.upload(matrix.indices.astype(np.int32))
        values.upload(matrix.data)
        kernels.per_item("features", "row_counts", n, given.ptr, n, counts.ptr)
    kernels.clear_totals()
    kernels(
        "rows", "scan", (1,), 1024, counts.ptr, n, np.int32(drop), 0, ids.ptr, place.ptr, rows.ptr, rows.ids,
        kernels.totals,
    )  # fmt: skip
    totals = kernels.read_totals()
    rows.room(totals.nnz, totals.nnz)
    if features.kind == "bits":
        target = given.ptr, n, words, place.ptr, rows.ptr, rows.columns, rows.values
        if numbers:
            width = features.columns
            kernels.per_item("order", "invert", width, numbers, width, columns.need(4 * width))
            kernels.per_row("features", "write_bits_renumbered", n, *target, columns.ptr, np.int32(width))
        else:
            kernels.per_row("features", "write_bits", n, *target)
    else:
        if numbers:
            kernels.per_item("order", "renumber", totals.nnz, columns.ptr, totals.nnz, numbers)
        kernels.copy(rows.columns, columns.ptr, 4 * totals.nnz)
        kernels.copy(rows.values, values.ptr, 4 * totals.nnz)
    kernels.synchronize()
    rows.rows, rows.nnz, rows.live = totals.rows, totals.nnz, totals.live
    for buffer in scratch:
        buffer.free()
    return rows
