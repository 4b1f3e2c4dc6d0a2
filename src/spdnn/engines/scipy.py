"""SciPy CSR products: the reference, in float64 or float32. Always there; not meant to be fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from scipy import sparse

from ..engine import Activations, Engine, LayerProfile, Loaded, Options, Plan, Progress, Stopwatch
from ..features import Features
from ..network import SparseLayer, SparseNetwork
from ..rows import RowMap, droppable, equal_csr


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


class ScipyPlan(Plan):
    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        super().__init__(network, rows, options)
        self._dtype = np.dtype(options.dtype)
        self._droppable = droppable(network)
        self._weights = None if network.is_lazy else [self._matrix(layer) for layer in network]

    def _matrix(self, layer: SparseLayer) -> sparse.csr_matrix:
        return layer.weights.astype(self._dtype)

    @property
    def nbytes(self) -> int:
        return sum(w.data.nbytes + w.indices.nbytes + w.indptr.nbytes for w in self._weights or ())

    def describe(self) -> dict[str, Any]:
        return {"format": "csr", "dtype": self.options.dtype, "streamed": self._weights is None, **super().describe()}

    def _load(self, features: Features) -> tuple[sparse.csr_matrix, int]:
        matrix = features.to_csr(self._dtype)
        return matrix, matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes

    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        y, rows = loaded.handle, RowMap(loaded.rows)
        layers = []
        depth = len(self.network)
        for k in range(depth):
            with watch.paused():
                layer = self.network.layers[k]
                weights = self._matrix(layer) if self._weights is None else self._weights[k]
            start = watch.seconds
            computed = y.shape[0]
            y = activate(y @ weights, layer, self._dtype)
            if self.options.compact and self._droppable[k + 1]:
                alive = np.diff(y.indptr) > 0
                if not alive.all():
                    y = y[alive]
                    rows.keep(alive)
            if self.options.merge:
                y.sort_indices()
                stays = rows.merge(equal_csr(y))
                if stays.size < y.shape[0]:
                    y = y[stays]
            if profile:
                live = int((np.diff(y.indptr) > 0)[rows.owner[rows.owner >= 0]].sum())
                layers.append(LayerProfile(k, live, computed, watch.seconds - start))
            if progress:
                progress(k + 1, depth)
        positive = rows.rows_of(np.asarray(y.sum(1, dtype=np.float64)).ravel() > 0)
        result = {"rows": loaded.rows, "outputs": self.network.outputs, "positive": positive, "profile": tuple(layers)}
        if values:
            live = rows.rows_of(np.diff(y.indptr) > 0)
            result |= {"live": live, "values": y[rows.owner[live]].toarray()}
        return Activations(**result)


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
