"""SuiteSparse:GraphBLAS through python-graphblas: the baseline the Graph Challenge itself is written in.

Rows are kept in one of two forms. Sparse, by row: the Challenge's reference loop, `Y = Y W` over plus-times, the bias
added to the stored entries, `select` and `min`; hypersparse, so dead rows cost nothing. Full, by column: `C += Y W`
into a full C, which GraphBLAS computes several times faster per value, as rows become its vector lanes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Engine, Options, Plan
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from .layerwise import LayerwisePlan

_FULL_FROM = 1 / 3
"""The share of values that are not zero from which on the full form is the faster one."""


class GraphblasEngine(Engine):
    """Variant ``"auto"`` takes the form that is faster for each layer, ``"sparse"`` keeps to the Challenge's loop.

    With `compact` and `merge` off, ``"sparse"`` is the plain reference loop and nothing else.
    """

    name = "graphblas"
    variants = ("auto", "sparse")
    requires = "graphblas"
    priority = 10
    dtypes = ("float32", "float64")
    switches = ("compact", "merge")

    def available(self) -> str | None:
        for module in ("graphblas", "suitesparse_graphblas"):
            if importlib.util.find_spec(module) is None:
                return "needs the package python-graphblas; pip install 'spdnn[graphblas]'"
        return None

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return GraphblasPlan(network, rows, options)

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in ("python-graphblas", "suitesparse-graphblas")}


@dataclass(frozen=True)
class _Weights:
    """by_row serves sparse rows, by_column full ones (None in a plan that has none).

    bias : a number, or the diagonal matrix of the neurons' biases. bias_row : float (outputs,), the same.
    quiet : both bias rules come to the same: zero stays zero, and what is below zero becomes zero.
    """

    by_row: Any
    by_column: Any
    bias: Any
    bias_row: np.ndarray
    quiet: bool


@dataclass(frozen=True)
class _Rows:
    """matrix : rows × width, by row and without zeros, or, where `full`, full by column.

    nonnegative : whether every value is known to be at least zero.
    """

    matrix: Any
    full: bool
    nonnegative: bool = False


class GraphblasPlan(LayerwisePlan):
    bytes_per_value = 24
    drop_share = 0.1

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        import graphblas

        self._gb: Any = graphblas
        super().__init__(network, rows, options)

    def describe(self) -> dict[str, Any]:
        uniform = None if self._weights is None else all(w.by_row.ss.is_iso for w in self._weights)
        form = "csr" if self.options.variant == "sparse" else "full by column, csr where few values are not zero"
        return {"format": form, "uniform_weights": uniform, **super().describe()}

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        config = self._gb.ss.config
        before = config["nthreads"]
        config["nthreads"] = self.options.threads or before
        try:
            yield
        finally:
            config["nthreads"] = before

    # -- weights
    def _prepared(self, layer: SparseLayer) -> _Weights:
        bias = np.ascontiguousarray(np.broadcast_to(layer.bias, (layer.outputs,)), self._dtype)
        scalar = bool((bias == bias[:1]).all()) and bias.size > 0
        by_row, shape = layer.weights, {"nrows": layer.inputs, "ncols": layer.outputs}
        build = self._gb.Matrix.ss
        return _Weights(
            build.import_csr(**shape, col_indices=by_row.indices, sorted_cols=True, **self._entries(by_row)),
            build.import_csc(**shape, row_indices=layer.indices, sorted_rows=True, **self._entries(layer))
            if self._has_full(layer)
            else None,
            bias[0] if scalar else self._gb.Vector.from_dense(bias).diag(),
            bias,
            quiet=layer.lower == 0.0 and bool((bias <= 0).all()),
        )

    def _entries(self, matrix: Any) -> dict[str, Any]:
        """The arguments that hold the values: one of them where all are equal ("iso")."""
        values = np.array(matrix.data, self._dtype)
        uniform = values.size > 0 and bool((values == values[0]).all())
        return {"indptr": matrix.indptr, "values": values[:1] if uniform else values, "is_iso": uniform}

    def _has_full(self, layer: SparseLayer) -> bool:
        return self.options.variant != "sparse" or layer.bias_rule == "all"

    def _weights_nbytes(self, weights: _Weights) -> int:
        return weights.by_row.ss.nbytes + (0 if weights.by_column is None else weights.by_column.ss.nbytes)

    # -- rows
    def _taken_in(self, features: Features) -> tuple[_Rows, int]:
        full = self.options.variant != "sparse" and features.nnz >= _FULL_FROM * features.rows * features.columns
        if full:
            values = np.asfortranarray(features.to_dense(self._dtype))
            if values is features.store or values.base is features.store:
                values = values.copy("F")
            matrix = self._gb.Matrix.ss.import_fullc(values=values, take_ownership=True)
        else:
            matrix = self._gb.io.from_scipy_sparse(features.to_csr(self._dtype))
        return _Rows(matrix, full), matrix.ss.nbytes

    def _by_column(self, rows: int, width: int) -> Any:
        matrix = self._gb.Matrix(self._dtype, rows, width)
        matrix.ss.config["format"] = "by_col"
        return matrix

    def _full_of(self, rows: int, width: int, value: Any) -> Any:
        matrix = self._by_column(rows, width)
        matrix.update(self._dtype.type(value))
        return matrix

    def _to_full(self, sparse: Any, empty: float = 0.0) -> _Rows:
        """The full form of a sparse matrix, `empty` where it has no entry."""
        rows, width = sparse.shape
        full = self._full_of(rows, width, empty)
        full(sparse.S).update(sparse)
        return _Rows(full, True)

    def _to_sparse(self, y: _Rows) -> Any:
        if not y.full:
            return y.matrix
        matrix = self._gb.Matrix(self._dtype, *y.matrix.shape)
        matrix.update(y.matrix.select("!=", self._dtype.type(0)))
        return matrix

    # -- a layer
    def _step(self, y: _Rows, weights: _Weights, layer: SparseLayer) -> _Rows:
        matrix = y.matrix
        if layer.bias_rule == "all" and not weights.quiet:
            return self._full_step(y if y.full else self._to_full(matrix), weights, layer)
        if weights.by_column is not None and weights.quiet and self.options.variant != "sparse":
            if not y.full and matrix.nvals >= _FULL_FROM * matrix.nrows * matrix.ncols:
                y = self._to_full(matrix)
            elif y.full and not self.options.compact and self._alive(y).mean() < _FULL_FROM:
                y = _Rows(self._to_sparse(y), False)
            if y.full:
                return self._full_step(y, weights, layer)
        return self._sparse_step(self._to_sparse(y), weights, layer)

    def _full_step(self, y: _Rows, weights: _Weights, layer: SparseLayer) -> _Rows:
        """y = clip(z + bias) over all values."""
        op, rows = self._gb.binary, y.matrix.nrows
        z = self._full_of(rows, layer.outputs, 0)
        z(op.plus).update(y.matrix.mxm(weights.by_column, self._gb.semiring.plus_times))
        if self._is_number(weights.bias):
            if weights.bias:
                z.update(z.apply(op.plus, right=weights.bias))
        else:
            ones = self._full_of(rows, 1, 1)
            row = self._gb.Matrix.from_dense(weights.bias_row[None, :])
            z(op.plus).update(ones.mxm(row, self._gb.semiring.plus_times))
        self._clip(z, layer)
        return _Rows(z, True, layer.lower >= 0)

    def _sparse_step(self, y: Any, weights: _Weights, layer: SparseLayer) -> _Rows:
        """y = clip(z + bias) over the entries of z that are not zero."""
        op, zero = self._gb.binary, self._dtype.type(0)
        z = y.mxm(weights.by_row, self._gb.semiring.plus_times).new(self._dtype)
        if not weights.quiet:
            z.update(z.select("!=", zero))
        if not self._is_number(weights.bias):
            at_entries = z.mxm(weights.bias, self._gb.semiring.any_second).new()
            z.update(z.ewise_mult(at_entries, op.plus))
        elif weights.bias:
            z.update(z.apply(op.plus, right=weights.bias))
        if layer.lower == 0.0 < layer.upper:
            z.update(z.select(">", zero))
            if np.isfinite(layer.upper):
                z.update(z.apply(op.min, right=self._dtype.type(layer.upper)))
            return _Rows(z, False)
        self._clip(z, layer)
        if layer.lower <= 0.0 <= layer.upper:
            z.update(z.select("!=", zero))
            return _Rows(z, False)
        return self._to_full(z, min(max(0.0, layer.lower), layer.upper))

    def _clip(self, z: Any, layer: SparseLayer) -> None:
        if np.isfinite(layer.lower):
            z.update(z.apply(self._gb.binary.max, right=self._dtype.type(layer.lower)))
        if np.isfinite(layer.upper):
            z.update(z.apply(self._gb.binary.min, right=self._dtype.type(layer.upper)))

    # -- questions about rows
    def _alive(self, y: _Rows) -> np.ndarray:
        if not y.full:
            alive = np.zeros(y.matrix.nrows, bool)
            alive[y.matrix.reduce_rowwise(self._gb.monoid.any).new().to_coo(values=False)[0]] = True
            return alive
        if y.nonnegative:
            return y.matrix.reduce_rowwise(self._gb.monoid.plus).new().to_dense() > 0
        highest, lowest = (y.matrix.reduce_rowwise(m).new() for m in (self._gb.monoid.max, self._gb.monoid.min))
        return (highest.to_dense() > 0) | (lowest.to_dense() < 0)

    def _take(self, y: _Rows, ids: np.ndarray) -> _Rows:
        if ids.size == y.matrix.nrows:
            return y
        if not y.full:
            return _Rows(y.matrix[ids, :].new(), False)
        taken = self._by_column(ids.size, y.matrix.ncols)
        taken.update(y.matrix[ids, :])
        return _Rows(taken, True, y.nonnegative)

    def _equal(self, y: _Rows) -> np.ndarray:
        key = self._gb.Vector.from_dense(np.random.default_rng(1).random(y.matrix.ncols).astype(self._dtype))
        products = y.matrix.mxv(key, self._gb.semiring.plus_times).new().to_dense(fill_value=0)
        return self._equal_by_products(y, products)

    def _sums(self, y: _Rows) -> np.ndarray:
        ones = self._gb.Vector.from_dense(np.ones(y.matrix.ncols))
        return y.matrix.mxv(ones, self._gb.semiring.plus_times).new().to_dense(fill_value=0.0)

    def _dense(self, y: _Rows, ids: np.ndarray) -> np.ndarray:
        if ids.size == 0:
            return np.zeros((0, y.matrix.ncols), self._dtype)
        return y.matrix[ids, :].new().to_dense(fill_value=0, dtype=self._dtype)

    @staticmethod
    def _is_number(bias: Any) -> bool:
        return isinstance(bias, np.generic)
