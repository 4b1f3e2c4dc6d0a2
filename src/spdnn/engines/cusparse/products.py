"""One product C = A·B of CSR matrices by cuSPARSE SpGEMM, algorithms 1 and 3, with its memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .library import FLOAT32, Library, ProductError
from .memory import Buffer, DeviceMemory

_CHUNK = 1 << 26
"""Multiplications a chunk of algorithm 3 starts with: an eighth of the largest strip. Smaller ones leave the GPU idle,
since their rows are sorted by one thread block each."""


@dataclass(frozen=True)
class Product:
    """C in CSR on the device: addresses of int32 offsets and columns and float32 values, and its entries."""

    ptr: int
    columns: int
    values: int
    nnz: int


class Spgemm:
    """SpGEMM with workspaces that are kept from one product to the next.

    chunked : algorithm 3, which computes the multiplications in chunks and so bounds its workspace, instead of
    algorithm 1. The chunks are the smallest cuSPARSE takes, from `_CHUNK` multiplications on.
    """

    def __init__(self, library: Library, memory: DeviceMemory, *, chunked: bool):
        self._library, self.chunked = library, chunked
        algorithms = library.api.SpGEMMAlg
        self._algorithm = int(algorithms.ALG3 if chunked else algorithms.ALG1)
        self._workspace = [memory.buffer("workspace") for _ in range(2)]
        self._c = {name: memory.buffer("product") for name in ("ptr", "columns", "values")}
        self.largest_chunk = 0

    @property
    def name(self) -> str:
        return "SpGEMM ALG3" if self.chunked else "SpGEMM ALG1"

    def multiply(self, a: int, b: int, rows: int, columns: int, products: int) -> Product:
        """C = A·B, rows × columns, for descriptors `a` and `b` and the known number of multiplications.

        C stays valid until the next product. Raises ProductError for a bad status or an impossible number of
        entries, MemoryLimitError.
        """
        library = self._library
        api = library.api
        ptr = self._c["ptr"].need(4 * (rows + 1), slack=0.125)
        where = [0, 0]
        with library.csr_for_now(rows, columns, 0, ptr, 0, 0) as c:
            descriptor = api.sp_gemm_create_descr()
            try:
                plain = library.plain
                call = (library.handle, plain, plain, library.one, a, b, library.zero, c, FLOAT32, self._algorithm)
                with library.checked(f"{self.name} on {products:,} multiplications"):
                    self._compute((*call, descriptor), products)
                nnz = int(api.sp_mat_get_size(c)[2])
                if not 0 < nnz <= min(products, rows * columns):
                    raise ProductError(
                        f"{self.name} gave {nnz:,} entries for {products:,} multiplications and "
                        f"{rows:,} × {columns:,} places."
                    )
                where = [self._c[name].need(4 * nnz, slack=0.125) for name in ("columns", "values")]
                with library.checked(f"{self.name}, copying {nnz:,} entries"):
                    api.csr_set_pointers(c, ptr, where[0], where[1])
                    api.sp_gemm_copy(*call, descriptor)
            finally:
                api.sp_gemm_destroy_descr(descriptor)
        return Product(ptr, where[0], where[1], nnz)

    def _compute(self, call: tuple, products: int) -> None:
        api = self._library.api
        size = api.sp_gemm_work_estimation(*call, 0)
        api.sp_gemm_work_estimation(*call, self._room(0, size))
        size2 = np.zeros(1, np.uint64)
        address = int(size2.ctypes.data)
        if self.chunked:
            size2[0] = self._estimate(call, products)
        else:
            api.sp_gemm_compute(*call, address, 0)
        api.sp_gemm_compute(*call, address, self._room(1, int(size2[0])))

    def _estimate(self, call: tuple, products: int) -> int:
        """Bytes algorithm 3 computes with, for the smallest chunk it takes; what it estimates with can go again."""
        api = self._library.api
        chunk = min(_CHUNK, products)
        while True:
            fraction = chunk / products
            try:
                size = api.sp_gemm_estimate_memory_buffersize3(*call, fraction)
                scratch = self._room(1, size)
                size = api.sp_gemm_estimate_memory_buffersize2(*call, fraction, size, scratch)
            except api.cuSPARSEError:
                if chunk >= products:
                    raise
                chunk = min(2 * chunk, products)
            else:
                self.largest_chunk = max(self.largest_chunk, chunk)
                return size

    def _room(self, which: int, nbytes: int) -> int:
        buffer: Buffer = self._workspace[which]
        return buffer.need(max(1, nbytes), slack=0.125)

    def free(self) -> None:
        """Give the workspaces back."""
        for buffer in (*self._workspace, *self._c.values()):
            buffer.free()
