"""Texts of single rows of a unit, read by the pages that hold them.

Arrow reads Parquet by row groups, of 9 MB of text here; a page has about 50 kB. A sample of 1,000
of a million documents takes 1,000 pages, 2.5 % of the files of texts, where row groups as small
would make full passes twice as slow (benchmarks/samples.py). So pages are found by the offset
index that :class:`~penstock.pipeline.units.UnitWriter` writes, and decoded here: of a column of
required byte arrays, plain, in zstd. The format is that of Apache Parquet 2.12 (``parquet.thrift``)
in Thrift's compact protocol.

Nothing is checked here but that the bytes can be decoded: the caller compares hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.columnar.thrift import THRIFT_ERRORS, read_struct
from penstock.storage import AnyPath, store_of

__all__ = ["PAGE_ERRORS", "read_texts"]

PAGE_ERRORS = THRIFT_ERRORS
"""Errors of bytes that are no such file."""

_TAIL, _REMOTE_TAIL = 2**13, 2**16
"""Bytes at the end of a file that are read first: the footer; of a remote file the offset indexes,
too."""

_GAP = 2**20
"""Bytes between two pages of a remote file that are read rather than asking twice."""

_PLAIN = 0
_ZSTD = pa.Codec("zstd")


def read_texts(path: AnyPath, size: int, column: int, rows: np.ndarray) -> pa.Array:
    """Read texts by their rows.

    Args:
        path: A file of texts of a unit.
        size: Its bytes.
        column: The number of the column.
        rows: (n,) int64, ascending.

    Returns:
        (n,) large_string.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: As others of :data:`PAGE_ERRORS`: the bytes are not those of such a file.
    """
    file = _File(path, size)
    footer, _ = read_struct(file.footer(), 0)
    found: list[bytes] = []
    start = 0
    for group in footer[4]:
        end = start + group[3]
        own = rows[slice(*np.searchsorted(rows, [start, end]))] - start
        if len(own):
            chunk = group[1][column]
            index, _ = read_struct(file.read(chunk[4], chunk[4] + chunk[5]), 0)
            found += _texts(file, index[1], own)
        start = end
    if len(found) != len(rows):
        raise ValueError("fewer rows than expected")
    return pa.array(found, pa.large_binary()).cast(pa.large_string())


class _File:
    """A file of which the end is held, as it is read first."""

    def __init__(self, path: AnyPath, size: int) -> None:
        self._path = path
        self._size = size
        self._store = store_of(path)
        self._remote = self._store.requests > 1
        self._start = max(0, size - (_REMOTE_TAIL if self._remote else _TAIL))
        [self._tail] = self._store.read_ranges(path, [(self._start, size)])

    def footer(self) -> bytes:
        length = int.from_bytes(self._tail[-8:-4], "little")
        if self._tail[-4:] != b"PAR1" or length > self._size:
            raise ValueError("not a Parquet file")
        return self.read(self._size - 8 - length, self._size - 8)

    def read(self, start: int, end: int) -> bytes:
        if start >= self._start:
            return self._tail[start - self._start : end - self._start]
        [data] = self._store.read_ranges(self._path, [(start, end)])
        return data

    def pages(self, places: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """Read pages at (start, end), ascending; neighbours together."""
        gap = _GAP if self._remote else 0
        ranges: list[list[int]] = []
        for start, end in places:
            if not 0 <= start < end <= self._size:
                raise ValueError("a page outside the file")
            if ranges and start <= ranges[-1][1] + gap:
                ranges[-1][1] = end
            else:
                ranges.append([start, end])
        read = iter(self._store.read_ranges(self._path, [(start, end) for start, end in ranges]))
        at, data = -1, b""
        for start, end in places:
            if not 0 <= start - at < len(data):
                at, data = start, next(read)
            yield memoryview(data)[start - at : end - at]


def _texts(file: _File, index: Sequence[dict[int, Any]], rows: np.ndarray) -> list[bytes]:
    """Read texts of a column of one row group, by its offset index and ascending rows."""
    firsts = np.array([page[3] for page in index])
    numbers = np.searchsorted(firsts, rows, "right") - 1
    used, starts = np.unique(numbers, return_index=True)
    places = [(index[page][1], index[page][1] + index[page][2]) for page in used.tolist()]
    found: list[bytes] = []
    wanted = np.split(rows - firsts[numbers], starts[1:])
    for data, own in zip(file.pages(places), wanted, strict=True):
        found += _values(data, own.tolist())
    return found


def _values(page: memoryview, rows: Sequence[int]) -> Iterator[bytes]:
    """Decode values of a page, by their positions in it."""
    header, at = read_struct(page, 0)
    if header[5][2] != _PLAIN:
        raise ValueError("values in another encoding")
    try:
        data = memoryview(_ZSTD.decompress(page[at : at + header[3]], header[2]))
    except OSError as error:
        raise ValueError(str(error)) from None
    place = row = 0
    for wanted in rows:
        while True:
            size = int.from_bytes(data[place : place + 4], "little")
            value, place, row = place + 4, place + 4 + size, row + 1
            if place > len(data) or value > len(data):
                raise ValueError("a value outside its page")
            if row > wanted:
                break
        yield bytes(data[value:place])
