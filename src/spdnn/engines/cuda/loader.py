"""CUDA sources to machine code: the only place that names CuPy's RawModule.

A `.cu` file is package data in a folder `kernels` of an engine. `load` compiles it with NVRTC for the GPU at
hand, keeps the machine code in CuPy's cache on disk (``CUPY_CACHE_DIR``) and gives a module whose functions can
be launched. `compile_source` compiles for any architecture and needs no GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any

from ...errors import InputError, UnavailableError

STANDARD = ("--std=c++17",)
_INCLUDE = re.compile(r'^[ \t]*#include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)


def unavailable() -> str | None:
    """Why no CUDA kernel can be compiled and run here and what to install, or None. Never raises."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except Exception as error:
        return f"CuPy can't be imported ({error}); pip install 'spdnn[cuda13]' (or 'spdnn[cuda12]')."
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return None
        return "no NVIDIA GPU is visible."
    except Exception as error:
        return f"no NVIDIA GPU can be used: {error}"


def kernel_names(package: str) -> list[str]:
    """Names of the `.cu` files in the folder `kernels` of a package, without the suffix."""
    folder = importlib.resources.files(package) / "kernels"
    return sorted(entry.name[:-3] for entry in folder.iterdir() if entry.name.endswith(".cu"))


def read_source(package: str, name: str) -> str:
    """`kernels/{name}.cu` of a package, files it includes by ``#include "…"`` put in their place once each.

    Included files are looked for in the package's `kernels`, then in those of this package. Raises InputError
    where a file is missing.
    """
    return _expand(package, f"{name}.cu", set())


def _expand(package: str, filename: str, seen: set[str]) -> str:
    text = None
    for place in dict.fromkeys((package, __package__ or "")):
        entry = importlib.resources.files(place) / "kernels" / filename
        if entry.is_file():
            text = entry.read_text(encoding="utf-8")
            break
    if text is None:
        raise InputError(f"Expected a CUDA source kernels/{filename} in {package}; there is none.")

    def include(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return _expand(package, match[1], seen)

    return _INCLUDE.sub(include, text)


def compile_options(defines: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """NVRTC options for a set of preprocessor definitions."""
    return (*STANDARD, *(f"-D{key}={value}" for key, value in (defines or {}).items()))


def compile_source(
    package: str, name: str, *, arch: str, defines: Mapping[str, Any] | None = None, ptx: bool = False
) -> bytes:
    """Compile a kernel file for an architecture such as ``"sm_90"``; needs NVRTC, no GPU.

    Returns the machine code (CUBIN), or PTX text. Raises UnavailableError where CuPy or NVRTC is missing and
    InputError with the compiler's messages where the source doesn't compile.
    """
    try:
        nvrtc: Any = importlib.import_module("cupy").cuda.nvrtc
    except Exception as error:
        raise UnavailableError(f"CuPy can't be imported ({error}); pip install 'spdnn[nvrtc]'.") from None
    target = arch.replace("sm_", "compute_") if ptx else arch
    program = nvrtc.createProgram(read_source(package, name), f"{name}.cu", [], [])
    try:
        try:
            nvrtc.compileProgram(program, [*compile_options(defines), f"-arch={target}"])
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).strip()
            raise InputError(f"{package} kernels/{name}.cu doesn't compile for {arch} ({error}):\n{log}") from None
        code = nvrtc.getPTX(program) if ptx else nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)
    return code if isinstance(code, bytes) else code.encode()


def load(package: str, name: str, defines: Mapping[str, Any] | None = None, *, cooperative: bool = False) -> Any:
    """A kernel file compiled for the current GPU: a `cupy.RawModule`; `module.get_function(name)` launches.

    `defines` are preprocessor definitions; each set of them is a compilation of its own. Compiled once per
    process and GPU architecture, and once per machine thanks to CuPy's cache. `cooperative`: all blocks of a grid run
    at the same time, so that they may wait for each other; CuPy makes a grid smaller (with a warning) that can't.
    Raises as `compile_source`.
    """
    why = unavailable()
    if why is not None:
        raise UnavailableError(f"CUDA kernels can't run here: {why}")
    cupy: Any = importlib.import_module("cupy")
    device = cupy.cuda.Device()
    return _load(package, name, compile_options(defines), int(device.id), cooperative)


@functools.cache
def _load(package: str, name: str, options: tuple[str, ...], device: int, cooperative: bool) -> Any:
    cupy: Any = importlib.import_module("cupy")
    failure = cupy.cuda.compiler.CompileException

    how = {"enable_cooperative_groups": True} if cooperative else {}
    module = cupy.RawModule(code=read_source(package, name), options=options, backend="nvrtc", **how)
    try:
        module.compile()
    except failure as error:
        raise InputError(f"{package} kernels/{name}.cu doesn't compile here:\n{error}") from None
    return module
