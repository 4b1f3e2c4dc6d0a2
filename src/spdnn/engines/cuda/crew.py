"""A few rows through many layers by many multiprocessors together (`kernels/crew.cu`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import loader
from .pack import TURN_UNITS, PackedNetwork

PACKAGE = "spdnn.engines.cuda"
ROWS = 16
"""Most rows at any time; a power of two."""
THREADS = 256
AHEAD = 4
"""Layers whose weights are on their way."""
BUFFERS = 4
"""Layers whose outputs are held for blocks that are behind."""
DENSE = 2
"""A block whose share of a layer has an entry for that many inputs, or more, reads all inputs."""
OUTPUTS = 32
"""Outputs of the widest layer for each block, at least: a slice of the second form."""
FEW_BANDWIDTH = 6e10
"""Bytes of weights a second that one block takes in by itself (`few`): estimated."""
LAYER_SECONDS = 1.2e-6
"""What a layer takes whatever its size, mostly the exchange of activations: estimated."""
ROW_SECONDS = 1e-7
"""What each row adds to a layer: estimated."""


def crew_rows(packed: PackedNetwork) -> int:
    """Up to how many rows blocks do better together than each with a row of its own, whose time is that of reading
    all weights; 0 where they never do."""
    alone = sum(packed.unit_bytes) / len(packed.unit_bytes) / FEW_BANDWIDTH
    return max(0, min(ROWS, int((alone - LAYER_SECONDS) / ROW_SECONDS)))


@dataclass(frozen=True)
class CrewShape:
    """blocks : of the grid. span : values of a level, rounded up. together : rows computed at a time, a power of two.
    room : bytes for a block's share of a layer; larger ones are read where they are. shared : bytes a block takes."""

    blocks: int
    span: int
    together: int
    room: int
    shared: int


def crew_shape(packed: PackedNetwork, multiprocessors: int, shared_limit: int) -> CrewShape:
    """For all layers of a network."""
    span = -(-max(packed.widths[1:]) // 128) * 128
    blocks = min(multiprocessors, THREADS, -(-max(units * g for units, g, _ in packed.units_of) // OUTPUTS))
    blocks = max(1, blocks)
    index = 4 if packed.wide else 2
    share = max(
        _share_bytes(units * g, nbytes, blocks)
        for (units, g, _), nbytes in zip(packed.units_of, packed.unit_bytes, strict=True)
    )
    fixed = span * index + span // 8
    free = shared_limit - 2048 - fixed
    together = ROWS
    while together > 1 and 4 * span * together + (AHEAD + 1) * share > free:
        together //= 2
    room = min(2 * share, (free - 4 * span * together) // (AHEAD + 1)) // 16 * 16
    return CrewShape(blocks, span, together, room, fixed + 4 * span * together + (AHEAD + 1) * room)


def _share_bytes(outputs: int, nbytes: int, blocks: int) -> int:
    """Of a layer of `nbytes`, a little more than evenly shared out in whole slices."""
    share = -(-outputs // (blocks * TURN_UNITS)) * TURN_UNITS
    return nbytes * share * 5 // (4 * max(1, outputs)) + 6 * 16


class Crew:
    """The kernel for one network, and what its blocks exchange values in."""

    def __init__(self, xp: Any, packed: PackedNetwork):
        self._packed, self.rows = packed, crew_rows(packed)
        if not self.rows:
            return
        device = xp.cuda.Device().attributes
        limit = device["MaxSharedMemoryPerBlockOptin"]
        self.shape = shape = crew_shape(packed, device["MultiProcessorCount"], limit)
        defines: dict[str, Any] = {"THREADS": THREADS, "AHEAD": AHEAD, "BUFFERS": BUFFERS, "DENSE": DENSE}
        defines["INDEX"] = "u32" if packed.wide else "u16"
        self._kernel = loader.load(PACKAGE, "crew", defines, cooperative=True).get_function("crew")
        self._kernel.max_dynamic_shared_size_bytes = shape.shared
        values = BUFFERS * shape.span * ROWS
        self._words = xp.zeros(values + shape.blocks, xp.uint64)
        self._said = self._words[values:]

    @staticmethod
    def bytes_for(packed: PackedNetwork) -> int:
        """Device bytes of the words, about."""
        return 8 * BUFFERS * ROWS * (max(packed.widths[1:]) + 128) if crew_rows(packed) else 0

    def start(self) -> None:
        """Before the first layer of a run: words of an earlier run look like those of this one."""
        if self.rows:
            self._words.data.memset_async(0, self._words.nbytes)

    def launch(self, first: int, last: int, source: tuple[Any, ...], to: tuple[Any, ...], drop: bool) -> None:
        """Layers first … last − 1 if there are 1 … `rows` rows. source, to : as the kernel takes them."""
        if not self.rows:
            return
        u32, shape = np.uint32, self.shape
        self._kernel(
            (shape.blocks,),
            (THREADS,),
            (
                self._packed.table, u32(first), u32(last), *source, *to, self._words, self._said, u32(shape.span),
                u32(shape.together), u32(shape.room), u32(drop), u32(self.rows),
            ),
            shared_mem=shape.shared,
        )  # fmt: skip
