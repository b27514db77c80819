"""Hashed n-grams: the SHA-256 bucket of every word n-gram of a text, as DSIR counts them.

``hashlib`` takes 560 ns for one n-gram, most of them for the call. Here a bigram is a slice of the
normalised text, and 32 n-grams at a time go through the rounds side by side, in vector registers:
26 ns each. No n-gram is remembered, so there is no table to hold or to ship.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import arrow_text
from penstock.arrow_text import TextView, decode_utf8, encode_utf8, text_view
from penstock.compiling import compiler

__all__ = ["MOST_BUCKETS", "count_ngrams", "sum_log_ratios"]

MOST_BUCKETS = 2**29
"""Eight 32-bit words of a digest times remainders below this add up to less than 2^64."""

_compiled = compiler(arrow_text)


def sum_log_ratios(
    texts: pa.Array, log_ratios: np.ndarray, ngrams: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the log ratios of each text's n-grams.

    Args:
        texts: (n,) string or large_string.
        log_ratios: (buckets,) float64.
        ngrams: Tokens of the longest n-grams; all shorter ones count too.

    Returns:
        The sums, (n,) float64, and each text's tokens, (n,) int64.
    """
    view = _lowered(texts)
    sums, tokens = np.empty(len(texts)), np.empty(len(texts), np.int64)
    scratch = NgramScratch.of(view, ngrams, len(log_ratios))
    _weigh(view.data, view.offsets, _characters(), ngrams, scratch, log_ratios, sums, tokens)
    return sums, tokens


def count_ngrams(texts: pa.Array, counts: np.ndarray, ngrams: int, most: int) -> np.ndarray:
    r"""Add the texts' n-grams to ``counts``, (buckets,) int64, until they are ``most`` in all.

    Tokens are what ``\w+|[^\w\s]+`` finds in the lower-cased text; an n-gram's tokens are joined
    by spaces; its bucket is the SHA-256 of its UTF-8, as one integer, modulo the buckets.

    Returns:
        (m,) int64: the tokens of each text that was read.
    """
    view = _lowered(texts)
    tokens = np.empty(len(texts), np.int64)
    scratch = NgramScratch.of(view, ngrams, len(counts))
    read = _add(view.data, view.offsets, _characters(), ngrams, scratch, most, counts, tokens)
    return tokens[:read]


# Characters as the running Python classifies them: class and lower case in one table.

_SPACE, _WORD, _MARK = 0, 1, 2


@cache
def _characters() -> np.ndarray:
    """Tabulate each code point's lower case, and its class from bit 24 on: (0x110000,) int32."""
    characters = "".join(map(chr, range(0x110000)))
    lower = characters.replace("\u03a3", "\u03c3").replace("\u0130", "i").lower()
    table = np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), np.int32)
    kinds = np.full(len(table), _MARK, np.int32)
    for kind, pattern in ((_WORD, r"\w+"), (_SPACE, r"\s+")):
        for match in re.finditer(pattern, characters):
            kinds[slice(*match.span())] = kind
    return table | kinds << 24


def _lowered(texts: pa.Array) -> TextView:
    """View texts of which the compiled loops can lower-case each character by itself.

    Two characters cannot be lower-cased by themselves: sigma, whose small form depends on its
    neighbours, and the dotted capital I, which becomes two characters. Texts with either are
    lower-cased here.
    """
    texts = texts.cast(pa.large_string())
    special = pc.match_substring_regex(texts, "[\u03a3\u0130]")
    if pc.any(special).as_py():
        lowered = [text.lower() for text in texts.filter(special).to_pylist()]
        texts = pc.replace_with_mask(texts, special, pa.array(lowered, pa.large_string()))
    return text_view(texts)


# The inner loops. Integers are fixed-width; numba widens uint32 to 64 bits, hence the casts.

_U32 = np.uint32
_LANES = 32
"""N-grams that are hashed side by side: 26 ns each with 32, 30 with 16, 160 with 8, which the
compiler leaves unvectorised."""

_ROUNDS = 4
"""Rounds between a load and a store of the state; 8 are as fast, and with 16 it is 160 ns again."""


def _fractions(root: int, count: int) -> np.ndarray:
    """Return the first 32 fraction bits of the primes' roots: FIPS 180-4, 4.2.2 and 5.3.3."""
    primes = [n for n in range(2, 312) if all(n % m for m in range(2, n))][:count]
    # None is nearer to an integer than 5e-3, a thousand times the error of a float64.
    return np.floor(np.array(primes) ** (1 / root) % 1 * 2**32).astype(np.uint32)


_CONSTANTS = _fractions(3, 64)
_INITIAL = _fractions(2, 8)


class NgramScratch(NamedTuple):
    """Buffers for the longest text of a batch; pages are touched only as they are used."""

    text: np.ndarray  # (2 bytes + 8,) uint8: tokens in lower case, one space between two
    windows: np.ndarray  # a view of it: windows[i] is the four bytes from i as one uint32
    starts: np.ndarray  # (bytes,) int64: where each token begins
    ends: np.ndarray  # (bytes,) int64: where it ends
    buckets: np.ndarray  # (ngrams x bytes,) int32: of each n-gram
    schedule: np.ndarray  # (64, _LANES) uint32: the words of a block
    state: np.ndarray  # (8, _LANES) uint32
    working: np.ndarray  # (8, _LANES) uint32
    powers: np.ndarray  # (8,) uint64: what each word of a digest counts, modulo the buckets

    @classmethod
    def of(cls, view: TextView, ngrams: int, buckets: int) -> NgramScratch:
        """Allocate for a view of texts.

        A character of one byte may be a token; one of two bytes may have three in lower case.
        """
        n_bytes = view.longest
        text = np.empty(2 * n_bytes + 8, np.uint8)
        return cls(
            text,
            np.ndarray((len(text) - 3,), np.uint32, text, strides=(1,)),
            np.empty(n_bytes, np.int64),
            np.empty(n_bytes, np.int64),
            np.empty(ngrams * n_bytes, np.int32),
            np.empty((64, _LANES), np.uint32),
            np.empty((8, _LANES), np.uint32),
            np.empty((8, _LANES), np.uint32),
            np.array([pow(2, 32 * (7 - i), buckets) for i in range(8)], np.uint64),
        )


@_compiled
def _weigh(
    data: np.ndarray,
    offsets: np.ndarray,
    characters: np.ndarray,
    ngrams: int,
    scratch: NgramScratch,
    log_ratios: np.ndarray,
    weights: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Write each document's sum of log ratios, (n,) float64, and its tokens, (n,) int64."""
    for row in range(len(weights)):
        tokens[row] = _tokenise(data, offsets[row], offsets[row + 1], characters, scratch)
        total = 0.0
        for i in range(_hash_ngrams(tokens[row], ngrams, len(log_ratios), scratch)):
            total += log_ratios[scratch.buckets[i]]
        weights[row] = total


@_compiled
def _add(
    data: np.ndarray,
    offsets: np.ndarray,
    characters: np.ndarray,
    ngrams: int,
    scratch: NgramScratch,
    most: int,
    counts: np.ndarray,
    tokens: np.ndarray,
) -> int:
    """Count documents' n-grams until there are ``most``; return the number of documents read."""
    total = 0
    for count in counts:
        total += count
    for row in range(len(tokens)):
        if total >= most:
            return row
        tokens[row] = _tokenise(data, offsets[row], offsets[row + 1], characters, scratch)
        n_ngrams = _hash_ngrams(tokens[row], ngrams, len(counts), scratch)
        for i in range(n_ngrams):
            counts[scratch.buckets[i]] += 1
        total += n_ngrams
    return len(tokens)


@_compiled
def _tokenise(
    data: np.ndarray, begin: int, end: int, characters: np.ndarray, scratch: NgramScratch
) -> int:
    """Write the lower-case tokens of ``data[begin:end]``, valid UTF-8; return their number."""
    n_tokens = size = 0
    kind_before = _SPACE
    while begin < end:
        code, begin = decode_utf8(data, begin)
        entry = characters[code]
        kind = entry >> 24
        if kind != kind_before:
            if kind_before != _SPACE:
                scratch.ends[n_tokens - 1] = size
            if kind != _SPACE:
                if n_tokens > 0:
                    scratch.text[size] = 32
                    size += 1
                scratch.starts[n_tokens] = size
                n_tokens += 1
            kind_before = kind
        if kind != _SPACE:
            size = encode_utf8(entry & 0xFFFFFF, scratch.text, size)
    if kind_before != _SPACE:
        scratch.ends[n_tokens - 1] = size
    return n_tokens


@_compiled
def _hash_ngrams(n_tokens: int, ngrams: int, n_buckets: int, scratch: NgramScratch) -> int:
    """Write the bucket of each n-gram of the tokens, unigrams first; return their number."""
    n_done = 0
    for order in range(1, ngrams + 1):
        n_ngrams = max(n_tokens - order + 1, 0)
        for first in range(0, n_ngrams, _LANES):
            n_lanes = min(n_ngrams - first, _LANES)
            _hash_side_by_side(first, order, n_lanes, n_buckets, scratch, n_done + first)
        n_done += n_ngrams
    return n_done


@_compiled
def _hash_side_by_side(
    first: int, order: int, n_lanes: int, n_buckets: int, scratch: NgramScratch, at: int
) -> None:
    """Compute SHA-256 of the n-grams that begin at the tokens from ``first`` on, a lane each.

    A lane whose message has ended continues with blocks of zeros, whose result is not read. Nearly
    all n-grams are at most 55 bytes, so one block.
    """
    n_blocks = 1
    for lane in range(n_lanes):
        length = scratch.ends[first + lane + order - 1] - scratch.starts[first + lane]
        n_blocks = max(n_blocks, (length + 8) // 64 + 1)
    for i in range(8):
        scratch.state[i, :] = _INITIAL[i]
    for block in range(n_blocks):
        scratch.schedule[:16] = 0
        for lane in range(n_lanes):
            begin, end = scratch.starts[first + lane], scratch.ends[first + lane + order - 1]
            _fill_block(scratch, lane, begin, end, block)
        _compress(scratch.state, scratch.working, scratch.schedule)
        for lane in range(n_lanes):
            length = scratch.ends[first + lane + order - 1] - scratch.starts[first + lane]
            if (length + 8) // 64 == block:
                scratch.buckets[at + lane] = _remainder(scratch, lane, n_buckets)


@_compiled
def _fill_block(scratch: NgramScratch, lane: int, begin: int, end: int, block: int) -> None:
    """Write the big-endian words of a block of a message: FIPS 180-4, 5.1.1 and 5.2.1."""
    from_here = begin + 64 * block
    if from_here <= end:
        n_whole = min((end - from_here) // 4, 16)
        for k in range(n_whole):
            scratch.schedule[k, lane] = _swapped(scratch.windows[from_here + 4 * k])
        if n_whole < 16:  # up to three bytes more, then one bit
            n_bits = _U32(8 * ((end - from_here) % 4))
            last = _swapped(scratch.windows[from_here + 4 * n_whole])
            kept = last & ~(_U32(0xFFFFFFFF) >> n_bits)
            scratch.schedule[n_whole, lane] = kept | _U32(0x80000000) >> n_bits
    if (end - begin + 8) // 64 == block:
        n_bits_in_all = np.uint64(8 * (end - begin))
        scratch.schedule[14, lane] = n_bits_in_all >> np.uint64(32)
        scratch.schedule[15, lane] = n_bits_in_all & np.uint64(0xFFFFFFFF)


@_compiled
def _swapped(word: np.uint32) -> np.uint32:
    return _U32(word << _U32(24) | (word & _U32(0xFF00)) << _U32(8)) | _U32(
        word >> _U32(8) & _U32(0xFF00) | word >> _U32(24)
    )


@_compiled
def _compress(state: np.ndarray, working: np.ndarray, schedule: np.ndarray) -> None:
    """Compress one block in every lane: FIPS 180-4, 6.2.2, steps 1 to 4."""
    for t in range(16, 64):
        for lane in range(_LANES):
            x, y = schedule[t - 15, lane], schedule[t - 2, lane]
            small_0 = _rotated(x, 7) ^ _rotated(x, 18) ^ x >> _U32(3)
            small_1 = _rotated(y, 17) ^ _rotated(y, 19) ^ y >> _U32(10)
            schedule[t, lane] = _U32(
                schedule[t - 16, lane] + small_0 + schedule[t - 7, lane] + small_1
            )
    for i in range(8):
        for lane in range(_LANES):
            working[i, lane] = state[i, lane]
    for start in range(0, 64, _ROUNDS):
        for lane in range(_LANES):
            a, b, c, d = working[0, lane], working[1, lane], working[2, lane], working[3, lane]
            e, f, g, h = working[4, lane], working[5, lane], working[6, lane], working[7, lane]
            for t in range(start, start + _ROUNDS):
                large_1 = _rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25)
                choice = g ^ (e & (f ^ g))
                step = _U32(h + large_1 + choice + _CONSTANTS[t] + schedule[t, lane])
                large_0 = _rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)
                majority = (a & b) | (c & (a | b))
                h, g, f, e = g, f, e, _U32(d + step)
                d, c, b, a = c, b, a, _U32(step + large_0 + majority)
            working[0, lane], working[1, lane], working[2, lane], working[3, lane] = a, b, c, d
            working[4, lane], working[5, lane], working[6, lane], working[7, lane] = e, f, g, h
    for i in range(8):
        for lane in range(_LANES):
            state[i, lane] = _U32(state[i, lane] + working[i, lane])


@_compiled
def _rotated(word: np.uint32, n_bits: int) -> np.uint32:
    return _U32(word >> _U32(n_bits) | word << _U32(32 - n_bits))


@_compiled
def _remainder(scratch: NgramScratch, lane: int, n_buckets: int) -> int:
    """Return the digest, 256 bits with the first highest, modulo ``n_buckets``."""
    total = np.uint64(0)
    for i in range(8):
        total += np.uint64(scratch.state[i, lane]) * scratch.powers[i]
    return int(total % np.uint64(n_buckets))
