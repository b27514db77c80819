"""Stateless pseudo-random permutation: a Feistel network with cycle walking.

Any index of any epoch can be computed by any worker at any time, so nothing is stored. It costs
about 0.1 µs an index.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from penstock.hashing import avalanche, mix

__all__ = ["permute"]

FEISTEL_ROUNDS = 8
"""Four rounds make a pseudorandom permutation (Luby and Rackoff 1988); small domains need more."""


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map indices to indices, one to one.

    The network permutes a power of four that is at most four times ``size``; a value outside the
    domain is passed through it again until it is inside (cycle walking, Black and Rogaway 2002),
    fewer than four times on average.

    Args:
        places: (n,) integers in [0, size).
        size: Size of the domain.
        key: Any integer; each key gives another permutation.

    Returns:
        (n,) int64 in [0, size).
    """
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    moved: np.ndarray = _walk(
        places.astype(np.uint64), np.uint64(size), np.uint64(half), _round_keys(key)
    )
    return moved


@functools.lru_cache(64)
def _round_keys(key: int) -> np.ndarray:
    return np.array([mix(key, number) for number in range(FEISTEL_ROUNDS)], np.uint64)


@numba.njit(cache=True, nogil=True)
def _walk(places: np.ndarray, size: np.uint64, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    moved = np.empty(len(places), np.int64)
    low = (np.uint64(1) << half) - np.uint64(1)
    for number in range(len(places)):
        value, outside = places[number], True
        while outside:
            left, right = value >> half, value & low
            for key in keys:
                left, right = right, left ^ (avalanche(right ^ key) & low)
            value = (left << half) | right
            outside = value >= size
        moved[number] = value
    return moved
