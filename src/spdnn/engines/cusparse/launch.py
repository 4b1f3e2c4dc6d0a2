"""Launching the engine's kernels, and the counters they fill."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cuda import loader
from .memory import DeviceMemory

PACKAGE = "spdnn.engines.cusparse"
_THREADS = 256
MEASURE_BYTES = 16
TOTALS = np.dtype(
    [
        ("nnz", np.int64),
        ("products", np.int64),
        ("rows", np.int32),
        ("live", np.int32),
        ("bad_structure", np.int32),
        ("bad_columns", np.int32),
        ("bad_sums", np.int32),
        ("pad", np.int32),
    ]
)
"""`Totals` of rows.cu."""


@dataclass(frozen=True)
class Totals:
    """What a strip came to; see rows.cu."""

    nnz: int
    products: int
    rows: int
    live: int
    bad_structure: int
    bad_columns: int
    bad_sums: int

    @property
    def problem(self) -> str | None:
        """What is wrong with the product, or None."""
        found = []
        if self.bad_structure:
            found.append(f"{self.bad_structure} rows with impossible offsets or numbers of entries")
        if self.bad_columns:
            found.append(f"{self.bad_columns} column indices out of range")
        if self.bad_sums:
            found.append(f"{self.bad_sums} rows whose checksum is off")
        return ", ".join(found) or None


class Kernels:
    """The functions of the `.cu` files, launched on the null stream, and one `Totals` on the device."""

    def __init__(self, memory: DeviceMemory):
        cupy: Any = importlib.import_module("cupy")
        self.runtime = cupy.cuda.runtime
        self._functions: dict[str, Any] = {}
        self._modules = {name: loader.load(PACKAGE, name) for name in ("rows", "features", "columns", "order")}
        self._device = memory.buffer("counters", TOTALS.itemsize)
        self._pinned = cupy.cuda.alloc_pinned_memory(TOTALS.itemsize)
        self._host = np.frombuffer(self._pinned, TOTALS, 1)
        self.totals = self._device.ptr

    def __call__(self, file: str, name: str, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._modules[file].get_function(name)
        function(grid, (threads,), arguments)

    def per_row(self, file: str, name: str, rows: int, *arguments: Any) -> None:
        """One warp a row."""
        if rows:
            self(file, name, (-(-rows * 32 // _THREADS),), _THREADS, *arguments)

    def per_item(self, file: str, name: str, items: int, *arguments: Any) -> None:
        """One thread an item."""
        if items:
            self(file, name, (-(-items // _THREADS),), _THREADS, *arguments)

    def zero(self, address: int, nbytes: int) -> None:
        if nbytes:
            self.runtime.memsetAsync(address, 0, nbytes, 0)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Device to device."""
        if nbytes:
            self.runtime.memcpyAsync(target, source, nbytes, 3, 0)

    def clear_totals(self) -> None:
        self.zero(self.totals, TOTALS.itemsize)

    def read_totals(self) -> Totals:
        """Wait for everything before, then the counters."""
        self.runtime.memcpyAsync(self._host.ctypes.data, self.totals, TOTALS.itemsize, 2, 0)
        self.synchronize()
        return Totals(*(int(self._host[0][name]) for name in TOTALS.names[:-1]))  # pyright: ignore[reportOptionalSubscript]

    def synchronize(self) -> None:
        self.runtime.streamSynchronize(0)
