"""As much of CuPy as the CUDA engine uses, over NumPy, with kernels compiled by g++ and run by `device.h`.

For tests where there is no GPU: the kernels and all of their driver run, slowly, on a CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

HERE = Path(__file__).parent
SMS = 3
"""Multiprocessors the device claims to have: few, since blocks run one after the other."""

_captured: list[Callable[[], None]] | None = None
_folder = tempfile.TemporaryDirectory(prefix="spdnn-kernels-")


def unavailable() -> str | None:
    if shutil.which("g++") is None:
        return "needs g++ to run CUDA kernels on the CPU"
    import platform

    return None if platform.machine() == "x86_64" else "kernels run on x86-64 CPUs only"


def _submit(work: Callable[[], None]) -> None:
    """Now, or when the graph being captured is launched."""
    if _captured is None:
        work()
    else:
        _captured.append(work)


class _Data:
    def __init__(self, array: np.ndarray):
        self._array, self.ptr = array, array.__array_interface__["data"][0]

    def memset_async(self, value: int, size: int) -> None:
        _submit(lambda: ctypes.memset(self.ptr, value, size) and None)


class Array(np.ndarray):
    """Device memory: aligned as CuPy's, with room to read a little past the end."""

    @property
    def data(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _Data(self)

    def get(self) -> np.ndarray:
        return np.array(self)


def empty(shape: Any, dtype: Any = np.float64) -> Array:
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 1024, 0xAB, np.uint8)
    start = -memory.__array_interface__["data"][0] % 512
    return memory[start : start + size].view(dtype).reshape(shape).view(Array)


def zeros(shape: Any, dtype: Any = np.float64) -> Array:
    out = empty(shape, dtype)
    out[...] = 0
    return out


def asarray(values: Any) -> Array:
    if isinstance(values, Array):
        return values
    values = np.asarray(values)
    out = empty(values.shape, values.dtype)
    out[...] = values
    return out


def ascontiguousarray(values: Any) -> Array:
    return asarray(np.array(values, order="C"))


def _wrapped(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda *arguments, **options: asarray(np.asarray(function(*arguments, **options)))


arange, searchsorted, minimum, maximum, where = map(
    _wrapped, (np.arange, np.searchsorted, np.minimum, np.maximum, np.where)
)
uint8, uint32, uint64, int64 = np.uint8, np.uint32, np.uint64, np.int64
float16, float32, float64 = np.float16, np.float32, np.float64


class _Pinned(np.ndarray):
    ptr: int


def _pinned(size: int) -> _Pinned:
    memory = np.zeros(size, np.uint8).view(_Pinned)
    memory.ptr = memory.__array_interface__["data"][0]
    return memory


class _Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self._work = work

    def launch(self, stream: Any) -> None:
        for work in self._work:
            work()


class _Stream:
    """Copies to the device on a stream of their own happen only when somebody waits for them."""

    made: ClassVar[list[_Stream]] = []

    def __init__(self, non_blocking: bool = False):
        self._waiting: list[Callable[[], None]] = []
        self.made.append(self)
        self.ptr = len(self.made)

    def wait_event(self, event: _Event) -> None:
        if event.stream is not self and event.stream is not None:
            event.stream.finish()

    def finish(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        assert _captured is None, "a capture may not wait"
        self.finish()

    def begin_capture(self) -> None:
        global _captured
        _captured = []

    def end_capture(self) -> _Graph:
        global _captured
        graph, _captured = _Graph(_captured or []), None
        return graph


class _Event:
    def __init__(self, disable_timing: bool = False):
        pass

    def record(self, stream: Any = None) -> None:
        self.seconds, self.stream = time.perf_counter(), stream

    def synchronize(self) -> None:
        pass


class _Device:
    id = 0
    compute_capability = "90"
    attributes = {  # noqa: RUF012
        "MultiProcessorCount": SMS,
        "ClockRate": 1_000_000,
        "MaxSharedMemoryPerBlockOptin": 232448,
        "MaxSharedMemoryPerMultiprocessor": 233472,
    }

    def __init__(self, number: int = 0):
        pass

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Function:
    max_dynamic_shared_size_bytes = 49152

    def __init__(self, launch: Any, types: list[Any], cooperative: bool):
        self._launch, self._types, self._cooperative = launch, types, cooperative

    def __call__(self, grid: tuple, block: tuple, arguments: tuple, shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert not self._cooperative or np.prod(grid) <= SMS, "a cooperative grid runs at the same time"
        assert len(arguments) == len(self._types), f"{len(arguments)} arguments for {len(self._types)} parameters"
        values = []
        for argument, kind in zip(arguments, self._types, strict=True):
            if isinstance(argument, np.ndarray):
                assert kind is ctypes.c_void_p
                values.append(kind(argument.__array_interface__["data"][0]))
            else:
                assert isinstance(argument, np.generic), f"{argument!r}: kernels take NumPy's scalars"
                wide = ctypes.sizeof(kind) == argument.dtype.itemsize
                assert wide, f"{argument.dtype} where the kernel takes {kind.__name__}"
                values.append(kind(argument.item() or 0) if kind is not ctypes.c_void_p else kind(int(argument)))

        def run() -> None:
            pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
            sizes = [(ctypes.c_uint * 3)(*(*dims, 1, 1)[:3]) for dims in (grid, block)]
            self._launch(*sizes, ctypes.c_size_t(shared_mem), pointers)

        _submit(run)


_KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__\w+__\([^)]*\)\s*)*(\w+)\(([^)]*)\)')
_SHARED = re.compile(r"extern __shared__(?: __align__\(\d+\))? (\w+) (\w+)\[\];")
_SCALARS = {"float": ctypes.c_float, "double": ctypes.c_double, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64}


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...], backend: str, enable_cooperative_groups: bool = False):
        self._code, self._options, self._cooperative = code, options, enable_cooperative_groups

    def compile(self) -> None:
        header = (HERE / "device.h").read_text(encoding="utf-8")
        source = '#include "device.h"\n' + _SHARED.sub(r"\1* \2 = (\1*)emulator::shared_memory;", self._code)
        self._kernels = {name: parameters for name, parameters in _KERNEL.findall(self._code)}
        for name in self._kernels:
            source += (
                f'extern "C" void launch_{name}(const unsigned* grid, const unsigned* block, size_t shared, '
                f"void** arguments) {{ emulator::launch({name}, grid, block, shared, arguments); }}\n"
            )
        defines = [option for option in self._options if option.startswith("-D")]
        if self._cooperative:
            defines += ["-DCONCURRENT", "-pthread"]
        key = hashlib.sha256((header + source + " ".join(defines)).encode()).hexdigest()[:20]
        library = Path(_folder.name) / f"{key}.so"
        if not library.exists():
            text = library.with_suffix(".cpp")
            text.write_text(source, encoding="utf-8")
            flags = [
                "-std=c++17",
                "-O1",
                "-mfma",
                "-mf16c",
                "-ffp-contract=off",
                "-fno-strict-aliasing",
                "-fno-gnu-unique",  # `__shared__` variables of inline functions are each module's own
                "-w",
                "-shared",
                "-fPIC",
            ]
            done = subprocess.run(
                ["g++", *flags, *defines, f"-I{HERE}", str(text), "-o", str(library)], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[:4000]
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> _Function:
        types = []
        for parameter in self._kernels[name].split(","):
            kind = re.sub(r"\bconst\b|\w+\s*$", "", parameter).strip()
            types.append(ctypes.c_void_p if "*" in parameter else _SCALARS[kind])
        return _Function(self._library[f"launch_{name}"], types, self._cooperative)


class _Pool:
    def free_all_blocks(self) -> None:
        pass

    def total_bytes(self) -> int:
        return 0


def get_default_memory_pool() -> _Pool:
    return _Pool()


def _memcpy(to: int, source: int, size: int, kind: int, stream: int) -> None:
    def work() -> None:
        ctypes.memmove(to, source, size)

    if kind == runtime.memcpyHostToDevice:
        _Stream.made[stream - 1]._waiting.append(work)
    else:
        _submit(work)


_Stream()  # the current one, always

__version__ = "emulated"
runtime = types.SimpleNamespace(
    memcpyDeviceToHost=2,
    memGetInfo=lambda: (4 << 30, 8 << 30),
    getDeviceCount=lambda: 1,
    runtimeGetVersion=lambda: 0,
    driverGetVersion=lambda: 0,
    memcpyHostToDevice=1,
    memcpyDeviceToDevice=3,
    memcpyAsync=_memcpy,
)
cuda = types.SimpleNamespace(
    runtime=runtime,
    Device=_Device,
    Stream=_Stream,
    Event=_Event,
    get_elapsed_time=lambda begin, end: 1000 * (end.seconds - begin.seconds),
    get_current_stream=lambda: _Stream.made[0],
    alloc_pinned_memory=_pinned,
    compiler=types.SimpleNamespace(CompileException=AssertionError),
)
