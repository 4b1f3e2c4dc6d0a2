"""The PyTorch engine on a GPU keeps the laws every engine keeps."""

from __future__ import annotations

import pytest
from engines.conformance import EngineConformance

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)


class TestTorchOnCuda(EngineConformance):
    engine = "torch"
    optional = True
    options = {"device": "cuda"}  # noqa: RUF012
