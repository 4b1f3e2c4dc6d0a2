"""Layers over tiles, and the depth-first run of many tiles through many layers.

A tile holds `lanes` rows neuron-major. A worker takes one source tile after the other through the layers. Once
enough of a tile's rows have died, the living ones wait in the buffer of their level until they fill a tile again;
full tiles of deeper levels go first, so a worker needs one buffer per checkpoint level and no more, however many
rows there are. Rows that reach the last layer of the segment are written to the worker's share of the pool.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from .vector import alive, bits_block, block, compress, copy_lanes, peek

LAYER_FIELDS = 7
"""int64 columns of a layer table: blocks, address of the block table, of indices, of weights, of biases,
flags (1: bias to every entry, 2: uint32 indices), outputs. Block table rows are int64 pairs: byte offset
of the first index, and inputs * 8 + outputs of the block."""

TILES, BITS, CSR = 0, 1, 2
"""Kinds of source: float tiles, bit tiles, CSR rows."""

_jit = nb.njit(nogil=True, cache=True, boundscheck=False)


@_jit
def run_layer(lanes, table, bounds, x, x_stride, y, bits):
    """One layer (a row of the layer table, its lower and upper bound) from tile x (or bit tile) to tile y."""
    stride = lanes * 4
    row, index = table[1], table[2]
    weight, bias = table[3], table[4]
    every = (table[5] & 1) != 0
    wide = (table[5] & 2) != 0
    lower, upper = bounds[0], bounds[1]
    for _ in range(table[0]):
        at = index + peek(row)
        shape = peek(row + 8)
        row += 16
        count, group = shape >> 3, shape & 7
        if bits and lanes == 64:
            if wide:
                if group == 4:
                    bits_block(64, 4, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
                elif group == 2:
                    bits_block(64, 2, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
                else:
                    bits_block(64, 1, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 4:
                bits_block(64, 4, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 2:
                bits_block(64, 2, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
            else:
                bits_block(64, 1, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
        elif bits:
            if wide:
                if group == 4:
                    bits_block(16, 4, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
                elif group == 2:
                    bits_block(16, 2, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
                else:
                    bits_block(16, 1, 1, x, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 4:
                bits_block(16, 4, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 2:
                bits_block(16, 2, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
            else:
                bits_block(16, 1, 0, x, count, at, weight, bias, y, stride, lower, upper, every)
        elif lanes == 64:
            if wide:
                if group == 4:
                    block(64, 4, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
                elif group == 2:
                    block(64, 2, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
                else:
                    block(64, 1, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 4:
                block(64, 4, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 2:
                block(64, 2, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            else:
                block(64, 1, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        elif lanes == 16:
            if wide:
                if group == 4:
                    block(16, 4, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
                elif group == 2:
                    block(16, 2, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
                else:
                    block(16, 1, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 4:
                block(16, 4, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 2:
                block(16, 2, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            else:
                block(16, 1, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        elif wide:
            if group == 4:
                block(4, 4, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            elif group == 2:
                block(4, 2, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
            else:
                block(4, 1, 1, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        elif group == 4:
            block(4, 4, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        elif group == 2:
            block(4, 2, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        else:
            block(4, 1, 0, x, x_stride, count, at, weight, bias, y, stride, lower, upper, every)
        weight += 4 * count * group
        bias += 4 * group
        y += stride * group


@_jit
def alive_lanes(lanes, x, stride, neurons):
    if lanes == 64:
        return alive(64, x, stride, neurons)
    if lanes == 16:
        return alive(16, x, stride, neurons)
    return alive(4, x, stride, neurons)


@_jit
def pack_lanes(lanes, x, stride, y, y_stride, neurons, mask):
    if lanes == 64:
        compress(64, x, stride, y, y_stride, neurons, mask)
    elif lanes == 16:
        compress(16, x, stride, y, y_stride, neurons, mask)
    else:
        compress(4, x, stride, y, y_stride, neurons, mask)


@_jit
def copy_tile(lanes, x, x_stride, y, stride, neurons):
    if lanes == 64:
        copy_lanes(64, x, x_stride, y, stride, neurons)
    elif lanes == 16:
        copy_lanes(16, x, x_stride, y, stride, neurons)
    else:
        copy_lanes(4, x, x_stride, y, stride, neurons)


@_jit
def advance(
    lanes,
    tables,
    bounds,
    check,
    may_drop,
    threshold,
    kind,
    source,
    source_words,
    csr_indptr,
    csr_indices,
    csr_data,
    source_slots,
    source_ids,
    source_counts,
    first,
    last,
    flush,
    scratch,
    waiting,
    waiting_ids,
    waiting_counts,
    pool,
    pool_ids,
    pool_counts,
    slot_first,
    slot_step,
    slots_used,
):
    """Source tiles first..last through a segment of layers, as one worker.

    tables, bounds : the layers of the segment.
    check : int64 (layers + 1,), for level k of the segment the waiting buffer of rows alive at it, or -1; level
        `layers` always has one. may_drop : bool (layers + 1,), whether dead rows may be dropped at the level.
    threshold : rows alive in a tile from which on it goes on without being repacked.
    kind : TILES: `source` float32 (slots, neurons * lanes). BITS: `source_words` uint64 (slots * lanes / 64,
        inputs).
        CSR: the csr arrays, whose rows are those of source_ids.
    source_slots : int64 (tiles,), the slot of each source tile. source_ids : int32 (slots, lanes), source_counts
        : int64 (slots,), which rows and how many are in each slot.
    scratch : float32 (2, neurons * lanes). waiting : float32 (buffers, 2 * neurons * lanes) with stride 2 * lanes,
    waiting_ids : int32 (buffers, 2 * lanes), waiting_counts : int64 (buffers,).
    pool, pool_ids, pool_counts : like the source; this worker's slots are slot_first + i * slot_step,
        slots_used int64 (1,) of them filled. flush : empty the waiting buffers as well.
    """
    layers = tables.shape[0]
    stride, wide_stride = lanes * 4, lanes * 8
    tile_a, tile_b = scratch[0].ctypes.data, scratch[1].ctypes.data
    ids = np.empty(lanes, np.int32)
    full = np.uint64(0xFFFFFFFFFFFFFFFF)
    tile = first
    while True:
        level = -1
        for k in range(layers, 0, -1):
            if check[k] >= 0 and waiting_counts[check[k]] >= lanes:
                level = k
                break
        if level < 0:
            if tile < last:
                level = 0
            elif flush:
                for k in range(1, layers + 1):
                    if check[k] >= 0 and waiting_counts[check[k]] > 0:
                        level = k
                        break
                if level < 0:
                    return
            else:
                return
        # take a tile of rows, run the first layer on it
        x, y = tile_a, tile_b
        if level == 0:
            slot = source_slots[tile]
            rows = source_counts[slot]
            for r in range(rows):
                ids[r] = source_ids[slot, r]
            if kind == BITS:
                parts = 64 // lanes
                words = source_words[slot // parts].ctypes.data + slot % parts * (lanes // 8)
                run_layer(lanes, tables[0], bounds[0], words, 8, x, True)
            elif kind == TILES:
                run_layer(lanes, tables[0], bounds[0], source[slot].ctypes.data, stride, x, False)
            else:
                scratch[1, : source_words.shape[1] * lanes] = 0
                for r in range(rows):
                    for e in range(csr_indptr[ids[r]], csr_indptr[ids[r] + 1]):
                        scratch[1, csr_indices[e] * lanes + r] = csr_data[e]
                run_layer(lanes, tables[0], bounds[0], y, stride, x, False)
            tile += 1
        else:
            buffer = check[level]
            base = waiting[buffer].ctypes.data
            rows = min(lanes, waiting_counts[buffer])
            left = waiting_counts[buffer] - rows
            neurons = tables[level - 1, 6]
            for r in range(rows):
                ids[r] = waiting_ids[buffer, r]
            if level == layers:
                slot = slot_first + slots_used[0] * slot_step
                slots_used[0] += 1
                copy_tile(lanes, base, wide_stride, pool[slot].ctypes.data, stride, neurons)
                pool_counts[slot] = rows
                pool_ids[slot, :rows] = ids[:rows]
            else:
                run_layer(lanes, tables[level], bounds[level], base, wide_stride, x, False)
            if left > 0:
                copy_tile(lanes, base + stride, wide_stride, base, wide_stride, neurons)
                for r in range(left):
                    waiting_ids[buffer, r] = waiting_ids[buffer, lanes + r]
            waiting_counts[buffer] = left
            if level == layers:
                continue
        level += 1
        # go on with it until its rows have thinned out or the segment ends
        present = full >> np.uint64(64 - rows)
        while True:
            neurons = tables[level - 1, 6]
            mask = present
            buffer = check[level]
            if buffer >= 0:
                if may_drop[level]:
                    mask &= alive_lanes(lanes, x, stride, neurons)
                living = 0
                for r in range(rows):
                    if (mask >> np.uint64(r)) & np.uint64(1):
                        living += 1
                if living == 0:
                    break
                if level == layers or living <= threshold:
                    start = waiting_counts[buffer]
                    base = waiting[buffer].ctypes.data + start * 4
                    pack_lanes(lanes, x, stride, base, wide_stride, neurons, mask)
                    for r in range(rows):
                        if (mask >> np.uint64(r)) & np.uint64(1):
                            waiting_ids[buffer, start] = ids[r]
                            start += 1
                    waiting_counts[buffer] = start
                    break
            run_layer(lanes, tables[level], bounds[level], x, stride, y, False)
            x, y = y, x
            level += 1


@_jit
def transpose_bits(words, first, tiles):
    """Rows of bit-packed words (rows, words) to bit tiles: tiles uint64 (n, 64 * words), row `64 * first` on."""
    a = np.empty(64, np.uint64)
    for t in range(tiles.shape[0]):
        start = 64 * (first + t)
        count = min(64, words.shape[0] - start)
        for w in range(words.shape[1]):
            for r in range(count):
                a[r] = words[start + r, w]
            a[count:] = 0
            half = 32
            mask = np.uint64(0x00000000FFFFFFFF)
            while half:
                shift = np.uint64(half)
                for k in range(0, 64, 2 * half):
                    for j in range(k, k + half):
                        t1 = ((a[j] >> shift) ^ a[j + half]) & mask
                        a[j + half] ^= t1
                        a[j] ^= t1 << shift
                half >>= 1
                mask ^= mask << np.uint64(half)
            for c in range(64):
                if 64 * w + c < tiles.shape[1]:
                    tiles[t, 64 * w + c] = a[c]


@_jit
def tile_dense(rows, first, tiles, lanes):
    """Rows of a float (rows, columns) array to tiles float32 (n, columns * lanes), row `lanes * first` on."""
    columns = rows.shape[1]
    for t in range(tiles.shape[0]):
        start = lanes * (first + t)
        count = min(lanes, rows.shape[0] - start)
        for c0 in range(0, columns, 16):
            for r in range(count):
                for c in range(c0, min(c0 + 16, columns)):
                    tiles[t, c * lanes + r] = rows[start + r, c]
            for c in range(c0, min(c0 + 16, columns)):
                tiles[t, c * lanes + count : (c + 1) * lanes] = 0


@_jit
def hash_tiles(pool, slots, lanes, neurons, out):
    """out uint64 (slots, lanes): a hash of each lane's values, the same wherever the row stands."""
    for s in range(slots.size):
        bits = pool[slots[s]].view(np.uint32)
        h = out[s]
        h[:] = 0
        for i in range(neurons):
            for r in range(lanes):
                h[r] = (h[r] ^ np.uint64(bits[i * lanes + r])) * np.uint64(0x9E3779B97F4A7C15)
                h[r] ^= h[r] >> np.uint64(32)


@_jit
def rows_differ(pool, lanes, neurons, slot_a, lane_a, slot_b, lane_b, out):
    """out bool (n,): whether row a and row b of each pair differ in any bit."""
    out[:] = False
    bits = pool.view(np.uint32)
    for i in range(neurons):
        base = i * lanes
        for k in range(out.size):
            out[k] |= bits[slot_a[k], base + lane_a[k]] != bits[slot_b[k], base + lane_b[k]]


@_jit
def gather_rows(pool, lanes, slots, lane, neurons, out, out_lanes):
    """Rows (slots[k], lane[k]) of one pool to the tiles of another, row k to lane k % out_lanes of a tile."""
    for k0 in range(0, slots.size, out_lanes):
        count = min(out_lanes, slots.size - k0)
        t = k0 // out_lanes
        for i in range(neurons):
            for r in range(count):
                out[t, i * out_lanes + r] = pool[slots[k0 + r], i * lanes + lane[k0 + r]]


@_jit
def sum_rows(pool, slots, lanes, neurons, weight, total, some):
    """Per slot and lane: float64 total of values times weight (neurons,), and whether any value is not zero."""
    for s in range(slots.size):
        tile = pool[slots[s]]
        total[s] = 0
        some[s] = False
        for i in range(neurons):
            for r in range(lanes):
                v = tile[i * lanes + r]
                total[s, r] += np.float64(v) * weight[i]
                some[s, r] |= v != 0
