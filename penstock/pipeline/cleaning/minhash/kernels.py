"""Compiled loops of MinHash: words of a text, hashes of n-grams, their minima, hashes of bands.

A *word* is a run of characters without white space. A letter of a script without spaces (Han,
kana, Thai, Khmer, ...) begins a word of its own, and so does a letter or digit of another script
after one; marks and punctuation belong to the word before them. So an n-gram of words is one of
characters in such scripts, and no segmenter is needed.

Words are compared by a 64-bit hash (FNV-1a over folded characters), n-grams by a polynomial of the
words' hashes modulo 2^64, of which the upper 32 bits after a finaliser are the *shingle*. Two
different n-grams have equal shingles with a probability of 2^-32.

A hash function ``i`` maps a shingle x to ``a_i x + c_i`` modulo 2^32 with an odd ``a_i``: a
permutation of 32-bit integers. Since shingles are uniform already, each n-gram of a union is
equally likely to be the minimum, so the estimate of Jaccard's similarity has no bias for any sets,
also small ones, and the functions differ enough for the variance of independent ones (both tested).
One-permutation hashing with densification and Fast Similarity Sketching need fewer operations, but
there the rows of a band depend on each other. With 16 multiplications an instruction, 128 functions
cost 3.7 ns a shingle, less than finding the words (9 ns).
"""

# mypy: disable-error-code="arg-type, no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text, hashing
from penstock.arrow_text import decode_utf8
from penstock.compiling import compiler
from penstock.hashing import FNV_OFFSET, FNV_PRIME, avalanche
from penstock.pipeline.cleaning.minhash import folding
from penstock.pipeline.cleaning.minhash.folding import ALONE, CODE, DOT_ABOVE, DOTTED_I, WORDY

__all__ = ["BLOCK", "Permutations", "Scratch", "count_shingles", "list_shingles", "sign_texts"]

_compiled = compiler(arrow_text, hashing, folding)

BLOCK = 4096
"""Words that are hashed before their minima are taken: the buffers stay in a core's cache."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)


class Permutations(NamedTuple):
    """Constants of the hash functions."""

    factors: np.ndarray  # (k,) uint32, odd
    terms: np.ndarray  # (k,) uint32


class Scratch(NamedTuple):
    """Buffers of one text."""

    words: np.ndarray  # (BLOCK + n,) uint64
    grams: np.ndarray  # (BLOCK + n,) uint64
    shingles: np.ndarray  # (BLOCK + n + 4,) uint32
    minima: np.ndarray  # (k,) uint32

    @classmethod
    def of(cls, ngram: int, permutations: int) -> Scratch:
        """Allocate for n-grams of so many words and so many hash functions."""
        size = BLOCK + ngram
        return cls(
            np.empty(size, np.uint64),
            np.empty(size, np.uint64),
            np.empty(size + 4, np.uint32),
            np.empty(permutations, np.uint32),
        )


class _Place(NamedTuple):
    """Where the search for words stopped."""

    at: int
    state: np.uint64
    inside: bool
    alone: bool


@_compiled
def _find_ascii_words(
    text: np.ndarray, stop: int, place: _Place, table: np.ndarray, words: np.ndarray, count: int
) -> tuple[int, _Place]:
    """Do as :func:`_find_words` up to the next character outside ASCII.

    The loop has no branch at the end of a word, which cannot be predicted. Its integers are
    unsigned, so that numba does not test for negative indices: a fifth of the time.
    """
    _, state, inside, _ = place
    at, end, limit = np.uint64(place.at), np.uint64(stop), np.uint64(len(words) - 2)
    found, outside = np.uint64(count), np.uint64(not inside)
    while at < end and found < limit:
        byte = text[at]
        if byte >= 0x80:
            break
        entry = np.uint64(table[byte] & CODE)
        words[found] = state
        space = np.uint64(entry == _ZERO)
        found += space & (outside ^ _ONE)
        outside = space
        state = FNV_OFFSET if entry == _ZERO else (state ^ entry) * FNV_PRIME
        at += _ONE
    return np.int64(found), _Place(np.int64(at), state, outside == _ZERO, False)


@_compiled
def _find_words(
    text: np.ndarray, stop: int, place: _Place, table: np.ndarray, words: np.ndarray, count: int
) -> tuple[int, _Place]:
    """Write hashes of words to ``words[count:]`` until it is full but for two, or the text ends."""
    limit = len(words) - 2
    while place.at < stop and count < limit:
        if not place.alone and text[place.at] < 0x80:
            count, place = _find_ascii_words(text, stop, place, table, words, count)
            continue
        at, state, inside, alone = place
        code, at = decode_utf8(text, at)
        entry = table[code]
        begins = (entry & ALONE) != 0 or (alone and (entry & WORDY) != 0)
        if inside and (entry == 0 or begins):
            words[count] = state
            count += 1
            state = FNV_OFFSET
        inside = entry != 0
        alone = (entry & ALONE) != 0 or (alone and inside and not begins)
        if inside:
            state = (state ^ np.uint64(entry & CODE)) * FNV_PRIME
            if code == DOTTED_I:
                state = (state ^ np.uint64(DOT_ABOVE)) * FNV_PRIME
        place = _Place(at, state, inside, alone)
    if place.inside and place.at >= stop:
        words[count] = place.state
        count += 1
        place = _Place(place.at, place.state, False, False)
    return count, place


@_compiled
def _hash_grams(words: np.ndarray, first: int, count: int, ngram: int, scratch: Scratch) -> int:
    """Write the shingles of ``count`` words, of which those from ``first`` are new.

    Returns:
        The number of shingles: none for fewer words than ``ngram``.
    """
    for item in range(first, count):
        words[item] = avalanche(words[item])
    n_grams = count - ngram + 1
    if n_grams <= 0:
        return 0
    grams, shingles = scratch.grams, scratch.shingles
    for item in range(n_grams):
        grams[item] = words[item]
    for word in range(1, ngram):
        for item in range(n_grams):
            grams[item] = grams[item] * _BASE + words[item + word]
    for item in range(n_grams):
        shingles[item] = np.uint32(avalanche(grams[item]) >> _HALF)
    return n_grams


@_compiled
def _next_shingles(
    text: np.ndarray,
    stop: int,
    place: _Place,
    table: np.ndarray,
    ngram: int,
    held: int,
    scratch: Scratch,
) -> tuple[int, int, _Place]:
    """Write the shingles of the next block of words; the block's last words stay for the next.

    Returns:
        The number of shingles, that of the words that stay (``held``), and where the block ends.
    """
    words = scratch.words
    count, place = _find_words(text, stop, place, table, words, held)
    n_shingles = _hash_grams(words, held, count, ngram, scratch)
    if n_shingles:
        held = ngram - 1
        for item in range(held):
            words[item] = words[n_shingles + item]
    else:
        held = count
    return n_shingles, held, place


@_compiled
def _whole_shingle(words: np.ndarray, count: int) -> np.uint32:
    """Return the shingle of a text of fewer words than an n-gram has."""
    gram = words[0]
    for item in range(1, count):
        gram = gram * _BASE + words[item]
    return np.uint32(avalanche(gram) >> _HALF)


@_compiled
def _lower(
    shingles: np.ndarray, count: int, permutations: Permutations, minima: np.ndarray
) -> None:
    """Lower the minima to the hashes of the shingles: four at a time, the last one repeated."""
    factors, terms = permutations
    for item in range(count, count + 3):
        shingles[item] = shingles[count - 1]
    for item in range(0, count, 4):
        one, two = shingles[item], shingles[item + 1]
        three, four = shingles[item + 2], shingles[item + 3]
        for number in range(len(minima)):
            factor, term, least = factors[number], terms[number], minima[number]
            least = min(least, np.uint32(factor * one + term))
            least = min(least, np.uint32(factor * two + term))
            least = min(least, np.uint32(factor * three + term))
            minima[number] = min(least, np.uint32(factor * four + term))


@_compiled
def sign_texts(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    ngram: int,
    permutations: Permutations,
    rows: int,
    scratch: Scratch,
    out: np.ndarray,
) -> None:
    """Write the band hashes of each text; 0 for a text without a word, and only there.

    Args:
        data: UTF-8 of all texts, valid.
        offsets: (n + 1,) int64, where each text begins.
        table: :func:`~penstock.pipeline.cleaning.minhash.folding.folded`.
        ngram: Words of an n-gram.
        permutations: k hash functions, of which those after the last band are not used.
        rows: Rows of a band.
        scratch: Buffers, for k hash functions.
        out: (n, b) uint64, the result.
    """
    bands = out.shape[1]
    minima = scratch.minima
    for row in range(len(offsets) - 1):
        minima[:] = np.uint32(0xFFFFFFFF)
        place = _Place(offsets[row], FNV_OFFSET, False, False)
        held, total = 0, 0
        while place.at < offsets[row + 1]:
            count, held, place = _next_shingles(
                data, offsets[row + 1], place, table, ngram, held, scratch
            )
            if count:
                _lower(scratch.shingles, count, permutations, minima)
                total += count
        if total == 0:
            if held == 0:
                out[row] = np.uint64(0)
                continue
            scratch.shingles[0] = _whole_shingle(scratch.words, held)
            _lower(scratch.shingles, 1, permutations, minima)
        for band in range(bands):
            state = FNV_OFFSET ^ np.uint64(band)
            for item in range(band * rows, (band + 1) * rows):
                state = avalanche((state ^ np.uint64(minima[item])) * FNV_PRIME)
            out[row, band] = max(state, _ONE)


@_compiled
def count_shingles(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    ngram: int,
    scratch: Scratch,
    out: np.ndarray,
) -> None:
    """Write the number of n-grams of each text, with repetitions: (n,) int64."""
    for row in range(len(offsets) - 1):
        place = _Place(offsets[row], FNV_OFFSET, False, False)
        held, total = 0, 0
        while place.at < offsets[row + 1]:
            count, held, place = _next_shingles(
                data, offsets[row + 1], place, table, ngram, held, scratch
            )
            total += count
        out[row] = max(total, min(held, 1))


@_compiled
def list_shingles(
    data: np.ndarray,
    start: int,
    stop: int,
    table: np.ndarray,
    ngram: int,
    scratch: Scratch,
    out: np.ndarray,
) -> None:
    """Write the shingles of one text, as many as :func:`count_shingles` says: (m,) uint32."""
    place = _Place(start, FNV_OFFSET, False, False)
    held, total = 0, 0
    while place.at < stop:
        count, held, place = _next_shingles(data, stop, place, table, ngram, held, scratch)
        for item in range(count):
            out[total + item] = scratch.shingles[item]
        total += count
    if total == 0 and held:
        out[0] = _whole_shingle(scratch.words, held)
