"""A checksum of a packed sequence that costs less than reading it: multilinear hashing.

The sum of each value, plus one, times an odd 64-bit number of its place, modulo 2^64 (Carter and
Wegman 1979; Lemire and Kaser 2014, "Strongly universal string hashing is fast"). An odd factor has
an inverse, so one value that changed, by one bit or by all, always changes the sum; several changes
cancel with a chance of 2^-32 or less. It is of values, not of bytes, so the width of a token's type
does not matter.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from penstock.hashing import avalanche

__all__ = ["factors", "sequence_checksum", "sequence_checksums"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@functools.lru_cache(8)
def factors(length: int) -> np.ndarray:
    """(2 * length,) uint64, odd: of each token's place, then of each document's number.

    The sequence of splitmix64 (Steele et al. 2014) from 0.
    """
    made: np.ndarray = _factors(2 * length)
    made.flags.writeable = False
    return made


@numba.njit(cache=True)
def _factors(count: int) -> np.ndarray:
    made = np.empty(count, np.uint64)
    for number in range(count):
        made[number] = avalanche(np.uint64(number + 1) * _GAMMA) | np.uint64(1)
    return made


@numba.njit(inline="always")
def sequence_checksum(tokens: np.ndarray, starts: np.ndarray, factors: np.ndarray) -> np.uint64:
    """Of one sequence: (L,) uint16, uint32 or int64, (documents,) int32 and its :func:`factors`."""
    total = np.uint64(0)
    for place in range(tokens.shape[0]):
        total += (np.uint64(tokens[place]) + np.uint64(1)) * factors[place]
    for number in range(starts.shape[0]):
        factor = factors[tokens.shape[0] + number]
        total += (np.uint64(starts[number]) + np.uint64(1)) * factor
    return total


@numba.njit(cache=True, nogil=True)
def _all(
    tokens: np.ndarray, starts: np.ndarray, offsets: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    sums = np.empty(tokens.shape[0], np.uint64)
    for row in range(tokens.shape[0]):
        own = starts[offsets[row] : offsets[row + 1]]
        sums[row] = sequence_checksum(tokens[row], own, factors)
    return sums


def sequence_checksums(tokens: np.ndarray, starts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Of several sequences.

    Args:
        tokens: (n, L) uint16 or uint32.
        starts: (documents,) int32: where each document begins in its sequence, row by row.
        offsets: (n + 1,) integers: which of ``starts`` belong to each row.

    Returns:
        (n,) uint64.
    """
    sums: np.ndarray = _all(tokens, starts, offsets, factors(tokens.shape[1]))
    return sums
