"""SciPy CSR products: the reference, in float64 or float32. Always there; not meant to be fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from scipy import sparse

from ..engine import Engine, Options, Plan
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from ..rows import equal_csr
from .layerwise import LayerwisePlan


class ScipyEngine(Engine):
    name = "scipy"
    priority = 1
    dtypes = ("float32", "float64")
    switches = ("compact", "merge")

    def available(self) -> str | None:
        return None

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return ScipyPlan(network, rows, options)

    def versions(self) -> dict[str, str]:
        return {"scipy": scipy.__version__, "numpy": np.__version__}


class ScipyPlan(LayerwisePlan):
    def describe(self) -> dict[str, Any]:
        return {"format": "csr", **super().describe()}

    def _prepared(self, layer: SparseLayer) -> sparse.csr_matrix:
        weights: Any = layer.weights
        return weights.astype(self._dtype)

    def _weights_nbytes(self, weights: sparse.csr_matrix) -> int:
        return _nbytes(weights)

    def _taken_in(self, features: Features) -> tuple[sparse.csr_matrix, int]:
        matrix = features.to_csr(self._dtype)
        return matrix, _nbytes(matrix)

    def _step(self, y: sparse.csr_matrix, weights: sparse.csr_matrix, layer: SparseLayer) -> sparse.csr_matrix:
        z = activate(y @ weights, layer, self._dtype)
        if self.options.merge:
            z.sort_indices()
        return z

    def _alive(self, y: sparse.csr_matrix) -> np.ndarray:
        return np.diff(y.indptr) > 0

    def _take(self, y: sparse.csr_matrix, ids: np.ndarray) -> sparse.csr_matrix:
        return y if ids.size == y.indptr.size - 1 else y[ids]

    def _equal(self, y: sparse.csr_matrix) -> np.ndarray:
        return equal_csr(y)

    def _sums(self, y: sparse.csr_matrix) -> np.ndarray:
        return np.asarray(y.sum(1, dtype=np.float64)).ravel()

    def _dense(self, y: sparse.csr_matrix, ids: np.ndarray) -> np.ndarray:
        return y[ids].toarray()


def _nbytes(matrix: sparse.csr_matrix) -> int:
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


def activate(z: sparse.csr_matrix, layer: SparseLayer, dtype: np.dtype) -> sparse.csr_matrix:
    """Bias and bounds on a product in CSR, `clip(z + bias, lower, upper)`; zeros are dropped from the result."""
    bias = np.asarray(layer.bias, dtype)
    if layer.bias_rule == "nonzero" and layer.lower <= 0.0 <= layer.upper:
        z.eliminate_zeros()
        z.data += bias[z.indices] if bias.ndim else bias
        np.clip(z.data, layer.lower, layer.upper, out=z.data)
    else:
        dense = z.toarray()
        if layer.bias_rule == "all":
            dense += bias
        else:
            dense += np.where(dense != 0, bias, dtype.type(0))
        z = sparse.csr_matrix(np.clip(dense, layer.lower, layer.upper))
    z.eliminate_zeros()
    return z
