"""The cuSPARSE engine's own kernels compile with NVRTC; no GPU needed."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from spdnn.engines.cuda import loader

pytest.importorskip("cupy", reason="needs CuPy and NVRTC: pip install 'spdnn[nvrtc]'")
PACKAGE = "spdnn.engines.cusparse"


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", loader.kernel_names(PACKAGE))
def test_compiles(name, arch):
    assert loader.compile_source(PACKAGE, name, arch=arch)[:4] == b"\x7fELF"


def test_every_kernel_launched_is_there():
    """By name: what the plans ask for exists in the file they name."""
    folder = resources.files(PACKAGE)
    asked = set()
    for entry in folder.iterdir():
        if entry.name.endswith(".py"):
            text = entry.read_text(encoding="utf-8")
            launch = r'kernels(?:\.per_row|\.per_item)?\(\s*"(\w+)",\s*"(\w+)"'
            asked |= set(re.findall(launch, text))
    assert len(asked) > 15
    for file, kernel in asked:
        assert re.search(rf"__global__ void (__launch_bounds__\(\d+\) )?{kernel}\(", loader.read_source(PACKAGE, file))
