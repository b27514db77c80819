"""Characters and words of one text.

A *character* is a code point. *White space* is that of ``str.isspace``. A *word* is defined by two
steps: the text is divided at white space; of each piece, every symbol (``SYMBOL`` of
:mod:`penstock.rules.characters`) at its beginning and its end is a word of its own, and the rest
between them is one word, the *core*. So ``"(Don't stop!)`` has six words: ``"``, ``(``, ``Don't``,
``stop``, ``!`` and ``)``. A piece of nothing but symbols has one word for each.

spaCy's English tokenizer, which datatrove uses, divides further, at contractions and hyphens, and
less at dots. ``docs/lab.md`` says how often that changes a decision.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.arrow_text import decode_utf8, read_only
from penstock.compiling import compiler
from penstock.rules import characters
from penstock.rules.characters import CONTINUED, LETTER, SPACE, SYMBOL, UNSPACED

__all__ = [
    "StopWords",
    "classify",
    "core_of",
    "count_characters",
    "count_words",
    "find_pieces",
]

_compiled = compiler(arrow_text, characters)

_DOTS = 0x2026
_KELVIN = 0x212A


class StopWords(NamedTuple):
    """Up to 64 words as bytes, found by their first byte."""

    bytes: np.ndarray  # (b,) uint8, one after the other
    starts: np.ndarray  # (words + 1,) int64
    by_first: np.ndarray  # (256,) uint64: bit k is set where word k begins with the byte

    @classmethod
    def of(cls, words: Sequence[str]) -> StopWords:
        """Pack words."""
        packed = [word.encode() for word in words]
        by_first = np.zeros(256, np.uint64)
        for number, word in enumerate(packed):
            by_first[word[0]] |= np.uint64(1 << number)
        return cls(
            read_only(np.frombuffer(b"".join(packed) or b"\0", np.uint8)),
            read_only(np.cumsum([0, *map(len, packed)]).astype(np.int64)),
            read_only(by_first),
        )


@_compiled
def classify(text: np.ndarray, classes: np.ndarray, kinds: np.ndarray) -> tuple[int, int, int, int]:
    """Write the classes of the character that each byte belongs to.

    Args:
        text: (n,) uint8, UTF-8.
        classes: (2^21,) uint8, flags of each code point.
        kinds: (n,) uint8, the result; ``CONTINUED`` marks all but a character's first
            byte.

    Returns:
        Numbers of characters, of letters of scripts without spaces, of ``…``, and of the Kelvin
        sign.
    """
    stop = len(text)
    codes, unspaced, dots, kelvins = stop, 0, 0, 0
    at = 0
    while at < stop:
        byte = text[at]
        if byte < 0x80:
            kinds[at] = classes[byte]
            at += 1
            continue
        code, after = decode_utf8(text, at)
        kind = classes[code]
        kinds[at] = kind
        for place in range(at + 1, after):
            kinds[place] = kind | CONTINUED
        codes -= after - at - 1
        unspaced += (kind & UNSPACED) != 0
        dots += code == _DOTS
        kelvins += code == _KELVIN
        at = after
    return codes, unspaced, dots, kelvins


@_compiled
def find_pieces(kinds: np.ndarray, edges: np.ndarray) -> int:
    """Write begin and end of each piece without white space, and return the number of pieces.

    A loop without branches: the begin and the end of a word cannot be predicted.

    Args:
        kinds: (n,) uint8, of :func:`classify`.
        edges: (n + 3,) int32, the result: ``edges[2 i]`` and ``edges[2 i + 1]`` of piece ``i``, and
            ``n`` after the last.
    """
    count, outside = 0, SPACE
    for at in range(len(kinds)):
        space = kinds[at] & SPACE
        edges[count] = at
        count += space != outside
        outside = space
    edges[count] = len(kinds)
    if count & 1:
        count += 1
        edges[count] = len(kinds)
    return count >> 1


@_compiled
def core_of(kinds: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return begin and end of a piece without the symbols around it; equal if nothing is left."""
    while start < stop and kinds[start] & SYMBOL:
        start += 1
    while stop > start and kinds[stop - 1] & SYMBOL:
        stop -= 1
    return start, stop


@_compiled
def count_characters(kinds: np.ndarray, start: int, stop: int) -> int:
    """Count the characters that begin in a range of bytes."""
    count = 0
    for place in range(start, stop):
        count += kinds[place] < CONTINUED
    return count


@_compiled
def count_words(
    text: np.ndarray,
    kinds: np.ndarray,
    edges: np.ndarray,
    pieces: int,
    stop_words: StopWords,
) -> tuple[int, int, int, int]:
    """Count the words of a text.

    Returns:
        Numbers of words that are symbols, of cores, of words with a letter, and of the stop words
        that occur.
    """
    symbols, cores, lettered = 0, 0, 0
    seen = np.uint64(0)
    for piece in range(pieces):
        begin, end = edges[2 * piece], edges[2 * piece + 1]
        first, last = begin, end
        if (kinds[begin] | kinds[end - 1]) & SYMBOL:
            first, last = core_of(kinds, begin, end)
            symbols += count_characters(kinds, begin, first) + count_characters(kinds, last, end)
            if first == last:
                continue
        cores += 1
        if kinds[first] & LETTER:
            lettered += 1
        else:
            together = np.uint8(0)
            for place in range(first, last):
                together |= kinds[place]
            lettered += (together & LETTER) != 0
        candidates = stop_words.by_first[text[first]] & ~seen
        if candidates:
            seen |= _stop_word(text, first, last, candidates, stop_words)
    occurring = 0
    while seen:
        seen &= seen - np.uint64(1)
        occurring += 1
    return symbols, cores, lettered, occurring


@_compiled
def _stop_word(
    text: np.ndarray, start: int, stop: int, candidates: int, stop_words: StopWords
) -> int:
    """Return the bit of the candidate that equals the bytes, or 0."""
    for number in range(len(stop_words.starts) - 1):
        bit = np.uint64(1) << np.uint64(number)
        if not candidates & bit:
            continue
        begin, end = stop_words.starts[number], stop_words.starts[number + 1]
        if end - begin != stop - start:
            continue
        equal = True
        for place in range(end - begin):
            if text[start + place] != stop_words.bytes[begin + place]:
                equal = False
                break
        if equal:
            return bit
    return np.uint64(0)
