"""The CPU engine: fused layers over tiles of rows in registers and cache, compiled by Numba."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from ...engine import Engine, Options, Plan
from ...network import SparseNetwork


class NumbaEngine(Engine):
    """Any sparse network in float32 on any number of cores; see `spdnn.engines.numba.kernels` for how."""

    name = "numba"
    priority = 50
    switches = ("compact", "merge", "fold")

    def available(self) -> str | None:
        if importlib.util.find_spec("numba") is None:
            return "needs the package numba; pip install numba"
        return None

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        from .plan import NumbaPlan, warm_up

        warm_up()
        return NumbaPlan(network, rows, options)

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")}
