"""The innermost loops, written as LLVM vector code so that accumulators stay in registers.

All work on tiles: neuron-major float32 with `lanes` rows side by side, neuron i of a tile at byte `i * stride`.
Addresses and strides are int64 bytes. Every lane and every output sums its inputs in the order in which they
are listed, with one multiply-add each (fused where the CPU has it), so equal rows give bitwise equal results
in whatever lane, tile width or block they are computed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import extending, types
from numba.core import config

# typed as anything: a checker takes the typing context for an argument
intrinsic: Any = extending.intrinsic

LANES = (64, 16, 4)
"""Tile widths there is code for; the first is the width of bit tiles."""
GROUPS = (4, 2, 1)
"""Numbers of outputs a block may have."""


def _has_avx512() -> bool:
    chosen = getattr(config, "CPU_FEATURES", None)
    if chosen is not None:
        return "+avx512f" in chosen
    return bool(llvm.get_host_cpu_features().get("avx512f"))


AVX512 = _has_avx512()
_BYTE, _HALF, _WORD, _LONG, _FLOAT = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
_VOID = ir.VoidType()


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _load(builder, address, kind):
    load = builder.load(builder.inttoptr(address, kind.as_pointer()))
    load.align = 1 if isinstance(kind, ir.IntType) and kind.width == 8 else 2 if kind == _HALF else 4
    return load


def _store(builder, value, address):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def _declare(builder, name, result, arguments):
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _splat(builder, value, width):
    vector = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_WORD, 0))
    zeros = ir.Constant(ir.VectorType(_WORD, width), [0] * width)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


class _Loop:
    """`for k in range(count)` with values carried round; `with` gives (k, carried), `again` closes the body."""

    def __init__(self, builder, count, carried):
        self._b, self._count, self._first = builder, count, list(carried)

    def __enter__(self):
        b = self._b
        before, self._body = b.block, b.append_basic_block("body")
        self._after = b.append_basic_block("after")
        b.cbranch(b.icmp_signed(">", self._count, _long(0)), self._body, self._after)
        self._before = before
        b.position_at_end(self._body)
        self._k = b.phi(_LONG)
        self._k.add_incoming(_long(0), before)
        self._phis = [b.phi(value.type) for value in self._first]
        for phi, value in zip(self._phis, self._first, strict=True):
            phi.add_incoming(value, before)
        return self

    @property
    def k(self):
        return self._k

    @property
    def carried(self):
        return self._phis

    def again(self, values):
        b, end = self._b, self._b.block
        following = b.add(self._k, _long(1))
        self._k.add_incoming(following, end)
        for phi, value in zip(self._phis, values, strict=True):
            phi.add_incoming(value, end)
        b.cbranch(b.icmp_signed("<", following, self._count), self._body, self._after)
        b.position_at_end(self._after)
        self.result = []
        for first, value in zip(self._first, values, strict=True):
            out = b.phi(first.type)
            out.add_incoming(first, self._before)
            out.add_incoming(value, end)
            self.result.append(out)

    def __exit__(self, *exc):
        return False


def _finish(b, z, bias, y, lower, upper, every, width):
    """Bias rule, bounds and store of one output's sums."""
    zero = ir.Constant(z.type, [0.0] * width)
    moved = b.fadd(z, _splat(b, bias, width))
    takes = b.or_(b.fcmp_unordered("!=", z, zero), _splat(b, every, width))
    z = b.select(takes, moved, z)
    low, high = _splat(b, lower, width), _splat(b, upper, width)
    z = b.select(b.fcmp_ordered(">", z, low), z, low)
    z = b.select(b.fcmp_ordered("<", z, high), z, high)
    _store(b, z, y)


def _index(b, base, k, wide):
    kind = _WORD if wide else _HALF
    at = b.add(base, b.shl(k, _long(2 if wide else 1)))
    return b.zext(_load(b, at, kind), _LONG)


_BLOCK_ARGUMENTS = (types.int64,) * 8 + (types.float32, types.float32, types.boolean)


@intrinsic(prefer_literal=True)
def block(_, lanes, group, wide, x, x_stride, count, index, weight, bias, y, stride, lower, upper, every):
    """`group` outputs that read the same `count` inputs, for the `lanes` rows of a tile.

    index : uint16 or (wide) uint32 (count,). weight : float32 (count, group). bias : float32 (group,).
    y : the first of the `group` neurons written. every : bias to all entries, not to non-zeros only.
    """
    literals = lanes, group, wide
    lanes, group, wide = (literal.literal_value for literal in literals)
    width = lanes if AVX512 else min(lanes, 32 if group <= 2 else 16)  # sums enough to hide what one waits for

    def generate(context, builder, __, arguments):
        b = builder
        x, x_stride, count, index, weight, bias, y, stride, lower, upper, every = arguments[3:]
        vector = ir.VectorType(_FLOAT, width)
        multiply_add = _declare(b, f"llvm.fmuladd.v{width}f32", vector, [vector] * 3)
        every = b.trunc(every, ir.IntType(1)) if every.type.width > 1 else every
        for part in range(lanes // width):
            shift = _long(part * width * 4)
            with _Loop(b, count, [ir.Constant(vector, [0.0] * width)] * group) as loop:
                i = _index(b, index, loop.k, wide)
                values = _load(b, b.add(b.add(x, shift), b.mul(i, x_stride)), vector)
                weights = b.add(weight, b.mul(loop.k, _long(4 * group)))
                sums = []
                for j, acc in enumerate(loop.carried):
                    w = _splat(b, _load(b, b.add(weights, _long(4 * j)), _FLOAT), width)
                    sums.append(b.call(multiply_add, [values, w, acc]))
                loop.again(sums)
            for j, z in enumerate(loop.result):
                row = b.add(b.add(y, shift), b.mul(stride, _long(j)))
                shift_bias = _load(b, b.add(bias, _long(4 * j)), _FLOAT)
                _finish(b, z, shift_bias, row, lower, upper, every, width)
        return context.get_dummy_value()

    return types.void(*literals, *_BLOCK_ARGUMENTS), generate


@intrinsic(prefer_literal=True)
def bits_block(_, lanes, group, wide, words, count, index, weight, bias, y, stride, lower, upper, every):
    """`block` for 64 or 16 rows of 0/1 inputs: bit r of the word at `words + 8 * i` is input i of row r."""
    literals = lanes, group, wide
    lanes, group, wide = (literal.literal_value for literal in literals)
    width = 16

    def generate(context, builder, __, arguments):
        b = builder
        words, count, index, weight, bias, y, stride, lower, upper, every = arguments[3:]
        vector, mask = ir.VectorType(_FLOAT, width), ir.VectorType(ir.IntType(1), width)
        every = b.trunc(every, ir.IntType(1)) if every.type.width > 1 else every
        parts = lanes // width
        with _Loop(b, count, [ir.Constant(vector, [0.0] * width)] * (group * parts)) as loop:
            word = b.add(words, b.shl(_index(b, index, loop.k, wide), _long(3)))
            masks = [b.bitcast(_load(b, b.add(word, _long(2 * p)), _HALF), mask) for p in range(parts)]
            weights = b.add(weight, b.mul(loop.k, _long(4 * group)))
            sums = []
            for j in range(group):
                w = _splat(b, _load(b, b.add(weights, _long(4 * j)), _FLOAT), width)
                for p in range(parts):
                    acc = loop.carried[j * parts + p]
                    sums.append(b.select(masks[p], b.fadd(acc, w), acc))
            loop.again(sums)
        for j in range(group):
            row = b.add(y, b.mul(stride, _long(j)))
            shift_bias = _load(b, b.add(bias, _long(4 * j)), _FLOAT)
            for p in range(parts):
                z = loop.result[j * parts + p]
                _finish(b, z, shift_bias, b.add(row, _long(4 * p * width)), lower, upper, every, width)
        return context.get_dummy_value()

    return types.void(*literals, *(types.int64,) * 7, types.float32, types.float32, types.boolean), generate


@intrinsic(prefer_literal=True)
def alive(_, lanes, x, stride, neurons):
    """uint64: bit r is set where lane r of a tile has any value that is not zero."""
    literal = lanes
    lanes = literal.literal_value

    def generate(context, builder, __, arguments):
        b = builder
        _lanes, x, stride, neurons = arguments
        vector = ir.VectorType(_WORD, lanes)
        with _Loop(b, neurons, [ir.Constant(vector, [0] * lanes)]) as loop:
            bits = _load(b, b.add(x, b.mul(loop.k, stride)), vector)
            loop.again([b.or_(loop.carried[0], bits)])
        magnitude = b.and_(loop.result[0], ir.Constant(vector, [0x7FFFFFFF] * lanes))
        some = b.icmp_unsigned("!=", magnitude, ir.Constant(vector, [0] * lanes))
        mask = b.bitcast(some, ir.IntType(lanes))
        return mask if lanes == 64 else b.zext(mask, _LONG)

    return types.uint64(literal, types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def compress(_, lanes, x, x_stride, y, stride, neurons, mask):
    """The lanes of tile x whose mask bit is set, side by side to tile y; up to 15 lanes past them are overwritten."""
    literal = lanes
    lanes = literal.literal_value
    width = min(lanes, 16)

    def generate(context, builder, __, arguments):
        b = builder
        _lanes, x, x_stride, y, stride, neurons, mask = arguments
        vector = ir.VectorType(_FLOAT, width)
        pick = ir.VectorType(ir.IntType(1), width)
        count = _declare(b, "llvm.ctpop.i64", _LONG, [_LONG])
        masks, shifts, shift = [], [], _long(0)
        for part in range(lanes // width):
            bits = b.trunc(b.lshr(mask, _long(part * width)), ir.IntType(width))
            masks.append(b.bitcast(bits, pick))
            shifts.append(shift)
            shift = b.add(shift, b.shl(b.call(count, [b.zext(bits, _LONG)]), _long(2)))
        with _Loop(b, neurons, []) as loop:
            source = b.add(x, b.mul(loop.k, x_stride))
            to = b.add(y, b.mul(loop.k, stride))
            for part in range(lanes // width):
                values = _load(b, b.add(source, _long(4 * part * width)), vector)
                _store(b, _pack(b, values, masks[part], width), b.add(to, shifts[part]))
            loop.again([])
        return context.get_dummy_value()

    return types.void(literal, *(types.int64,) * 5, types.uint64), generate


def _pack(b, values, mask, width):
    """The elements under the mask moved to the front."""
    if AVX512 and width == 16:
        kinds = [values.type, values.type, mask.type]
        function = _declare(b, "llvm.x86.avx512.mask.compress.v16f32", values.type, kinds)
        return b.call(function, [values, ir.Constant(values.type, ir.Undefined), mask])
    packed, place = values, ir.Constant(_WORD, 0)
    for lane in range(width):
        at = ir.Constant(_WORD, lane)
        packed = b.insert_element(packed, b.extract_element(values, at), place)
        place = b.add(place, b.zext(b.extract_element(mask, at), _WORD))
        place = b.and_(place, ir.Constant(_WORD, width - 1))
    return packed


@intrinsic(prefer_literal=True)
def copy_lanes(_, lanes, x, x_stride, y, stride, neurons):
    """`lanes` lanes of every neuron from tile x to tile y."""
    literal = lanes
    lanes = literal.literal_value

    def generate(context, builder, __, arguments):
        b = builder
        _lanes, x, x_stride, y, stride, neurons = arguments
        vector = ir.VectorType(_FLOAT, lanes)
        with _Loop(b, neurons, []) as loop:
            values = _load(b, b.add(x, b.mul(loop.k, x_stride)), vector)
            _store(b, values, b.add(y, b.mul(loop.k, stride)))
            loop.again([])
        return context.get_dummy_value()

    return types.void(literal, *(types.int64,) * 5), generate


@intrinsic
def peek(_, address):
    """int64 at an address."""

    def generate(context, builder, __, arguments):
        return _load(builder, arguments[0], _LONG)

    return types.int64(types.int64), generate
