"""Repetition levels of a Parquet column: how long its longest list is.

A level of 0 begins a row. Levels are stored as runs and as packed bits, alternately (``RLE`` of
Parquet), so a list of 10^9 equal elements is a few bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.columnar.parquet_pages import ColumnChunk, Page

__all__ = ["longest_list"]

_GROUPS = 1 << 20
"""Groups of eight packed levels that are unpacked at a time."""


def longest_list(chunk: ColumnChunk) -> int:
    """Return the most values of a row of a column, also of lists in lists.

    Raises:
        ValueError: The levels are damaged, or stored otherwise.
        OSError: A page cannot be decompressed.
    """
    width = chunk.schema.max_repetition_level.bit_length()
    longest = current = 0
    for page in chunk.data:
        for begins, count in _runs(_levels(chunk, page), width, page.values):
            if isinstance(begins, bool):
                longest = max(longest, current)
                current = 1 if begins else current + count
                continue
            rows = np.flatnonzero(begins)
            if not len(rows):
                current += count
                continue
            longest = max(longest, current + int(rows[0]), int(np.diff(rows).max(initial=0)))
            current = count - int(rows[-1])
    return max(longest, current)


def _levels(chunk: ColumnChunk, page: Page) -> memoryview:
    if page.levels is not None:
        return memoryview(chunk.source.read_at(page.levels[0], page.content))
    data = chunk.read(page)
    return data[4 : 4 + int.from_bytes(data[:4], "little")]


def _runs(data: memoryview, width: int, count: int) -> Iterator[tuple[bool | np.ndarray, int]]:
    """Yield whether ``n`` levels are 0, as one bool or (n,) bool, and ``n``."""
    at = 0
    while count:
        header = shift = 0
        while True:
            byte = data[at]
            at += 1
            header |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if not header & 1:
            size = -(-width // 8)
            some = min(header >> 1, count)
            if not some or at + size > len(data):
                raise ValueError("an empty run of levels")
            yield not any(data[at : at + size]), some
            at, count = at + size, count - some
            continue
        groups = header >> 1
        while groups and count:
            taken = min(groups, _GROUPS)
            packed = np.frombuffer(data[at : at + taken * width], np.uint8)
            if not len(packed):
                raise ValueError("fewer levels than values")
            some = min(8 * (len(packed) // width), count)
            bits = np.unpackbits(packed[: len(packed) // width * width], bitorder="little")
            yield np.asarray(~bits.reshape(-1, width).any(axis=1))[:some], some
            at, count, groups = at + taken * width, count - some, groups - taken
