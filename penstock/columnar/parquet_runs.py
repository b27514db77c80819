"""Decode ``RLE`` of Parquet: runs of one number and packed bits, alternately.

Levels and indices of dictionaries are stored so. 10^9 equal numbers are a few bytes, so a run stays
a number and a count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["decode_runs"]

_GROUPS = 1 << 16
"""Groups of eight packed numbers that are unpacked at a time."""


def decode_runs(data: memoryview, width: int, count: int) -> Iterator[tuple[int | np.ndarray, int]]:
    """Yield runs: the number that occurs ``n`` times, or (n,) uint32; and ``n``.

    Args:
        data: The bytes, from the first run on.
        width: Bits of a number, at most 32.
        count: Numbers.

    Raises:
        ValueError: They are damaged, or fewer.
        IndexError: As ValueError.
    """
    if width > 32:
        raise ValueError(f"numbers of {width} bits")
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
                raise ValueError("an empty run")
            yield int.from_bytes(data[at : at + size], "little"), some
            at, count = at + size, count - some
            continue
        groups = header >> 1
        while groups and count:
            taken = min(groups, _GROUPS)
            packed = np.frombuffer(data[at : at + taken * width], np.uint8)
            some = min(8 * (len(packed) // width if width else taken), count)
            if not some:
                raise ValueError("fewer numbers than promised")
            yield _unpacked(packed, width, some), some
            at, count, groups = at + taken * width, count - some, groups - taken


def _unpacked(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Return the first numbers of packed bits: (count,) uint32."""
    found = np.zeros(count, np.uint32)
    if width:
        bits = np.unpackbits(packed, count=count * width, bitorder="little").reshape(-1, width)
        for place in range(width):
            found |= bits[:, place].astype(np.uint32) << np.uint32(place)
    return found
