"""Device memory that is counted: named buffers that grow and keep what they have, within a limit."""

from __future__ import annotations

import importlib
import weakref
from typing import Any

import numpy as np

from ...errors import MemoryLimitError

_ROUND = 1 << 9
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3


class DeviceMemory:
    """All device memory of a plan.

    limit : bytes it may hold at a time. used, peak : bytes held now and at most so far; `peak_of[kind]` the most
    held for one kind of thing. Memory that CUDA and cuSPARSE take for themselves is not counted.
    """

    def __init__(self, limit: int):
        cupy: Any = importlib.import_module("cupy")
        self.runtime = cupy.cuda.runtime
        self._memory = cupy.cuda.Memory
        self._failure = cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError
        self.limit, self.used, self.peak = int(limit), 0, 0
        self.used_by: dict[str, int] = {}
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()
        self.peak_of: dict[str, int] = {}

    def buffer(self, kind: str, nbytes: int = 0) -> Buffer:
        """A new buffer that counts for `kind`, of no size yet or of `nbytes`."""
        buffer = Buffer(self, kind)
        self._buffers.add(buffer)
        if nbytes:
            buffer.need(nbytes)
        return buffer

    def take(self, kind: str, nbytes: int) -> Any:
        """CuPy's memory object of `nbytes`. Raises MemoryLimitError."""
        if self.used + nbytes > self.limit:
            raise self._no_room(kind, nbytes)
        try:
            memory = self._memory(nbytes)
        except self._failure as error:
            raise self._no_room(kind, nbytes) from error
        self._count(kind, nbytes)
        self.peak = max(self.peak, self.used)
        self.peak_of[kind] = max(self.peak_of.get(kind, 0), self.used_by[kind])
        return memory

    def give(self, kind: str, nbytes: int) -> None:
        self._count(kind, -nbytes)

    def close(self) -> None:
        """Give everything back."""
        for buffer in list(self._buffers):
            buffer.free()

    def _count(self, kind: str, nbytes: int) -> None:
        self.used += nbytes
        self.used_by[kind] = self.used_by.get(kind, 0) + nbytes

    def _no_room(self, kind: str, nbytes: int) -> MemoryLimitError:
        return MemoryLimitError(
            f"Not enough memory: {nbytes:,} bytes more for {kind}, with {self.used:,} in use and a limit of "
            f"{self.limit:,} bytes on the device.",
            needed=self.used + nbytes,
            limit=self.limit,
        )


class Buffer:
    """Device memory at `ptr` that only grows. `nbytes` is its size."""

    def __init__(self, memory: DeviceMemory, kind: str):
        self._owner, self._kind = memory, kind
        self._memory: Any = None
        self.ptr, self.nbytes = 0, 0

    def need(self, nbytes: int, *, keep: int = 0, slack: float = 0.0) -> int:
        """Make it at least `nbytes`, and the fraction `slack` larger where it has to grow; returns the address.

        The first `keep` bytes are kept; the others are undefined after growing.
        """
        if nbytes <= self.nbytes:
            return self.ptr
        size = -(-int(nbytes * (1 + slack)) // _ROUND) * _ROUND
        if not keep:
            self.free()
        try:
            memory = self._owner.take(self._kind, size)
        except MemoryLimitError:
            if size < nbytes * (1 + slack / 2):
                raise
            size = -(-nbytes // _ROUND) * _ROUND
            memory = self._owner.take(self._kind, size)
        if keep:
            self._owner.runtime.memcpy(memory.ptr, self.ptr, keep, _ON_DEVICE)
            self.free()
        self._memory, self.ptr, self.nbytes = memory, memory.ptr, size
        return self.ptr

    def free(self) -> None:
        if self._memory is not None:
            self._owner.give(self._kind, self.nbytes)
        self._memory, self.ptr, self.nbytes = None, 0, 0

    def __del__(self) -> None:
        self.free()

    def upload(self, array: np.ndarray) -> int:
        """Make it hold a host array; returns the address."""
        array = np.ascontiguousarray(array)
        self.need(max(1, array.nbytes))
        if array.nbytes:
            self._owner.runtime.memcpy(self.ptr, array.ctypes.data, array.nbytes, _TO_DEVICE)
        return self.ptr

    def download(self, dtype: Any, count: int, *, offset: int = 0) -> np.ndarray:
        """`count` items from the item number `offset` on, on the host."""
        out = np.empty(count, dtype)
        if count:
            self._owner.runtime.memcpy(out.ctypes.data, self.ptr + offset * out.itemsize, out.nbytes, _TO_HOST)
        return out


def free_bytes() -> int:
    """Bytes of the current device that are free once CuPy's pool has given back what nobody uses."""
    cupy: Any = importlib.import_module("cupy")
    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.runtime.memGetInfo()[0])
