"""Places of a tile's values in shared memory where it fits there only once (`kernels/placed.cu`).

Outputs are computed pass by pass. Those of a pass take places that hold no value, or one that was read for the last
time in that pass or before. Layers whose outputs share inputs with few others have enough of those where outputs stand
in an order (`along`) in which neighbours share inputs. A layer that hasn't goes through main memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ...groups import input_groups
from ...network import SparseLayer
from .chunks import cut_groups, walk

ROWS = 14
"""Rows of a tile."""
FIELD = 16
"""Bits of a neuron in a tile of bit-packed rows."""
BYTES = 4 * ROWS
"""A place takes."""
NOWHERE = 0xFFFF
_PIECE = 16  # outputs with the same inputs that stay together


@dataclass(frozen=True, eq=False)
class Placing:
    """of : uint16, the place of each unit in its turn, NOWHERE for none. through : there are too few free places."""

    of: np.ndarray
    through: bool


def along(layer: SparseLayer) -> np.ndarray:
    """int64 (outputs, 1): the outputs in an order in which neighbours share inputs."""
    groups = input_groups(layer)
    begin, size = cut_groups(groups.starts, _PIECE)
    order = walk(layer, groups.order[begin])
    begin, size = begin[order], size[order]
    within = np.arange(layer.outputs) - np.repeat(np.cumsum(size) - size, size)
    return groups.order[np.repeat(begin, size) + within][:, None]


def place_units(
    start: np.ndarray, inputs: np.ndarray, order: np.ndarray, before: np.ndarray, places: int, together: int
) -> Placing:
    """Places for the units in `order` (−1: none), `together` of which are a pass.

    start : int64 (units + 1,), where each unit's `inputs` begin. before : place of each input. places : of a tile, the
    last of which is left free.
    """
    of, enough = _place(start, inputs, order, before, places - 1, together)
    if not enough:
        of = np.where(order < 0, NOWHERE, np.cumsum(order >= 0) - 1)
    return Placing(of.astype(np.uint16), not enough)


@nb.njit(cache=True, nogil=True)
def _place(start, inputs, order, before, places, together):
    last = np.full(before.size, -1, np.int64)  # pass that reads an input last
    for i in range(order.size):
        if order[i] >= 0:
            for k in range(start[order[i]], start[order[i] + 1]):
                last[inputs[k]] = i // together
    begin = np.zeros(order.size // together + 3, np.int64)
    for n in range(before.size):
        begin[last[n] + 2] += 1
    for p in range(begin.size - 1):
        begin[p + 1] += begin[p]
    fill = begin.copy()
    ending = np.empty(before.size, np.int64)  # inputs, by their last pass
    free = np.ones(places, np.bool_)
    for n in range(before.size):
        ending[fill[last[n] + 1]] = n
        fill[last[n] + 1] += 1
        free[before[n]] = last[n] < 0
    of = np.full(order.size, NOWHERE, np.int64)
    for first in range(0, order.size, together):
        p = first // together
        for i in range(begin[p + 1], begin[p + 2]):
            free[before[ending[i]]] = True
        at = 0
        for i in range(first, min(first + together, order.size)):
            if order[i] < 0:
                continue
            while at < places and not free[at]:
                at += 1
            if at == places:
                return of, False
            of[i] = at
            free[at] = False
    return of, True


@nb.njit(cache=True, nogil=True)
def loads(inputs):
    """How often eight lanes load on average to have an entry each, inputs being in the places of their numbers: the
    largest number of different ones in the same banks. inputs : (steps, lanes, entries)."""
    total = 0
    found = np.empty(8, np.int64)
    for s in range(inputs.shape[0]):
        for first in range(0, inputs.shape[1], 8):
            for e in range(inputs.shape[2]):
                most = 1
                for i in range(8):
                    found[i] = inputs[s, first + i, e]
                    same = 1
                    for j in range(i):
                        if found[j] == found[i]:
                            same = 0
                            break
                        same += found[j] % 8 == found[i] % 8
                    most = max(most, same)
                total += most
    return total / max(1, inputs.size // 8)
