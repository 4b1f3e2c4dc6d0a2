"""Compiled loops over the bytes of text files. Importing this module imports Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

OK, MISSING, NOT_AN_ID, ZERO_ID, OUT_OF_RANGE, TRAILING, BLANK_LINE = range(7)
"""What `parse_entries` found wrong."""

_TAB, _NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _ZERO, _NINE = b"\t\n\r +-.09"
_POWERS = np.array([float(f"1e{k}") for k in range(23)])  # the powers of ten a double holds exactly
_EXACT = 1 << 53
_LONG = 10**17
_SPLIT = 134217729.0  # 2**27 + 1
_MANY = 1 << 40


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for Numba's cache can be written
        return numba.njit(nogil=True)(function)


@_compiled
def _past_blanks(text, at, stop):
    while at < stop and (text[at] == _TAB or text[at] == _SPACE or text[at] == _RETURN):
        at += 1
    return at


@_compiled
def _past_field(text, at, stop):
    while at < stop and text[at] != _TAB and text[at] != _SPACE and text[at] != _RETURN and text[at] != _NEWLINE:
        at += 1
    return at


@_compiled
def _halves(x):
    """x as the exact sum of two doubles of at most 26 bits (T. J. Dekker, 1971)."""
    high = _SPLIT * x
    high -= high - x
    return high, x - high


@_compiled
def _quotient(mantissa, power):
    """mantissa / power correctly rounded, and whether that is certain; mantissa below 10**18, power a double.

    The first quotient's remainder is found without error, up to a relative 2**-50, and gives a second quotient.
    Their rounded sum is the right one unless the true quotient lies next to the middle of two doubles.
    """
    top = float(mantissa)
    first = top / power
    a, b = _halves(first)
    c, d = _halves(power)
    product = first * power
    error = ((a * c - product) + a * d + b * c) + b * d
    second = (((top - product) - error) + float(mantissa - int(top))) / power
    value = first + second
    rest = second - (value - first)
    doubt = abs(second) * 2.0**-40
    return value, value + (rest + doubt) == value and value + (rest - doubt) == value


@_compiled
def _number(text, at, stop):
    """The number in text[at:stop] and whether it is exact; if not, Python's float() has to read it.

    Exact are a decimal mantissa up to 2**53 times or over a power of ten up to 10**22: both are doubles, and
    one operation on them rounds correctly (W. D. Clinger, "How to read floating point numbers accurately", 1990).
    Mantissas of up to 18 digits over such a power are exact where `_quotient` is certain.
    """
    negative = text[at] == _MINUS
    if negative or text[at] == _PLUS:
        at += 1
    mantissa, exponent, digits, point = 0, 0, 0, False
    while at < stop:
        c = text[at]
        if c == _POINT and not point:
            point = True
        elif _ZERO <= c <= _NINE:
            if mantissa >= _LONG and c != _ZERO:
                return 0.0, False
            if mantissa >= _LONG:
                exponent += 1
            else:
                mantissa = mantissa * 10 + (c - _ZERO)
            exponent -= point
            digits += 1
        else:
            break
        at += 1
    if digits == 0:
        return 0.0, False
    if at < stop:
        if text[at] != 101 and text[at] != 69:  # e, E
            return 0.0, False
        at += 1
        down = at < stop and text[at] == _MINUS
        if down or (at < stop and text[at] == _PLUS):
            at += 1
        if at == stop or stop - at > 4:
            return 0.0, False
        power = 0
        while at < stop:
            if not _ZERO <= text[at] <= _NINE:
                return 0.0, False
            power = power * 10 + (text[at] - _ZERO)
            at += 1
        exponent += -power if down else power
    while mantissa > _EXACT and mantissa % 10 == 0:
        mantissa //= 10
        exponent += 1
    if mantissa == 0:
        value = 0.0
    elif not -22 <= exponent <= 22 or (mantissa > _EXACT and exponent >= 0):
        return 0.0, False
    elif mantissa > _EXACT:
        value, certain = _quotient(mantissa, _POWERS[-exponent])
        if not certain:
            return 0.0, False
    elif exponent < 0:
        value = mantissa / _POWERS[-exponent]
    else:
        value = mantissa * _POWERS[exponent]
    return -value if negative else value, True


@_compiled
def parse_entries(text, fields, limits, after_blank, ids, values, hard):
    """Parse lines of `fields` fields: one or two 1-based ids, then, if there are three fields, a number.

    text : uint8, whole lines. limits : int64 (2,), the largest ids. after_blank : whether an empty line came.
    ids : int32 (2, lines), written 0-based. values : float64 (lines,). hard : int64 (lines, 3), written with the
    entry, start and stop of every number that is left to Python's float().

    Returns (entries, entries in `hard`, what is wrong or OK, start and stop of the wrong field, after_blank).
    """
    stop = text.size
    at, n, left = 0, 0, 0
    while True:
        at = _past_blanks(text, at, stop)
        if at == stop:
            return n, left, OK, 0, 0, after_blank
        if text[at] == _NEWLINE:
            after_blank = True
            at += 1
            continue
        if after_blank:
            return n, left, BLANK_LINE, at, at, after_blank
        for field in range(min(fields, 2)):
            start = at
            number = 0
            while at < stop and _ZERO <= text[at] <= _NINE:
                if number < _MANY:
                    number = number * 10 + (text[at] - _ZERO)
                at += 1
            end = _past_field(text, at, stop)
            if end == start:
                return n, left, MISSING, start, field, after_blank
            if end != at:
                return n, left, NOT_AN_ID, start, end, after_blank
            if number == 0:
                return n, left, ZERO_ID, start, end, after_blank
            if number > limits[field]:
                return n, left, OUT_OF_RANGE, start, end, after_blank
            ids[field, n] = number - 1
            at = _past_blanks(text, at, stop)
        if fields == 3:
            end = _past_field(text, at, stop)
            if end == at:
                return n, left, MISSING, at, 2, after_blank
            values[n], exact = _number(text, at, end)
            if not exact:
                hard[left, 0], hard[left, 1], hard[left, 2] = n, at, end
                left += 1
            at = _past_blanks(text, end, stop)
        if at < stop and text[at] != _NEWLINE:
            return n, left, TRAILING, at, _past_field(text, at, stop), after_blank
        at += 1
        n += 1
        if at >= stop:
            return n, left, OK, 0, 0, after_blank


@_compiled
def _write_id(out, at, number):
    end = at + 1
    rest = number // 10
    while rest:
        rest //= 10
        end += 1
    for place in range(end - 1, at - 1, -1):
        out[place] = _ZERO + number % 10
        number //= 10
    return end


@_compiled
def format_entries(first, second, which, table, offsets, out):
    """Write lines `first<TAB>second` + tail to `out`, ids made 1-based; returns the number of bytes.

    first, second, which : int32 (n,). The tail of a line is table[offsets[w]:offsets[w + 1]], w its `which`.
    """
    at = 0
    for k in range(first.size):
        at = _write_id(out, at, first[k] + 1)
        out[at] = _TAB
        at = _write_id(out, at + 1, second[k] + 1)
        for place in range(offsets[which[k]], offsets[which[k] + 1]):
            out[at] = table[place]
            at += 1
    return at


@_compiled
def set_bits(words, rows, columns):
    """Set the bits (rows[k], columns[k]) of words, uint64 (rows, words); returns the first k set before, or -1."""
    for k in range(rows.size):
        word, bit = columns[k] >> 6, np.uint64(1) << np.uint64(columns[k] & 63)
        if words[rows[k], word] & bit:
            return k
        words[rows[k], word] |= bit
    return -1
