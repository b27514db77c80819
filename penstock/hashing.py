"""64-bit hashes of (seed, id): randomness of a document that is the same on every worker.

Sampling, ties, random ranks and Gumbel noise all use it. The draws of a seeded generator would
depend on the number of workers; a hash of the id does not.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

__all__ = ["FNV_OFFSET", "FNV_PRIME", "avalanche", "hash_ids", "mix", "uniform"]

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
"""FNV-1a of 64 bits (Fowler, Noll & Vo): ``state = (state ^ item) * FNV_PRIME``."""


@numba.njit(inline="always")
def avalanche(value: np.uint64) -> np.uint64:
    """Apply the finaliser of splitmix64 (Steele et al. 2014): each bit affects all bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _hash_strings(data: np.ndarray, offsets: np.ndarray, start: np.uint64, out: np.ndarray) -> None:
    for row in range(out.shape[0]):
        state = start
        for position in range(offsets[row], offsets[row + 1]):
            state = (state ^ np.uint64(data[position])) * FNV_PRIME
        out[row] = avalanche(state)


def mix(*parts: int | str) -> int:
    """Fold seeds and purposes into one 64-bit seed, so that two purposes have different draws."""
    state = int(FNV_OFFSET)
    for part in parts:
        for byte in f"{part}\x1f".encode():
            state = ((state ^ byte) * int(FNV_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return state


def hash_ids(ids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """Hash each id with ``seed``.

    Args:
        ids: Strings, (n,), no nulls.
        seed: Any integer; use :func:`mix` to keep purposes apart.

    Returns:
        (n,) uint64, uniform.
    """
    ids = ids.cast(pa.large_string())  # before chunks are joined: 32-bit offsets may overflow
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks() if ids.num_chunks != 1 else ids.chunk(0)
    out = np.empty(len(ids), dtype=np.uint64)
    if len(ids):
        _, offsets_buffer, data_buffer = ids.buffers()
        offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[ids.offset :][: len(ids) + 1]
        data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.empty(0, np.uint8)
        start = np.uint64(mix(seed))
        _hash_strings(data, offsets, start, out)
    return out


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Return hashes as numbers strictly between 0 and 1: (n,) uint64 to (n,) float64.

    The top 52 bits plus one half, so that neither 0 nor 1 occurs and logarithms are finite; with
    one bit more the half would round the largest up to 1.
    """
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
