"""Compiled loops of overlaps: hashes of n-grams, look-up, comparison with the text itself.

The grams of an evaluation file have several lengths: n words, and those of examples that are
shorter. All have at least ``SHORTEST`` words, so one hash at each word of a document, of the
``SHORTEST`` words that begin there, decides whether any gram can begin there (a Bloom filter of
two bits within one word: B. H. Bloom 1970; Putze, Sanders & Singler 2007, "Cache-, hash- and
space-efficient Bloom filters"). Where it says yes, the words that follow are hashed on to each
length and looked up, and a gram whose hash is equal is compared with the text, character by
character. So hashes decide about time, never about the result.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text, hashing
from penstock.arrow_text import decode_utf8
from penstock.compiling import compiler
from penstock.hashing import FNV_OFFSET, avalanche
from penstock.pipeline.cleaning.overlaps import comparison, words
from penstock.pipeline.cleaning.overlaps.comparison import PASSED_OVER, Letters
from penstock.pipeline.cleaning.overlaps.words import (
    Spelling,
    WordPosition,
    begins_word,
    find_words,
    letter_at,
    letter_count,
    stays_alone,
)

__all__ = [
    "SHORTEST",
    "GramIndex",
    "GramScratch",
    "count_overlaps",
    "index_grams",
]

SHORTEST = 5
"""The least number of words of a gram."""

_BLOCK = 4096
"""Words that are hashed before they are looked up: the buffers stay in a core's cache."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_SIX, _TWELVE, _BITS = np.uint64(6), np.uint64(12), np.uint64(63)

_compiled = compiler(arrow_text, hashing, comparison, words)


class GramIndex(NamedTuple):
    """Different grams, found by hash; read-only."""

    letters: np.ndarray  # as in Spelling
    starts: np.ndarray  # (g,) int64, where each gram begins in ``letters``
    stops: np.ndarray  # (g,) int64, the 0 after its last word
    hashes: np.ndarray  # (g,) uint64
    examples: np.ndarray  # (g,) int32, the first example that has it
    slots: np.ndarray  # (a power of two,) int32, open addressing; -1 is empty
    bloom: np.ndarray  # (a power of two,) uint64, of the first SHORTEST words of each gram
    lengths: np.ndarray  # (n + 1,) bool, which numbers of words grams have


class GramScratch(NamedTuple):
    """Buffers of one document."""

    words: np.ndarray  # (_BLOCK + n,) uint64
    places: np.ndarray  # (_BLOCK + n,) int64, where each word begins
    grams: np.ndarray  # (_BLOCK + n,) uint64
    tally: np.ndarray  # (examples,) int32, zeros
    touched: np.ndarray  # (examples + 1,) int32

    @classmethod
    def of(cls, ngram: int, examples: int) -> GramScratch:
        """Allocate for n-grams of so many words and so many examples."""
        size = _BLOCK + ngram
        return cls(
            np.empty(size, np.uint64),
            np.empty(size, np.int64),
            np.empty(size, np.uint64),
            np.zeros(examples, np.int32),
            np.empty(examples + 1, np.int32),
        )


@_compiled
def _hash_gram(words: np.ndarray, first: int, length: int) -> np.uint64:
    """Return the hash of a gram before its finaliser."""
    state = words[first]
    for item in range(first + 1, first + length):
        state = state * _BASE + words[item]
    return state


@_compiled
def _bits(gram: np.uint64) -> np.uint64:
    """Return the two bits of a gram in its word of the Bloom filter."""
    return (_ONE << (gram & _BITS)) | (_ONE << ((gram >> _SIX) & _BITS))


@_compiled
def index_grams(spelling: Spelling, examples: np.ndarray, ngram: int, index: GramIndex) -> int:
    """Fill an index with the different grams of texts, and return their number.

    Args:
        spelling: The texts' words.
        examples: (n,) int32, the example of each text, ascending.
        ngram: Words of a gram; a text of fewer is one gram, if it has ``SHORTEST``.
        index: ``starts``, ``stops``, ``hashes`` and ``examples`` have an item for each word, at
            most half as many as ``slots``, which are -1; the rest is zeros.
    """
    letters, word_starts, words, offsets = spelling
    slot_mask = np.uint64(len(index.slots) - 1)
    bloom_mask = np.uint64(len(index.bloom) - 1)
    count = 0
    for text in range(len(examples)):
        begin, end = offsets[text], offsets[text + 1]
        length = min(ngram, end - begin)
        if length < SHORTEST:
            continue
        index.lengths[length] = True
        for first in range(begin, end - length + 1):
            last = first + length
            start = word_starts[first]
            stop = (word_starts[last] if last < len(word_starts) else len(letters)) - 1
            gram = avalanche(_hash_gram(words, first, length))
            slot = gram & slot_mask
            repeated = False
            while index.slots[slot] >= 0 and not repeated:
                other = index.slots[slot]
                repeated = index.hashes[other] == gram and _same_letters(
                    letters, start, stop, index.starts[other], index.stops[other]
                )
                slot = (slot + _ONE) & slot_mask
            if repeated:
                continue
            index.slots[slot] = count
            index.starts[count], index.stops[count] = start, stop
            index.hashes[count], index.examples[count] = gram, examples[text]
            count += 1
            prefix = avalanche(_hash_gram(words, first, SHORTEST))
            index.bloom[(prefix >> _TWELVE) & bloom_mask] |= _bits(prefix)
    return count


@_compiled
def _same_letters(letters: np.ndarray, one: int, stop: int, other: int, other_stop: int) -> bool:
    if stop - one != other_stop - other:
        return False
    while one < stop and letters[one] == letters[other]:
        one, other = one + 1, other + 1
    return one == stop


@_compiled
def _same_text(
    text: np.ndarray,
    at: int,
    stop: int,
    known: Letters,
    letters: np.ndarray,
    start: int,
    end: int,
) -> bool:
    """Return whether the words of a text from ``at`` on are those of a gram."""
    to = start
    inside, alone, first = False, False, True
    while at < stop:
        code, at = decode_utf8(text, at)
        entry = known.entries[code]
        if entry == PASSED_OVER:
            continue
        if entry == 0:
            if to == end:
                return True
            inside = alone = False
            continue
        begins = (not inside) | begins_word(entry, alone)
        if to == end:
            return begins
        if begins and not first:
            if letters[to] != 0:
                return False
            to += 1
        for item in range(letter_count(entry, known)):
            if letters[to] != letter_at(entry, known, item):  # a 0 where the gram's word ends
                return False
            to += 1
        inside, alone, first = True, stays_alone(entry, alone), False
    return to == end


@_compiled
def _find_gram(
    text: np.ndarray, at: int, stop: int, known: Letters, gram: np.uint64, index: GramIndex
) -> int:
    """Return the gram of this hash whose words begin at ``at`` in the text, or -1."""
    slot_mask = np.uint64(len(index.slots) - 1)
    slot = gram & slot_mask
    while index.slots[slot] >= 0:
        found = index.slots[slot]
        if index.hashes[found] == gram and _same_text(
            text, at, stop, known, index.letters, index.starts[found], index.stops[found]
        ):
            return found
        slot = (slot + _ONE) & slot_mask
    return -1


@_compiled
def _hash_prefixes(words: np.ndarray, held: int, count: int, limit: int, out: np.ndarray) -> None:
    """Finish the hashes of new words, and hash the ``SHORTEST`` words at each of ``limit``."""
    for item in range(held, count):
        words[item] = avalanche(words[item])
    for item in range(limit):
        state = words[item]
        for word in range(item + 1, item + SHORTEST):
            state = state * _BASE + words[word]
        out[item] = avalanche(state)


@_compiled
def _may_begin(prefix: np.uint64, bloom: np.ndarray, mask: np.uint64) -> bool:
    bits = _bits(prefix)
    return (bloom[(prefix >> _TWELVE) & mask] & bits) == bits


@_compiled
def _find_longest(
    text: np.ndarray,
    stop: int,
    known: Letters,
    index: GramIndex,
    item: int,
    count: int,
    scratch: GramScratch,
    n_touched: int,
) -> tuple[int, int]:
    """Find all grams that begin at a word, and tally their examples.

    Returns:
        The words of the longest, or 0, and the number of examples that were found so far.
    """
    words, tally = scratch.words, scratch.tally
    state = _hash_gram(words, item, SHORTEST)
    longest = 0
    for length in range(SHORTEST, min(len(index.lengths) - 1, count - item) + 1):
        if length > SHORTEST:
            state = state * _BASE + words[item + length - 1]
        if not index.lengths[length]:
            continue
        gram = _find_gram(text, scratch.places[item], stop, known, avalanche(state), index)
        if gram < 0:
            continue
        longest = length
        example = index.examples[gram]
        scratch.touched[n_touched] = example
        n_touched += tally[example] == 0
        tally[example] += 1
    return longest, n_touched


@_compiled
def _most_frequent(tally: np.ndarray, touched: np.ndarray, n_touched: int) -> int:
    """Return the example with the highest tally, the first of equals, or -1; clear the tally."""
    best, most = -1, 0
    for item in range(n_touched):
        example = touched[item]
        if tally[example] > most or (tally[example] == most and example < best):
            best, most = example, tally[example]
    for item in range(n_touched):
        tally[touched[item]] = 0
    return best


@_compiled
def count_overlaps(
    data: np.ndarray,
    offsets: np.ndarray,
    known: Letters,
    index: GramIndex,
    scratch: GramScratch,
    shares: np.ndarray,
    examples: np.ndarray,
    grams: np.ndarray,
) -> None:
    """Write the overlap of each document with the indexed grams.

    Args:
        data: (b,) uint8: UTF-8 of all documents, valid.
        offsets: (n + 1,) int64, where each document begins.
        known: The letters of each character.
        index: The grams.
        scratch: Buffers.
        shares: (n,) float32: the share of the words that are in a gram that was found.
        examples: (n,) int32: the example with the most grams, the first of equals; -1 of none.
        grams: (n,) uint32: the words at which a gram begins.
    """
    words, places, hashes, tally, touched = scratch
    ngram = len(index.lengths) - 1
    mask = np.uint64(len(index.bloom) - 1)
    for row in range(len(offsets) - 1):
        stop = offsets[row + 1]
        place = WordPosition(offsets[row], offsets[row], FNV_OFFSET, False, False)
        held, passed, covered, until, found, n_touched = 0, 0, 0, 0, 0, 0
        while place.at < stop:
            count, place = find_words(data, stop, place, known, words, places, held)
            # All grams at a word are looked up at once: when their words are there, or no more are.
            ends = place.at >= stop
            limit = max(0, count - (SHORTEST if ends else ngram) + 1)
            _hash_prefixes(words, held, count, limit, hashes)
            for item in range(limit):
                if not _may_begin(hashes[item], index.bloom, mask):
                    continue
                longest, n_touched = _find_longest(
                    data, stop, known, index, item, count, scratch, n_touched
                )
                if longest:
                    found += 1
                    first = max(passed + item, until)
                    until = max(until, passed + item + longest)
                    covered += until - first
            held = 0 if ends else count - limit
            passed += count - held
            for item in range(held):
                words[item] = words[limit + item]
                places[item] = places[limit + item]
        shares[row] = covered / passed if passed else 0.0
        examples[row] = _most_frequent(tally, touched, n_touched)
        grams[row] = found
