"""Plans whose products are SpGEMM: variants buffer, nobuffer and filter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine import Progress, Stopwatch
from ...errors import MemoryLimitError
from ...features import Features
from .estimate import MOST_PRODUCTS, Estimate, fit_rows
from .launch import Totals
from .library import ProductError
from .plan import CusparsePlan, Outcome, Tile
from .products import Product, Spgemm
from .rows import Rows
from .weights import DeviceLayer

WORKSPACE_PER_PRODUCT = {"buffer": 28.0, "filter": 28.0, "reuse": 56.0, "nobuffer": 8.0}
"""Bytes of cuSPARSE's workspace per multiplication, for the estimate; what is really taken is measured."""
_REUSED_PRODUCTS = 1 << 28

Strip = tuple[int, int, int, int, int]
"""First row, last row, first entry, last entry (each last one excluded), multiplications."""


class SpgemmPlan(CusparsePlan):
    """CSR activations × CSR weights, layer by layer.

    A layer is computed in strips of rows whose products cuSPARSE can take; a strip whose product fails, is wrong or
    finds no memory is halved and computed again, and the following ones are made smaller.
    """

    def _build(self, rows: int) -> None:
        super()._build(rows)
        self._spgemm = Spgemm(self._library, self._memory, chunked=self.variant == "nobuffer")
        self._arenas = [Rows(self._memory, "activations") for _ in range(2)]
        self._scratch = {name: self._memory.buffer("activations") for name in ("ptr", "counts", "place")}
        self._dense = self._memory.buffer("product")
        self.strip_products = self.estimate.strip_products
        self.retries = 0

    def _estimate(self, rows: int, features: int) -> Estimate:
        network = self.network
        average = -(-network.edges // len(network))
        heaviest = average if network.is_lazy else max(layer.nnz for layer in network)
        return fit_rows(
            rows=rows,
            width=max(network.widths[1:]),
            row_products=max(1, heaviest),
            weights=self._weight_bytes,
            features=features,
            workspace_per_product=WORKSPACE_PER_PRODUCT[self.variant],
            limit=self._memory.limit,
            most_products=_REUSED_PRODUCTS if self.variant == "reuse" else MOST_PRODUCTS,
        )

    def describe(self) -> dict[str, Any]:
        facts = {
            "format": "csr",
            "product": self._spgemm.name,
            "strip_products": self.strip_products,
            "retries": self.retries,
            **super().describe(),
        }
        if self._spgemm.chunked:
            facts["largest_chunk_products"] = self._spgemm.largest_chunk
        return facts

    def _place(self, features: Features) -> tuple[list[Tile], int]:
        placed = super()._place(features)
        self.strip_products = self.estimate.strip_products
        return placed

    def _run(
        self, tile: Tile, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None
    ) -> Outcome:
        return self._layers_from(0, rows, watch, layers, progress)

    def _layers_from(
        self, first: int, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None
    ) -> Outcome:
        depth = self._depth
        for k in range(first, depth):
            start, computed = watch.seconds, rows.rows
            rows = self._layer(k, rows, self._arenas[k % 2], watch)
            if layers:
                layers[k] += rows.live, computed, watch.seconds - start
            if progress:
                progress(k + 1, depth)
        return self._outcome(rows)

    def _outcome(self, rows: Rows) -> Outcome:
        values = lambda: rows.to_csr(self.network.outputs).toarray()  # noqa: E731
        return Outcome(rows.host("ids", rows.rows), rows.host("due", rows.rows), values)

    def _layer(self, k: int, rows: Rows, out: Rows, watch: Stopwatch) -> Rows:
        """One layer over all rows, strip by strip."""
        layer = self._weights.get(k, watch)
        following = self._weights.get(k + 1, watch) if k + 1 < len(self.network) else None
        drop = bool(self._drops[k + 1])
        out.clear(rows.rows)
        if rows.rows == 0:
            return out
        self._scratch["counts"].need(4 * rows.rows, slack=0.125)
        self._scratch["place"].need(4 * rows.rows, slack=0.125)
        self._scratch["ptr"].need(4 * (rows.rows + 1), slack=0.125)
        todo = self._strips(rows, layer)[::-1]
        while todo:
            strip = todo.pop()
            try:
                self._strip(k, rows, strip, layer, following, out, drop)
            except (ProductError, MemoryLimitError):
                first, last = strip[0], strip[1]
                if last - first < 2:
                    raise
                self.retries += 1
                self.strip_products = max(1, min(self.strip_products, (strip[4] + 1) // 2))
                self._spgemm.free()
                self._dense.free()
                todo += self._strips(rows, layer, first, last, halve=True)[::-1]
        return out

    def _strips(
        self, rows: Rows, layer: DeviceLayer, first: int = 0, last: int | None = None, *, halve: bool = False
    ) -> list[Strip]:
        """Rows `first` to `last` in strips of at most `strip_products`; `halve`: in two at least."""
        last = rows.rows if last is None else last
        most_rows = last - first
        if not layer.keeps_zero:  # a dense strip, too
            most_rows = max(1, min(most_rows, 2 * self.strip_products // max(1, layer.outputs)))
        if halve:
            most_rows = min(most_rows, (last - first + 1) // 2)
        elif most_rows == last - first and rows.total <= self.strip_products and rows.nnz < 2**31:
            return [(first, last, 0, rows.nnz, rows.total)]
        ptr = rows.host("ptr", rows.rows + 1)
        before = np.concatenate([[0], np.cumsum(rows.host("products", rows.rows))])
        count = -(-int(before[last] - before[first]) // self.strip_products)
        share = -(-int(before[last] - before[first]) // max(1, count))  # of equal size, for there is no use in a rest
        most = min(self.strip_products, share + int(np.diff(before[first : last + 1]).max()))
        strips = []
        while first < last:
            stop = int(np.searchsorted(before, before[first] + most, "right")) - 1
            stop = min(stop, int(np.searchsorted(ptr, ptr[first] + 2**31 - 1, "right")) - 1, first + most_rows, last)
            stop = max(stop, first + 1)
            strips.append((first, stop, int(ptr[first]), int(ptr[stop]), int(before[stop] - before[first])))
            first = stop
        return strips

    def _strip(
        self,
        k: int,
        rows: Rows,
        strip: Strip,
        layer: DeviceLayer,
        following: DeviceLayer | None,
        out: Rows,
        drop: bool,
    ) -> None:
        """One strip of a layer, appended to `out`."""
        first, last, begin, end, products = strip
        n = last - first
        ptr, kernels = self._scratch["ptr"].ptr, self._kernels
        kernels.per_item("rows", "rebase", n + 1, rows.at("ptr", first), n + 1, ptr)
        product = self._multiply(ptr, rows.entries(begin), n, end - begin, layer, products)
        out.room(product.nnz if layer.keeps_zero else n * layer.outputs, rows.rows * layer.outputs)
        totals = self._finish(product, rows, first, n, layer, following, out, drop)
        if totals.problem:
            raise ProductError(
                f"{self._spgemm.name} gave a wrong product in layer {k + 1}, rows {first} to {last - 1} "
                f"({products:,} multiplications, {product.nnz:,} entries): {totals.problem}."
            )
        out.rows += totals.rows
        out.nnz += totals.nnz
        out.live += totals.live
        out.total += totals.products

    def _multiply(
        self, ptr: int, entries: tuple[int, int], n: int, nnz: int, layer: DeviceLayer, products: int
    ) -> Product:
        if products == 0:
            zeros = self._scratch["counts"].ptr
            self._kernels.zero(ptr, 4 * (n + 1))
            return Product(ptr, zeros, zeros, 0)
        with self._library.csr_for_now(n, layer.inputs, nnz, ptr, *entries) as a:
            return self._spgemm.multiply(a, layer.descriptor, n, layer.outputs, products)

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
        """Check the product, activate it and append what is left to `out`; waits for the counters."""
        kernels, outputs = self._kernels, np.int32(layer.outputs)
        counts, place = self._scratch["counts"].ptr, self._scratch["place"].ptr
        c = product.ptr, product.columns, product.values
        kernels.clear_totals()
        kernels.per_row(
            "rows", "inspect", n, *c, n, product.nnz, outputs, *layer.epilogue, rows.at("due", first),
            rows.at("bound", first), np.float64(layer.tolerance), counts, kernels.totals,
        )  # fmt: skip
        if not layer.keeps_zero:
            dense = self._dense.need(4 * n * layer.outputs)
            kernels.zero(dense, 4 * n * layer.outputs)
            kernels.per_row("rows", "scatter", n, *c, n, outputs, kernels.totals, dense)
            kernels.per_row("rows", "count_dense", n, dense, n, outputs, *layer.epilogue, counts)
        kernels(
            "rows", "scan", (1,), 1024, counts, n, np.int32(drop), out.nnz, rows.at("ids", first), place,
            out.at("ptr", out.rows), out.at("ids", out.rows), kernels.totals,
        )  # fmt: skip
        measures = following.measures if following else 0
        target = (
            *layer.epilogue, place, out.at("ptr", out.rows), out.columns, out.values, measures,
            out.at("due", out.rows), out.at("bound", out.rows), out.at("products", out.rows), kernels.totals,
        )  # fmt: skip
        if layer.keeps_zero:
            kernels.per_row("rows", "write_sparse", n, *c, n, *target)
        else:
            kernels.per_row("rows", "write_dense", n, self._dense.ptr, outputs, n, *target)
        return kernels.read_totals()
