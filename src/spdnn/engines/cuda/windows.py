"""Weights that are larger than the GPU: windows of layers pass through two slabs of device memory.

The packed layers wait in pinned memory of the host. While the layers of one window compute, the next window is copied
into the other slab on a stream of its own; events hold back the copy until the slab is free, and the layers until they
are there. Nothing waits on the host. A layer always comes to the same place, so that what points to it is made once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .pack import PackedLayer

_SLACK = 1024  # bytes that kernels may read past the end


class HeldLayer:
    """A packed layer's arrays on the host, to be put anywhere on the device."""

    def __init__(self, packed: PackedLayer):
        self._packed = replace(packed, arrays=[])
        self._pointers = [int(array.data.ptr) for array in packed.arrays]
        self.arrays: list[np.ndarray] = [array.get() for array in packed.arrays]
        self.nbytes = packed.nbytes

    def placed(self, view: Callable[[int, np.ndarray], Any], start: int) -> PackedLayer:
        """The layer with its arrays, each at a multiple of 16 bytes, from byte `start` on. view(byte, array): the
        device's array there of that shape and type."""
        arrays, record = [], self._packed.record.copy()
        for array in self.arrays:
            arrays.append(view(start, array))
            start += -(-array.nbytes // 16) * 16
        moved = {old: int(new.data.ptr) for old, new in zip(self._pointers, arrays, strict=True)}
        moved[0] = 0  # null, and what an array without entries points to
        for name in record.dtype.names or ():
            if record.dtype[name] == np.dtype("<u8"):
                record[name] = moved[int(record[name])]
        return replace(self._packed, record=record, arrays=arrays)


class Windows:
    """Layers in `ranges` of at most `size` bytes each, through `slabs` (1 or 2) of the device's memory.

    layers : all of them as they are on the device when their window is. `held` gives its arrays away.
    """

    def __init__(self, held: Sequence[HeldLayer], ranges: Sequence[tuple[int, int]], size: int, slabs: int):
        self._xp = xp = importlib.import_module("cupy")
        self._slabs = [xp.zeros(size + _SLACK, xp.uint8) for _ in range(min(slabs, len(ranges)))]
        self._copying = xp.cuda.Stream(non_blocking=True)
        self._arrived = [xp.cuda.Event(disable_timing=True) for _ in ranges]
        self._waits: list[tuple[Any, Any]] = []
        self._host: list[tuple[Any, int]] = []
        self.layers: list[PackedLayer] = []
        for number, (first, last) in enumerate(ranges):
            slab, used = self._slabs[number % len(self._slabs)], sum(layer.nbytes for layer in held[first:last])
            pinned = xp.cuda.alloc_pinned_memory(max(1, used))
            bytes_of = np.frombuffer(pinned, np.uint8, used)
            at = 0
            for layer in held[first:last]:
                self.layers.append(layer.placed(_views(slab), at))
                start = at
                for array in layer.arrays:
                    bytes_of[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
                    start += -(-array.nbytes // 16) * 16
                layer.arrays = []
                at += layer.nbytes
            self._host.append((pinned, used))

    @property
    def slabs(self) -> int:
        return len(self._slabs)

    def bring(self, number: int, stream: Any) -> None:
        """Let `stream` go on when window `number` is there, and send for the next one. Windows come in order, from 0;
        the work on the window before has been submitted to `stream`."""
        ahead = self.slabs - 1
        wanted = range(number + ahead + 1) if number == 0 else [number + ahead]
        for following in wanted:
            if following < len(self._host):
                self._send(following, stream)
        begin, end = self._xp.cuda.Event(), self._xp.cuda.Event()
        begin.record(stream)
        stream.wait_event(self._arrived[number])
        end.record(stream)
        self._waits.append((begin, end))

    def _send(self, number: int, stream: Any) -> None:
        free = self._xp.cuda.Event(disable_timing=True)
        free.record(stream)
        self._copying.wait_event(free)
        (pinned, used), slab, runtime = self._host[number], self._slabs[number % self.slabs], self._xp.cuda.runtime
        runtime.memcpyAsync(slab.data.ptr, pinned.ptr, used, runtime.memcpyHostToDevice, self._copying.ptr)
        self._arrived[number].record(self._copying)

    def waited(self) -> float:
        """Seconds that the stream had nothing to do but to wait for weights since this was last asked; waits for it."""
        total = 0.0
        for begin, end in self._waits:
            end.synchronize()
            total += float(self._xp.cuda.get_elapsed_time(begin, end)) / 1000
        self._waits.clear()
        return total


def _views(slab: Any) -> Callable[[int, np.ndarray], Any]:
    def view(start: int, array: np.ndarray) -> Any:
        return slab[start : start + array.nbytes].view(array.dtype).reshape(array.shape)

    return view
