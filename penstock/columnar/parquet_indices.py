"""Indices of a Parquet column's dictionary: how often they repeat an entry.

Rows that refer to an entry at most k times take at most k times the dictionary. So a dictionary of
long texts, most of which occur once, need not be decompressed to know what its rows may take.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.columnar.parquet_pages import ColumnChunk, Page
from penstock.columnar.parquet_runs import decode_runs

__all__ = ["most_repeated"]


def most_repeated(chunk: ColumnChunk, rows: int) -> int:
    """Return how often an entry occurs in ``rows`` consecutive rows, or more.

    Args:
        chunk: A column without lists.
        rows: Rows.

    Raises:
        ValueError: The indices are damaged.
        IndexError: As ValueError.
        OSError: A page cannot be decompressed.
    """
    most = blocks = 0
    for block in _blocks(chunk, rows):
        block.sort()
        ends = np.flatnonzero(np.diff(block, append=block[-1] + 1))
        most = max(most, int(np.diff(ends, prepend=-1).max()))
        blocks += 1
        if most >= rows:
            break
    return min(rows, most if blocks <= 1 else 2 * most)  # they may lie in two blocks


def _blocks(chunk: ColumnChunk, rows: int) -> Iterator[np.ndarray]:
    """Yield the indices, (n,) int64, ``rows`` at a time."""
    held = [np.zeros(0, np.int64)]
    size = 0
    for page in chunk.data:
        if not page.has_indices:
            continue
        for value, count in _indices(chunk, page):
            few = min(count, rows)  # of a run: more repeat it no more often
            own = np.full(few, value) if isinstance(value, int) else value.astype(np.int64)
            held.append(own)
            size += len(own)
            if size < rows:
                continue
            whole = np.concatenate(held)
            for start in range(0, size - rows + 1, rows):
                yield whole[start : start + rows]
            held = [whole[size - size % rows :]]
            size %= rows
    if size:
        yield np.concatenate(held)


def _indices(chunk: ColumnChunk, page: Page) -> Iterator[tuple[int | np.ndarray, int]]:
    """Yield the runs of a page's indices."""
    highest = chunk.schema.max_definition_level
    if page.levels is not None:
        levels = memoryview(chunk.source.read_at(page.levels[1], page.content + page.levels[0]))
        data = chunk.read(page)
    else:
        data = chunk.read(page)
        size = 4 + int.from_bytes(data[:4], "little") if highest else 0
        levels, data = data[4:size], data[size:]
    count = page.values
    if highest:
        count = sum(
            int(np.count_nonzero(own == highest)) * (some if isinstance(own, int) else 1)
            for own, some in decode_runs(levels, highest.bit_length(), page.values)
        )
    return decode_runs(data[1:], data[0] if count else 0, count)
