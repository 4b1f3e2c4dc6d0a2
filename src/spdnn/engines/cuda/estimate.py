"""About how long a run takes, told before it: a model of three terms, and what they are on the GPU at hand.

A layer takes the longer of its bytes (`spdnn.engine.least_bytes`) over the memory's bandwidth, and of its loads of
activations over the rate at which multiprocessors load from shared memory, 32 floats or 64 halves a cycle each, or of
its multiply-adds over theirs, 128 a cycle; besides, each kernel costs LAUNCH_SECONDS. How many rows live in a layer
isn't known before the run, so all are taken to live and to differ.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...engine import least_bytes

LAUNCH_SECONDS = 2e-6
"""Of a kernel in a graph, about; `benchmarks/cuda_micro.py` measures it."""
_COPIED = 1 << 28
_MULTIPLY_ADDS = 4
"""Times the rate of loads that multiply-adds are done at: 128 a cycle and multiprocessor."""


@dataclass(frozen=True)
class Rates:
    """Of a GPU: bytes a second of main memory, and floats a second from shared memory."""

    memory: float
    gather: float


@functools.cache
def rates(device: int) -> Rates:
    """The current device's: memory as measured by a copy, once; shared memory from its clock."""
    xp: Any = importlib.import_module("cupy")
    facts, runtime = xp.cuda.Device(device).attributes, xp.cuda.runtime
    gather = 32.0 * facts["MultiProcessorCount"] * 1000 * facts.get("ClockRate", 1_500_000)
    size = min(_COPIED, int(runtime.memGetInfo()[0]) // 8 // 16 * 16)
    stream, seconds = xp.cuda.Stream(non_blocking=True), []
    with stream:
        one, other = xp.zeros(size, xp.uint8), xp.zeros(size, xp.uint8)
        for _ in range(3):
            begin, end = xp.cuda.Event(), xp.cuda.Event()
            begin.record(stream)
            runtime.memcpyAsync(one.data.ptr, other.data.ptr, size, runtime.memcpyDeviceToDevice, stream.ptr)
            end.record(stream)
            end.synchronize()
            seconds.append(float(xp.cuda.get_elapsed_time(begin, end)) / 1000)
        del one, other
        stream.synchronize()
    return Rates(2 * size / max(1e-9, min(seconds)), gather)


def expected_seconds(
    rows: int,
    widths: Sequence[int],
    entries: Sequence[tuple[int, int]],
    weights: Sequence[int],
    steps: Sequence[tuple[int, int]],
    launches: int,
    of: Rates,
    activation: int = 4,
) -> float:
    """Seconds for all layers with all rows live.

    widths : of all levels. entries : of each layer the padded entries and the outputs that share one. weights : bytes
    of each layer. steps : layers first … last − 1 whose rows stay in shared memory. launches : kernels in all.
    activation : bytes of one.
    """
    total = LAUNCH_SECONDS * launches
    for first, last in steps:
        read = widths[first] / 8 if first == 0 else activation * widths[first]
        moved = least_bytes(rows, read, activation * widths[last], sum(weights[first:last])) / of.memory
        loads = sum(rows * e * max(activation / 4, g / _MULTIPLY_ADDS) for e, g in entries[first:last]) / of.gather
        total += max(moved, loads)
    return total
