"""Sorting in compiled functions.

Functions that Numba caches don't call its own sorts (`x.sort()`, `np.sort`, `np.argsort`): those for one array type are
different functions of one name, told apart only by a number that each process counts by itself. Where two of them were
compiled by different processes and got the same number, a process that loads both from the cache runs one of them for
the other.
"""

from __future__ import annotations

import numba as nb


@nb.njit(cache=True, nogil=True)
def sort(values):
    """Put values, 1-D, in ascending order where they are (Shell's sort)."""
    n = values.size
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap:
        for i in range(gap, n):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
        gap //= 3
