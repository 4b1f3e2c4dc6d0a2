"""Variant spmm: sparse weights × dense activations, Z = Wᵀ·X with a row of features in each column of X."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine import Progress, Stopwatch
from .estimate import Estimate, fit_columns
from .launch import Totals
from .library import FLOAT32, ProductError
from .plan import CusparsePlan, Outcome, Tile
from .rows import Rows
from .weights import DeviceLayer

_THREADS = 256
_NEURONS = 64  # of columns.cu


class SpmmPlan(CusparsePlan):
    """Dense float32 activations, neurons × rows, row-major; columns that have become zero are dropped."""

    transposed = True
    grouped = False

    def _build(self, rows: int) -> None:
        super()._build(rows)
        take = self._memory.buffer
        self._activations = [take("activations") for _ in range(2)]
        self._names = [take("activations") for _ in range(2)]
        self._due = [(take("activations"), take("activations")) for _ in range(2)]
        self._scratch = {name: take("activations") for name in ("sums", "alive", "place", "ptr")}
        self._workspace = take("workspace")

    def _estimate(self, rows: int, features: int) -> Estimate:
        return fit_columns(
            rows=rows,
            width=max(self.network.widths),
            weights=self._weight_bytes,
            features=features,
            limit=self._memory.limit,
        )

    def describe(self) -> dict[str, Any]:
        return {"format": "dense", "product": "SpMM CSR_ALG2", **super().describe()}

    def _run(
        self, tile: Tile, rows: Rows, watch: Stopwatch, layers: list[np.ndarray], progress: Progress | None
    ) -> Outcome:
        kernels, depth = self._kernels, self._depth
        width, now = rows.rows, 0
        self._start(rows, self._weights.get(0, watch).inputs)
        for k in range(depth):
            start, computed, live = watch.seconds, width, 0
            layer = self._weights.get(k, watch)
            following = self._weights.get(k + 1, watch) if k + 1 < depth else None
            if width:
                self._product(layer, width, now)
                totals = self._activate(layer, following, width, now, bool(self._drops[k + 1]))
                if totals.problem:
                    raise ProductError(f"cuSPARSE SpMM gave a wrong product in layer {k + 1}: {totals.problem}.")
                live = totals.live
                if totals.rows < width:
                    self._keep(layer.outputs, width, totals.rows, now)
                    width = totals.rows
                else:
                    now = 1 - now
            if layers:
                layers[k] += live, computed, watch.seconds - start
            if progress:
                progress(k + 1, depth)
        kernels.synchronize()
        outputs = self.network.outputs
        values = self._activations[now]
        return Outcome(
            self._names[now].download(np.int32, width),
            self._due[now][0].download(np.float64, width),
            lambda: values.download(np.float32, outputs * width).reshape(outputs, width).T,
        )

    def _start(self, rows: Rows, inputs: int) -> None:
        """The features as columns, in buffer 0."""
        kernels, width = self._kernels, rows.rows
        for pair in (*self._due, self._names):
            for buffer in pair:
                buffer.need(8 * max(1, width), slack=0.125)
        for buffer in self._scratch.values():
            buffer.need(8 * (width + 1), slack=0.125)
        dense = self._activations[0].need(max(1, 4 * inputs * width))
        kernels.zero(dense, 4 * inputs * width)
        kernels.per_row("columns", "spread", width, rows.ptr, rows.columns, rows.values, width, width, dense)
        kernels.copy(self._names[0].ptr, rows.ids, 4 * width)
        kernels.copy(self._due[0][0].ptr, rows.due, 8 * width)
        kernels.per_item("columns", "widen", width, rows.bound, width, self._due[0][1].ptr)

    def _product(self, layer: DeviceLayer, width: int, now: int) -> None:
        library = self._library
        api, plain = library.api, library.plain
        target = self._activations[1 - now].need(4 * layer.outputs * width)
        if layer.nnz == 0:
            self._kernels.zero(target, 4 * layer.outputs * width)
            return
        with (
            library.checked(f"SpMM on {width:,} rows"),
            library.dense_for_now(layer.inputs, width, self._activations[now].ptr) as x,
            library.dense_for_now(layer.outputs, width, target) as z,
        ):
            call = (
                library.handle, plain, plain, library.one, layer.descriptor, x, library.zero, z, FLOAT32,
                int(api.SpMMAlg.CSR_ALG2),
            )  # fmt: skip
            size = api.sp_mm_buffer_size(*call)
            api.sp_mm(*call, self._workspace.need(max(1, size), slack=0.125))

    def _activate(self, layer: DeviceLayer, following: DeviceLayer | None, width: int, now: int, drop: bool) -> Totals:
        """Check and activate the product in place; waits for the counters. What is due next goes to the other pair."""
        kernels = self._kernels
        dense = self._activations[1 - now].ptr
        (due, bound), (next_due, next_bound) = self._due[now], self._due[1 - now]
        sums, alive = self._scratch["sums"].ptr, self._scratch["alive"].ptr
        for address, size in ((sums, 8), (next_due.ptr, 8), (next_bound.ptr, 8), (alive, 4)):
            kernels.zero(address, size * width)
        kernels.clear_totals()
        grid = (-(-width // _THREADS), -(-layer.outputs // _NEURONS))
        kernels(
            "columns", "activate_columns", grid, _THREADS, dense, np.int32(layer.outputs), width, *layer.epilogue,
            following.measures if following else 0, sums, next_due.ptr, next_bound.ptr, alive,
        )  # fmt: skip
        kernels.per_item(
            "columns", "check", width, sums, due.ptr, bound.ptr, width, np.float64(layer.tolerance), kernels.totals
        )
        kernels(
            "rows", "scan", (1,), 1024, alive, width, np.int32(drop), 0, self._names[now].ptr,
            self._scratch["place"].ptr, self._scratch["ptr"].ptr, self._names[1 - now].ptr, kernels.totals,
        )  # fmt: skip
        return kernels.read_totals()

    def _keep(self, outputs: int, width: int, new_width: int, now: int) -> None:
        """Drop the dead columns of the product: what lives goes back to the buffers `now`."""
        kernels, place = self._kernels, self._scratch["place"].ptr
        source = self._activations[1 - now].ptr
        target = self._activations[now].need(max(1, 4 * outputs * new_width))
        (due, bound), (next_due, next_bound) = self._due[now], self._due[1 - now]
        kernels.copy(self._names[now].ptr, self._names[1 - now].ptr, 4 * new_width)
        kernels.per_item("columns", "keep_due", width, next_due.ptr, next_bound.ptr, width, place, due.ptr, bound.ptr)
        if new_width:
            grid = (-(-width // _THREADS), -(-outputs // _NEURONS))
            kernels("columns", "keep", grid, _THREADS, source, np.int32(outputs), width, place, new_width, target)
