"""Loops of `CompiledNetwork`, as LLVM vector code. Addresses are int64 bytes, values float32, indices uint32."""

from __future__ import annotations

import numba as nb
from llvmlite import ir
from numba import types

from ..engines.numba.kernels import run_layer
from ..engines.numba.vector import (
    _FLOAT,
    _LONG,
    _WORD,
    AVX512,
    _declare,
    _index,
    _load,
    _long,
    _Loop,
    _splat,
    _store,
    block,
    intrinsic,
    peek,
)

PANEL = 16
"""Outputs of a dense layer computed together for one row."""
UNROLLED = 4
"""Inputs taken at a time there, each with sums of its own."""
GROUP = 8
"""Outputs of a sparse layer computed together for one row."""
TILE = 64 if AVX512 else 32
"""Rows taken together: their sums fill the registers, and few hundred inputs of so many fit the first cache."""
NARROW = 16
"""Rows taken together where outputs share their inputs by fours: sums enough, and twice the inputs fit."""
COLUMNS = 8
"""Inputs next to each other that are brought to a tile together."""
FIELDS = 7
"""int64 columns of a row plan: dense, panels or groups, address of the group table (addresses of weights and of
indices, number of inputs) or of weights, of biases, UNROLLEDs of inputs, and the bits of both bounds."""

_jit = nb.njit(nogil=True, cache=True, boundscheck=False)


def _clip(b, z, low, high, width):
    low, high = _splat(b, low, width), _splat(b, high, width)
    z = b.select(b.fcmp_ordered(">", z, low), z, low)
    return b.select(b.fcmp_ordered("<", z, high), z, high)


@intrinsic
def _panel(_, x, count, weights, bias, y, low, high):
    """PANEL outputs of a dense layer. weights : (count * UNROLLED, PANEL)."""

    def generate(context, builder, __, arguments):
        b = builder
        x, count, weights, bias, y, low, high = arguments
        vector = ir.VectorType(_FLOAT, PANEL)
        multiply_add = _declare(b, f"llvm.fmuladd.v{PANEL}f32", vector, [vector] * 3)
        sums = [_load(b, bias, vector)] + [ir.Constant(vector, [0.0] * PANEL)] * (UNROLLED - 1)
        with _Loop(b, count, sums) as loop:
            inputs = b.add(x, b.mul(loop.k, _long(4 * UNROLLED)))
            rows = b.add(weights, b.mul(loop.k, _long(4 * UNROLLED * PANEL)))
            found = []
            for c, acc in enumerate(loop.carried):
                value = _splat(b, _load(b, b.add(inputs, _long(4 * c)), _FLOAT), PANEL)
                row = _load(b, b.add(rows, _long(4 * PANEL * c)), vector)
                found.append(b.call(multiply_add, [value, row, acc]))
            loop.again(found)
        s = loop.result
        z = b.fadd(b.fadd(s[0], s[1]), b.fadd(s[2], s[3]))
        _store(b, _clip(b, z, low, high, PANEL), y)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5, types.float32, types.float32), generate


@intrinsic
def _group(_, x, count, index, weights, bias, y, low, high):
    """GROUP outputs of a sparse layer. index, weights : (count, GROUP)."""

    def generate(context, builder, __, arguments):
        b = builder
        x, count, index, weights, bias, y, low, high = arguments
        vector = ir.VectorType(_FLOAT, GROUP)
        multiply_add = _declare(b, f"llvm.fmuladd.v{GROUP}f32", vector, [vector] * 3)
        with _Loop(b, count, [_load(b, bias, vector)]) as loop:
            at = b.mul(loop.k, _long(4 * GROUP))
            places, row = b.add(index, at), _load(b, b.add(weights, at), vector)
            values = ir.Constant(vector, ir.Undefined)
            for lane in range(GROUP):
                place = b.zext(_load(b, b.add(places, _long(4 * lane)), _WORD), _LONG)
                value = _load(b, b.add(x, b.shl(place, _long(2))), _FLOAT)
                values = b.insert_element(values, value, ir.Constant(_WORD, lane))
            loop.again([b.call(multiply_add, [values, row, loop.carried[0]])])
        _store(b, _clip(b, loop.result[0], low, high, GROUP), y)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6, types.float32, types.float32), generate


@intrinsic
def _pick(_, x, index, count, y):
    """y[k] = x[index[k]]."""

    def generate(context, builder, __, arguments):
        b = builder
        x, index, count, y = arguments
        with _Loop(b, count, []) as loop:
            at = b.shl(loop.k, _long(2))
            place = b.zext(_load(b, b.add(index, at), _WORD), _LONG)
            _store(b, _load(b, b.add(x, b.shl(place, _long(2))), _FLOAT), b.add(y, at))
            loop.again([])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), generate


@intrinsic
def _float(_, bits):
    """The float32 of these 32 bits."""

    def generate(_context, builder, __, arguments):
        return builder.bitcast(builder.trunc(arguments[0], _WORD), _FLOAT)

    return types.float32(types.int64), generate


@intrinsic(prefer_literal=True)
def _single(_, lanes, wide, x, count, index, weight, bias, y, low, high):
    """One output of a sparse layer for a tile of `lanes` rows, all their sums in registers, those of every other input
    apart, as one waits for the one before."""
    literals = lanes, wide
    lanes, wide = (literal.literal_value for literal in literals)

    def generate(context, builder, __, arguments):
        b = builder
        x, count, index, weight, bias, y, low, high = arguments[2:]
        vector = ir.VectorType(_FLOAT, lanes)
        multiply_add = _declare(b, f"llvm.fmuladd.v{lanes}f32", vector, [vector] * 3)

        def added(k, total):
            place = b.mul(_index(b, index, k, wide), _long(4 * lanes))
            w = _splat(b, _load(b, b.add(weight, b.shl(k, _long(2))), _FLOAT), lanes)
            return b.call(multiply_add, [_load(b, b.add(x, place), vector), w, total])

        sums = [_splat(b, _load(b, bias, _FLOAT), lanes), ir.Constant(vector, [0.0] * lanes)]
        with _Loop(b, b.ashr(count, _long(1)), sums) as loop:
            k = b.shl(loop.k, _long(1))
            loop.again([added(b.or_(k, _long(c)), total) for c, total in enumerate(loop.carried)])
        total = b.fadd(*loop.result)
        with _Loop(b, b.and_(count, _long(1)), [total]) as last:
            last.again([added(b.sub(count, _long(1)), last.carried[0])])
        _store(b, _clip(b, last.result[0], low, high, lanes), y)
        return context.get_dummy_value()

    return types.void(*literals, *(types.int64,) * 6, types.float32, types.float32), generate


@intrinsic
def _turn(_, x, row_bytes, y, neuron_bytes, places):
    """8 inputs of 8 rows to 8 lanes of 8 neurons, one after the other to the int64 `places`."""

    def generate(context, builder, __, arguments):
        b = builder
        x, row_bytes, y, neuron_bytes, places = arguments
        vector = ir.VectorType(_FLOAT, 8)
        mix = lambda a, c, order: b.shuffle_vector(a, c, ir.Constant(ir.VectorType(_WORD, 8), order))  # noqa: E731
        rows = [_load(b, b.add(x, b.mul(row_bytes, _long(r))), vector) for r in range(8)]
        low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
        pairs = [mix(rows[r], rows[r + 1], order) for r in (0, 2, 4, 6) for order in (low, high)]
        front, back = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        fours = []
        for r in (0, 4):
            for k in (0, 1):
                fours += [mix(pairs[r + k], pairs[r + k + 2], order) for order in (front, back)]
        for c in range(8):
            half = [0, 1, 2, 3, 8, 9, 10, 11] if c < 4 else [4, 5, 6, 7, 12, 13, 14, 15]
            place = b.mul(_load(b, b.add(places, _long(8 * c)), _LONG), neuron_bytes)
            _store(b, mix(fours[c % 4], fours[c % 4 + 4], half), b.add(y, place))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), generate


@_jit
def run_rows(rows, out, plan):
    """Row by row through all layers.

    plan : int64; depth, address and number of the inputs picked (0: read where they lie), two scratch addresses,
        address of where each output stands, then FIELDS a layer.
    """
    depth, picked, count, scratch, other, places = plan[0], plan[1], plan[2], plan[3], plan[4], plan[5]
    source, target = rows.ctypes.data, out.ctypes.data
    for _ in range(rows.shape[0]):
        x, y = scratch, other
        if count:
            _pick(source, picked, count, x)
        else:
            x, y = source, scratch
        at = 6
        for _ in range(depth):
            panels, weights, bias, length = plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4]
            low, high = _float(plan[at + 5]), _float(plan[at + 6])
            to = y
            if plan[at]:
                for _ in range(panels):
                    _panel(x, length, weights, bias, to, low, high)
                    weights += 4 * UNROLLED * PANEL * length
                    bias += 4 * PANEL
                    to += 4 * PANEL
            else:
                for _ in range(panels):
                    _group(x, peek(weights + 16), peek(weights + 8), peek(weights), bias, to, low, high)
                    weights += 24
                    bias += 4 * GROUP
                    to += 4 * GROUP
            at += FIELDS
            x, y = y, other if y == scratch else scratch
        _pick(x, places, out.shape[1], target)
        source += 4 * rows.shape[1]
        target += 4 * out.shape[1]


@_jit
def _layer(table, bounds, x, y):
    """`run_layer` for TILE lanes, one output alone by `_single`; biases to every output."""
    row, index, weight, bias = table[1], table[2], table[3], table[4]
    wide = (table[5] & 2) != 0
    low, high = bounds[0], bounds[1]
    for _ in range(table[0]):
        at, shape = index + peek(row), peek(row + 8)
        row += 16
        count, group = shape >> 3, shape & 7
        if group == 4:
            if wide:
                block(TILE, 4, 1, x, 4 * TILE, count, at, weight, bias, y, 4 * TILE, low, high, True)
            else:
                block(TILE, 4, 0, x, 4 * TILE, count, at, weight, bias, y, 4 * TILE, low, high, True)
        elif group == 2:
            if wide:
                block(TILE, 2, 1, x, 4 * TILE, count, at, weight, bias, y, 4 * TILE, low, high, True)
            else:
                block(TILE, 2, 0, x, 4 * TILE, count, at, weight, bias, y, 4 * TILE, low, high, True)
        elif wide:
            _single(TILE, 1, x, count, at, weight, bias, y, low, high)
        else:
            _single(TILE, 0, x, count, at, weight, bias, y, low, high)
        weight += 4 * count * group
        bias += 4 * group
        y += 4 * TILE * group


@_jit
def run_tiles(rows, out, most, blocks, turned, used, tables, bounds, places, scratch):
    """Tiles of `most` (TILE or NARROW), NARROW or 4 rows through all layers.

    blocks : int64 (n,), the first inputs of the COLUMNS that are brought to the tile together. turned : int64
        (n, COLUMNS), where: those that aren't used to where a later one goes. used : int64, the inputs in the tile.
    places : int64, where in the last tile each output stands. scratch : float32 (2, TILE * widest).
    """
    count, inputs = rows.shape
    start = 0
    while start < count:
        left = count - start
        lanes = TILE if most == TILE and left > TILE // 2 else NARROW if left > 4 else 4
        here = min(lanes, left)
        tile, other = scratch[0], scratch[1]
        whole = here // 8 * 8 if blocks.size else 0
        base, to = rows.ctypes.data + 4 * start * inputs, tile.ctypes.data
        for k in range(blocks.size):
            for r in range(0, whole, 8):
                x = base + 4 * (r * inputs + blocks[k])
                _turn(x, 4 * inputs, to + 4 * r, 4 * lanes, turned[k].ctypes.data)
        if whole < lanes:
            for k in range(used.size):
                for r in range(whole, here):
                    tile[k * lanes + r] = rows[start + r, used[k]]
                tile[k * lanes + here : (k + 1) * lanes] = 0
        for k in range(tables.shape[0]):
            x, y = tile.ctypes.data, other.ctypes.data
            if lanes == TILE:
                _layer(tables[k], bounds[k], x, y)
            else:
                run_layer(lanes, tables[k], bounds[k], x, 4 * lanes, y, False)
            tile, other = other, tile
        for r in range(here):
            for j in range(places.size):
                out[start + r, j] = tile[places[j] * lanes + r]
        start += here
