"""Read rows of mapped files into a batch, in one compiled call that releases the GIL.

To find, view and copy a row takes Python microseconds, longer than the copy itself. Here all rows
of a batch are found, compared with their checksums and cast in compiled code, while the trainer's
thread runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from penstock.hashing import factors, sequence_checksum

__all__ = ["Columns", "Rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a mapped record batch."""

    tokens: np.ndarray
    """(rows * L,) uint16 or uint32."""
    starts: np.ndarray
    """(documents,) int32: where each document begins in its row."""
    offsets: np.ndarray
    """(rows + 1,) int32: where the ``starts`` of each row begin."""
    checksums: np.ndarray
    """(rows,) uint64."""


class Rows:
    """The rows of several record batches, by number.

    Args:
        batches: The columns of each, with tokens of one type.
        length: L, the tokens of a row.
    """

    def __init__(self, batches: Sequence[Columns], length: int) -> None:
        self._length = length
        self._batches = tuple(batches)
        """Record batches, kept so that files stay mapped while their addresses are in use."""
        self._first = np.cumsum([0, *(len(each.checksums) for each in batches)], dtype=np.int64)
        columns = [(each.tokens, each.starts, each.offsets, each.checksums) for each in batches]
        addresses = [[column.ctypes.data for column in each] for each in columns]
        self._addresses = np.array(addresses, np.uint64).reshape(-1, 4)
        self._like = np.empty(0, batches[0].tokens.dtype if batches else np.uint16)

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, row: int) -> int:
        """Return the number of the record batch that holds a row."""
        return int(np.searchsorted(self._first, row, side="right")) - 1

    def starts(self, row: int) -> np.ndarray:
        """Return where documents begin in a row, as a view: (documents,) int32."""
        number = self.batch(row)
        place, columns = row - int(self._first[number]), self._batches[number]
        first, last = columns.offsets[place : place + 2]
        return columns.starts[first:last]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Copy rows into new arrays.

        Args:
            rows: (n,) int64.

        Returns:
            (n, L) int64 tokens; (documents + 1,) int32, where each document begins in the n * L
            tokens, and their end; and the first index into ``rows`` whose checksum does not match,
            or -1.
        """
        keys = factors(self._length)
        return _read(rows, self._first, self._addresses, self._like, keys, self._length)

    def predicted(self, rows: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Count the first ``counted`` tokens of each row that begin no document: (n,) int64."""
        found: np.ndarray = _predicted(rows, counted, self._first, self._addresses)
        return found

    def checksums(self, rows: np.ndarray) -> np.ndarray:
        """Return the recorded checksums: (n,) uint64."""
        sums: np.ndarray = _checksums(rows, self._first, self._addresses)
        return sums


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
    return _view(addresses[batch, 1], _INT32, offsets[0], offsets[1] - offsets[0])


@numba.njit(inline="always")
def _batch(first: np.ndarray, row: int) -> int:
    if row < 0 or row >= first[-1]:
        raise IndexError("no such sequence")
    return int(np.searchsorted(first, row, side="right")) - 1


@numba.njit(cache=True, nogil=True)
def _checksums(rows: np.ndarray, first: np.ndarray, addresses: np.ndarray) -> np.ndarray:
    sums = np.empty(len(rows), np.uint64)
    for place in range(len(rows)):
        batch = _batch(first, rows[place])
        sums[place] = _view(addresses[batch, 3], _UINT64, rows[place] - first[batch], 1)[0]
    return sums


@numba.njit(cache=True, nogil=True)
def _predicted(
    rows: np.ndarray, counted: np.ndarray, first: np.ndarray, addresses: np.ndarray
) -> np.ndarray:
    counts = np.empty(len(rows), np.int64)
    for place in range(len(rows)):
        batch = _batch(first, rows[place])
        starts = _starts(addresses, batch, rows[place] - first[batch])
        counts[place] = counted[place] - np.searchsorted(starts, counted[place])
    return counts


@numba.njit(cache=True, nogil=True)
def _read(
    rows: np.ndarray,
    first: np.ndarray,
    addresses: np.ndarray,
    like: np.ndarray,
    factors: np.ndarray,
    length: int,
) -> tuple[np.ndarray, np.ndarray, int]:
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
