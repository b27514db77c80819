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

__all__ = ["StopWords", "classify", "core_of", "count_words", "piece_at"]

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
def piece_at(kinds: np.ndarray, at: int, stop: int) -> tuple[int, int]:
    """Return begin and end of the first piece without white space from ``at`` on."""
    while at < stop and kinds[at] & SPACE:
        at += 1
    start = at
    while at < stop and not kinds[at] & SPACE:
        at += 1
    return start, at


@_compiled
def core_of(kinds: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return begin and end of a piece without the symbols around it; equal if nothing is left."""
    while start < stop and kinds[start] & SYMBOL:
        start += 1
    while stop > start and kinds[stop - 1] & SYMBOL:
        stop -= 1
    return start, stop


@_compiled
def count_words(
    text: np.ndarray, kinds: np.ndarray, stop_words: StopWords
) -> tuple[int, int, int, int, int]:
    """Count the words of a text.

    Returns:
        Numbers of words, of cores, of the characters of cores, of words with a letter, and of the
        stop words that occur.
    """
    words, cores, core_characters, lettered = 0, 0, 0, 0
    seen = np.uint64(0)
    at, length = 0, len(text)
    while True:
        while at < length and kinds[at] & SPACE:
            at += 1
        if at == length:
            break
        begin = at
        together, continued, symbols = np.uint8(0), 0, 0
        while at < length and not kinds[at] & SPACE:
            together |= kinds[at]
            continued += kinds[at] >> 7
            at += 1
        first, last = begin, at
        if together & SYMBOL:
            while first < last and kinds[first] & SYMBOL:
                symbols += (kinds[first] & CONTINUED) == 0
                continued -= (kinds[first] & CONTINUED) != 0
                first += 1
            while last > first and kinds[last - 1] & SYMBOL:
                symbols += (kinds[last - 1] & CONTINUED) == 0
                continued -= (kinds[last - 1] & CONTINUED) != 0
                last -= 1
        words += symbols
        if first == last:
            continue
        words += 1
        cores += 1
        core_characters += last - first - continued
        lettered += (together & LETTER) != 0
        candidates = stop_words.by_first[text[first]] & ~seen
        if candidates:
            seen |= _stop_word(text, first, last, candidates, stop_words)
    occurring = 0
    while seen:
        seen &= seen - np.uint64(1)
        occurring += 1
    return words, cores, core_characters, lettered, occurring


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
