"""Own CUDA kernels for any sparse network: see docs/cuda.md."""

from __future__ import annotations

import importlib

from ...engine import Engine, Options, Plan
from ...network import SparseNetwork
from . import loader


class CudaEngine(Engine):
    """NVIDIA GPUs of compute capability 8.0 and later, in float32. In float16 activations are stored as such, rounded
    once a layer; weights and sums are float32 still.

    Variant ``"groups"`` computes outputs that read the same inputs together, where the pattern has such;
    ``"general"`` computes every output by itself. Options.merge and fold are switches of their own.
    """

    name = "cuda"
    variants = ("groups", "general")
    device = "gpu"
    requires = "cuda13"
    priority = 100
    dtypes = ("float32", "float16")
    switches = ("compact", "merge", "fold")
    regime: str | None = None
    """Forces how rows are run (`plan.REGIMES`); for tests and measurements."""

    def available(self) -> str | None:
        return loader.unavailable()

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        from .plan import CudaPlan

        return CudaPlan(network, rows, options, regime=self.regime)

    def versions(self) -> dict[str, str]:
        cupy = importlib.import_module("cupy")
        runtime, driver = cupy.cuda.runtime.runtimeGetVersion(), cupy.cuda.runtime.driverGetVersion()
        return {"cupy": cupy.__version__, "cuda_runtime": str(runtime), "cuda_driver": str(driver)}
