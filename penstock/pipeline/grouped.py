"""Files of rows sorted by group, of which a reader fetches single groups.

They are the scratch of a shuffle: a first task writes its rows sorted by group, a second task reads
one group from the file of each first task. A file has the number of groups, the offset of each, and
the rows, in little-endian bytes. Reading a group takes two small reads, also of a remote file.
"""

from __future__ import annotations

import numpy as np

from penstock.storage import (
    AnyPath,
    store_of,
)

__all__ = ["grouped_bytes", "read_groups"]

_WIDTH = 8


def grouped_bytes(rows: np.ndarray, groups: np.ndarray, count: int) -> tuple[bytes, bytes]:
    """Encode rows as the header and body of a file.

    Args:
        rows: (n,) of any record type, sorted by group.
        groups: (n,) integer group of each row, ascending.
        count: Groups in all.
    """
    starts = np.searchsorted(groups, np.arange(count + 1))
    return np.array([count, *starts], dtype="<u8").tobytes(), rows.tobytes()


def read_groups(where: AnyPath, dtype: np.dtype, first: int, last: int | None = None) -> np.ndarray:
    """Read the rows of groups ``first`` up to but not including ``last``; one by default."""
    last = first + 1 if last is None else last
    width = (last - first + 1) * _WIDTH
    offset = (1 + first) * _WIDTH
    head = b"".join(store_of(where).read_ranges(where, [(0, _WIDTH), (offset, offset + width)]))
    count, *starts = np.frombuffer(head, dtype="<u8").tolist()
    base = (2 + count) * _WIDTH
    start, end = (base + row * dtype.itemsize for row in (starts[0], starts[-1]))
    [rows] = store_of(where).read_ranges(where, [(start, end)])
    return np.frombuffer(rows, dtype=dtype)
