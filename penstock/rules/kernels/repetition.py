"""Repeated n-grams of words in one text, exactly.

Rae et al. 2021, A.1.1 and table A1, of words as in :mod:`penstock.rules.kernels.words`:

- for n of 2, 3 and 4 the n-gram that occurs most often (the first of these): its characters, with
  one space between words, times its occurrences, which may overlap;
- for n of 5 to 10 the characters, without spaces, of n-grams that occurred before. From left to
  right, a repeated n-gram is counted and skipped as a whole, so that no character counts twice; one
  that begins within a skipped n-gram neither counts nor becomes known.

Two n-grams are equal if their words are. Words get numbers by comparing their bytes. An n-gram's
number is that of the pair (its first n-1 words' number, its last word's number), so no hash takes
the place of a text. Most work is saved by a simple fact: an n-gram can only be repeated where both
(n-1)-grams in it are. Of 1,000 words of English some 300 begin a repeated 2-gram, 20 a repeated
5-gram.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.compiling import compiler
from penstock.rules import characters
from penstock.rules.characters import CONTINUED, SYMBOL
from penstock.rules.kernels import lines, spans, words
from penstock.rules.kernels.spans import Utf8, intern_pairs, intern_spans
from penstock.rules.kernels.words import core_of, count_characters, find_pieces

__all__ = ["LONGEST", "MOST_TOP", "MOST_WORDS", "RepetitionScratch", "count_repetition"]

_compiled = compiler(arrow_text, characters, spans, lines, words)

MOST_WORDS = 2**22
"""Words of a block: 230 MB of scratch. Longer texts are of 20 MB and more, or of symbols."""
MOST_TOP = 4
"""Up to this n, the most frequent n-gram counts; above, all repeated ones."""
LONGEST = 10

_HALF = np.uint64(32)


class RepetitionScratch(NamedTuple):
    """Buffers for the text of most words in a batch: 56 bytes a word."""

    starts: np.ndarray  # (words,) int32
    stops: np.ndarray  # (words,) int32
    before: np.ndarray  # (words + 1,) int32, characters in all words before
    hashes: np.ndarray  # (words,) uint64; afterwards keys
    slots: np.ndarray  # (at most 4 words,) int32
    word: np.ndarray  # (words + LONGEST,) int32, number of each word
    gram: np.ndarray  # (words,) int32, number of the n-gram that begins at each word
    counts: np.ndarray  # (words,) int32, occurrences of an n-gram, by its number
    active: np.ndarray  # (words,) int32, where repeated n-grams begin

    @classmethod
    def of(cls, words: int) -> RepetitionScratch:
        """Allocate for texts of at most so many words, and for at least one."""
        words = max(words, 1)
        return cls(
            np.empty(words, np.int32),
            np.empty(words, np.int32),
            np.empty(words + 1, np.int32),
            np.empty(words, np.uint64),
            np.empty(max(4 * words, 16), np.int32),
            np.zeros(words + LONGEST, np.int32),
            np.empty(words, np.int32),
            np.empty(words, np.int32),
            np.empty(words, np.int32),
        )


@_compiled
def count_repetition(
    text: Utf8,
    kinds: np.ndarray,
    edges: np.ndarray,
    is_ascii: bool,
    seed: int,
    scratch: RepetitionScratch,
    out: np.ndarray,
) -> None:
    """Write to ``out``, (9,) uint32, the characters for n of 2 to 10.

    A text of more words than the scratch has room for is counted in blocks of so many words: the
    most of any block for n up to 4, the sum for longer ones.
    """
    out[:] = 0
    pieces = find_pieces(kinds, edges)
    piece, place = 0, 0
    while piece < pieces:
        n_words, piece, place = _find_words(kinds, edges, pieces, piece, place, is_ascii, scratch)
        _count_block(text, n_words, seed, scratch, out)


@_compiled
def _count_block(
    text: Utf8, n_words: int, seed: int, scratch: RepetitionScratch, out: np.ndarray
) -> None:
    """Add the characters of one block of words to ``out``."""
    word, gram, counts, active = scratch.word, scratch.gram, scratch.counts, scratch.active
    keys = scratch.hashes
    intern_spans(
        text, scratch.starts, scratch.stops, n_words, seed, scratch.hashes, scratch.slots, word
    )
    n_active = 0
    for at in range(n_words):
        gram[at] = word[at]
        counts[at] = 0
    for at in range(n_words):
        counts[word[at]] += 1
    for at in range(n_words):
        active[n_active] = at
        n_active += counts[word[at]] > 1
    for n in range(2, LONGEST + 1):
        # Keep places whose (n-1)-gram is repeated, and the (n-1)-gram one word further, too.
        kept = 0
        for item in range(n_active - 1):
            at, following = active[item], active[item + 1]
            active[kept] = at
            keys[kept] = np.uint64(gram[at]) << _HALF | np.uint64(word[at + n - 1])
            kept += following == at + 1
        intern_pairs(keys, active, kept, seed, scratch.slots, gram, counts)
        n_active = 0
        for item in range(kept):
            at = active[item]
            active[n_active] = at
            n_active += counts[gram[at]] > 1
        if n <= MOST_TOP:
            out[n - 2] = max(np.int64(out[n - 2]), _top(n, n_words, n_active, scratch))
        else:
            out[n - 2] += _repeated(n, n_active, scratch)


@_compiled
def _find_words(
    kinds: np.ndarray,
    edges: np.ndarray,
    pieces: int,
    piece: int,
    place: int,
    is_ascii: bool,
    scratch: RepetitionScratch,
) -> tuple[int, int, int]:
    """Write the span of each word, and the characters before it, until the scratch is full.

    Args:
        kinds: (n,) uint8.
        edges: Of all pieces.
        pieces: Their number.
        piece: The piece to begin with.
        place: Byte to begin with, if it is within that piece.
        is_ascii: Whether each byte is a character.
        scratch: Buffers.

    Returns:
        The number of words, and piece and byte of the next.
    """
    starts, stops, before = scratch.starts, scratch.stops, scratch.before
    n_words, passed = 0, 0
    while piece < pieces:
        begin, end = edges[2 * piece], edges[2 * piece + 1]
        first, last = begin, end
        if (kinds[begin] | kinds[end - 1]) & SYMBOL:
            first, last = core_of(kinds, begin, end)
        place = max(place, begin)
        while place < end and n_words < len(starts):
            starts[n_words] = place
            before[n_words] = passed
            if place == first and first < last:
                passed += last - first if is_ascii else count_characters(kinds, first, last)
                place = last
            else:
                passed += 1
                place += 1
                while place < end and kinds[place] >= CONTINUED:
                    place += 1
            stops[n_words] = place
            n_words += 1
        if place < end:
            break
        piece += 1
    before[n_words] = passed
    return n_words, piece, place


@_compiled
def _top(n: int, n_words: int, n_active: int, scratch: RepetitionScratch) -> int:
    """Return the characters of the most frequent n-gram, times its occurrences."""
    if n_words < n:
        return 0
    place, most = 0, 1
    for item in range(n_active):
        at = scratch.active[item]
        if scratch.gram[at] == at and scratch.counts[at] > most:
            place, most = at, scratch.counts[at]
    return (scratch.before[place + n] - scratch.before[place] + n - 1) * most


@_compiled
def _repeated(n: int, n_active: int, scratch: RepetitionScratch) -> int:
    """Return the characters of repeated n-grams, from left to right, without overlap.

    Uses the counts, which are not needed after this, for which n-grams are known.
    """
    counted, free = 0, 0
    for item in range(n_active):
        scratch.counts[scratch.active[item]] = 0
    for item in range(n_active):
        at = scratch.active[item]
        if at < free:
            continue
        own = scratch.gram[at]
        if scratch.counts[own]:
            counted += scratch.before[at + n] - scratch.before[at]
            free = at + n
        else:
            scratch.counts[own] = 1
    return counted
