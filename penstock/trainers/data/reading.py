"""Read rows of mapped files into a batch, in one compiled call that releases the GIL.

To find, view and copy a row takes Python microseconds, longer than the copy itself. Here all rows
of a batch are found, compared with their checksums and cast in compiled code, while the trainer's
thread runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from penstock.compiling import cached
from penstock.hashing import sequence_checksum

__all__ = ["Columns", "predicted_in", "read_rows", "recorded_checksums"]


class Columns(NamedTuple):
    """The columns of a mapped record batch, in the order in which their addresses are passed."""

    tokens: np.ndarray
    """(rows * L,) uint16 or uint32."""
    starts: np.ndarray
    """(documents,) int32: where each document begins in its row."""
    offsets: np.ndarray
    """(rows + 1,) int32: where the ``starts`` of each row begin."""
    checksums: np.ndarray
    """(rows,) uint64."""


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """Cast an address to a pointer to values of the type of ``like``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.uint64, like), build


@numba.njit(inline="always")
def _view(address: np.uint64, like: np.ndarray, first: int, count: int) -> np.ndarray:
    start = address + np.uint64(first * like.itemsize)
    return numba.carray(_pointer(start, like), (count,))


_INT32 = np.empty(0, np.int32)
_UINT64 = np.empty(0, np.uint64)


@numba.njit(inline="always")
def _starts(addresses: np.ndarray, batch: int, row: int) -> np.ndarray:
    offsets = _view(addresses[batch, 2], _INT32, row, 2)
    start, end = np.int64(offsets[0]), np.int64(offsets[1])
    if not 0 <= start <= end <= np.int64(addresses[batch, 4]):  # changed since it was validated
        start = end = np.int64(0)
    return _view(addresses[batch, 1], _INT32, start, end - start)


@numba.njit(inline="always")
def _batch(first: np.ndarray, row: int) -> int:
    if row < 0 or row >= first[-1]:
        raise IndexError("no such sequence")
    return int(np.searchsorted(first, row, side="right")) - 1


@cached(nogil=True)
def recorded_checksums(rows: np.ndarray, first: np.ndarray, addresses: np.ndarray) -> np.ndarray:
    """Return the recorded checksums of rows, (n,) uint64; arguments as of :func:`read_rows`."""
    sums = np.empty(len(rows), np.uint64)
    for place in range(len(rows)):
        batch = _batch(first, rows[place])
        sums[place] = _view(addresses[batch, 3], _UINT64, rows[place] - first[batch], 1)[0]
    return sums


@cached(nogil=True)
def predicted_in(
    rows: np.ndarray, counted: np.ndarray, first: np.ndarray, addresses: np.ndarray
) -> np.ndarray:
    """Count the first ``counted`` tokens of each row that begin no document: (n,) int64."""
    counts = np.empty(len(rows), np.int64)
    for place in range(len(rows)):
        batch = _batch(first, rows[place])
        starts = _starts(addresses, batch, rows[place] - first[batch])
        counts[place] = counted[place] - np.searchsorted(starts, counted[place])
    return counts


@cached(nogil=True)
def read_rows(
    rows: np.ndarray,
    first: np.ndarray,
    addresses: np.ndarray,
    like: np.ndarray,
    factors: np.ndarray,
    length: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Copy rows into new arrays.

    Args:
        rows: (n,) int64, counted over all record batches.
        first: (batches + 1,) int64: the first row of each record batch, and the number of all.
        addresses: (batches, 5) uint64: the addresses of the columns of each, and its ``starts``.
        like: An empty array of the type of the tokens.
        factors: Those of the checksums.
        length: L, the tokens of a row.

    Returns:
        (n, L) int64 tokens; (documents + 1,) int32, where each document begins in the n * L
        tokens, and their end; and the first index into ``rows`` whose checksum does not match,
        or -1.
    """
    ids = np.empty((len(rows), length), np.int64)
    spans = np.empty(ids.size + 1, np.int32)
    filled = 0
    for place in range(len(rows)):
        batch = _batch(first, rows[place])
        row = rows[place] - first[batch]
        tokens = _view(addresses[batch, 0], like, row * length, length)
        starts = _starts(addresses, batch, row)
        expected = _view(addresses[batch, 3], _UINT64, row, 1)[0]
        # No more documents than tokens, or their starts would not fit.
        if len(starts) > length or sequence_checksum(tokens, starts, factors) != expected:
            return ids, spans, place
        for token in range(length):
            ids[place, token] = tokens[token]
        for start in starts:
            spans[filled] = place * length + start
            filled += 1
    spans[filled] = ids.size
    return ids, spans[: filled + 1].copy(), -1
