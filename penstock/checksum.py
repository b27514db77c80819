"""A checksum of a packed sequence that costs less than reading it: multilinear hashing.

It is the sum of (value + 1) times an odd 64-bit factor of its position, modulo 2^64 (Carter and
Wegman 1979; Lemire and Kaser 2014, "Strongly universal string hashing is fast"). An odd factor has
an inverse, so a change of one value, in one bit or all, always changes the sum; several changes
cancel with a probability of 2^-32 or less. It is of values, not of bytes, so it does not depend on
the width of the token type.
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
    """Return (2 * length,) odd uint64: of each token's position, then of each document's number.

    They are the sequence of splitmix64 (Steele et al. 2014) from 0.
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
    """Compute the checksum of one sequence.

    Args:
        tokens: (L,) uint16, uint32 or int64.
        starts: (documents,) int32: where each document begins.
        factors: :func:`factors` of L.
    """
    total = np.uint64(0)
    for position in range(tokens.shape[0]):
        total += (np.uint64(tokens[position]) + np.uint64(1)) * factors[position]
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
    """Compute the checksum of each of n sequences.

    Args:
        tokens: (n, L) uint16 or uint32.
        starts: (documents,) int32: where each document begins in its sequence, row by row.
        offsets: (n + 1,) integers: which of ``starts`` belong to each row.

    Returns:
        (n,) uint64.
    """
    sums: np.ndarray = _all(tokens, starts, offsets, factors(tokens.shape[1]))
    return sums
