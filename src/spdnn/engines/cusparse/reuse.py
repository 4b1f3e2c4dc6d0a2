"""Variant reuse: the structure of every product is found in the first run of loaded features and kept.

Which entries of C and of the next Y are there follows from the weights and the features alone, so that later runs of
the same features need no symbolic phase, no compaction and no word to the host: per layer the numeric phase of
SpGEMMreuse, the check, and one gather. This is what is left of the paper's idea to "encode the structure of C into the
program" (§II-D) where the structure is only known after the layer before has been computed.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...engine import Progress, Stopwatch
from ...errors import MemoryLimitError
from ...features import Features
from .launch import Totals
from .library import FLOAT32, Library, ProductError
from .memory import Buffer, DeviceMemory
from .plan import Outcome, Tile
from .products import Product
from .rows import Rows
from .spgemm import SpgemmPlan
from .weights import DeviceLayer

_NAME = "SpGEMMreuse"


class _NoRoom(Exception):
    """The structure of a layer finds no room beside what a run needs."""


@dataclass(eq=False)
class KnownProduct:
    """A strip's product with a known structure: cuSPARSE's descriptors and what they point to.

    `nnz` entries in C, `rows` rows. `source` says for each of the `kept` entries of the next rows, from `begin` on,
    which entry of C it is; `counts` how many stay in each row.
    """

    first: int
    rows: int
    nnz: int
    a: int
    c: int
    descriptor: int
    buffers: dict[str, Buffer]
    begin: int = 0
    kept: int = 0

    def close(self, api: Any) -> None:
        api.sp_gemm_destroy_descr(self.descriptor)
        api.destroy_sp_mat(self.a)
        api.destroy_sp_mat(self.c)
        for buffer in self.buffers.values():
            buffer.free()


@dataclass(eq=False)
class Known:
    """The first layers of a tile whose structures are known: their products, and the rows before and after each."""

    products: list[list[KnownProduct]] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)


class ReusePlan(SpgemmPlan):
    """As variant filter at the first run of loaded features; later runs compute values only.

    Where not all structures fit, those of the first layers are kept and the other layers run as in variant filter.
    """

    def _build(self, rows: int) -> None:
        super()._build(rows)
        self._known: weakref.WeakKeyDictionary[Tile, Known] = weakref.WeakKeyDictionary()
        self._finding: list[KnownProduct] | None = None
        self._shared = [self._memory.buffer("workspace") for _ in range(3)]
        self._c_values = self._memory.buffer("product")
        self._every: list[Known] = []

    def describe(self) -> dict[str, Any]:
        layers = max((len(known.products) for known in self._every), default=0)
        return {**super().describe(), "product": _NAME, "layers_of_known_structure": layers}

    def close(self) -> None:
        with self._device:
            for known in self._every:
                self._forget(known)
        self._every = []
        super().close()

    def _warm_up(self, features: Features) -> None:
        if features.rows == 0 or not self._weights.resident:
            return super()._warm_up(features)
        rows = self._upload(features)
        with self._first_layers():
            known = self._find(rows, Stopwatch(), [], None)
            self._replay(known, Stopwatch(), [], None)
        self._forget(known)
        rows.free()

    def _forget(self, known: Known) -> None:
        for products in known.products:
            for product in products:
                product.close(self._library.api)
        for rows in known.rows[1:]:
            rows.free()

    def _run(
        self, tile: Tile, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None
    ) -> Outcome:
        if tile.rows is None or not self._weights.resident:
            return super()._run(tile, rows, watch, layers, progress)
        known = self._known.get(tile)
        if known is None:
            known = self._known[tile] = self._find(rows, watch, layers, progress)
            self._every.append(known)
        else:
            self._replay(known, watch, layers, progress)
        return self._layers_from(len(known.products), known.rows[-1], watch, layers, progress)

    # -- the first run ---------------------------------------------------------------------------------------
    def _find(self, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None) -> Known:
        known = Known(rows=[rows])
        try:
            self._extend(known, watch, layers, progress)
        except BaseException:
            self._forget(known)
            raise
        return known

    def _extend(self, known: Known, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None) -> None:
        depth = self._depth
        for k in range(depth):
            if not self._weights.get(k).keeps_zero or not known.rows[-1].total:
                break
            start, out = watch.seconds, Rows(self._memory, "structure")
            self._finding = []
            try:
                self._layer(k, known.rows[-1], out, watch)
            except _NoRoom:
                for product in self._finding:
                    product.close(self._library.api)
                out.free()
                break
            else:
                known.products.append(self._finding)
                known.rows.append(out)
            finally:
                self._finding = None
            if layers:
                layers[k] += out.live, known.rows[-2].rows, watch.seconds - start
            if progress:
                progress(k + 1, depth)

    def _multiply(
        self, ptr: int, entries: tuple[int, int], n: int, nnz: int, layer: DeviceLayer, products: int
    ) -> Product:
        if self._finding is None:
            return super()._multiply(ptr, entries, n, nnz, layer, products)
        reserve = self.estimate.activations + self.estimate.product + self.estimate.workspace
        if products == 0 or self._memory.used + 16 * products + reserve > self._memory.limit:
            raise _NoRoom
        try:
            found = _find_structure(self._library, self._memory, self._kernels, self._shared, self._c_values,
                                    (ptr, *entries, n, nnz), layer)  # fmt: skip
        except MemoryLimitError:
            raise _NoRoom from None
        self._finding.append(found)
        return Product(found.buffers["c_ptr"].ptr, found.buffers["c_columns"].ptr, self._c_values.ptr, found.nnz)

    def _finish(
        self,
        product: Product,
        rows: Rows,
        first: int,
        n: int,
        layer: DeviceLayer,
        following: DeviceLayer | None,
        out: Rows,
        drop: bool,
    ) -> Totals:
        totals = super()._finish(product, rows, first, n, layer, following, out, drop)
        if self._finding is None:
            return totals
        found = self._finding[-1]
        if totals.problem:
            self._finding.pop().close(self._library.api)
            return totals
        found.first, found.begin, found.kept = first, out.nnz, totals.nnz
        try:
            source = found.buffers["source"].need(4 * max(1, totals.nnz))
            counts = found.buffers["counts"].need(4 * n)
        except MemoryLimitError:
            raise _NoRoom from None
        self._kernels.copy(counts, self._scratch["counts"].ptr, 4 * n)
        self._kernels.per_row(
            "rows", "trace", n, product.ptr, product.columns, product.values, n, *layer.epilogue,
            self._scratch["place"].ptr, out.at("ptr", out.rows), out.nnz, source,
        )  # fmt: skip
        return totals

    # -- later runs ------------------------------------------------------------------------------------------
    def _replay(self, known: Known, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None) -> None:
        kernels, depth = self._kernels, len(self.network)
        kernels.clear_totals()
        for k, products in enumerate(known.products):
            start, layer = watch.seconds, self._weights.get(k)
            rows, out = known.rows[k], known.rows[k + 1]
            for product in products:
                self._compute(product, rows, out, layer)
            measures = self._weights.get(k + 1).measures if k + 1 < depth else 0
            kernels.per_row(
                "rows", "measure_rows", out.rows, out.ptr, out.columns, out.values, measures, out.rows, out.due,
                out.bound, out.products, kernels.totals,
            )  # fmt: skip
            if layers:
                kernels.synchronize()
                layers[k] += out.live, rows.rows, watch.seconds - start
            if progress:
                progress(k + 1, depth)
        problem = kernels.read_totals().problem
        if problem:
            raise ProductError(f"{_NAME} gave wrong products for structures that were right before: {problem}.")

    def _compute(self, product: KnownProduct, rows: Rows, out: Rows, layer: DeviceLayer) -> None:
        kernels, n = self._kernels, product.rows
        columns, values = product.buffers["c_columns"].ptr, self._c_values.ptr
        _numeric(self._library, product, layer.descriptor, values)
        counts = self._scratch["counts"].ptr
        kernels.per_row(
            "rows", "inspect", n, product.buffers["c_ptr"].ptr, columns, values, n, product.nnz,
            np.int32(layer.outputs), *layer.epilogue, rows.at("due", product.first), rows.at("bound", product.first),
            np.float64(layer.tolerance), counts, kernels.totals,
        )  # fmt: skip
        kernels.per_item("rows", "compare_counts", n, counts, product.buffers["counts"].ptr, n, kernels.totals)
        kernels.per_item(
            "rows", "refill", product.kept, values, columns, product.buffers["source"].ptr, product.kept,
            *layer.epilogue, out.values + 4 * product.begin, kernels.totals,
        )  # fmt: skip


def _find_structure(
    library: Library,
    memory: DeviceMemory,
    kernels: Any,
    shared: list[Buffer],
    c_values: Buffer,
    a_matrix: tuple[int, int, int, int, int],
    layer: DeviceLayer,
) -> KnownProduct:
    """Both phases of SpGEMMreuse for A = (offsets, columns, values, rows, entries), keeping what the numeric needs."""
    api = library.api
    ptr, columns, values, n, nnz_a = a_matrix
    buffers = {
        name: memory.buffer("structure") for name in ("a_ptr", "c_ptr", "c_columns", "4", "5", "source", "counts")
    }
    kernels.copy(buffers["a_ptr"].need(4 * (n + 1)), ptr, 4 * (n + 1))
    c_ptr = buffers["c_ptr"].need(4 * (n + 1))
    a = library.csr(n, layer.inputs, nnz_a, buffers["a_ptr"].ptr, columns, values)
    c = library.csr(n, layer.outputs, 0, c_ptr, 0, 0)
    product = KnownProduct(0, n, 0, a, c, api.sp_gemm_create_descr(), buffers)
    plain = library.plain
    algorithm = int(api.SpGEMMAlg.CSR_ALG_DETERMINITIC)
    call = (library.handle, plain, plain, a, layer.descriptor, c, algorithm, product.descriptor)
    try:
        with library.checked(_NAME):
            size = api.sp_gemm_reuse_work_estimation(*call, 0)
            api.sp_gemm_reuse_work_estimation(*call, shared[0].need(max(1, size), slack=0.125))
            size2, size3, size4 = api.sp_gemm_reuse_nnz(*call, 0, 0, 0)
            kept = [shared[1].need(max(1, size2), slack=0.125), shared[2].need(max(1, size3), slack=0.125)]
            api.sp_gemm_reuse_nnz(*call, *kept, buffers["4"].need(max(1, size4)))
            product.nnz = int(api.sp_mat_get_size(c)[2])
            if product.nnz <= 0:
                raise ProductError(f"{_NAME} gave {product.nnz:,} entries for a product that has some.")
            where = buffers["c_columns"].need(4 * product.nnz), c_values.need(4 * product.nnz, slack=0.125)
            api.csr_set_pointers(c, c_ptr, *where)
            size = api.sp_gemm_reuse_copy(*call, 0)
            api.sp_gemm_reuse_copy(*call, buffers["5"].need(max(1, size)))
        _numeric(library, product, layer.descriptor, c_values.ptr)
    except BaseException:
        product.close(api)
        raise
    return product


def _numeric(library: Library, product: KnownProduct, weights: int, values: int) -> None:
    api, plain = library.api, library.plain
    algorithm = int(api.SpGEMMAlg.CSR_ALG_DETERMINITIC)
    with library.checked(_NAME):
        api.sp_mat_set_values(product.c, values)
        api.sp_gemm_reuse_compute(
            library.handle, plain, plain, library.one, product.a, weights, library.zero, product.c, FLOAT32,
            algorithm, product.descriptor,
        )  # fmt: skip
