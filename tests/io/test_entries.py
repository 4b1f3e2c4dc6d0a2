"""The parser of text lines: it accepts what is unambiguous and names the first line that is wrong."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdnn import FileFormatError
from spdnn.io.entries import Entries, format_entries, read_entries
from spdnn.io.source import Source

NAMES = ("input", "output", "weight")
PATH = Path("some.tsv")


def parse(text: bytes, names=NAMES, limits=(100, 100), **options) -> Entries:
    return Entries.joined(list(read_entries(io.BytesIO(text), PATH, names, limits, **options)))


@pytest.mark.parametrize(
    "text",
    [
        b"1\t2\t0.5\n3\t4\t-1\n",
        b"1\t2\t0.5\r\n3\t4\t-1\r\n",
        b"1 2 0.5\n3 4 -1\n",
        b"  1 \t 2  0.5  \n3\t4\t-1\t\n",
        b"1\t2\t0.5\n3\t4\t-1\n\n \r\n\n",
        b"\xef\xbb\xbf1\t2\t0.5\n3\t4\t-1\n",
        b"001\t2\t.5\n3\t4\t-1.\n",
        b"1\t2\t+5e-1\n3\t4\t-0.1E1\n",
    ],
)
def test_accepts_what_is_unambiguous(text):
    entries = parse(text)
    assert entries.first.tolist() == [0, 2]
    assert entries.second.tolist() == [1, 3]
    assert entries.values.tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"1\t2\n", r"3 fields .*got 2"),
        (b"1\n", r"3 fields .*got 1"),
        (b"1\t2\t3\t4\n", "got more: '4'"),
        (b"1\t2\t3 garbage\n", "got more: 'garbage'"),
        (b"x\t2\t3\n", "whole number as input id, got 'x'"),
        (b"1\t2.0\t3\n", "whole number as output id, got '2.0'"),
        (b"-1\t2\t3\n", "whole number as input id, got '-1'"),
        (b"1,2,3\n", "whole number as input id"),
        (b"0\t2\t3\n", "input ids from 1, got '0'"),
        (b"1\t00\t3\n", "output ids from 1, got '00'"),
        (b"101\t2\t3\n", "input ids from 1 to 100, got '101'"),
        (b"1\t101\t3\n", "output ids from 1 to 100, got '101'"),
        (b"1\t99999999999999999999999999\t3\n", "output ids from 1 to 100"),
        (b"1\t2\tabc\n", "number as weight, got 'abc'"),
        (b"1\t2\t1.5.2\n", "number as weight, got '1.5.2'"),
        (b"1\t2\t1e\n", "number as weight, got '1e'"),
        (b"1\t2\t-\n", "number as weight, got '-'"),
        (b"1\t2\t.\n", "number as weight, got '.'"),
        (b"1\t2\tnan\n", "finite weight, got 'nan'"),
        (b"1\t2\t-inf\n", "finite weight, got '-inf'"),
        (b"1\t2\t1e999\n", "finite weight, got '1e999'"),
        (b"\n1\t2\t3\n", "empty line"),
        (b"1\t2\t3", "line end"),
        (b"1\t2\t6.250000e-0", "line end"),
        (b"1\t2\t", "cut off"),
        (b"1\t2", "cut off"),
        (b"1\t2\t6.25e", "number as weight"),
        (b"\xff\xfe\x00\t2\t3\n", "whole number as input id"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_names_the_first_wrong_line(line, why, piece):
    good = b"".join(b"%d\t5\t0.25\n" % (k + 1) for k in range(3))
    with pytest.raises(FileFormatError, match=why) as caught:
        parse(good + line, piece=max(piece, 64))
    assert caught.value.line == 4
    assert str(caught.value).startswith("some.tsv:4: ")


def test_a_wrong_line_counts_from_the_given_number():
    with pytest.raises(FileFormatError, match=r"some\.tsv:12: "):
        parse(b"1\t2\t3\n1\t2\n", line=11)


def test_a_last_line_without_an_end_is_taken_where_it_is_surely_whole():
    assert parse(b"1\t2\t6.25e-2\n3\t4\t6.25e-2").values.tolist() == [0.0625, 0.0625]
    ids = parse(b"7\n12", names=("category",))
    assert ids.first.tolist() == [6, 11]
    with pytest.raises(FileFormatError, match="cut off"):
        parse(b"70\n7", names=("category",))
    with pytest.raises(FileFormatError, match="cut off"):
        parse(b"1\t2\n3\t4", names=("row", "column"))


def test_a_file_without_lines_is_not_read_into_memory_whole():
    with pytest.raises(FileFormatError, match="without a line end"):
        parse(b"1" * 1000, piece=100)


@given(
    st.lists(st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.floats(allow_nan=False)), min_size=1),
    st.sampled_from(["{!r}", "{:.6e}", "{:.17g}", "{:.3f}", "{:.25e}", "{:+.9E}"]),
    st.integers(64, 200),
)
def test_numbers_are_those_of_python(entries, form, piece):
    entries = [(i, j, x) for i, j, x in entries if np.isfinite(x) and np.isfinite(float(form.format(x)))]
    if not entries:
        return
    text = "".join(f"{i}\t{j}\t{form.format(x)[:300]}\n" for i, j, x in entries).encode()
    found = parse(text, limits=(2**31 - 1, 2**31 - 1), piece=max(piece, len(max(text.splitlines(), key=len)) + 1))
    assert (found.first + 1).tolist() == [i for i, _, _ in entries]
    assert (found.second + 1).tolist() == [j for _, j, _ in entries]
    expected = [float(form.format(x)[:300]) for _, _, x in entries]
    assert [struct.pack("d", x) for x in found.values.tolist()] == [struct.pack("d", x) for x in expected]


@given(st.from_regex(r"\A[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?\Z", fullmatch=True))
def test_spellings_are_those_of_python(text):
    line = f"1\t1\t{text}\n".encode()
    try:
        expected = float(text)
    except ValueError:
        with pytest.raises(FileFormatError):
            parse(line)
        return
    if np.isfinite(expected):
        assert struct.pack("d", parse(line).values[0]) == struct.pack("d", expected)
    else:
        with pytest.raises(FileFormatError, match="finite"):
            parse(line)


@given(st.data())
def test_what_is_written_is_read(data):
    n = data.draw(st.integers(1, 50))
    ids = [np.array(data.draw(st.lists(st.integers(0, 2**31 - 2), min_size=n, max_size=n)), np.int32) for _ in "ab"]
    which = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    text = b"".join(format_entries(*ids, which, [b"\t1\n", b"\t2.5\n", b"\t-1e-300\n"]))
    found = parse(text, limits=(2**31 - 1, 2**31 - 1))
    assert (found.first == ids[0]).all()
    assert (found.second == ids[1]).all()
    assert (found.values == np.array([1, 2.5, -1e-300])[which]).all()


def test_gzip_is_known_by_its_content(tmp_path):
    text = b"1\t2\t0.5\n" * 5000
    packed = gzip.compress(text)
    path = tmp_path / "layer.tsv"
    path.write_bytes(packed)
    with Source(path).open() as stream:
        assert stream.read() == text
    for damaged, why in ((packed[:-30], "cut off"), (packed[:-8] + b"12345678", "damaged"), (packed[:9], "cut off")):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=why), Source(path).open() as stream:
            list(read_entries(stream, path, NAMES))
