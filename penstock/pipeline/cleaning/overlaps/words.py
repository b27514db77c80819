"""Compiled loops of overlaps: the words of a text, their letters and hashes.

A word's hash is FNV-1a over its letters (:mod:`~penstock.pipeline.cleaning.overlaps.comparison`).
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text, hashing
from penstock.arrow_text import decode_utf8
from penstock.compiling import compiler
from penstock.hashing import FNV_OFFSET, FNV_PRIME, avalanche
from penstock.pipeline.cleaning.overlaps import comparison
from penstock.pipeline.cleaning.overlaps.comparison import (
    ALONE,
    CODE,
    EXPANDS,
    MARK,
    PASSED_OVER,
    Letters,
)

__all__ = [
    "Spelling",
    "WordPosition",
    "begins_word",
    "find_words",
    "letter_at",
    "letter_count",
    "spell_texts",
    "stays_alone",
]

_compiled = compiler(arrow_text, hashing, comparison)


class Spelling(NamedTuple):
    """The words of some texts, as they are compared."""

    letters: np.ndarray  # (c,) uint32, code points plus 1 of the words, a 0 after each word
    starts: np.ndarray  # (w,) int64, where each word begins in ``letters``
    hashes: np.ndarray  # (w,) uint64
    offsets: np.ndarray  # (n + 1,) int64, where each text begins in ``starts``


class WordPosition(NamedTuple):
    """Where the search for words stopped."""

    at: int
    begin: int  # of the word that is being read
    state: np.uint64
    inside: bool
    alone: bool


@_compiled
def begins_word(entry: np.uint32, alone: bool) -> bool:
    """Return whether a character begins a word, also behind another one that was ``alone``."""
    return ((entry & ALONE) != 0) | (alone & (entry != 0) & ((entry & MARK) == 0))


@_compiled
def stays_alone(entry: np.uint32, alone: bool) -> bool:
    """Return whether a letter of a script without spaces is still the word that is read."""
    return ((entry & ALONE) != 0) | (alone & ((entry & MARK) != 0))


@_compiled
def letter_count(entry: np.uint32, known: Letters) -> int:
    """Return the number of letters that a character is compared as: 1 to 3."""
    if (entry & EXPANDS) == 0:
        return 1
    row = known.expansions[entry & CODE]
    return 1 + (row[1] != 0) + (row[2] != 0)


@_compiled
def letter_at(entry: np.uint32, known: Letters, item: int) -> np.uint32:
    """Return one of the letters that a character is compared as: a code point plus 1."""
    return entry & CODE if (entry & EXPANDS) == 0 else known.expansions[entry & CODE, item]


@_compiled
def find_words(
    text: np.ndarray,
    stop: int,
    place: WordPosition,
    known: Letters,
    words: np.ndarray,
    places: np.ndarray,
    count: int,
) -> tuple[int, WordPosition]:
    """Write hashes and places of words until ``words`` is full but for two, or the text ends.

    The loop over ASCII has no branch at the end of a word, which cannot be predicted.
    """
    at, begin, state, inside, alone = place
    limit = len(words) - 2
    while at < stop and count < limit:
        byte = text[at]
        if (byte < 0x80) & (not alone):
            entry = known.entries[byte]
            between = entry == 0
            words[count] = state
            places[count] = begin
            count += between & inside
            begin = begin if inside else at
            inside = not between
            state = FNV_OFFSET if between else (state ^ np.uint64(entry)) * FNV_PRIME
            at += 1
            continue
        first = at
        code, at = decode_utf8(text, at)
        entry = known.entries[code]
        if entry == PASSED_OVER:
            continue
        begins = begins_word(entry, alone)
        if inside and (entry == 0 or begins):
            words[count] = state
            places[count] = begin
            count += 1
            inside = False
            state = FNV_OFFSET
        alone = stays_alone(entry, alone)
        if entry != 0:
            begin = begin if inside else first
            inside = True
            for item in range(letter_count(entry, known)):
                state = (state ^ np.uint64(letter_at(entry, known, item))) * FNV_PRIME
    if inside and at >= stop:
        words[count] = state
        places[count] = begin
        count += 1
        inside = False
    return count, WordPosition(at, begin, state, inside, alone)


@_compiled
def spell_texts(
    data: np.ndarray,
    offsets: np.ndarray,
    known: Letters,
    letters: np.ndarray,
    starts: np.ndarray,
    hashes: np.ndarray,
    text_offsets: np.ndarray,
) -> tuple[int, int]:
    """Write the words of texts as a :class:`Spelling`; return its numbers of letters and words.

    Args:
        data: (b,) uint8: UTF-8 of all texts, valid.
        offsets: (n + 1,) int64, where each text begins.
        known: The letters of each character.
        letters: At least three times the bytes, and one for each text.
        starts: At least one for each byte.
        hashes: At least one for each byte.
        text_offsets: (n + 1,).
    """
    to, word = 0, 0
    text_offsets[0] = 0
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        inside = alone = False
        state = FNV_OFFSET
        while at < stop:
            code, at = decode_utf8(data, at)
            entry = known.entries[code]
            if entry == PASSED_OVER:
                continue
            begins = begins_word(entry, alone)
            if inside and (entry == 0 or begins):
                letters[to] = 0
                to += 1
                hashes[word] = avalanche(state)
                word += 1
                inside = False
            alone = stays_alone(entry, alone)
            if entry != 0:
                if not inside:
                    starts[word] = to
                    state = FNV_OFFSET
                inside = True
                for item in range(letter_count(entry, known)):
                    letters[to] = letter_at(entry, known, item)
                    state = (state ^ np.uint64(letters[to])) * FNV_PRIME
                    to += 1
        if inside:
            letters[to] = 0
            to += 1
            hashes[word] = avalanche(state)
            word += 1
        text_offsets[row + 1] = word
    return to, word
