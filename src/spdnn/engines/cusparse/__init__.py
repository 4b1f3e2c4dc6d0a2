"""Products by cuSPARSE, the system of Wang et al. (HPEC 2019) on today's library: see docs/cusparse.md."""

from __future__ import annotations

import importlib

from ...engine import Engine, Options, Plan
from ...errors import UnavailableError
from ...network import SparseNetwork
from ..cuda import loader


class CusparseEngine(Engine):
    """float32 products by cuSPARSE on NVIDIA GPUs; bias, bounds, compaction and checks by own kernels.

    Variants (§II-E of the paper for the first three):

    - ``"filter"``: ``"buffer"``, with all-zero rows removed before each product;
    - ``"buffer"``: SpGEMM algorithm 1 with the full workspace it asks for;
    - ``"nobuffer"``: SpGEMM algorithm 3, whose workspace is bounded by computing the products in small chunks;
    - ``"reuse"``: SpGEMMreuse; the first run of loaded features finds every structure, later ones only compute;
    - ``"spmm"``: sparse weights × dense activations, live rows only.

    Options.compact is part of the variants: the second and third never drop a row, the others do unless told not to.
    Every product is checked, and one that is wrong or doesn't fit is computed again in smaller row strips.
    """

    name = "cusparse"
    variants = ("filter", "buffer", "nobuffer", "reuse", "spmm")
    device = "gpu"
    requires = "cuda13"
    priority = 40
    switches = ("compact",)

    def available(self) -> str | None:
        why = loader.unavailable()
        if why is not None:
            return why
        try:
            importlib.import_module("nvmath.bindings.cusparse").get_property(0)
        except Exception as error:
            return f"cuSPARSE can't be used through nvmath-python ({error}); pip install 'spdnn[cuda13]'."
        return None

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        if options.variant == "spmm":
            from .spmm import SpmmPlan

            return SpmmPlan(network, rows, options)
        if options.variant == "reuse":
            from .reuse import ReusePlan

            return ReusePlan(network, rows, options)
        from .spgemm import SpgemmPlan

        return SpgemmPlan(network, rows, options)

    def versions(self) -> dict[str, str]:
        why = self.available()
        if why is not None:
            raise UnavailableError(f"Engine {self.name!r} can't run here: {why}")
        api = importlib.import_module("nvmath.bindings.cusparse")
        cupy = importlib.import_module("cupy")
        return {
            "cusparse": ".".join(str(api.get_property(part)) for part in range(3)),
            "nvmath": importlib.import_module("nvmath").__version__,
            "cupy": cupy.__version__,
            "cuda_driver": str(cupy.cuda.runtime.driverGetVersion()),
        }
