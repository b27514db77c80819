"""Equal pieces of a text, and equal pairs of numbers: the first of those that are equal.

Two hash tables with open addressing. Both compare keys in full, so a collision of hashes costs time
and never changes a result. Each process draws a seed for its hashes, so no document can be prepared
whose lines collide; results are the same for every seed.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock.arrow_text import read_only
from penstock.compiling import compiler

__all__ = ["Utf8", "hash_span", "intern_pairs", "intern_spans", "table_bits"]

_compiled = compiler()

_STEP = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_BYTE = np.uint64(8)
_ONE = np.uint64(1)


class Utf8(NamedTuple):
    """UTF-8 bytes, and every run of eight of them as one integer."""

    bytes: np.ndarray  # (n,) uint8
    windows: np.ndarray  # (n - 7,) uint64, a view: windows[i] has bytes[i] lowest

    @classmethod
    def of(cls, data: np.ndarray) -> Utf8:
        """View (n,) uint8 without a copy. Little-endian, like Arrow."""
        return cls(data, read_only(np.ndarray((max(len(data) - 7, 0),), np.uint64, data, 0, (1,))))


@_compiled
def table_bits(count: int) -> int:
    """Return log2 of the slots of a table for ``count`` keys, at most half of them filled."""
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    return bits


@_compiled
def hash_span(text: Utf8, start: int, stop: int, seed: int) -> int:
    """Hash bytes ``start`` to ``stop``; up to eight bytes of one length have distinct hashes."""
    state = seed ^ (np.uint64(stop - start) * _STEP)
    at = start
    while at + 8 <= stop:
        state = (state ^ text.windows[at]) * _STEP
        state ^= state >> _HALF
        at += 8
    if at < stop:
        tail = np.uint64(0)
        if at < len(text.windows):
            tail = text.windows[at] & ((_ONE << (_BYTE * np.uint64(stop - at))) - _ONE)
        else:
            for place in range(stop - 1, at - 1, -1):
                tail = tail << _BYTE | np.uint64(text.bytes[place])
        state = (state ^ tail) * _STEP
        state ^= state >> _HALF
    return state * _STEP


@_compiled
def intern_spans(
    text: Utf8,
    starts: np.ndarray,
    stops: np.ndarray,
    count: int,
    seed: int,
    hashes: np.ndarray,
    slots: np.ndarray,
    first: np.ndarray,
) -> None:
    """Write to ``first[i]`` the lowest ``j`` whose bytes are equal to those of span ``i``.

    Args:
        text: The bytes.
        starts: (count,) int32.
        stops: (count,) int32.
        count: Number of spans.
        seed: uint64.
        hashes: (count,) uint64, scratch.
        slots: (2^table_bits(count),) int32, scratch.
        first: (count,) int32, the result.
    """
    for item in range(count):
        hashes[item] = hash_span(text, starts[item], stops[item], seed)
    bits = table_bits(count)
    slots[: 1 << bits] = -1
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    for item in range(count):
        own = hashes[item]
        slot = np.int64(own >> shift)
        while True:
            other = slots[slot]
            if other < 0:
                slots[slot] = item
                first[item] = item
                break
            if hashes[other] == own and _equal(text, starts, stops, item, other):
                first[item] = other
                break
            slot = (slot + 1) & mask


@_compiled
def _equal(text: Utf8, starts: np.ndarray, stops: np.ndarray, one: int, other: int) -> bool:
    """Compare two spans of equal hash."""
    length = stops[one] - starts[one]
    if length != stops[other] - starts[other]:
        return False
    if length <= 8:
        return True
    here, there = starts[one], starts[other]
    last = stops[one] - 8
    while here < last:
        if text.windows[here] != text.windows[there]:
            return False
        here += 8
        there += 8
    return bool(text.windows[last] == text.windows[stops[other] - 8])


@_compiled
def intern_pairs(
    keys: np.ndarray,
    places: np.ndarray,
    count: int,
    seed: int,
    slots: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write to ``first[places[i]]`` the place of the first key equal to ``keys[i]``.

    The slot of a key is the top of its product with a random odd number (Dietzfelbinger et al.
    1997).

    Args:
        keys: (count,) uint64.
        places: (count,) int32, increasing.
        count: Number of keys.
        seed: uint64.
        slots: (2^table_bits(count),) int32, scratch.
        first: int32, written at ``places``.
        counts: int32, written at the first places: how often the key occurs.
    """
    bits = table_bits(count)
    slots[: 1 << bits] = -1
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    factor = seed | _ONE
    for item in range(count):
        key, place = keys[item], places[item]
        slot = np.int64((key * factor) >> shift)
        while True:
            other = slots[slot]
            if other < 0:
                slots[slot] = item
                first[place] = place
                counts[place] = 1
                break
            if keys[other] == key:
                first[place] = places[other]
                counts[places[other]] += 1
                break
            slot = (slot + 1) & mask
