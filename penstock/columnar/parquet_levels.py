"""Repetition levels of a Parquet column: how long its longest list is.

A level of 0 begins a row.
"""

from __future__ import annotations

import numpy as np

from penstock.columnar.parquet_pages import ColumnChunk, Page
from penstock.columnar.parquet_runs import decode_runs

__all__ = ["longest_list"]


def longest_list(chunk: ColumnChunk) -> int:
    """Return the most values of a row of a column, also of lists in lists.

    Raises:
        ValueError: The levels are damaged, or stored otherwise.
        OSError: A page cannot be decompressed.
    """
    width = chunk.schema.max_repetition_level.bit_length()
    longest = current = 0
    for page in chunk.data:
        for levels, count in decode_runs(_levels(chunk, page), width, page.values):
            if isinstance(levels, int):
                longest = max(longest, current)
                current = current + count if levels else 1
                continue
            rows = np.flatnonzero(levels == 0)
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
