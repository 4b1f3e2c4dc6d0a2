"""Text made of lines `id<TAB>id<TAB>number`: parsed into arrays and written from them, in bounded pieces."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import FileFormatError

MAX_ID = 2**31 - 1
_PIECE = 1 << 24
_LINES = 1 << 20


@dataclass(frozen=True)
class Entries:
    """Entries of consecutive lines, the first of them on line `line`.

    first, second : int32 (n,), 0-based ids. values : float64 (n,); a read-only view of one number where all
    values are equal.
    """

    line: int
    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    @property
    def all_ones(self) -> bool:
        values = self.values[:1] if is_constant(self.values) else self.values
        return bool((values == 1).all())

    @classmethod
    def joined(cls, pieces: Sequence[Entries]) -> Entries:
        """One run of entries from consecutive ones (at least one)."""
        if len(pieces) == 1:
            return pieces[0]
        values = [piece.values for piece in pieces]
        if all(is_constant(v) for v in values) and len({v[0].tobytes() for v in values}) == 1:
            value = np.broadcast_to(values[0][0], sum(map(len, values)))
        else:
            value = np.concatenate(values)
        first, second = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("first", "second"))
        return cls(pieces[0].line, first, second, value)


def is_constant(values: np.ndarray) -> bool:
    """Whether an array is one number seen from every place."""
    return values.size > 0 and values.strides == (0,)


def read_entries(
    stream: BinaryIO,
    path: Path,
    names: Sequence[str],
    limits: tuple[int, int] = (MAX_ID, MAX_ID),
    *,
    line: int = 1,
    piece: int = _PIECE,
) -> Iterator[Entries]:
    """Parse a stream of lines, yielding some `piece` bytes' worth of entries at a time.

    Fields are separated by tabs or spaces, lines end in LF or CRLF, empty lines may stand at the end alone.
    Numbers are those Python's float() reads, to the same bits, but finite.

    names : what the fields are, for messages: one id, two ids, or two ids and a number.
    limits : the largest ids allowed. line : the number of the stream's first line.

    Raises
    ------
    FileFormatError : with the number of the first wrong line.
    """
    parser = _Parser(path, tuple(names), limits, line)
    rest = b""
    while block := stream.read(piece):
        if parser.line == line and not rest:
            block = block.removeprefix(codecs.BOM_UTF8)
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            if len(rest) > piece:
                raise FileFormatError(path, f"Expected a line, got {len(rest)} bytes without a line end.", parser.line)
            continue
        text, rest = rest + block[:cut], block[cut:]
        yield from parser.parse(text)
    if rest:
        yield from parser.parse_unterminated(rest)


class _Parser:
    def __init__(self, path: Path, names: tuple[str, ...], limits: tuple[int, int], line: int):
        self.path, self.names, self.line = path, names, line
        self.limits = np.array(limits, np.int64)
        self.after_blank = False
        self.last = b""

    def parse(self, text: bytes, *, cut_off: bool = False) -> Iterator[Entries]:
        from . import kernels

        codes = np.frombuffer(text, np.uint8)
        lines = text.count(b"\n") + 1
        ids, values = np.empty((2, lines), np.int32), np.empty(lines)
        hard = np.empty((lines if len(self.names) == 3 else 0, 3), np.int64)
        n, left, problem, start, stop, self.after_blank = kernels.parse_entries(
            codes, len(self.names), self.limits, self.after_blank, ids, values, hard
        )
        if left:
            values[hard[:left, 0]] = self._floats(text, hard[:left])
        if problem != kernels.OK:
            message = self._message(problem, text, start, stop)
            if cut_off:
                message += " The file ends in the middle of this line: it may be cut off."
            raise FileFormatError(self.path, message, self.line + n)
        if not n:
            return
        self.last = text[text.rfind(b"\n", 0, len(text.rstrip())) + 1 :].rstrip()
        value = values[:n]
        if len(self.names) < 3:
            value = np.broadcast_to(1.0, n)
        elif (value.view(np.int64) == value[:1].view(np.int64)).all():  # bits, as 0.0 == -0.0
            value = np.broadcast_to(value[0], n)
        entries = Entries(self.line, ids[0, :n], ids[1, :n], value)
        self.line += n
        yield entries

    def parse_unterminated(self, text: bytes) -> Iterator[Entries]:
        """The last line, without a line end: it may have lost its last digits.

        Accepted are a number spelt as the one before it and, where lines hold one id, an id larger than the one
        before it.
        """
        before, line = self.last.split(), self.line
        entries = list(self.parse(text, cut_off=True))
        fields = text.split()
        if len(self.names) == 3:
            whole = fields[-1:] == before[-1:]
        else:
            whole = len(self.names) == 1 and (not before or not fields or int(fields[0]) > int(before[0]))
        if entries and not whole:
            raise FileFormatError(
                self.path,
                f"Expected a line end after {_shown(fields[-1])}: the file may be cut off. "
                "If it is whole, end its last line.",
                line,
            )
        yield from entries

    def _floats(self, text: bytes, hard: np.ndarray) -> np.ndarray:
        """The numbers in text[start:stop] for the rows (entry, start, stop) of `hard`, read by Python's float()."""
        fields = [text[start:stop] for start, stop in hard[:, 1:].tolist()]
        try:
            values = np.array(list(map(float, fields)))
        except ValueError:
            values = np.array([np.nan])
        if np.isfinite(values).all():
            return values
        for entry, field in zip(hard[:, 0].tolist(), fields, strict=True):
            self._check_float(field, self.line + entry)
        raise AssertionError("one of the numbers is none or not finite")

    def _check_float(self, field: bytes, line: int) -> None:
        try:
            value = float(field)
        except ValueError:
            message = f"Expected a number as {self.names[2]}, got {_shown(field)}."
            raise FileFormatError(self.path, message, line) from None
        if not np.isfinite(value):
            raise FileFormatError(self.path, f"Expected a finite {self.names[2]}, got {_shown(field)}.", line)

    def _message(self, problem: int, text: bytes, start: int, stop: int) -> str:
        from . import kernels

        if problem == kernels.MISSING:
            return f"Expected {len(self.names)} fields ({', '.join(self.names)}), got {stop}."
        if problem == kernels.BLANK_LINE:
            return "Expected an entry, got an empty line with more lines after it."
        field = _shown(text[start:stop])
        if problem == kernels.TRAILING:
            return f"Expected {len(self.names)} fields ({', '.join(self.names)}), got more: {field}."
        begin = text.rfind(b"\n", 0, start) + 1
        place = len(text[begin:start].split())
        name = self.names[place]
        if problem == kernels.OUT_OF_RANGE:
            return f"Expected {name} ids from 1 to {self.limits[place]}, got {field}."
        if problem == kernels.ZERO_ID:
            return f"Expected {name} ids from 1, got {field}."
        return f"Expected a whole number as {name} id, got {field}."


def _shown(field: bytes) -> str:
    text = field.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_entries(
    first: np.ndarray, second: np.ndarray, which: np.ndarray | None, tails: Sequence[bytes]
) -> Iterator[memoryview]:
    """Lines `first<TAB>second` + tail, in pieces: int32 ids, 0-based here, 1-based in the text.

    which : int (n,), which of `tails` each line ends with; None where there is only one.
    """
    from . import kernels

    table = np.frombuffer(b"".join(tails), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(tail) for tail in tails])]).astype(np.int64)
    longest = max(map(len, tails)) + len(str(MAX_ID)) * 2 + 1
    for start in range(0, len(first), _LINES):
        part = slice(start, start + _LINES)
        ids = [np.ascontiguousarray(x[part], np.int32) for x in (first, second)]
        kinds = np.zeros(ids[0].size, np.int32) if which is None else np.ascontiguousarray(which[part], np.int32)
        out = np.empty(ids[0].size * longest, np.uint8)
        size = kernels.format_entries(*ids, kinds, table, offsets, out)
        yield out[:size].data
