"""64-bit hashes of (seed, document), the randomness of a document, and checksums of sequences.

Sampling, ties, random ranks and Gumbel noise all use :func:`hash_documents`, which is the same on
every worker. The draws of a seeded generator would depend on the number of workers; a hash of id
and text does not. Ids alone would do where they are unique, but ids that begin anew in each file
would draw the same rows of every file.

The checksum of a sequence costs less than reading it: multilinear hashing. It is the sum of
(value + 1) times an odd 64-bit factor of its position, modulo 2^64 (Carter and Wegman 1979; Lemire
and Kaser 2014, "Strongly universal string hashing is fast"). An odd factor has an inverse, so a
change of one value, in one bit or all, always changes the sum; several changes cancel with a
probability of 2^-32 or less. It is of values, not of bytes, so it does not depend on the width of
the token type.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import pyarrow as pa

from penstock.compiling import cached
from penstock.text_hashes import hash_words

__all__ = [
    "FNV_OFFSET",
    "FNV_PRIME",
    "avalanche",
    "factors",
    "hash_documents",
    "hash_ids",
    "mix",
    "sequence_checksum",
    "sequence_checksums",
    "uniform",
]

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
"""FNV-1a of 64 bits (Fowler, Noll & Vo): ``state = (state ^ item) * FNV_PRIME``."""


@numba.njit(inline="always")
def avalanche(value: np.uint64) -> np.uint64:
    """Apply the finaliser of splitmix64 (Steele et al. 2014): each bit affects all bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@cached(nogil=True)
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
        _hash_strings(data, offsets, np.uint64(mix(seed)), out)
    return out


@cached(nogil=True)
def _mix_in(hashes: np.ndarray, words: np.ndarray) -> None:
    for row in range(hashes.shape[0]):
        state = avalanche(hashes[row] ^ words[row, 0])
        hashes[row] = avalanche(state ^ words[row, 1])


def hash_documents(documents: pa.Table | pa.RecordBatch, seed: int) -> np.ndarray:
    """Hash each document's id and the hash of its text with ``seed``.

    Args:
        documents: ``id`` string and ``hash`` fixed_size_binary(16), without nulls. A table without
            ``hash`` is hashed by ids alone, as by :func:`hash_ids`.
        seed: Any integer; use :func:`mix` to keep purposes apart.

    Returns:
        (n,) uint64, uniform.
    """
    hashes = hash_ids(documents.column("id"), seed)
    if "hash" in documents.schema.names and len(hashes):
        _mix_in(hashes, hash_words(documents.column("hash")))
    return hashes


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Return hashes as numbers strictly between 0 and 1: (n,) uint64 to (n,) float64.

    The top 52 bits plus one half, so that neither 0 nor 1 occurs and logarithms are finite; with
    one bit more the half would round the largest up to 1.
    """
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@functools.lru_cache(8)
def factors(length: int) -> np.ndarray:
    """Return (2 * length,) odd uint64: of each token's position, then of each document's number.

    They are the sequence of splitmix64 (Steele et al. 2014) from 0.
    """
    made: np.ndarray = _factors(2 * length)
    made.flags.writeable = False
    return made


@cached()
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


@cached(nogil=True)
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
