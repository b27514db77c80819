"""Bytes that each row of a batch takes when its values are written out.

A column may hold a value once for many rows: dictionaries, runs, and views of the same bytes or
elements. 40 kB can stand for gigabytes, so rows are divided by these sizes, and not by those of
buffers, before they are turned into values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["row_sizes", "slices_of"]

_VALUE = 8
"""Bytes of a number, and of what an element has beside its value."""

_MOST = 1 << 32
"""Bytes of a value, at most: their sums stay exact in 64 bits."""

_RUNS = 1 << 20
"""Values of runs that are counted one by one; of more all count as the longest."""


def slices_of(sizes: np.ndarray, rows: int, size: int, alone: int) -> Iterator[slice]:
    """Divide rows into consecutive slices.

    Args:
        sizes: (n,) int64, bytes of each row.
        rows: Most rows of a slice.
        size: Most bytes of a slice of several rows.
        alone: A row of more bytes is a slice of its own.
    """
    ends = np.cumsum(sizes)
    large = np.flatnonzero(sizes > alone)
    start = before = 0
    while start < len(sizes):
        end = min(int(np.searchsorted(ends, before + size, "right")), start + rows)
        after = int(np.searchsorted(large, start))
        if after < len(large):
            end = min(end, int(large[after]))
        end = max(end, start + 1)
        yield slice(start, end)
        start, before = end, int(ends[end - 1])


def row_sizes(columns: Iterable[pa.Array], count: int) -> np.ndarray:
    """Return the bytes of each row: (n,) int64.

    Args:
        columns: Arrays of n values that were validated.
        count: n.
    """
    return np.array(_sum(count, map(_sizes, columns)))


def _sizes(array: pa.Array) -> np.ndarray:
    """Return the bytes of each value, (n,) int64; a view of one number where all are equal.

    An array may have more values than bytes: nulls, runs, and structures of them.
    """
    kind = array.type
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        found = _sizes(array.storage)
    elif types.is_dictionary(kind):
        own = _sizes(array.dictionary)
        indices = pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)
        found = own[indices] if len(own) else _constant(len(array), _VALUE)
    elif types.is_run_end_encoded(kind):
        found = _of_runs(array)
    elif kind in (pa.string_view(), pa.binary_view()):
        views = _numbers(array.buffers()[1], "<i4", 4).reshape(-1, 4)
        found = views[array.offset : array.offset + len(array), 0].astype(np.int64) + _VALUE
        if array.null_count:  # the view of a null is arbitrary
            found = np.where(array.is_valid().to_numpy(zero_copy_only=False), found, _VALUE)
    elif types.is_string(kind) or types.is_binary(kind):
        found = _lengths(array, "<i4")
    elif types.is_large_string(kind) or types.is_large_binary(kind):
        found = _lengths(array, "<i8")
    elif types.is_fixed_size_binary(kind):
        found = _constant(len(array), kind.byte_width + _VALUE)
    elif types.is_struct(kind):
        found = _sum(len(array), [_sizes(array.field(n)) for n in range(kind.num_fields)])
    elif types.is_union(kind):
        found = _of_union(array)
    elif types.is_nested(kind):
        found = _of_list(array)
    else:
        found = _constant(len(array), 2 * _VALUE)
    return found


def _constant(count: int, size: int) -> np.ndarray:
    return np.broadcast_to(np.int64(min(size, _MOST)), count)


def _sum(count: int, parts: Iterable[np.ndarray]) -> np.ndarray:
    total = _constant(count, _VALUE)
    for part in parts:
        if part.strides == total.strides == (0,) and count:
            total = _constant(count, int(total[0] + part[0]))
        else:
            total = np.minimum(total + part, _MOST)
    return total


def _numbers(buffer: pa.Buffer | None, dtype: str, width: int = 1) -> np.ndarray:
    """View a buffer, which may have some bytes after the last number."""
    if buffer is None:
        return np.zeros(0, dtype)
    count = buffer.size // (width * np.dtype(dtype).itemsize) * width
    return np.frombuffer(buffer, dtype, count)


def _lengths(array: pa.Array, dtype: str) -> np.ndarray:
    if not len(array):
        return np.zeros(0, np.int64)
    offsets = _numbers(array.buffers()[1], dtype)[array.offset :][: len(array) + 1]
    return np.diff(offsets).astype(np.int64) + _VALUE


def _of_runs(array: pa.Array) -> np.ndarray:
    first, count = array.find_physical_offset(), array.find_physical_length()
    own = _sizes(array.values.slice(first, count))
    if len(array) > _RUNS:
        return _constant(len(array), int(own.max(initial=0)))
    ends = array.run_ends.to_numpy()[first : first + count].astype(np.int64) - array.offset
    return np.repeat(own, np.diff(np.minimum(ends, len(array)), prepend=0))


def _of_union(array: pa.Array) -> np.ndarray:
    kind = array.type
    parts = [_sizes(array.field(number)) for number in range(kind.num_fields)]
    if kind.mode == "sparse":  # parts that are not used are counted, too
        return _sum(len(array), parts)
    total = np.full(len(array), _VALUE, np.int64)
    codes, offsets = array.type_codes.to_numpy(), array.offsets.to_numpy()
    for code, part in zip(kind.type_codes, parts):
        own = codes == code
        if own.any():
            total[own] += part[offsets[own]]
    return total


def _of_list(array: pa.Array) -> np.ndarray:
    """Return the bytes of lists of any kind, with those of their elements."""
    kind, count = array.type, len(array)
    if pa.types.is_fixed_size_list(kind):
        first = array.offset * kind.list_size
        own = _sizes(array.values.slice(first, count * kind.list_size))
        if own.strides == (0,) or not kind.list_size:
            return _constant(count, _VALUE + kind.list_size * int(own.max(initial=0)))
        total: np.ndarray = own.reshape(count, -1).sum(1) + _VALUE
        return total
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts = array.offsets.to_numpy().astype(np.int64)
        ends = starts + array.sizes.to_numpy()
    else:
        edges = array.offsets.to_numpy().astype(np.int64)
        starts, ends = edges[:-1], edges[1:]
    first, last = int(starts.min(initial=len(array.values))), int(ends.max(initial=0))
    own = _sizes(array.values.slice(first, max(0, last - first)))
    if own.strides == (0,):
        sizes = (ends - starts) * int(own.max(initial=0))
    else:
        sums = np.append(0, np.cumsum(own))
        sizes = sums[ends - first] - sums[starts - first]
    return np.minimum(sizes + _VALUE, _MOST)
